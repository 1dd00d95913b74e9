//! Processes of attempts, however they are started.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, getpgid, kill_process, kill_process_group, test_kill_process_group};
use tokio::sync::oneshot;

use super::groups::Groups;
use crate::testcases::Binary;

/// How often a group is looked at that outlives its leader.
const LOOK: Duration = Duration::from_millis(2);

/// A process under way, and where its status will arrive. Nothing arrives where the system
/// does not tell it any more.
pub(super) type Started = (Pid, oneshot::Receiver<ExitStatus>);

/// A process that leads a group of its own. Its group is killed when this value is dropped.
#[derive(Debug)]
pub(super) struct Process {
    group: Pid,
    ended: oneshot::Receiver<ExitStatus>,
    /// It has been waited for.
    over: bool,
    /// Its group has no member left, and may soon be another one.
    gone: bool,
    groups: Arc<Groups>,
}

impl Process {
    /// A process that was started with a group of its own.
    pub(super) fn new((group, ended): Started, groups: &Arc<Groups>) -> Self {
        groups.enter(group);
        Self { group, ended, over: false, gone: false, groups: Arc::clone(groups) }
    }

    /// A service: unlike tests it goes on while the run is stopped by Ctrl-Z.
    pub(super) fn of_service((group, ended): Started, groups: &Arc<Groups>) -> Self {
        Self { group, ended, over: false, gone: false, groups: Arc::clone(groups) }
    }

    /// Its id, which is that of its group.
    pub(super) fn id(&self) -> Pid {
        self.group
    }

    /// Waits for its end. May be dropped and called again until it has given the status.
    ///
    /// # Errors
    /// The system does not tell the status any more.
    pub(super) async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = (&mut self.ended).await;
        self.over = true;
        status.map_err(|_| io::Error::other("whoever waited for it was killed"))
    }

    /// Sends a signal to its group, and to itself where it has left that.
    pub(super) fn signal(&self, signal: Signal) {
        if !self.gone {
            // It may have ended by itself meanwhile.
            let _ = kill_process_group(self.group, signal);
        }
        let left = |group| group != self.group;
        // Its number is its own until it has been waited for.
        if !self.over && getpgid(Some(self.group)).is_ok_and(left) {
            let _ = kill_process(self.group, signal);
        }
    }

    /// Waits until its group has no member left.
    pub(super) async fn group_end(&mut self) {
        while !self.gone && test_kill_process_group(self.group).is_ok() {
            tokio::time::sleep(LOOK).await;
        }
        self.gone = true;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.groups.leave(self.group);
        self.signal(Signal::KILL);
    }
}

/// A process of a test binary that is to be started. Copies share what is the same for all of them.
///
/// It may hold secrets, so it does not print.
#[derive(Clone)]
pub struct Program {
    binary: Arc<Binary>,
    arguments: Vec<OsString>,
    /// Beside those of the binary, or in place of them.
    variables: Vec<(OsString, OsString)>,
}

impl Program {
    /// The binary, with no arguments.
    pub fn new(binary: Arc<Binary>) -> Self {
        Self { binary, arguments: Vec::new(), variables: Vec::new() }
    }

    /// The same with one more argument.
    pub(super) fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// The same with one more variable.
    pub(super) fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    /// Its file.
    pub(super) fn path(&self) -> &Path {
        self.binary.path.as_std_path()
    }

    /// Where it is started.
    pub(super) fn folder(&self) -> &Path {
        self.binary.directory.as_std_path()
    }

    /// Its arguments.
    pub(super) fn arguments(&self) -> impl Iterator<Item = &OsStr> {
        self.arguments.iter().map(OsString::as_os_str)
    }

    /// The variables that differ from the runner's own, each once.
    pub(super) fn variables(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        let own = self.variables.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()));
        let inherited = self
            .binary
            .variables
            .iter()
            .filter(|(inherited, _)| self.variables.iter().all(|(name, _)| name != inherited.as_str()));
        own.chain(inherited.map(|(name, value)| (OsStr::new(name), value.as_os_str())))
    }
}
