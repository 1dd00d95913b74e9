//! The test binary that waits, and forks one child per attempt.

use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{self, exit};

use crate::protocol::{ATTEMPT_VARIABLE, Fork, Frame, ZygoteEvent};
use crate::unix::{self, Standard};
use crate::{attempt, linux, panics, prepare, registry};

/// From here on a notice says what the memory of the zygote costs.
const LARGE_KIB: u64 = 50 << 10;

/// Waits and forks as the process at the other end of standard input asks. It returns in no
/// process: the zygote exits at the end of that stream, each child as its attempt ends.
///
/// # Errors
/// In the zygote: standard input is no control socket, or carries something else. In a
/// child: there is no attempt on its event socket.
pub(crate) fn main() -> io::Result<Infallible> {
    let mut control = Control { socket: unix::take_socket()?, descriptors: Vec::new() };
    let first = get_ready().unwrap_or_else(|reason| ZygoteEvent::Refused { reason });
    control.tell(&first)?;
    if let ZygoteEvent::Refused { .. } = first {
        exit(0);
    }
    let (born, control) = Zygote { control, children: Vec::new() }.serve()?;
    attempt::take(born.enter(control)?, |start| linux::set_variable(ATTEMPT_VARIABLE, &start.id()))
}

/// Runs what the tests want prepared, and sees whether forking is possible.
fn get_ready() -> Result<ZygoteEvent, String> {
    let no_proc = |error: io::Error| format!("failed to see whether it has one thread: {error}");
    let id = i32::try_from(process::id()).unwrap_or_default();
    linux::pidfd(id)
        .map_err(|error| format!("the system has no pidfds (Linux 5.3 or newer has): {error}"))?;
    let threads = linux::other_threads().map_err(no_proc)?;
    if !threads.is_empty() {
        return Err(format!(
            "threads were started before `main` ({}): a process with several threads cannot fork \
             safely; find the library whose constructor starts them, and start them at first use",
            threads.join(", ")
        ));
    }
    panics::watch();
    for name in prepare::all() {
        let threads = linux::other_threads().map_err(no_proc)?;
        if !threads.is_empty() {
            return Err(format!(
                "prepare `{name}` left threads running ({}): a process with several threads cannot \
                 fork safely; join them before it returns (drop a runtime, a pool, a client), and keep \
                 only the data",
                threads.join(", ")
            ));
        }
    }
    // Sorts the tests, where they can be listed: here once, and not in every child.
    let _ = registry::find("");
    // What stands in a buffer would be written by every child.
    io::stdout().flush().map_err(|error| format!("failed to write to standard output: {error}"))?;
    linux::flush_c();
    linux::keep_statuses();
    let memory_kib = linux::own_memory_kib().map_err(|error| error.to_string())?;
    Ok(ZygoteEvent::Ready { memory_kib, notices: notice(memory_kib).into_iter().collect() })
}

/// What a fork costs, where that is much. Measured: 0.26 ms with 1 MB, 3.6 ms with 100 MB.
fn notice(memory_kib: u64) -> Option<String> {
    (memory_kib > LARGE_KIB).then(|| {
        let megabytes = memory_kib >> 10;
        let micros = 225 + 34 * megabytes;
        format!(
            "what is prepared takes {megabytes} MB of memory, which makes every fork take about \
             {}.{} ms instead of 0.3 ms: prepare less, or keep it in a file that the tests map",
            micros / 1000,
            micros % 1000 / 100
        )
    })
}

/// The socket over which forks are asked for.
struct Control {
    socket: UnixStream,
    /// What came with the frame that is being read.
    descriptors: Vec<OwnedFd>,
}

impl Control {
    fn tell(&mut self, event: &ZygoteEvent) -> io::Result<()> {
        event.to_frame().write(&mut self.socket)
    }
}

/// Frames are read by their exact lengths, so descriptors never belong to a later one.
impl Read for Control {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        linux::receive(&self.socket, bytes, &mut self.descriptors)
    }
}

