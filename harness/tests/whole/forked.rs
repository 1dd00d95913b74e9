//! The runner's side of a zygote, over a real socket.

use std::io::{self, IoSlice, PipeReader, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use etcdtest::protocol::{Event, Fork, Frame, Outcome, Start, ZYGOTE_ARGUMENT, ZygoteEvent};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// A test binary that waits to fork. Its end is the test's to see.
pub(crate) struct Zygote {
    pub(crate) process: Child,
    pub(crate) control: UnixStream,
    forks: u64,
}

/// A child of it; of what it writes nothing was read yet.
pub(crate) struct Forked {
    pub(crate) id: u64,
    pub(crate) pid: i32,
    pub(crate) events: UnixStream,
    stdout: PipeReader,
    stderr: PipeReader,
}

/// All that came of an attempt.
pub(crate) struct Ended {
    pub(crate) events: Vec<Event>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Zygote {
    /// Starts one, and gives the first thing that it says.
    pub(crate) fn start(command: &mut Command) -> (Self, ZygoteEvent) {
        let (control, theirs) = UnixStream::pair().unwrap();
        let process = command
            .arg(ZYGOTE_ARGUMENT)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The command keeps the other end otherwise.
        command.stdin(Stdio::null());
        let mut zygote = Self { process, control, forks: 0 };
        let first = zygote.hear();
        (zygote, first)
    }

    /// The next thing that it says.
    pub(crate) fn hear(&mut self) -> ZygoteEvent {
        let frame = Frame::read(&mut self.control).unwrap().expect("the zygote lives");
        ZygoteEvent::from_frame(&frame).unwrap()
    }

    /// Has it fork a child for this attempt. Nothing else is to be heard meanwhile.
    pub(crate) fn fork(&mut self, start: &Start) -> Forked {
        let (mut events, theirs) = UnixStream::pair().unwrap();
        let (stdout, to_stdout) = io::pipe().unwrap();
        let (stderr, to_stderr) = io::pipe().unwrap();
        self.forks += 1;
        self.ask(self.forks, &[theirs.as_fd(), to_stdout.as_fd(), to_stderr.as_fd()]);
        start.to_frame().write(&mut events).unwrap();
        match self.hear() {
            ZygoteEvent::Forked { id, pid } => {
                assert_eq!(id, self.forks);
                Forked { id, pid, events, stdout, stderr }
            }
            other => panic!("{other:?} instead of a child"),
        }
    }

    /// Sends a request, its first byte alone with the descriptors: a stream may cut anywhere.
    pub(crate) fn ask(&mut self, id: u64, descriptors: &[BorrowedFd]) {
        let frame = Fork { id }.to_frame().encode().unwrap();
        let (first, rest) = frame.split_at(1);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(descriptors.is_empty() || ancillary.push(SendAncillaryMessage::ScmRights(descriptors)));
        sendmsg(&self.control, &[IoSlice::new(first)], &mut ancillary, SendFlags::empty()).unwrap();
        sendmsg(
            &self.control,
            &[IoSlice::new(rest)],
            &mut SendAncillaryBuffer::default(),
            SendFlags::empty(),
        )
        .unwrap();
    }

    /// Runs one attempt to its end.
    pub(crate) fn run(&mut self, start: &Start) -> (Ended, i32) {
        let forked = self.fork(start);
        let id = forked.id;
        let ended = forked.end();
        match self.hear() {
            ZygoteEvent::Exited { id: other, status } if other == id => (ended, status),
            other => panic!("{other:?} instead of the end"),
        }
    }

    /// Closes its control socket, and gives how it exited and what it wrote itself.
    pub(crate) fn close(self) -> (Option<i32>, String, String) {
        let Self { process, control, .. } = self;
        drop(control);
        let output = process.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }
}

impl Forked {
    /// The next event.
    pub(crate) fn hear(&mut self) -> Event {
        Event::from_frame(Frame::read(&mut self.events).unwrap().expect("the test lives")).unwrap()
    }

    /// Reads all until the child, and whoever has its files, is gone.
    pub(crate) fn end(mut self) -> Ended {
        let mut events = Vec::new();
        while let Ok(Some(frame)) = Frame::read(&mut self.events) {
            events.push(Event::from_frame(frame).unwrap());
        }
        let [mut stdout, mut stderr] = [String::new(), String::new()];
        self.stdout.read_to_string(&mut stdout).unwrap();
        self.stderr.read_to_string(&mut stderr).unwrap();
        Ended { events, stdout, stderr }
    }
}

impl Ended {
    /// The outcome, which is the last event.
    pub(crate) fn outcome(&self) -> Option<&Outcome> {
        self.events.last().and_then(|event| match event {
            Event::Finished(outcome) => Some(outcome),
            _ => None,
        })
    }

    /// The text of an attachment.
    pub(crate) fn attachment(&self, wanted: &str) -> String {
        self.events.iter().find_map(|event| attachment(event, wanted)).unwrap()
    }
}

/// The text of the attachment of this name.
pub(crate) fn attachment(event: &Event, wanted: &str) -> Option<String> {
    match event {
        Event::Attachment { name, bytes } if name == wanted => {
            Some(String::from_utf8(bytes.clone()).unwrap())
        }
        _ => None,
    }
}
