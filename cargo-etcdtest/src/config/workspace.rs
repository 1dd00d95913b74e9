//! Where the workspace begins.

use std::path::{Path, PathBuf};
use std::process::Command;

use miette::Diagnostic;

/// Why there is no workspace root.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum WorkspaceError {
    /// Cargo knows no workspace here, or cannot read its manifest.
    #[error("cargo finds no package here: {reason}")]
    #[diagnostic(help("go to a cargo project, or name its Cargo.toml with --manifest-path"))]
    NotFound {
        /// What cargo said.
        reason: String,
    },
    /// Cargo could not be started.
    #[error("failed to start {}", .program.display())]
    #[diagnostic(help("install cargo, or name it in the variable CARGO"))]
    NoCargo {
        /// What was started.
        program: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Asks cargo where the workspace of this manifest, or of the current folder, begins.
///
/// # Errors
/// Where there is none; a verb that needs no code may then use the current folder.
pub fn find_workspace_root(manifest: Option<&Path>) -> Result<PathBuf, WorkspaceError> {
    let program = PathBuf::from(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let mut command = Command::new(&program);
    command.args(["locate-project", "--workspace", "--message-format", "plain"]);
    if let Some(manifest) = manifest {
        command.arg("--manifest-path").arg(manifest);
    }
    let output = command.output().map_err(|source| WorkspaceError::NoCargo { program, source })?;
    let found = String::from_utf8_lossy(&output.stdout);
    match Path::new(found.trim_end()).parent() {
        Some(root) if output.status.success() => Ok(root.to_owned()),
        _ => {
            let said = String::from_utf8_lossy(&output.stderr);
            let reason = said.trim().trim_start_matches("error: ").to_owned();
            Err(WorkspaceError::NotFound { reason })
        }
    }
}
