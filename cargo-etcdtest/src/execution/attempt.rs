//! One try at a unit: a process of its own, its output, and what came of it.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcdtest::protocol::{self, Event, Frame, Start};
use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::events::AttemptOutput;
use super::output::Output;
use super::verdict::{self, Ending};
use crate::model::{Attempt, Step, TestKind};

/// How long the streams of a process that has ended are read on while others hold them.
const HELD_STREAMS: Duration = Duration::from_millis(200);
/// How many bytes of attachments one attempt may send, and how many attachments.
const MAX_ATTACHED: usize = 16 << 20;
const MAX_ATTACHMENTS: usize = 100;
/// How many steps of one attempt are kept.
const MAX_STEPS: usize = 500;
/// The longest name of a step or attachment, in bytes.
const MAX_NAME: usize = 200;
/// The shortest time between two reports that an attempt is slow.
const SLOW: Duration = Duration::from_secs(1);
/// Further away than any attempt lasts.
const FAR: Duration = Duration::from_hours(24 * 365);

/// What to start.
#[derive(Debug)]
pub struct Launch {
    /// The binary with its folder and variables.
    pub command: std::process::Command,
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
}

/// What a test said on its socket.
#[derive(Debug, Default)]
struct Said {
    steps: Vec<Step>,
    attachments: Vec<(String, Vec<u8>)>,
    /// The bytes of all attachments, kept or not.
    attached: usize,
    outcome: Option<protocol::Outcome>,
}

/// Why a process is being ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopped {
    TimedOut,
    Cancelled,
}

impl Launch {
    /// Runs the attempt to its end. `None` where it was ended by `leave`.
    pub async fn run(
        mut self,
        mut leave: watch::Receiver<Leave>,
        on_slow: impl Fn(Duration),
    ) -> Option<(Attempt, AttemptOutput)> {
        let started = Timestamp::now();
        let clock = Instant::now();
        let attempt = Attempt {
            number: self.start.attempt,
            outcome: crate::model::Outcome::Crashed,
            started,
            duration: Duration::ZERO,
            message: None,
            location: None,
            exit_code: None,
            signal: None,
            steps: Vec::new(),
            output: Vec::new(),
        };
        let (mut child, socket) = match self.spawn() {
            Ok(spawned) => spawned,
            Err(error) => {
                let program = self.command.get_program().to_string_lossy().into_owned();
                let message = Some(format!("failed to start {program}: {error}"));
                return Some((
                    Attempt { message, duration: clock.elapsed(), ..attempt },
                    AttemptOutput::default(),
                ));
            }
        };
        let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let (stdout, stderr, said) = (Taken::default(), Taken::default(), Taken::default());
        let mut streams = JoinSet::new();
        if let Some(stream) = child.stdout.take() {
            streams.spawn(capture(stream, self.show.then(tokio::io::stdout), stdout.clone()));
        }
        if let Some(stream) = child.stderr.take() {
            streams.spawn(capture(stream, self.show.then(tokio::io::stderr), stderr.clone()));
        }
        if let Some(socket) = socket {
            streams.spawn(listen(socket, self.start.to_frame(), said.clone()));
        }

        let (status, stopped) = self.wait(&mut child, group, clock, &mut leave, on_slow).await;
        let duration = clock.elapsed();
        if stopped == Some(Stopped::Cancelled) {
            return None;
        }
        drain(group, streams).await;
        let Said { mut steps, attachments, outcome, .. } = take(&said);
        let output = AttemptOutput { stdout: take(&stdout), stderr: take(&stderr), attachments };
        let ending = match (stopped, &status) {
            (Some(_), _) => Ending::timed_out(self.timeout.unwrap_or_default()),
            (None, Err(error)) => Ending::crashed(format!("its process was lost: {error}")),
            (None, Ok(status)) => match self.kind {
                TestKind::Annotated => verdict::annotated(outcome, *status, self.start.exit_code, &output),
                TestKind::Plain => verdict::plain(*status, &output),
            },
        };
        if let Some(last) = steps.last_mut()
            && last.ok.is_none()
            && ending.outcome == crate::model::Outcome::Passed
        {
            last.ok = Some(true);
        }
        let status = status.ok();
        let attempt = Attempt {
            outcome: ending.outcome,
            duration,
            message: ending.message,
            location: ending.location,
            exit_code: status.and_then(|status| status.code()),
            signal: status.and_then(|status| status.signal()),
            steps,
            ..attempt
        };
        Some((attempt, output))
    }

    /// Starts the process in a group of its own; an annotated test gets its socket as
    /// standard input.
    fn spawn(&mut self) -> io::Result<(Child, Option<UnixStream>)> {
        let mut command = std::process::Command::new(self.command.get_program());
        std::mem::swap(&mut command, &mut self.command);
        let mut command = Command::from(command);
        command.process_group(0).kill_on_drop(true).stdout(Stdio::piped()).stderr(Stdio::piped());
        match self.kind {
            TestKind::Plain => {
                command.stdin(Stdio::null());
                Ok((command.spawn()?, None))
            }
            TestKind::Annotated => {
                let (ours, theirs) = StdUnixStream::pair()?;
                ours.set_nonblocking(true)?;
                command.stdin(OwnedFd::from(theirs));
                let child = command.spawn()?;
                // Our copy of the test's end goes with the command: what is left is the test's own.
                drop(command);
                Ok((child, Some(UnixStream::from_std(ours)?)))
            }
        }
    }

