//! Programs that tests start: what they print is read all the while, and nothing of them is
//! waited for without end.

use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::processes::{end_of, family};

/// How long a program may take, with the build of what it tests, on a loaded machine.
const LIMIT: Duration = Duration::from_mins(5);

/// The same program, with its variables in its folder, as what another one is to start.
pub fn started_by<'a>(starter: impl IntoIterator<Item = &'a str>, program: &Command) -> Command {
    let mut starter = starter.into_iter();
    let mut command = Command::new(starter.next().expect("it has a name"));
    command.args(starter).arg(program.get_program()).args(program.get_args());
    if let Some(folder) = program.get_current_dir() {
        command.current_dir(folder);
    }
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

/// What came of a program.
#[derive(Debug)]
pub struct Ran {
    /// What it exited with.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it said.
    pub stderr: String,
}

/// A program under way, killed on drop.
#[derive(Debug)]
pub struct Running {
    child: Child,
    lines: mpsc::Receiver<Line>,
    /// Its standard output is to be closed.
    closed: Arc<AtomicBool>,
    stdout: String,
    stderr: String,
}

/// A line that was printed.
#[derive(Debug)]
enum Line {
    Out(String),
    Err(String),
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Ran {
    /// Runs a program to its end.
    #[track_caller]
    pub fn of(command: &mut Command) -> Self {
        Running::start(command).end()
    }

    /// The events it printed.
    ///
    /// # Panics
    /// A line is no JSON.
    pub fn events(&self) -> Vec<Value> {
        let event = |line: &str| {
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}\n{}", self.stderr))
        };
        self.stdout.lines().map(event).collect()
    }

    /// Fails where the program did not end this way, said something of a panic of its own,
    /// or left one of these texts out.
    #[track_caller]
    pub fn refuses(&self, code: i32, texts: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(!self.stderr.contains("panicked at"), "{}", self.stderr);
        // Messages are broken into lines to fit the screen.
        let said: String = self.stderr.split(|c: char| c.is_whitespace() || c == '│').collect();
        for text in texts {
            let wanted: String = text.split_whitespace().collect();
            assert!(said.contains(&wanted), "no {text:?} in:\n{}", self.stderr);
        }
    }
}

impl Running {
    /// Starts a program.
    ///
    /// # Panics
    /// There is none.
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        let started = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = started.unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        let (say, lines) = mpsc::channel();
        let closed = Arc::new(AtomicBool::new(false));
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        read(stdout.expect("it is piped"), Line::Out, say.clone(), closed.clone());
        read(stderr.expect("it is piped"), Line::Err, say, Arc::default());
        Self { child, lines, closed, stdout: String::new(), stderr: String::new() }
    }

    /// Reads on until it prints a line with this text, and gives it back; `None` where it ended before.
    ///
    /// # Panics
    /// Neither happens in good time.
    #[track_caller]
    pub fn line_with(&mut self, text: &str) -> Option<String> {
        self.read_until(text, |line| if let Line::Out(line) = line { Some(line) } else { None })
    }

    /// The same of what it says on standard error.
    ///
    /// # Panics
    /// As [`Running::line_with`].
    #[track_caller]
    pub fn error_with(&mut self, text: &str) -> Option<String> {
        self.read_until(text, |line| if let Line::Err(line) = line { Some(line) } else { None })
    }

    #[track_caller]
    fn read_until(&mut self, text: &str, on: fn(Line) -> Option<String>) -> Option<String> {
        let until = Instant::now() + LIMIT;
        loop {
            match self.hear(until).map(on) {
                Ok(Some(line)) if line.contains(text) => return Some(line),
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => panic!("{text:?} is not printed in {LIMIT:?} by {self}"),
            }
        }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Closes our end of what it prints to, once it has printed one line more.
    pub fn close_stdout(&mut self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("it has an id");
        kill_process(id, signal).expect("it is not waited for yet");
    }

    /// Waits for its end, and gives all that it ever printed.
    ///
    /// # Panics
    /// It does not end in good time.
    #[track_caller]
    pub fn end(self) -> Ran {
        self.output().into()
    }

    /// The same, as the standard library has it.
    ///
    /// # Panics
    /// It does not end in good time.
    #[track_caller]
    pub fn output(self) -> Output {
        self.output_within(LIMIT).unwrap_or_else(|stuck| panic!("{stuck}"))
    }

    /// The same, where it ends within this time.
    ///
    /// # Errors
    /// It does not: what it was about, in words. It is killed.
    pub fn output_within(mut self, limit: Duration) -> Result<Output, String> {
        let until = Instant::now() + limit;
        let status = loop {
            match self.hear(until) {
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => break None,
                Err(RecvTimeoutError::Disconnected) => break end_of(&mut self.child, until),
            }
        };
        let status = status.ok_or_else(|| format!("after {limit:?} there still is {self}"))?;
        let [stdout, stderr] = [&mut self.stdout, &mut self.stderr].map(|text| std::mem::take(text).into());
        Ok(Output { status, stdout, stderr })
    }

    /// Waits for the next line.
    fn hear(&mut self, until: Instant) -> Result<Line, RecvTimeoutError> {
        let line = self.lines.recv_timeout(until.saturating_duration_since(Instant::now()))?;
        match &line {
            Line::Out(text) => self.stdout += text,
            Line::Err(text) => self.stderr += text,
        }
        Ok(line)
    }
}

/// What it is about: itself and what it has started, and all that it printed.
impl fmt::Display for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = family(self.child.id());
        write!(f, "{family}\nwhich printed\n{}\nand said\n{}", self.stdout, self.stderr)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads a stream to its end, or until it is to be closed, so that nobody ever waits for it to
/// be read.
fn read(
    stream: impl Read + Send + 'static,
    line: fn(String) -> Line,
    say: mpsc::Sender<Line>,
    closed: Arc<AtomicBool>,
) {
    std::thread::spawn(move || {
        let (mut stream, mut bytes) = (BufReader::new(stream), Vec::new());
        while !closed.load(Ordering::Relaxed)
            && stream.read_until(b'\n', &mut bytes).is_ok_and(|length| length > 0)
        {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            bytes.clear();
            if say.send(line(text)).is_err() {
                return;
            }
        }
    });
}
