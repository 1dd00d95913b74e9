//! What a service prints, bounded in memory, and read without making it wait.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use regex::Regex;
use rustix::io::ioctl_fionbio;
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::net::unix::pipe::Receiver;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use crate::redact::{RedactedStream, Redactor};
use crate::reports::text::{left_out_line, plain};

/// How many bytes are kept: the last ones.
const KEPT: usize = 64 << 10;
/// How many bytes of a line are looked at.
const LINE: usize = 16 << 10;
/// How many bytes are read at once.
const CHUNK: usize = 16 << 10;
/// How often it is read in one go: what is in a pipe when it begins comes in.
const READS: usize = 64;
/// How many lines stand for the end of a service.
pub(super) const LAST: usize = 20;

/// Standard output and error of a service, through all its restarts.
#[derive(Debug)]
pub(super) struct Log {
    pipe: Receiver,
    /// Held, so that the log goes on when the service is started again.
    end: OwnedFd,
    state: Mutex<State>,
}

/// What goes on reading a log, until it is dropped.
#[derive(Debug)]
pub(super) struct Reading(AbortHandle);

#[derive(Debug, Default)]
struct State {
    /// On its way into what is kept.
    redacted: RedactedStream,
    kept: VecDeque<u8>,
    written: u64,
    /// How many bytes of what is kept belong to a line that is not complete yet.
    open: u64,
    awaited: Option<Awaited>,
    /// Where the last lines of a service begin that has ended for good.
    last_words: Option<u64>,
}

/// A line that somebody waits for. It is looked for in what the service wrote itself: a secret may
/// be part of it.
#[derive(Debug)]
struct Awaited {
    pattern: Regex,
    sender: oneshot::Sender<()>,
    /// The line that is not complete yet.
    line: Vec<u8>,
}

/// A place in a log.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mark(u64);

/// What a service wrote while an attempt was under way: the end of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceLog {
    /// The service.
    pub service: String,
    /// How many bytes it wrote.
    pub size: u64,
    /// Their end.
    pub end: Vec<u8>,
}

impl ServiceLog {
    /// How many bytes of its beginning were left out.
    pub fn left_out(&self) -> u64 {
        self.size.saturating_sub(self.end.len() as u64)
    }

    /// What was kept, with a line in place of what was left out.
    pub fn bytes(&self) -> Vec<u8> {
        match self.left_out() {
            0 => self.end.clone(),
            bytes => [left_out_line(bytes).as_bytes(), &self.end].concat(),
        }
    }
}

impl Log {
    /// An empty log, which is read until the reading is dropped, and kept without secrets.
    pub(super) fn new(redactor: &Redactor) -> io::Result<(Arc<Self>, Reading)> {
        let (ours, end) = pipe_with(PipeFlags::CLOEXEC)?;
        ioctl_fionbio(&ours, true)?;
        let pipe = Receiver::from_owned_fd_unchecked(ours)?;
        let state = State { redacted: redactor.stream(), ..State::default() };
        let log = Arc::new(Self { pipe, end, state: Mutex::new(state) });
        let read = Arc::clone(&log);
        let reading = tokio::spawn(async move {
            while read.pipe.readable().await.is_ok() {
                read.drain();
                // Tells the reactor that there is no more for now.
                let _ = read.pipe.try_io(|| Err::<(), _>(io::ErrorKind::WouldBlock.into()));
                read.drain();
            }
        });
        Ok((log, Reading(reading.abort_handle())))
    }

    /// A service's standard input, output and error.
    pub(super) fn streams(&self) -> io::Result<[OwnedFd; 3]> {
        let nothing = std::fs::File::open("/dev/null")?;
        Ok([nothing.into(), self.end.try_clone()?, self.end.try_clone()?])
    }

    /// The pipe, by which whoever writes to it is found.
    pub(super) fn pipe(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }

    /// The place after all that was written before, at the beginning of a line.
    pub(super) fn mark(&self) -> Mark {
        self.drain();
        let state = self.locked();
        Mark(state.written - state.open)
    }

    /// What was written since; of a service that has ended for good, at least its last lines.
    pub(super) fn since(&self, mark: Mark) -> (u64, Vec<u8>) {
        self.drain();
        let state = self.locked();
        let from = state.last_words.map_or(mark.0, |place| place.min(mark.0));
        let size = state.written - from;
        let end = usize::try_from(size).unwrap_or(usize::MAX).min(state.kept.len());
        let end = state.kept.range(state.kept.len() - end..).copied().collect();
        (size, end)
    }

