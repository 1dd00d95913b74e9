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

/// Where the workspace of this manifest, or of the current folder, begins: cargo is asked, unless
/// it could only say one thing.
///
/// # Errors
/// Where there is none; a verb that needs no code may then use the current folder.
pub fn find_workspace_root(manifest: Option<&Path>) -> Result<PathBuf, WorkspaceError> {
    let obvious = || obvious_root(&std::env::current_dir().ok()?);
    if manifest.is_none()
        && let Some(root) = obvious()
    {
        return Ok(root);
    }
    ask_cargo(manifest)
}

/// The root of the workspace that a folder is in, where its nearest manifest has a workspace or is
/// the only one above it. Cargo would say the same, and takes ten times as long only to start.
fn obvious_root(folder: &Path) -> Option<PathBuf> {
    let mut manifests =
        folder.ancestors().map(|folder| folder.join("Cargo.toml")).filter(|file| file.exists());
    let nearest = manifests.next()?;
    let manifest: toml::Table = std::fs::read_to_string(&nearest).ok()?.parse().ok()?;
    let names_another = || manifest.get("package").is_none_or(|package| package.get("workspace").is_some());
    let is_root = manifest.contains_key("workspace") || (!names_another() && manifests.next().is_none());
    is_root.then(|| nearest.parent().map(Path::to_owned))?
}

fn ask_cargo(manifest: Option<&Path>) -> Result<PathBuf, WorkspaceError> {
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_root_is_found_without_cargo_only_where_cargo_would_find_it_too() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let package = |name: &str| format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\n");
        let manifests = [
            ("Cargo.toml", "[workspace]\nmembers = [\"member\", \"named\"]\n".to_owned()),
            ("member/Cargo.toml", package("member")),
            ("own/Cargo.toml", package("own") + "[workspace]\n"),
            ("named/Cargo.toml", package("named") + "workspace = \"..\"\n"),
        ];
        for (path, content) in manifests {
            let package = root.join(path).parent().unwrap().to_owned();
            fs::create_dir_all(package.join("src/deep")).unwrap();
            fs::write(package.join("src/lib.rs"), "").unwrap();
            fs::write(root.join(path), content).unwrap();
        }
        let obvious = |path: &str| obvious_root(&root.join(path));
        assert_eq!(obvious(""), Some(root.clone()));
        assert_eq!(obvious("src/deep"), Some(root.clone()));
        assert_eq!(obvious("own/src"), Some(root.join("own")));
        for unclear in ["member", "member/src/deep", "named"] {
            assert_eq!(obvious(unclear), None, "{unclear}");
        }
        for path in ["", "own", "member", "named"] {
            let asked = ask_cargo(Some(&root.join(path).join("Cargo.toml"))).unwrap();
            assert_eq!(obvious(path).unwrap_or_else(|| root.clone()), asked, "{path}");
        }

        fs::remove_file(root.join("Cargo.toml")).unwrap();
        assert_eq!(obvious("member/src"), Some(root.join("member")), "it is alone");
        assert_eq!(obvious("named"), None, "its workspace may be anywhere");
        assert_eq!(obvious(""), None);
        fs::write(root.join("member/Cargo.toml"), "nonsense").unwrap();
        assert_eq!(obvious("member"), None);
    }
}
