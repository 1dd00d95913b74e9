//! Programs: where they are, and running them.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

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
    let status = command.status().with_context(|| format!("failed to start {}", shown(command)))?;
    succeeded(command, status)
}

/// Runs the command in a process group of its own, which is killed when the time is over.
///
/// # Errors
/// It could not be started, or did not succeed in time.
pub(crate) fn run_within(limit: Duration, command: &mut Command) -> Result<()> {
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(command, 0);
    let mut child = command.spawn().with_context(|| format!("failed to start {}", shown(command)))?;
    let group = format!("-{}", child.id());
    let (end, ended) = mpsc::channel();
    thread::spawn(move || end.send(child.wait()));
    let Ok(status) = ended.recv_timeout(limit) else {
        run(Command::new("kill").args(["-KILL", "--", &group]))?;
        bail!("{} was not over after {} minutes", shown(command), limit.as_secs() / 60);
    };
    succeeded(command, status.context("failed to wait for a command")?)
}

fn succeeded(command: &Command, status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("{} ended with {status}", shown(command));
    }
    Ok(())
}

/// The command as one would type it.
fn shown(command: &Command) -> String {
    let words: Vec<_> = [command.get_program()].into_iter().chain(command.get_args()).collect();
    let words: Vec<_> = words.into_iter().map(|word| word.to_string_lossy()).collect();
    format!("`{}`", words.join(" "))
}
