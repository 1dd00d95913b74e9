//! Which code a run runs.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::model::Commit;

/// The git commit that is checked out in a folder, and whether there are changes beside
/// it; `None` where git, a repository or a first commit is missing.
pub fn commit_of(folder: &Path) -> Option<Commit> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .current_dir(folder)
            .args(arguments)
            // A look must not write: no index refresh, which would also lock it.
            .env("GIT_OPTIONAL_LOCKS", "0")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let id = git(&["rev-parse", "HEAD"])?;
    Some(Commit {
        folder: git(&["rev-parse", "--show-prefix"]).unwrap_or_default().trim_end_matches('/').to_owned(),
        branch: git(&["symbolic-ref", "--short", "-q", "HEAD"]),
        dirty: git(&["status", "--porcelain"]).is_none_or(|changes| !changes.is_empty()),
        id,
    })
}