    /// The last lines, for people.
    pub(super) fn last_lines(&self) -> Vec<String> {
        self.drain();
        let kept: Vec<u8> = self.locked().kept.iter().copied().collect();
        let text = plain(&String::from_utf8_lossy(&kept));
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LAST)..].iter().map(|line| (*line).to_owned()).collect()
    }

    /// Hears of a line that matches. A line that was written before does not count.
    pub(super) fn matching(&self, pattern: Regex) -> oneshot::Receiver<()> {
        let (sender, matched) = oneshot::channel();
        self.locked().awaited = Some(Awaited { pattern, sender, line: Vec::new() });
        matched
    }

    /// Notes that the service has ended for good, and how.
    pub(super) fn end(&self, how: &str) {
        self.drain();
        let mut state = self.locked();
        let held = state.redacted.end();
        state.push(&held);
        state.push(format!("[{how}]\n").as_bytes());
        let lines = state.kept.iter().rev().enumerate().filter(|(_, byte)| **byte == b'\n');
        let before = lines.map(|(back, _)| back).nth(LAST).unwrap_or(state.kept.len());
        state.last_words = Some(state.written - before as u64);
    }

    /// Takes in what has been written.
    fn drain(&self) {
        let mut state = self.locked();
        let mut buffer = [0; CHUNK];
        for _ in 0..READS {
            match rustix::io::read(&self.pipe, &mut buffer) {
                Ok(length @ 1..) => {
                    state.look_at(&buffer[..length]);
                    let passed = state.redacted.push(&buffer[..length]);
                    state.push(&passed);
                }
                Err(rustix::io::Errno::INTR) => {}
                _ => break,
            }
        }
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn push(&mut self, bytes: &[u8]) {
        self.written += bytes.len() as u64;
        self.kept.extend(&bytes[bytes.len().saturating_sub(KEPT)..]);
        let excess = self.kept.len().saturating_sub(KEPT);
        self.kept.drain(..excess);
        self.open = match bytes.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => (bytes.len() - end - 1) as u64,
            None => self.open + bytes.len() as u64,
        };
    }

    /// Looks for the line that somebody waits for.
    fn look_at(&mut self, bytes: &[u8]) {
        if let Some(Awaited { sender, .. }) = self.awaited.take_if(|awaited| awaited.is_in(bytes)) {
            // Whoever waited for it may have given up.
            let _ = sender.send(());
        }
    }
}

impl Awaited {
    /// Whether it is complete with what comes next.
    fn is_in(&mut self, bytes: &[u8]) -> bool {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let text = piece.strip_suffix(b"\n").unwrap_or(piece);
            self.line.extend(&text[..text.len().min(LINE - self.line.len())]);
            if text.len() < piece.len() {
                let line = std::mem::take(&mut self.line);
                if self.pattern.is_match(&plain(&String::from_utf8_lossy(&line))) {
                    return true;
                }
            }
        }
        false
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write as _;

    use super::*;

    fn log() -> (Arc<Log>, Reading, File) {
        let (log, reading) = Log::new(&Redactor::new([("token", "hunter2-hunter3")])).unwrap();
        let [_, stdout, _] = log.streams().unwrap();
        (log, reading, stdout.into())
    }

    #[tokio::test]
    async fn what_was_written_between_two_marks_is_told_in_whole_lines() {
        let (log, _reading, mut service) = log();
        service.write_all(b"before\nbegun ").unwrap();
        let mark = log.mark();
        service.write_all(b"and ended\nduring\n").unwrap();
        assert_eq!(log.since(mark), (23, b"begun and ended\nduring\n".to_vec()));
        assert_eq!(log.since(log.mark()), (0, vec![]));
    }

    #[tokio::test]
    async fn only_the_end_of_much_is_kept_and_nobody_waits() {
        let (log, _reading, mut service) = log();
        let mark = log.mark();
        let written = tokio::task::spawn_blocking(move || {
            for number in 0..100_000 {
                writeln!(service, "line {number}").unwrap();
            }
        });
        written.await.unwrap();
        let (size, end) = log.since(mark);
        assert_eq!((size, end.len()), (1_088_890, KEPT));
        assert!(end.ends_with(b"line 99998\nline 99999\n"));
        let log = ServiceLog { service: "a".into(), size, end };
        assert!(log.bytes().starts_with("[… 1023354 bytes left out …]\n".as_bytes()));
    }

    #[tokio::test]
    async fn a_line_is_heard_of_once_it_is_whole_and_whatever_its_colour() {
        let (log, _reading, mut service) = log();
        let mut matched = log.matching(Regex::new("^listening on [0-9]+$").unwrap());
        service.write_all(b"is not listening on 1\n\x1b[32mlistening\x1b[0m on 12").unwrap();
        log.mark();
        assert!(matched.try_recv().is_err());
        service.write_all(b"34\n").unwrap();
        matched.await.unwrap();
    }

    #[tokio::test]
    async fn a_line_with_a_secret_is_heard_of_and_kept_without_it() {
        let (log, _reading, mut service) = log();
        let matched = log.matching(Regex::new("^ready, key hunter2-hunter3$").unwrap());
        let mark = log.mark();
        service.write_all(b"ready, key hunter2-").unwrap();
        log.mark();
        service.write_all(b"hunter3\n").unwrap();
        matched.await.unwrap();
        assert_eq!(log.since(mark).1, b"ready, key [secret token]\n");
    }

    #[tokio::test]
    async fn the_last_lines_of_a_service_that_ended_are_told_ever_after() {
        let (log, _reading, mut service) = log();
        for number in 0..30 {
            writeln!(service, "line {number}").unwrap();
        }
        log.end("ended with exit code 3");
        let (_, end) = log.since(log.mark());
        let end = String::from_utf8(end).unwrap();
        assert!(
            end.starts_with("line 11\n") && end.ends_with("line 29\n[ended with exit code 3]\n"),
            "{end}"
        );
        assert_eq!(log.last_lines().len(), LAST);
    }

    #[tokio::test]
    async fn a_secret_is_kept_out_in_whatever_pieces_it_comes() {
        let (log, _reading, mut service) = log();
        let mark = log.mark();
        service.write_all(b"signed in with hunter2-").unwrap();
        log.mark();
        service.write_all(b"hunter3\nand hunte").unwrap();
        assert_eq!(log.since(mark).1, b"signed in with [secret token]\nand ");
        log.end("ended with exit code 0");
        assert_eq!(log.last_lines()[1], "and hunte[ended with exit code 0]");
    }
}
