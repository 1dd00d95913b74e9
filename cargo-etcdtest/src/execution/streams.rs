//! The streams of an attempt: what it prints, and what it says on its socket.

use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::pin;
use std::time::Duration;

use etcdtest::protocol::{Event, Frame, Outcome};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::pipe::Receiver;
use tokio::time::sleep;

use super::frames::{CHUNK, Frames};
use super::output::Output;
use super::said::Said;
use super::verdict::CLOSING;
use crate::model::TestKind;
use crate::redact::{RedactedStream, Redactor};

/// So long a test is left alone. What it prints and says waits in the kernel, so that the
/// many tests that are over by then wake the runner only once, at their end.
const ALONE: Duration = Duration::from_millis(20);
/// How many chunks are read of one test before others have their turn.
const TURN: usize = 16;

/// The runner's ends of an attempt's streams, with what came out of them.
///
/// Standard output and standard error are one pipe, as they are one terminal: only so does
/// what is printed stay in its order.
#[derive(Debug)]
pub(super) struct Streams {
    pipe: Source,
    /// On its way to the output and to whoever looks.
    redacted: RedactedStream,
    output: Output,
    /// The end of what a plain test printed, as it was: libtest says there how it went, in
    /// words of which one may be a secret.
    closing: Option<Vec<u8>>,
    show: bool,
    /// What was read and not shown yet.
    to_show: Vec<u8>,
    conversation: Option<Conversation>,
}

/// A descriptor to read from.
#[derive(Debug)]
struct Source {
    watched: Watched,
    ended: bool,
}

/// A descriptor that the runtime watches from when it is first waited for.
#[derive(Debug)]
enum Watched {
    NotYet(OwnedFd, Kind),
    Pipe(Receiver),
    Socket(UnixStream),
    /// It could not be watched.
    Lost,
}

/// What a descriptor is.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Pipe,
    Socket,
}

#[derive(Debug)]
struct Conversation {
    socket: Source,
    /// What is still to be sent.
    start: Vec<u8>,
    frames: Frames,
    said: Said,
    /// The other end was closed before it had read everything.
    deaf: bool,
}

impl Streams {
    /// Streams for a test, and the test's own ends: standard input, output and error. An
    /// annotated one has a socket for standard input. What comes out of them is kept and shown
    /// without secrets.
    ///
    /// # Errors
    /// What the system said.
    pub(super) fn new(kind: TestKind, show: bool, redactor: &Redactor) -> io::Result<(Self, [OwnedFd; 3])> {
        let (conversation, stdin) = match kind {
            TestKind::Annotated => {
                let (ours, theirs) = StdUnixStream::pair()?;
                (Some(Conversation::new(ours.into(), redactor)?), OwnedFd::from(theirs))
            }
            TestKind::Plain => (None, OwnedFd::from(File::open("/dev/null")?)),
        };
        let (ours, stdout) = pipe_with(PipeFlags::CLOEXEC)?;
        let stderr = stdout.try_clone()?;
        let pipe = Source::new(ours, Kind::Pipe)?;
        let (redacted, output) = (redactor.stream(), Output::default());
        let closing = (kind == TestKind::Plain).then(Vec::new);
        let streams = Self { pipe, redacted, output, closing, show, to_show: Vec::new(), conversation };
        Ok((streams, [stdin, stdout, stderr]))
    }

    /// Tells an annotated test to start.
    ///
    /// # Errors
    /// The frame is too large.
    pub(super) fn tell(&mut self, start: &Frame) -> io::Result<()> {
        let Some(conversation) = &mut self.conversation else { return Ok(()) };
        conversation.start = start.encode()?;
        conversation.send();
        Ok(())
    }

    /// Whether the process ended before it knew which test it was for.
    pub(super) fn was_deaf(&mut self) -> bool {
        self.conversation.as_mut().is_some_and(Conversation::was_deaf)
    }

