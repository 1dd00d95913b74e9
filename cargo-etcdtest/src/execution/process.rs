//! Processes of attempts, however they are started.

use std::io;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, getpgid, kill_process, kill_process_group, test_kill_process_group};
use tokio::sync::oneshot;

use super::groups::Groups;

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

/// The same program, in the same place, with more arguments.
pub(super) fn with_arguments<'a>(command: &Command, more: impl IntoIterator<Item = &'a str>) -> Command {
    let mut copy = Command::new(command.get_program());
    copy.args(command.get_args()).args(more);
    if let Some(folder) = command.get_current_dir() {
        copy.current_dir(folder);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => copy.env(name, value),
            None => copy.env_remove(name),
        };
    }
    copy
}
