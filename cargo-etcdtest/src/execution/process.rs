//! Processes of attempts, however they are started.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, getpgid, kill_process, kill_process_group, test_kill_process_group};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

#[cfg(not(target_os = "linux"))]
use super::direct::Starter;
use super::events::RunEvent;
use super::groups::{Clock, Groups};
#[cfg(target_os = "linux")]
use super::keeper::Starter;
use super::worker::EventSink;
use crate::model::TestKind;

/// How often a group is looked at that outlives its leader.
const LOOK: Duration = Duration::from_millis(2);

/// A process under way, and where its status will arrive. Nothing arrives where the system
/// does not tell it any more.
pub(super) type Started = (Pid, oneshot::Receiver<ExitStatus>);

/// Starts attempts, and ends what they leave.
#[derive(Debug)]
pub struct Launcher {
    starter: Starter,
    groups: Arc<Groups>,
    job_control: AbortHandle,
    events: EventSink,
}

/// A process that leads a group of its own. Its group is killed when this value is dropped.
#[derive(Debug)]
pub(super) struct Process {
    group: Pid,
    ended: oneshot::Receiver<ExitStatus>,
    /// It has been waited for.
    over: bool,
    groups: Arc<Groups>,
}

impl Launcher {
    /// A launcher for one run, whose events hear what its user should know. `keeper` is the
    /// program that serves as keeper where there is one; it removes `folder` when the run is
    /// over or this process was killed.
    pub fn new(keeper: PathBuf, folder: Option<PathBuf>, events: EventSink) -> Self {
        let groups = Arc::new(Groups::default());
        let followed = Arc::clone(&groups);
        let job_control = tokio::spawn(async move { followed.follow_the_terminal().await }).abort_handle();
        Self { starter: Starter::new(keeper, folder), groups, job_control, events }
    }

    /// Starts what needs no attempt yet.
    ///
    /// # Errors
    /// What the system said.
    pub async fn begin(&self) -> io::Result<()> {
        self.starter.begin().await
    }

    /// Starts an attempt with these as standard input, output and error; that of an
    /// annotated test has its socket for input.
    ///
    /// # Errors
    /// What the system said.
    pub(super) async fn start(
        &self,
        kind: TestKind,
        command: &Command,
        streams: &[OwnedFd; 3],
    ) -> io::Result<Process> {
        let notice = |text: String| {
            let _ = self.events.send(RunEvent::Notice { text });
        };
        let (group, ended) = self.starter.start(kind, command, streams, notice).await?;
        self.groups.enter(group);
        Ok(Process { group, ended, over: false, groups: Arc::clone(&self.groups) })
    }

    /// A clock for an attempt.
    pub(super) fn clock(&self) -> Clock {
        self.groups.clock()
    }

    /// Kills whatever was started and still runs.
    pub async fn close(&self) {
        self.starter.close().await;
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        self.job_control.abort();
    }
}

impl Process {
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
        // It may have ended by itself meanwhile.
        let _ = kill_process_group(self.group, signal);
        let left = |group| group != self.group;
        // Its number is its own until it has been waited for.
        if !self.over && getpgid(Some(self.group)).is_ok_and(left) {
            let _ = kill_process(self.group, signal);
        }
    }

    /// Waits until its group has no member left.
    pub(super) async fn group_end(&self) {
        while test_kill_process_group(self.group).is_ok() {
            tokio::time::sleep(LOOK).await;
        }
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