    /// Takes in what comes, to the end of all streams. May be dropped at any time and begun
    /// again.
    pub(super) async fn read(&mut self) {
        loop {
            let more = self.take_in();
            self.show().await;
            if self.ended() {
                return;
            }
            if more {
                tokio::task::yield_now().await;
                continue;
            }
            match &mut self.conversation {
                None => self.pipe.changed(Interest::READABLE).await,
                Some(conversation) => {
                    let interest = conversation.interest();
                    tokio::select! {
                        () = self.pipe.changed(Interest::READABLE), if !self.pipe.ended => {}
                        () = conversation.socket.changed(interest), if !conversation.socket.ended => {}
                    }
                }
            }
        }
    }

    /// Takes in what comes while something else goes on. `on_passed` hears where the test says
    /// soon that it has passed.
    pub(super) async fn read_during<T>(
        &mut self,
        other: impl Future<Output = T>,
        on_passed: impl FnOnce(),
    ) -> T {
        let mut other = pin!(other);
        // One that is shown is waited for by somebody, and one that was not told all yet waits.
        let at_once = self.show || self.conversation.as_ref().is_some_and(|other| !other.start.is_empty());
        if !at_once {
            tokio::select! {
                biased;
                result = &mut other => return result,
                () = self.passes(on_passed) => {}
                () = sleep(ALONE) => {}
            }
        }
        tokio::select! {
            biased;
            result = &mut other => return result,
            () = self.read() => {}
        }
        other.await
    }

    /// Says where an annotated test passes; what it prints is left alone. Never ends. May be
    /// dropped at any time.
    async fn passes(&mut self, on_passed: impl FnOnce()) {
        if let Some(conversation) = &mut self.conversation {
            while !conversation.socket.ended {
                conversation.socket.changed(Interest::READABLE).await;
                conversation.take_in();
            }
            if matches!(conversation.said.outcome, Some(Outcome::Passed | Outcome::Skipped(_))) {
                on_passed();
            }
        }
        std::future::pending::<()>().await;
    }

    /// The pipe, if some process has not closed it.
    pub(super) fn open_pipe(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.watched.descriptor().filter(|_| !self.pipe.ended)
    }

    /// What was printed until now, what of it may be the closing line of libtest, and what was
    /// said.
    pub(super) async fn end(mut self) -> (Output, String, Said) {
        let held = self.redacted.end();
        self.keep(&held);
        self.show().await;
        let closing = String::from_utf8_lossy(&self.closing.unwrap_or_default()).into_owned();
        (self.output, closing, self.conversation.map(|conversation| conversation.said).unwrap_or_default())
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.output.push(bytes);
        if self.show {
            self.to_show.extend(bytes);
        }
    }

    async fn show(&mut self) {
        if !self.to_show.is_empty() {
            let mut out = tokio::io::stdout();
            // A terminal that went away is no reason to stop the test.
            let _ = out.write_all(&mem::take(&mut self.to_show)).await;
            let _ = out.flush().await;
        }
    }

    fn ended(&self) -> bool {
        self.pipe.ended && self.conversation.as_ref().is_none_or(|conversation| conversation.socket.ended)
    }

    /// Takes in what is there, and says whether there may be more.
    fn take_in(&mut self) -> bool {
        let mut buffer = [0; CHUNK];
        let mut read = 0;
        while read < TURN && !self.pipe.ended {
            let Some(length) = self.pipe.take(|pipe| pipe.read(&mut buffer)) else { break };
            if let Some(closing) = &mut self.closing {
                closing.extend_from_slice(&buffer[length.saturating_sub(CLOSING)..length]);
                closing.drain(..closing.len().saturating_sub(CLOSING));
            }
            let passed = self.redacted.push(&buffer[..length]).into_owned();
            self.keep(&passed);
            read += 1;
        }
        let said = self.conversation.as_mut().is_some_and(Conversation::take_in);
        read == TURN || said
    }
}

impl Source {
    fn new(descriptor: OwnedFd, kind: Kind) -> io::Result<Self> {
        ioctl_fionbio(&descriptor, true)?;
        Ok(Self { watched: Watched::NotYet(descriptor, kind), ended: false })
    }

