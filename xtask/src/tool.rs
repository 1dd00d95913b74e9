//! Programs: where they are, and running them.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The root of the checkout.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("this package has a folder of its own in the checkout")
}

/// Where cargo puts what it builds: this program is among it.
pub(crate) fn built() -> Result<PathBuf> {
    let this = env::current_exe().context("failed to find where this program lies")?;
    Ok(this.parent().context("this program lies in no folder")?.to_owned())
}

/// Where fetched tools are kept: inside `target/`, so that nothing of the machine changes.
pub(crate) fn folder() -> Result<PathBuf> {
    Ok(built()?.with_file_name("tools"))
}

/// The program of this name in one of the folders of `PATH`.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).find_map(|folder| in_folder(&folder, name))
}

/// The program of this name in `folder`.
pub(crate) fn in_folder(folder: &Path, name: &str) -> Option<PathBuf> {
    let program = folder.join(name).with_extension(env::consts::EXE_EXTENSION);
    program.is_file().then_some(program)
}

/// Runs the command to its end.
///
/// # Errors
/// It could not be started, or did not succeed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("failed to start `{name}`"))?;
    if !status.success() {
        let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
        bail!("`{name} {}` ended with {status}", arguments.join(" "));
    }
    Ok(())
}
