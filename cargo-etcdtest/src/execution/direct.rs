//! Attempts started by the runner itself, where there is no keeper.

use std::ffi::OsString;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::process::Command;

use etcdtest::protocol::ATTEMPT_ARGUMENT;
use rustix::process::Pid;
use tokio::sync::oneshot;

use super::launcher::Origin;
use super::process::{Program, Started};
use crate::config::CREDENTIALS;
use crate::model::TestKind;

/// Starts processes.
#[derive(Debug)]
pub(super) struct Starter;

impl Starter {
    /// A starter; there is no keeper here.
    pub(super) fn new(_: &Path, _: Option<&Path>, _: NonZeroUsize) -> Self {
        Self
    }

    /// There is nothing to begin with.
    pub(super) async fn begin(&self) -> io::Result<()> {
        Ok(())
    }

    /// Starts an attempt in a group of its own.
    ///
    /// # Errors
    /// What the system said.
    pub(super) async fn start(
        &self,
        origin: Origin,
        program: &Program,
        streams: [BorrowedFd<'_>; 3],
        _: impl Fn(String),
    ) -> io::Result<Started> {
        let mut command = Command::new(program.path());
        for credential in CREDENTIALS {
            command.env_remove(credential);
        }
        command.current_dir(program.folder()).args(program.arguments()).envs(program.variables());
        if origin.kind == TestKind::Annotated {
            command.arg(ATTEMPT_ARGUMENT);
        }
        spawn(command, streams)
    }

    /// Starts a service.
    ///
    /// # Errors
    /// What the system said.
    pub(super) async fn start_service(
        &self,
        command: &Command,
        streams: [BorrowedFd<'_>; 3],
    ) -> io::Result<Started> {
        let mut copy = Command::new(command.get_program());
        copy.args(command.get_args());
        if let Some(folder) = command.get_current_dir() {
            copy.current_dir(folder);
        }
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => copy.env(name, value),
                None => copy.env_remove(name),
            };
        }
        spawn(copy, streams)
    }

    /// Nobody here starts a process at the end of another one.
    pub(super) async fn start_after(
        &self,
        _: Pid,
        _: Origin,
        _: &Program,
        _: [BorrowedFd<'_>; 3],
    ) -> io::Result<Option<Started>> {
        Ok(None)
    }

    /// What leaves its group is not known here.
    pub(super) async fn end_left_by(&self, _: Origin, _: &str) -> bool {
        false
    }

    /// Attempts end with their groups, and there is nothing else.
    pub(super) async fn close(&self) {}
}

/// Starts a process in a group of its own.
fn spawn(mut command: Command, streams: [BorrowedFd<'_>; 3]) -> io::Result<Started> {
    let [stdin, stdout, stderr] = streams.map(|stream| stream.try_clone_to_owned());
    command.stdin(stdin?).stdout(stdout?).stderr(stderr?);
    let mut child = tokio::process::Command::from(command).process_group(0).spawn()?;
    let group = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
    let group = group.ok_or_else(|| io::Error::other("it ended at once"))?;
    let (sender, ended) = oneshot::channel();
    tokio::spawn(async move {
        if let Ok(status) = child.wait().await {
            let _ = sender.send(status);
        }
    });
    Ok((group, ended))
}

/// Other processes' streams cannot be looked at here.
pub(super) fn end_holders(_: &[BorrowedFd<'_>]) -> bool {
    false
}

/// There is no keeper here, whatever the arguments say.
pub fn serve_as_keeper(_: impl Iterator<Item = OsString>) -> Option<io::Result<()>> {
    None
}