    /// Reads once; `None` where there is nothing at present, or nothing any more.
    fn take(&mut self, take: impl FnOnce(&Watched) -> io::Result<usize>) -> Option<usize> {
        use io::ErrorKind::{Interrupted, WouldBlock};
        match take(&self.watched) {
            Ok(length @ 1..) => return Some(length),
            Err(error) if matches!(error.kind(), WouldBlock | Interrupted) => {}
            _ => self.ended = true,
        }
        None
    }

    /// Waits until there may be something to read, or room to write. May be dropped at any
    /// time and begun again.
    async fn changed(&mut self, interest: Interest) {
        self.watched.begin();
        let changed = match &self.watched {
            Watched::Pipe(pipe) => pipe.readable().await,
            Watched::Socket(socket) => socket.ready(interest).await.map(drop),
            Watched::NotYet(..) | Watched::Lost => Err(io::ErrorKind::NotConnected.into()),
        };
        self.ended |= changed.is_err();
    }
}

impl Watched {
    fn begin(&mut self) {
        *self = match mem::replace(self, Self::Lost) {
            Self::NotYet(pipe, Kind::Pipe) => {
                Receiver::from_owned_fd_unchecked(pipe).map_or(Self::Lost, Self::Pipe)
            }
            Self::NotYet(socket, Kind::Socket) => {
                UnixStream::from_std(socket.into()).map_or(Self::Lost, Self::Socket)
            }
            begun => begun,
        };
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::NotYet(descriptor, _) => Some(descriptor.as_fd()),
            Self::Pipe(pipe) => Some(pipe.as_fd()),
            Self::Socket(socket) => Some(socket.as_fd()),
            Self::Lost => None,
        }
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::NotYet(descriptor, _) => Ok(rustix::io::read(descriptor, buffer)?),
            Self::Pipe(pipe) => pipe.try_read(buffer),
            Self::Socket(socket) => socket.try_read(buffer),
            Self::Lost => Ok(0),
        }
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::NotYet(descriptor, _) => {
                Ok(send(descriptor, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
            }
            Self::Socket(socket) => socket.try_write(bytes),
            Self::Pipe(_) | Self::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl Conversation {
    fn new(socket: OwnedFd, redactor: &Redactor) -> io::Result<Self> {
        Ok(Self {
            socket: Source::new(socket, Kind::Socket)?,
            start: Vec::new(),
            frames: Frames::default(),
            said: Said::new(redactor.clone()),
            deaf: false,
        })
    }

    /// Sends what there is room for: nearly always all of it.
    fn send(&mut self) {
        match self.socket.watched.write(&self.start) {
            Ok(length) => drop(self.start.drain(..length)),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => (self.deaf, self.socket.ended) = (true, true),
        }
    }

    /// What is waited for.
    fn interest(&self) -> Interest {
        if self.start.is_empty() { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE }
    }

    /// Where a socket is closed with something unread in it, the system tells the other end.
    fn was_deaf(&mut self) -> bool {
        if !self.socket.ended
            && let Some(socket) = self.socket.watched.descriptor()
        {
            let peeked = recv(socket, &mut [0], RecvFlags::PEEK | RecvFlags::DONTWAIT);
            self.deaf |= matches!(peeked, Err(Errno::CONNRESET));
        }
        self.deaf
    }

    /// Takes in the events that are whole, and says whether there may be more.
    fn take_in(&mut self) -> bool {
        if !self.start.is_empty() {
            self.send();
        }
        for _ in 0..TURN {
            let (frames, deaf) = (&mut self.frames, &mut self.deaf);
            let read = self.socket.take(|socket| {
                let read = frames.read(|buffer| socket.read(buffer));
                *deaf |= read.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset);
                read
            });
            while let Some(frame) = self.frames.take() {
                match frame.map(Event::from_frame) {
                    Ok(Some(event)) => self.socket.ended |= self.said.take(event),
                    Ok(None) => {}
                    Err(_) => self.socket.ended = true,
                }
                // What follows the last event, or a torn frame, means nothing.
                if self.socket.ended {
                    return false;
                }
            }
            if read.is_none() || self.socket.ended {
                return false;
            }
        }
        true
    }
}
