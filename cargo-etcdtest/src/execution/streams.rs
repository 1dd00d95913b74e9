//! The streams of an attempt: what it prints, and what it says on its socket.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::pin;

use etcdtest::protocol::{Event, Frame};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::pipe::Receiver;

use super::frames::{CHUNK, Frames};
use super::output::Output;
use super::said::Said;
use crate::model::TestKind;

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
    /// The other end was closed before it had read everything.
    deaf: bool,
}

impl Streams {
    /// Streams for a test, and the test's own ends: standard input, output and error. An
    /// annotated one has a socket for standard input.
    ///
    /// # Errors
    /// What the system said.
    pub(super) fn new(kind: TestKind, show: bool) -> io::Result<(Self, [OwnedFd; 3])> {
        let (conversation, stdin) = match kind {
            TestKind::Annotated => {
                let (ours, theirs) = StdUnixStream::pair()?;
                ours.set_nonblocking(true)?;
                (Some(Conversation::new(ours)?), OwnedFd::from(theirs))
            }
            TestKind::Plain => (None, OwnedFd::from(File::open("/dev/null")?)),
        };
        let (stdout, their_stdout) = Stream::new(show.then(tokio::io::stdout))?;
        let (stderr, their_stderr) = Stream::new(show.then(tokio::io::stderr))?;
        Ok((Self { stdout, stderr, conversation }, [stdin, their_stdout, their_stderr]))
    }

    /// Tells an annotated test to start.
    ///
    /// # Errors
    /// The frame is too large.
    pub(super) fn tell(&mut self, start: &Frame) -> io::Result<()> {
        self.conversation.as_mut().map_or(Ok(()), |conversation| conversation.tell(start))
    }

    /// Whether the process ended before it knew which test it was for.
    pub(super) fn was_deaf(&mut self) -> bool {
        self.conversation.as_mut().is_some_and(Conversation::was_deaf)
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
    pub(super) fn end(self) -> (Output, Output, Said) {
        let said = self.conversation.map(|conversation| conversation.said).unwrap_or_default();
        (self.stdout.output, self.stderr.output, said)
    }
}

impl<W: AsyncWriteExt + Unpin> Stream<W> {
    fn new(show: Option<W>) -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
        ioctl_fionbio(&ours, true)?;
        let pipe = Receiver::from_owned_fd_unchecked(ours)?;
        Ok((Self { pipe, show, output: Output::default(), ended: false }, theirs))
    }

    async fn read(&mut self) {
        while !self.ended {
            if self.pipe.readable().await.is_err() {
                self.ended = true;
            }
            let printed = match self.take() {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(_) => None,
            };
            self.ended |= printed.is_none();
            if let (Some(show), Some(bytes)) = (&mut self.show, printed) {
                // A terminal that went away is no reason to stop the test.
                let _ = show.write_all(&bytes).await;
                let _ = show.flush().await;
            }
        }
    }

    /// Reads once, and gives back what is to be shown; `None` at the end.
    fn take(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut buffer = [0; CHUNK];
        let length = self.pipe.try_read(&mut buffer)?;
        let bytes = &buffer[..length];
        self.output.push(bytes);
        let shown = if self.show.is_some() { bytes.to_vec() } else { Vec::new() };
        Ok((length > 0).then_some(shown))
    }
}

impl Conversation {
    fn new(socket: StdUnixStream) -> io::Result<Self> {
        Ok(Self {
            socket: UnixStream::from_std(socket)?,
            start: Vec::new(),
            frames: Frames::default(),
            said: Said::default(),
            ended: false,
            deaf: false,
        })
    }

    fn tell(&mut self, start: &Frame) -> io::Result<()> {
        self.start = start.encode()?;
        // Nearly always all of it goes at once; whatever hinders it is seen again later.
        if let Ok(length) = send(&self.socket, &self.start, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            self.start.drain(..length);
        }
        Ok(())
    }

    /// Where a socket is closed with something unread in it, the system tells the other end.
    fn was_deaf(&mut self) -> bool {
        if !self.ended {
            let peeked = recv(&self.socket, &mut [0], RecvFlags::PEEK | RecvFlags::DONTWAIT);
            self.deaf |= matches!(peeked, Err(Errno::CONNRESET));
        }
        self.deaf
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
                    Err(_) => (self.deaf, self.ended) = (true, true),
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
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                (self.deaf, self.ended) = (true, true);
            }
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
