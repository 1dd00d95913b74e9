//! One try at a unit: a process of its own, its output, and what came of it.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use std::os::unix::process::ExitStatusExt;

use etcdtest::protocol::Start;
use jiff::Timestamp;
use rustix::process::{Pid, Signal};
use tokio::sync::watch;
use tokio::time::timeout;

#[cfg(not(target_os = "linux"))]
use super::direct::end_holders;
use super::events::AttemptOutput;
use super::groups::Clock;
#[cfg(target_os = "linux")]
use super::keeper::end_holders;
use super::launcher::{Launcher, Origin, Started};
use super::process::{Process, Program};
use super::said::Said;
use super::streams::Streams;
use super::verdict::{self, Ending};
use super::work::Seat;
use crate::model::{Attempt, Outcome, TestKind};

/// How long, after the end of its process, an attempt's streams may stay open and its group
/// alive.
const LINGER: Duration = Duration::from_millis(200);
/// How often a process is started that others kill before it knows its test.
const STARTS: usize = 3;
/// The shortest time between two reports that an attempt is slow.
const SLOW: Duration = Duration::from_secs(1);

/// What to start. It holds secrets, so it does not print.
pub struct Launch {
    /// The binary, with what a plain test is told.
    pub program: Program,
    /// How the binary is spoken to.
    pub kind: TestKind,
    /// What an annotated test is told; a plain one needs only its name.
    pub start: Start,
    /// Longest time it may take.
    pub timeout: Option<Duration>,
    /// Time between the request to end and the kill.
    pub grace: Duration,
    /// After how long, and then how often, it is reported as slow.
    pub slow: Duration,
    /// Pass its output on as it comes.
    pub show: bool,
    /// How many other tests of its binary are to follow, as far as is known.
    pub more: usize,
    /// Where it is executed.
    pub seat: Seat,
    /// It comes after this process, the moment that this one has ended with success.
    pub after: Option<Pid>,
}

/// What came of an attempt.
#[derive(Debug)]
pub enum Ran {
    /// It is over.
    ToItsEnd(Box<(Attempt, AttemptOutput)>),
    /// It was ended by what its runner was told.
    Stopped,
    /// What it was to come after did not end in time: it has not begun.
    NotYet,
}

/// What is told of an attempt while it is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Its process runs.
    Started(Pid),
    /// It has taken so long.
    Slow(Duration),
    /// The test says that it has passed, or skips itself: what is left is the end of its
    /// process. Not told of each.
    Passed,
}

/// How far tests that are under way may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leave {
    /// To their end.
    ToFinish,
    /// No further: they are asked to end, and killed after the grace.
    ToEnd,
    /// No further: they are killed at once.
    ToDie,
    /// Nor is anything else: the process ends, whatever is not stored yet.
    ToQuit,
}

/// Why a process is being ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopped {
    TimedOut,
    Cancelled,
}

impl Launch {
    /// Runs the attempt to its end, or as far as `leave` says.
    pub async fn run(
        self,
        launcher: &Launcher,
        mut leave: watch::Receiver<Leave>,
        on: impl Fn(Progress),
    ) -> Ran {
        let mut attempt = Attempt::begun(self.start.attempt, Outcome::Crashed);
        let mut starts = 0;
        let (mut process, mut streams, status, stopped) = loop {
            let started = tokio::select! {
                started = self.start(launcher) => started,
                () = told(&mut leave, Leave::ToEnd) => return Ran::Stopped,
            };
            let (mut process, mut streams) = match started {
                Ok(Some(started)) => started,
                Ok(None) => return Ran::NotYet,
                Err(error) => {
                    let program = self.program.path().display();
                    let failed = format!("failed to start {program}: {error}");
                    attempt.message = Some(launcher.redactor().text(failed));
                    return Ran::ToItsEnd(Box::new((attempt, AttemptOutput::default())));
                }
            };
            // What its binary prepared before the first fork is no part of any attempt.
            let clock = launcher.clock();
            attempt.started = Timestamp::now();
            attempt.place = Some(self.seat.place());
            on(Progress::Started(process.id()));
            let end = self.wait(&mut process, &clock, &mut leave, &on);
            let (status, stopped) = streams.read_during(end, || on(Progress::Passed)).await;
            attempt.duration = clock.elapsed();
            starts += 1;
            // Another test has killed it while it waited: its own has not begun.
            if stopped.is_none() && starts < STARTS && streams.was_deaf() {
                launcher.forget_spares(&self.program);
                continue;
            }
            break (process, streams, status, stopped);
        };
        if stopped.is_some() {
            // Its children may be deaf to the request, or hold no stream to be known by.
            process.signal(Signal::KILL);
        }
        if stopped == Some(Stopped::Cancelled) {
            return Ran::Stopped;
        }
        let left = settle(&mut process, &mut streams).await;
        attempt.leaky =
            (launcher.end_left_by(self.origin(), &self.start.id()).await || left) && stopped.is_none();
        let (printed, closing, Said { mut steps, attachments, outcome, .. }) = streams.end().await;
        let output = AttemptOutput { printed, attachments, services: Vec::new() };
        let ending = match (stopped, &status) {
            (Some(_), _) => Ending::timed_out(self.timeout.unwrap_or_default()),
            (None, Err(error)) => Ending::crashed(format!("its process was lost: {error}")),
            (None, Ok(status)) => match self.kind {
                TestKind::Annotated => verdict::annotated(outcome, *status, self.start.exit_code, &output),
                TestKind::Plain => verdict::plain(*status, &closing, &output),
            },
        };
        if let Some(last) = steps.last_mut()
            && last.ok.is_none()
            && ending.outcome == Outcome::Passed
        {
            last.ok = Some(true);
        }
        let status = status.ok();
        let attempt = Attempt {
            outcome: ending.outcome,
            message: ending.message,
            location: ending.location,
            // The code by which an annotated test says that it passed says no more than that.
            exit_code: status
                .and_then(|status| status.code())
                .filter(|code| self.kind == TestKind::Plain || *code != self.start.exit_code),
            signal: status.and_then(|status| status.signal()),
            steps,
            ..attempt
        };
        Ran::ToItsEnd(Box::new((attempt, output)))
    }