    /// Waits for the process, reporting slowness, and ending it when its time is up.
    async fn wait(
        &self,
        child: &mut Child,
        group: Option<Pid>,
        clock: Instant,
        leave: &mut watch::Receiver<Leave>,
        on_slow: impl Fn(Duration),
    ) -> (io::Result<ExitStatus>, Option<Stopped>) {
        let after = |time: Duration| clock.checked_add(time).unwrap_or_else(|| clock + FAR);
        let deadline = self.timeout.map(after);
        let mut slow = self.slow;
        loop {
            let wake = deadline.map_or(after(slow), |deadline| deadline.min(after(slow)));
            let stopped = tokio::select! {
                status = child.wait() => return (status, None),
                () = sleep_until(wake) => {
                    if deadline.is_none_or(|deadline| Instant::now() < deadline) {
                        on_slow(clock.elapsed());
                        slow = slow.saturating_add(self.slow.max(SLOW));
                        continue;
                    }
                    Stopped::TimedOut
                }
                () = told(leave, Leave::ToEnd) => Stopped::Cancelled,
            };
            return (self.end(child, group, leave).await, Some(stopped));
        }
    }

    /// Asks the process's group to end, and kills it after the grace, or at once when told.
    async fn end(
        &self,
        child: &mut Child,
        group: Option<Pid>,
        leave: &mut watch::Receiver<Leave>,
    ) -> io::Result<ExitStatus> {
        end_group(group, Signal::TERM);
        let ended = tokio::select! {
            status = child.wait() => Some(status),
            () = tokio::time::sleep(self.grace) => None,
            () = told(leave, Leave::ToDie) => None,
        };
        // Also what a process that ended in time has left behind.
        end_group(group, Signal::KILL);
        match ended {
            Some(status) => status,
            None => child.wait().await,
        }
    }
}

/// Waits until tests may go no further than this.
async fn told(leave: &mut watch::Receiver<Leave>, least: Leave) {
    if leave.wait_for(|leave| *leave >= least).await.is_err() {
        // Nobody is left to tell.
        std::future::pending::<()>().await;
    }
}

fn end_group(group: Option<Pid>, signal: Signal) {
    if let Some(group) = group {
        // It may have ended by itself meanwhile.
        let _ = kill_process_group(group, signal);
    }
}

/// What was taken in of a stream so far: also where its end does not come.
type Taken<T> = Arc<Mutex<T>>;

fn lock<T>(taken: &Taken<T>) -> MutexGuard<'_, T> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

fn take<T: Default>(taken: &Taken<T>) -> T {
    std::mem::take(&mut *lock(taken))
}

/// Waits for the ends of the streams; whoever still holds them after the process has ended
/// is killed, and left alone where it has escaped from the group.
async fn drain(group: Option<Pid>, mut streams: JoinSet<()>) {
    if timeout(HELD_STREAMS, async { while streams.join_next().await.is_some() {} }).await.is_err() {
        end_group(group, Signal::KILL);
        let _ = timeout(HELD_STREAMS, async { while streams.join_next().await.is_some() {} }).await;
        streams.shutdown().await;
    }
}

/// Reads a stream to its end, bounded, and passes it on where somebody looks.
async fn capture(
    mut stream: impl AsyncRead + Unpin,
    mut show: Option<impl AsyncWriteExt + Unpin>,
    output: Taken<Output>,
) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        lock(&output).push(&buffer[..length]);
        if let Some(to) = &mut show {
            // A terminal that went away is no reason to stop the test.
            let _ = to.write_all(&buffer[..length]).await;
            let _ = to.flush().await;
        }
    }
}

/// Tells the test what to do and takes in what it says, to its last event.
async fn listen(mut socket: UnixStream, start: Frame, said: Taken<Said>) {
    let Ok(start) = start.encode() else { return };
    if socket.write_all(&start).await.is_err() {
        return;
    }
    while let Ok(length) = socket.read_u32_le().await {
        let length = length as usize;
        if length > protocol::MAX_FRAME {
            break;
        }
        let mut body = vec![0; length];
        if socket.read_exact(&mut body).await.is_err() {
            break;
        }
        if let Some(event) = Frame::decode(&body).ok().and_then(Event::from_frame)
            && lock(&said).take(event)
        {
            break;
        }
    }
}

impl Said {
    /// Takes in an event, within what one attempt may say, and says whether it was the last.
    fn take(&mut self, event: Event) -> bool {
        match event {
            Event::StepStarted { mut name, .. } => {
                if self.steps.len() < MAX_STEPS {
                    name.truncate(name.floor_char_boundary(MAX_NAME));
                    self.steps.push(Step { name, ok: None, duration: Duration::ZERO });
                }
            }
            Event::StepFinished { step, ok, duration } => {
                let index = (step as usize).wrapping_sub(1);
                if let Some(step) = self.steps.get_mut(index) {
                    step.ok = Some(ok);
                    step.duration = duration;
                }
            }
            Event::Attachment { mut name, bytes } => {
                self.attached = self.attached.saturating_add(bytes.len());
                if self.attached <= MAX_ATTACHED && self.attachments.len() < MAX_ATTACHMENTS {
                    name.truncate(name.floor_char_boundary(MAX_NAME));
                    self.attachments.push((name, bytes));
                }
            }
            Event::Finished(outcome) => {
                self.outcome = Some(outcome);
                return true;
            }
        }
        false
    }
}