struct Zygote {
    control: Control,
    /// Those that run.
    children: Vec<Child>,
}

struct Child {
    id: u64,
    pid: i32,
    ended: OwnedFd,
}

/// What a child gets for its attempt.
struct Born {
    id: u64,
    events: UnixStream,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

impl Zygote {
    /// Serves until the end of the control socket, and exits. It returns in a child, with
    /// nothing of the zygote left open but that socket.
    fn serve(mut self) -> io::Result<(Born, Control)> {
        loop {
            // Whatever is wrong with the other end: nobody can end the children any more.
            match self.step() {
                Ok(Some(born)) => return Ok((born, self.control)),
                Ok(None) => {}
                Err(error) => {
                    self.children.iter().for_each(|child| linux::kill_group(child.pid));
                    if error.kind() == io::ErrorKind::UnexpectedEof {
                        exit(0);
                    }
                    return Err(error);
                }
            }
        }
    }

    fn step(&mut self) -> io::Result<Option<Born>> {
        let ended = self.children.iter().map(|child| child.ended.as_fd());
        let waited: Vec<_> = ended.chain([self.control.socket.as_fd()]).collect();
        let readable = linux::readable(&waited)?;
        for place in (0..self.children.len()).rev().filter(|&place| readable[place]) {
            let Child { id, pid, .. } = self.children.remove(place);
            let status = linux::await_end(pid)?;
            self.control.tell(&ZygoteEvent::Exited { id, status })?;
            linux::wait(pid)?;
        }
        if readable.last() == Some(&true) { self.fork() } else { Ok(None) }
    }

    /// Takes one request; gives something in the child alone.
    fn fork(&mut self) -> io::Result<Option<Born>> {
        let frame = Frame::read(&mut self.control)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let descriptors = mem::take(&mut self.control.descriptors);
        let Fork { id } = Fork::from_frame(&frame).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "the runner asked for what this version does not know")
        })?;
        let [events, stdout, stderr] = match <[OwnedFd; 3]>::try_from(descriptors) {
            Ok(descriptors) => descriptors,
            Err(others) => {
                let reason = format!("three descriptors belong to a fork, {} arrived", others.len());
                self.control.tell(&ZygoteEvent::ForkFailed { id, reason })?;
                return Ok(None);
            }
        };
        match linux::fork() {
            Ok(None) => return Ok(Some(Born { id, events: events.into(), stdout, stderr })),
            Ok(Some(pid)) => {
                // They make room for the next one.
                drop((events, stdout, stderr));
                self.watch(id, pid)?;
            }
            Err(error) => self.control.tell(&ZygoteEvent::ForkFailed { id, reason: error.to_string() })?,
        }
        Ok(None)
    }

    fn watch(&mut self, id: u64, pid: i32) -> io::Result<()> {
        linux::lead_group(pid);
        if let Ok(ended) = linux::pidfd(pid) {
            self.children.push(Child { id, pid, ended });
            return Ok(());
        }
        // Nobody would hear of its end.
        linux::kill_group(pid);
        let status = linux::wait(pid)?;
        self.control.tell(&ZygoteEvent::Exited { id, status })
    }
}

impl Born {
    /// Puts the streams in their places; the event socket is left.
    fn enter(self, mut control: Control) -> io::Result<UnixStream> {
        linux::lead_group(0);
        // The child says it, as its test may kill the zygote before that comes to it.
        let pid = i32::try_from(process::id()).unwrap_or_default();
        control.tell(&ZygoteEvent::Forked { id: self.id, pid })?;
        drop(control);
        unix::replace(Standard::Output, self.stdout.as_fd())?;
        unix::replace(Standard::Error, self.stderr.as_fd())?;
        Ok(self.events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_large_memory_is_worth_a_notice() {
        assert_eq!(notice(LARGE_KIB), None);
        let notice = notice(100 << 10).unwrap();
        assert!(notice.contains("100 MB") && notice.contains("3.6 ms"), "{notice}");
    }
}