    fn origin(&self) -> Origin {
        Origin { kind: self.kind, lane: self.seat.lane }
    }

    async fn start(&self, launcher: &Launcher) -> io::Result<Option<Started>> {
        if let Some(first) = self.after {
            return launcher.start_after(first, self.origin(), &self.program, self.show).await;
        }
        let (process, mut streams) =
            launcher.start(self.origin(), &self.program, self.show, self.more).await?;
        streams.tell(&self.start.to_frame())?;
        Ok(Some((process, streams)))
    }

    /// Waits for the process, reporting slowness, and ending it when its time is up.
    async fn wait(
        &self,
        process: &mut Process,
        clock: &Clock,
        leave: &mut watch::Receiver<Leave>,
        on: &impl Fn(Progress),
    ) -> (io::Result<ExitStatus>, Option<Stopped>) {
        let stopped = tokio::select! {
            biased;
            status = process.wait() => return (status, None),
            stopped = self.stopped(clock, leave, on) => stopped,
        };
        process.signal(Signal::TERM);
        let grace = clock.elapsed().saturating_add(self.grace);
        tokio::select! {
            status = process.wait() => return (status, Some(stopped)),
            () = clock.reach(grace) => {}
            () = told(leave, Leave::ToDie) => {}
        }
        process.signal(Signal::KILL);
        (process.wait().await, Some(stopped))
    }

    /// Waits for a reason to end it, reporting slowness.
    async fn stopped(
        &self,
        clock: &Clock,
        leave: &mut watch::Receiver<Leave>,
        on: &impl Fn(Progress),
    ) -> Stopped {
        let mut slow = self.slow;
        // What was reported while it was being started is not reported again.
        while slow < clock.elapsed() {
            slow = slow.saturating_add(self.slow.max(SLOW));
        }
        loop {
            let next = self.timeout.map_or(slow, |timeout| timeout.min(slow));
            tokio::select! {
                () = clock.reach(next) => {}
                () = told(leave, Leave::ToEnd) => return Stopped::Cancelled,
            }
            if self.timeout.is_some_and(|timeout| clock.elapsed() >= timeout) {
                return Stopped::TimedOut;
            }
            on(Progress::Slow(clock.elapsed()));
            slow = slow.saturating_add(self.slow.max(SLOW));
        }
    }
}

/// Waits until tests may go no further than this.
pub(super) async fn told(leave: &mut watch::Receiver<Leave>, least: Leave) {
    if leave.wait_for(|leave| *leave >= least).await.is_err() {
        // Nobody is left to tell.
        std::future::pending::<()>().await;
    }
}

/// Waits for the ends of the streams and of the group; whoever is still there after a while
/// is killed. Says whether there was one.
async fn settle(process: &mut Process, streams: &mut Streams) -> bool {
    let ends = async { tokio::join!(streams.read(), process.group_end()) };
    if timeout(LINGER, ends).await.is_ok() {
        return false;
    }
    process.signal(Signal::KILL);
    let _ = timeout(LINGER, streams.read()).await;
    // Those who left the group.
    if streams.open_pipe().is_some_and(|pipe| end_holders(&[pipe])) {
        let _ = timeout(LINGER, streams.read()).await;
    }
    true
}
