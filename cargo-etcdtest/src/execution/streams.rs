//! The streams of an attempt: what it prints, and what it says on its socket.

use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use etcdtest::protocol::{Event, Frame, Outcome};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe::{Receiver, Sender};
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

/// A pipe or a socket that the runtime watches from when it is first waited for.
#[derive(Debug)]
enum Watched {
    NotYet(OwnedFd),
    /// Only what can be read wakes the runner: not that a socket's other end has read something.
    Begun(Receiver),
    /// It could not be watched.
    Lost,
}

/// `/dev/null`, opened once.
#[derive(Debug, Default)]
pub(super) struct Nothing(OnceLock<Arc<OwnedFd>>);

/// The test's own ends of its streams.
#[derive(Debug)]
pub(super) struct Ends {
    /// The socket of an annotated test, or `/dev/null`.
    input: Arc<OwnedFd>,
    /// Standard output and standard error.
    output: OwnedFd,
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
    /// Streams for a test, and the test's own ends. An annotated one has a socket for standard
    /// input, a plain one `nothing`. What comes out of them is kept and shown without secrets.
    ///
    /// # Errors
    /// What the system said.
    pub(super) fn new(
        kind: TestKind,
        show: bool,
        redactor: &Redactor,
        nothing: &Nothing,
    ) -> io::Result<(Self, Ends)> {
        let (conversation, input) = match kind {
            TestKind::Annotated => {
                let (ours, theirs) = UnixStream::pair()?;
                (Some(Conversation::new(ours.into(), redactor)?), Arc::new(theirs.into()))
            }
            TestKind::Plain => (None, nothing.open()?),
        };
        let (ours, output) = pipe_with(PipeFlags::CLOEXEC)?;
        let ends = Ends { input, output };
        let pipe = Source::new(ours)?;
        let (redacted, output) = (redactor.stream(), Output::default());
        let closing = (kind == TestKind::Plain).then(Vec::new);
        let streams = Self { pipe, redacted, output, closing, show, to_show: Vec::new(), conversation };
        Ok((streams, ends))
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
                None => self.pipe.changed().await,
                Some(conversation) => tokio::select! {
                    () = self.pipe.changed(), if !self.pipe.ended => {}
                    () = conversation.changed(), if !conversation.socket.ended => {}
                },
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
                conversation.socket.changed().await;
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
    fn new(descriptor: OwnedFd) -> io::Result<Self> {
        ioctl_fionbio(&descriptor, true)?;
        Ok(Self { watched: Watched::NotYet(descriptor), ended: false })
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

    /// Waits until there may be something to read. May be dropped at any time and begun again.
    async fn changed(&mut self) {
        self.watched.begin();
        let changed = match &self.watched {
            Watched::Begun(descriptor) => descriptor.readable().await,
            Watched::NotYet(_) | Watched::Lost => Err(io::ErrorKind::NotConnected.into()),
        };
        self.ended |= changed.is_err();
    }
}

impl Watched {
    fn begin(&mut self) {
        *self = match mem::replace(self, Self::Lost) {
            Self::NotYet(descriptor) => {
                Receiver::from_owned_fd_unchecked(descriptor).map_or(Self::Lost, Self::Begun)
            }
            begun => begun,
        };
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::NotYet(descriptor) => Some(descriptor.as_fd()),
            Self::Begun(descriptor) => Some(descriptor.as_fd()),
            Self::Lost => None,
        }
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::NotYet(descriptor) => Ok(rustix::io::read(descriptor, buffer)?),
            Self::Begun(descriptor) => descriptor.try_read(buffer),
            Self::Lost => Ok(0),
        }
    }
}

impl Ends {
    /// As a process has them: standard input, output and error.
    pub(super) fn streams(&self) -> [BorrowedFd<'_>; 3] {
        [self.input.as_fd(), self.output.as_fd(), self.output.as_fd()]
    }
}

impl Nothing {
    fn open(&self) -> io::Result<Arc<OwnedFd>> {
        if let Some(nothing) = self.0.get() {
            return Ok(Arc::clone(nothing));
        }
        let nothing = Arc::new(File::open("/dev/null")?.into());
        Ok(Arc::clone(self.0.get_or_init(|| nothing)))
    }
}

impl Conversation {
    fn new(socket: OwnedFd, redactor: &Redactor) -> io::Result<Self> {
        Ok(Self {
            socket: Source::new(socket)?,
            start: Vec::new(),
            frames: Frames::default(),
            said: Said::new(redactor.clone()),
            deaf: false,
        })
    }

    /// Sends what there is room for: nearly always all of it.
    fn send(&mut self) {
        let Some(socket) = self.socket.watched.descriptor() else { return };
        match send(socket, &self.start, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(length) => drop(self.start.drain(..length)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => (self.deaf, self.socket.ended) = (true, true),
        }
    }

    /// Waits until there may be something to read, or room for what is still to be sent. May be
    /// dropped at any time and begun again.
    async fn changed(&mut self) {
        let full = self.socket.watched.descriptor().filter(|_| !self.start.is_empty());
        let room = full.map(|socket| Sender::from_owned_fd_unchecked(socket.try_clone_to_owned()?));
        match room {
            None => self.socket.changed().await,
            Some(Ok(room)) => tokio::select! {
                () = self.socket.changed() => {}
                _ = room.writable() => {}
            },
            // The test ends with its socket, and is told anew.
            Some(Err(_)) => {
                (self.deaf, self.socket.ended) = (true, true);
                self.socket.watched = Watched::Lost;
            }
        }
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

#[cfg(test)]
mod tests {
    use std::io::Read;

    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn a_start_longer_than_the_socket_has_room_for_is_told_to_its_end() {
        let (mut streams, ends) =
            Streams::new(TestKind::Annotated, false, &Redactor::default(), &Nothing::default()).unwrap();
        let start = Frame::Json(json!({ "text": "long ".repeat(1 << 20) }));
        streams.tell(&start).unwrap();
        let length = start.encode().unwrap().len();
        let mut input = UnixStream::from(ends.input.try_clone().unwrap());
        drop(ends);
        let read = tokio::task::spawn_blocking(move || {
            let mut told = vec![0; length];
            input.read_exact(&mut told).map(|()| told)
        });
        let told = streams.read_during(read, || {}).await.unwrap().unwrap();
        assert_eq!(told, start.encode().unwrap());
        assert!(!streams.was_deaf());
    }
}
