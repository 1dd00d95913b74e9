//! The streams of an attempt: what it prints, and what it says on its socket.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::pin;

use etcdtest::protocol::{Event, Frame};
use rustix::io::ioctl_fionbio;
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::pipe::Receiver;

use super::frames::{CHUNK, Frames};
use super::output::Output;
use super::said::Said;
use crate::redact::{RedactedStream, Redactor};

/// The runner's ends of an attempt's streams, with what came out of them.
#[derive(Debug)]
pub(super) struct Streams {
    stdout: Stream<tokio::io::Stdout>,
    stderr: Stream<tokio::io::Stderr>,
    conversation: Option<Conversation>,
}

#[derive(Debug)]
struct Stream<W> {
    pipe: Receiver,
    /// On its way to the output and to whoever looks.
    redacted: RedactedStream,
    show: Option<W>,
    output: Output,
    ended: bool,
}

#[derive(Debug)]
struct Conversation {
    socket: UnixStream,
    /// What is still to be sent.
    start: Vec<u8>,
    frames: Frames,
    said: Said,
    ended: bool,
}

impl Streams {
    /// Streams of a test that is told to start by this frame on its socket, or of one that
    /// has no socket; and the test's own ends: standard input, output and error. What comes
    /// out of them is kept and shown without secrets.
    ///
    /// # Errors
    /// What the system said.
    pub(super) fn new(
        start: Option<Frame>,
        show: bool,
        redactor: &Redactor,
    ) -> io::Result<(Self, [OwnedFd; 3])> {
        let (conversation, stdin) = match start {
            Some(start) => {
                let (ours, theirs) = StdUnixStream::pair()?;
                ours.set_nonblocking(true)?;
                (Some(Conversation::new(ours, &start, redactor)?), OwnedFd::from(theirs))
            }
            None => (None, OwnedFd::from(File::open("/dev/null")?)),
        };
        let (stdout, their_stdout) = Stream::new(show.then(tokio::io::stdout), redactor)?;
        let (stderr, their_stderr) = Stream::new(show.then(tokio::io::stderr), redactor)?;
        Ok((Self { stdout, stderr, conversation }, [stdin, their_stdout, their_stderr]))
    }

    /// Takes in what comes, to the end of all streams. May be dropped at any time and begun
    /// again.
    pub(super) async fn read(&mut self) {
        let conversation = async {
            if let Some(conversation) = &mut self.conversation {
                conversation.read().await;
            }
        };
        tokio::join!(self.stdout.read(), self.stderr.read(), conversation);
    }

    /// Takes in what comes while something else goes on.
    pub(super) async fn read_during<T>(&mut self, other: impl Future<Output = T>) -> T {
        let mut other = pin!(other);
        tokio::select! {
            biased;
            result = &mut other => return result,
            () = self.read() => {}
        }
        other.await
    }

    /// The pipes that some process has not closed.
    pub(super) fn open_pipes(&self) -> Vec<BorrowedFd<'_>> {
        let stdout = (!self.stdout.ended).then(|| self.stdout.pipe.as_fd());
        let stderr = (!self.stderr.ended).then(|| self.stderr.pipe.as_fd());
        stdout.into_iter().chain(stderr).collect()
    }

    /// What was printed and said until now.
    pub(super) async fn end(self) -> (Output, Output, Said) {
        let said = self.conversation.map(|conversation| conversation.said).unwrap_or_default();
        (self.stdout.end().await, self.stderr.end().await, said)
    }
}

impl<W: AsyncWriteExt + Unpin> Stream<W> {
    fn new(show: Option<W>, redactor: &Redactor) -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
        ioctl_fionbio(&ours, true)?;
        let pipe = Receiver::from_owned_fd_unchecked(ours)?;
        let redacted = redactor.stream();
        Ok((Self { pipe, redacted, show, output: Output::default(), ended: false }, theirs))
    }

    async fn read(&mut self) {
        while !self.ended {
            if self.pipe.readable().await.is_err() {
                self.ended = true;
            }
            match self.take() {
                Ok(shown) => self.show(&shown).await,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => self.ended = true,
            }
        }
    }

    /// Reads once, and gives back what is to be shown.
    fn take(&mut self) -> io::Result<Vec<u8>> {
        let mut buffer = [0; CHUNK];
        let length = self.pipe.try_read(&mut buffer)?;
        self.ended |= length == 0;
        let passed = self.redacted.push(&buffer[..length]);
        self.output.push(&passed);
        Ok(if self.show.is_some() { passed.into_owned() } else { Vec::new() })
    }

    async fn show(&mut self, bytes: &[u8]) {
        if let Some(show) = self.show.as_mut().filter(|_| !bytes.is_empty()) {
            // A terminal that went away is no reason to stop the test.
            let _ = show.write_all(bytes).await;
            let _ = show.flush().await;
        }
    }

    /// All that was printed.
    async fn end(mut self) -> Output {
        let held = self.redacted.end();
        self.output.push(&held);
        self.show(&held).await;
        self.output
    }
}

impl Conversation {
    fn new(socket: StdUnixStream, start: &Frame, redactor: &Redactor) -> io::Result<Self> {
        Ok(Self {
            socket: UnixStream::from_std(socket)?,
            start: start.encode()?,
            frames: Frames::default(),
            said: Said::new(redactor.clone()),
            ended: false,
        })
    }

    async fn read(&mut self) {
        while !self.ended {
            let interest = if self.start.is_empty() {
                Interest::READABLE
            } else {
                Interest::READABLE | Interest::WRITABLE
            };
            let Ok(ready) = self.socket.ready(interest).await else {
                self.ended = true;
                return;
            };
            if ready.is_writable() && !self.start.is_empty() {
                match self.socket.try_write(&self.start) {
                    Ok(length) => drop(self.start.drain(..length)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => self.start.clear(),
                }
            }
            if ready.is_readable() {
                self.hear();
            }
        }
    }

    /// Reads once, and takes in the events that are whole.
    fn hear(&mut self) {
        match self.frames.read(|buffer| self.socket.try_read(buffer)) {
            Ok(1..) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Ok(_) | Err(_) => self.ended = true,
        }
        while let Some(frame) = self.frames.take() {
            match frame.map(Event::from_frame) {
                Ok(Some(event)) => self.ended |= self.said.take(event),
                Ok(None) => {}
                Err(_) => self.ended = true,
            }
            // What follows the last event, or a torn frame, means nothing.
            if self.ended {
                return;
            }
        }
    }
}
