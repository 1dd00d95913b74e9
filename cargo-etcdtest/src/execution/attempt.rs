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
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::events::AttemptOutput;
use super::output::Output;
use super::verdict::{self, Ending};
use crate::model::{Attempt, Step, TestKind};

/// How long the streams of a process that has ended are read on while others hold them.
const HELD_STREAMS: Duration = Duration::from_millis(200);
/// How many bytes of attachments one attempt may send.
const MAX_ATTACHMENTS: usize = 16 << 20;

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
    outcome: Option<protocol::Outcome>,
}

/// What a task takes in while it goes on.
#[derive(Debug)]
struct Intake<T> {
    so_far: Arc<Mutex<T>>,
    task: JoinHandle<()>,
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
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (show_out, show_err) = (self.show.then(tokio::io::stdout), self.show.then(tokio::io::stderr));
        let stdout = Intake::start(|output| capture(stdout, show_out, output));
        let stderr = Intake::start(|output| capture(stderr, show_err, output));
        let start = self.start.to_frame();
        let said = Intake::start(|said| listen(socket, start, said));

        let (status, stopped) = self.wait(&mut child, group, clock, &mut leave, on_slow).await;
        let duration = clock.elapsed();
        if stopped.is_some() {
            // Its children may be deaf to the request, or hold no stream to be known by.
            end_group(group, Signal::KILL);
        }
        if stopped == Some(Stopped::Cancelled) {
            return None;
        }
        let (stdout, stderr, said) = collect(group, stdout, stderr, said).await;
        let Said { mut steps, attachments, outcome } = said;
        let output = AttemptOutput { stdout, stderr, attachments };
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
        let deadline = self.timeout.map(|timeout| clock + timeout);
        let mut slow = clock + self.slow;
        loop {
            let wake = deadline.map_or(slow, |deadline| deadline.min(slow));
            let stopped = tokio::select! {
                status = child.wait() => return (status, None),
                () = sleep_until(wake) => {
                    if deadline.is_none_or(|deadline| Instant::now() < deadline) {
                        on_slow(clock.elapsed());
                        slow += self.slow;
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
        tokio::select! {
            status = child.wait() => return status,
            () = tokio::time::sleep(self.grace) => {}
            () = told(leave, Leave::ToDie) => {}
        }
        end_group(group, Signal::KILL);
        child.wait().await
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

/// Waits for the ends of the streams; whoever still holds them after the process has ended
/// is killed.
async fn collect(
    group: Option<Pid>,
    mut stdout: Intake<Output>,
    mut stderr: Intake<Output>,
    mut said: Intake<Said>,
) -> (Output, Output, Said) {
    {
        let all = async { tokio::join!(&mut stdout.task, &mut stderr.task, &mut said.task) };
        tokio::pin!(all);
        if timeout(HELD_STREAMS, &mut all).await.is_err() {
            end_group(group, Signal::KILL);
            // Who left the group may hold them for ever: what came until now is what there is.
            let _ = timeout(HELD_STREAMS, &mut all).await;
        }
    }
    (stdout.end(), stderr.end(), said.end())
}

impl<T: Default + Send + 'static> Intake<T> {
    fn start<F: Future<Output = ()> + Send + 'static>(task: impl FnOnce(Arc<Mutex<T>>) -> F) -> Self {
        let so_far = Arc::default();
        Self { task: tokio::spawn(task(Arc::clone(&so_far))), so_far }
    }

    /// Takes in no more, and gives what came until now.
    fn end(self) -> T {
        self.task.abort();
        std::mem::take(&mut *locked(&self.so_far))
    }
}

fn locked<T>(so_far: &Mutex<T>) -> MutexGuard<'_, T> {
    so_far.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads a stream to its end, bounded, and passes it on where somebody looks.
async fn capture(
    stream: Option<impl AsyncRead + Unpin>,
    mut show: Option<impl AsyncWriteExt + Unpin>,
    output: Arc<Mutex<Output>>,
) {
    let Some(mut stream) = stream else { return };
    let mut buffer = vec![0; 16 << 10];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        locked(&output).push(&buffer[..length]);
        if let Some(to) = &mut show {
            // A terminal that went away is no reason to stop the test.
            let _ = to.write_all(&buffer[..length]).await;
            let _ = to.flush().await;
        }
    }
}

/// Tells the test what to do and takes in what it says, to the end of the socket.
async fn listen(socket: Option<UnixStream>, start: Frame, said: Arc<Mutex<Said>>) {
    let (Some(mut socket), Ok(start)) = (socket, start.encode()) else { return };
    if socket.write_all(&start).await.is_err() {
        return;
    }
    let mut attached = 0;
    while let Ok(length) = socket.read_u32_le().await {
        let length = length as usize;
        if length > protocol::MAX_FRAME {
            break;
        }
        let mut body = vec![0; length];
        if socket.read_exact(&mut body).await.is_err() {
            break;
        }
        let event = Frame::decode(&body).ok().and_then(Event::from_frame);
        let mut said = locked(&said);
        match event {
            Some(Event::StepStarted { name, .. }) => {
                said.steps.push(Step { name, ok: None, duration: Duration::ZERO });
            }
            Some(Event::StepFinished { step, ok, duration }) => {
                let index = (step as usize).wrapping_sub(1);
                if let Some(step) = said.steps.get_mut(index) {
                    step.ok = Some(ok);
                    step.duration = duration;
                }
            }
            Some(Event::Attachment { name, bytes }) => {
                attached += bytes.len();
                if attached <= MAX_ATTACHMENTS {
                    said.attachments.push((name, bytes));
                }
            }
            Some(Event::Finished(outcome)) => said.outcome = Some(outcome),
            None => {}
        }
    }
}
