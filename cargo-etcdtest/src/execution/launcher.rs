//! Starts attempts, those of annotated tests ahead of time, and services.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::Pid;
use tokio::task::{AbortHandle, JoinHandle};

#[cfg(not(target_os = "linux"))]
use super::direct::Starter;
use super::events::{EventSink, RunEvent};
use super::groups::{Clock, Groups};
#[cfg(target_os = "linux")]
use super::keeper::Starter;
use super::process::{Process, Program};
use super::streams::{Nothing, Streams};
use crate::model::TestKind;
use crate::redact::Redactor;

/// How many processes are made ahead where there are few lanes; where there are more, one for each.
/// Who has slept for a while may be woken on any processor; who has just run waits for the one
/// where it did.
const SPARES: usize = 8;

/// Starts attempts, and ends what they leave.
#[derive(Debug)]
pub struct Launcher {
    hatchery: Arc<Hatchery>,
    /// Processes that wait to be told their test, by their binary, the oldest first. While lanes
    /// are busy with tests, the next processes are made, so that no lane waits for that.
    spares: Mutex<HashMap<PathBuf, VecDeque<JoinHandle<io::Result<Started>>>>>,
    lanes: NonZeroUsize,
    job_control: AbortHandle,
}

/// A process and what connects it with the runner.
pub(super) type Started = (Process, Streams);

/// What a process is started for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    /// How its binary is spoken to.
    pub(super) kind: TestKind,
    /// The lane, from 0.
    pub(super) lane: usize,
}

/// Where processes come from.
#[derive(Debug)]
struct Hatchery {
    starter: Starter,
    groups: Arc<Groups>,
    events: EventSink,
    redactor: Redactor,
    nothing: Nothing,
}

impl Launcher {
    /// A launcher for one run of so many lanes, whose events hear what its user should know.
    /// `keeper` is the program that serves as keeper where there is one; it removes `folder`
    /// when the run is over or this process was killed. `redactor` takes secrets out of
    /// whatever comes of what is started.
    pub fn new(
        keeper: &Path,
        folder: Option<&Path>,
        lanes: NonZeroUsize,
        events: EventSink,
        redactor: Redactor,
    ) -> Self {
        let groups = Arc::new(Groups::default());
        let followed = Arc::clone(&groups);
        let job_control = tokio::spawn(async move { followed.follow_the_terminal().await }).abort_handle();
        let starter = Starter::new(keeper, folder, lanes);
        let hatchery = Arc::new(Hatchery { starter, groups, events, redactor, nothing: Nothing::default() });
        Self { hatchery, spares: Mutex::default(), lanes, job_control }
    }

    /// Starts what needs no attempt yet.
    ///
    /// # Errors
    /// What the system said.
    pub async fn begin(&self) -> io::Result<()> {
        self.hatchery.starter.begin().await
    }

    /// Starts a process for an attempt; that of an annotated test then waits to be told its
    /// test. How many tests of its binary follow at least, `more` says.
    ///
    /// # Errors
    /// What the system said.
    pub(super) async fn start(
        &self,
        origin: Origin,
        program: &Program,
        show: bool,
        more: usize,
    ) -> io::Result<Started> {
        let spare = match self.with_spares(program, VecDeque::pop_front) {
            Some(spare) => spare.await.ok().and_then(Result::ok),
            None => None,
        };
        let started = match spare {
            Some(spare) => Ok(spare),
            None => self.hatchery.start(origin, program, show).await,
        };
        let ahead = self.ahead();
        if origin.kind == TestKind::Annotated && started.is_ok() {
            self.with_spares(program, |spares| {
                while spares.len() < more.min(ahead) {
                    let (hatchery, program) = (Arc::clone(&self.hatchery), program.clone());
                    spares
                        .push_back(tokio::spawn(async move { hatchery.start(origin, &program, show).await }));
                }
            });
        }
        started
    }

    /// Gives up what was made ahead for a binary: somebody has killed such processes.
    pub(super) fn forget_spares(&self, program: &Program) {
        self.with_spares(program, std::mem::take).into_iter().for_each(|spare| spare.abort());
    }

    /// How many processes of a binary are made ahead at the most.
    pub(super) fn ahead(&self) -> usize {
        self.lanes.get().max(SPARES)
    }

    /// Starts the process of a plain test the moment that another one ends with success, so
    /// that no lane waits for its runner meanwhile. `None` where that does not come to pass
    /// soon: then it is not started.
    ///
    /// # Errors
    /// What the system said.
    pub(super) async fn start_after(
        &self,
        first: Pid,
        origin: Origin,
        program: &Program,
        show: bool,
    ) -> io::Result<Option<Started>> {
        let Hatchery { starter, groups, redactor, nothing, .. } = &*self.hatchery;
        let (streams, theirs) = Streams::new(origin.kind, show, redactor, nothing)?;
        let _starting = groups.starting();
        let started = starter.start_after(first, origin, program, theirs.streams()).await?;
        Ok(started.map(|started| (Process::new(started, groups), streams)))
    }

    /// Starts a service with these as standard input, output and error.
    ///
    /// # Errors
    /// What the system said.
    pub(super) async fn start_service(
        &self,
        command: &Command,
        streams: &[OwnedFd; 3],
    ) -> io::Result<Process> {
        let Hatchery { starter, groups, .. } = &*self.hatchery;
        let streams = streams.each_ref().map(AsFd::as_fd);
        let started = starter.start_service(command, streams).await?;
        Ok(Process::of_service(started, groups))
    }

    /// Ends what this attempt ([`Start::id`](etcdtest::protocol::Start::id)) has left behind outside of
    /// its group, and says whether there was anything.
    pub(super) async fn end_left_by(&self, origin: Origin, attempt: &str) -> bool {
        self.hatchery.starter.end_left_by(origin, attempt).await
    }

    /// What takes secrets out of whatever comes of what it starts.
    pub(super) fn redactor(&self) -> &Redactor {
        &self.hatchery.redactor
    }

    /// A clock for an attempt.
    pub(super) fn clock(&self) -> Clock {
        self.hatchery.groups.clock()
    }

    /// Kills whatever was started and still runs.
    pub async fn close(&self) {
        self.end_spares();
        self.hatchery.starter.close().await;
    }

    fn with_spares<T>(
        &self,
        program: &Program,
        act: impl FnOnce(&mut VecDeque<JoinHandle<io::Result<Started>>>) -> T,
    ) -> T {
        let mut spares = self.spares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(spares) = spares.get_mut(program.path()) {
            return act(spares);
        }
        act(spares.entry(program.path().to_owned()).or_default())
    }

    fn end_spares(&self) {
        let spares = std::mem::take(&mut *self.spares.lock().unwrap_or_else(PoisonError::into_inner));
        spares.into_values().flatten().for_each(|spare| spare.abort());
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        self.end_spares();
        self.job_control.abort();
    }
}

impl Hatchery {
    async fn start(&self, origin: Origin, program: &Program, show: bool) -> io::Result<Started> {
        let (streams, theirs) = Streams::new(origin.kind, show, &self.redactor, &self.nothing)?;
        let notice = |text: String| {
            let _ = self.events.send(RunEvent::Notice { text: self.redactor.text(text) });
        };
        let _starting = self.groups.starting();
        // Our copies of the test's ends go with this: what is left is the test's own.
        let started = self.starter.start(origin, program, theirs.streams(), notice).await?;
        Ok((Process::new(started, &self.groups), streams))
    }
}
