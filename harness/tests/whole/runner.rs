//! The runner's side of an attempt, over a real socket.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::thread;

use etcdtest::protocol::{ATTEMPT_ARGUMENT, EnvironmentData, Event, Frame, Outcome, Start};
use serde_json::{Value, json};

use crate::project::{PROJECT, Project};

/// What the test binary exits with after a pass.
pub(crate) const EXIT_CODE: i32 = 77;

/// All that came back from an attempt.
pub(crate) struct Attempt {
    pub(crate) events: Vec<Event>,
    pub(crate) code: Option<i32>,
    pub(crate) stderr: String,
}

/// The environment that the fixture's tests pass in.
pub(crate) fn config() -> Value {
    json!({ "region": "eu", "orders": { "url": "http://orders", "port": 80, "hosts": ["a"] } })
}

/// A start of the test with this configuration.
pub(crate) fn start(test: &str, config: Value) -> Start {
    Start {
        test: test.to_owned(),
        environment: EnvironmentData {
            name: "staging".into(),
            version: 3,
            revision: 44,
            config,
            ..Default::default()
        }
        .to_json(),
        run: "run-1".into(),
        unit: 7,
        worker: "worker-2".into(),
        attempt: 2,
        token: 55,
        exit_code: EXIT_CODE,
    }
}

/// Starts a test binary with a socket as its standard input.
pub(crate) fn spawn(command: &mut Command) -> (Child, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let child = command
        .arg(ATTEMPT_ARGUMENT)
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The command keeps the other end until it is used again: without it, the end of the
    // process is the end of the stream.
    command.stdin(Stdio::null());
    (child, ours)
}

/// Runs one attempt of a test of the fixture to its end.
pub(crate) fn attempt(start: &Start) -> Attempt {
    attempt_of("own", start)
}

/// The same in another test binary of the project.
pub(crate) fn attempt_of(target: &str, start: &Start) -> Attempt {
    attempt_in(&PROJECT, target, start)
}

/// The same in another project.
pub(crate) fn attempt_in(project: &Project, target: &str, start: &Start) -> Attempt {
    let (child, mut socket) = spawn(&mut project.test(target));
    // Output is read while events are: the test must not wait for either.
    let output = thread::spawn(|| child.wait_with_output().unwrap());
    start.to_frame().write(&mut socket).unwrap();
    let mut events = Vec::new();
    while let Some(frame) = Frame::read(&mut socket).unwrap() {
        events.push(Event::from_frame(frame).unwrap());
    }
    let output = output.join().unwrap();
    Attempt { events, code: output.status.code(), stderr: String::from_utf8(output.stderr).unwrap() }
}

impl Attempt {
    /// The outcome, which must be the last event and the only one of its kind.
    pub(crate) fn outcome(&self) -> &Outcome {
        let finished = |event: &&Event| matches!(event, Event::Finished(_));
        assert_eq!(self.events.iter().filter(finished).count(), 1, "{:?}", self.events);
        match self.events.last() {
            Some(Event::Finished(outcome)) => outcome,
            other => panic!("{other:?} is no last event"),
        }
    }

    /// Message and location of the failure.
    pub(crate) fn failure(&self) -> (&str, Option<&str>) {
        assert_eq!(self.code, Some(101));
        match self.outcome() {
            Outcome::Failed { message, location } => (message, location.as_deref()),
            other => panic!("{other:?} is no failure"),
        }
    }

    /// The text of an attachment.
    pub(crate) fn attachment(&self, wanted: &str) -> String {
        let text = self.events.iter().find_map(|event| match event {
            Event::Attachment { name, bytes } if name == wanted => Some(bytes.clone()),
            _ => None,
        });
        String::from_utf8(text.unwrap()).unwrap()
    }
}
