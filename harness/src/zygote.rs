//! The test binary that waits, and forks one child per attempt.

use std::convert::Infallible;
use std::io::{self, Write};
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{self, exit};

use crate::linux::{self, Passed, Variable, Waited};
use crate::protocol::{ABOUT_PROCESS, ATTEMPT_VARIABLE, Fork, ZygoteEvent, about_process};
use crate::system::{self, Socket};
use crate::told::Told;
use crate::{attempt, panics, prepare, registry};

/// From here on a notice says what the memory of the zygote costs.
const LARGE_KIB: u64 = 50 << 10;

/// Waits and forks as the process at the other end of standard input asks. It returns in no
/// process: the zygote exits at the end of that stream, each child as its attempt ends.
///
/// # Errors
/// In the zygote: standard input is no control socket, or carries something else. In a
/// child: there is no attempt on its event socket.
pub(crate) fn main() -> io::Result<Infallible> {
    let mut control = system::take_socket()?;
    let first = get_ready().unwrap_or_else(|reason| ZygoteEvent::Refused { reason });
    tell(&mut control, &first)?;
    if let ZygoteEvent::Refused { .. } = first {
        exit(0);
    }
    Zygote::new(control).serve()
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

struct Zygote {
    /// The socket over which forks are asked for.
    control: UnixStream,
    /// Those that run.
    children: Vec<Child>,
    /// The control socket, and behind it the children.
    waited: Waited,
    /// The variable of the next child, and the room for what it is told.
    attempt: Variable,
    room: Box<[u8]>,
}

struct Child {
    id: u64,
    pid: i32,
    /// Kept open to be waited for.
    #[expect(dead_code, reason = "it is known by its number where it is waited for")]
    ended: OwnedFd,
}

impl Zygote {
    fn new(control: UnixStream) -> Self {
        let (waited, attempt) = (Waited::new(&control), Variable::new(ATTEMPT_VARIABLE));
        Self { control, children: Vec::new(), waited, attempt, room: Told::room() }
    }

    /// Serves until the end of the control socket, and exits.
    fn serve(mut self) -> io::Result<Infallible> {
        loop {
            // Whatever is wrong with the other end: nobody can end the children any more.
            if let Err(error) = self.step() {
                self.children.iter().for_each(|child| linux::kill_group(child.pid));
                if error.kind() == io::ErrorKind::UnexpectedEof {
                    exit(0);
                }
                return Err(error);
            }
        }
    }

    // Every page that is written to here is one that a running child shares: nothing is allocated.
    fn step(&mut self) -> io::Result<()> {
        self.waited.wait()?;
        let asked = self.waited.is_readable(0);
        for place in (0..self.children.len()).rev() {
            if self.waited.is_readable(1 + place) {
                let Child { id, pid, .. } = self.children.remove(place);
                self.waited.remove(1 + place);
                let status = linux::await_end(pid)?;
                self.control.write_all(&about_process(b'X', id, status))?;
                linux::wait(pid)?;
            }
        }
        if asked { self.fork() } else { Ok(()) }
    }

    /// Takes one request.
    fn fork(&mut self) -> io::Result<()> {
        let (Fork { id }, Passed { first, count }) = self.asked()?;
        let ([Some(events), Some(stdout), Some(stderr)], 3) = (first, count) else {
            let reason = format!("three descriptors belong to a fork, {count} arrived");
            return tell(&mut self.control, &ZygoteEvent::ForkFailed { id, reason });
        };
        // The child says it, as its test may kill the zygote before that comes to it.
        let announcement = about_process(b'B', id, 0);
        let socket = Socket::numbered(events.as_raw_fd());
        let room = mem::take(&mut self.room);
        let forked = match self.waited.fork(announcement, [&stdout, &stderr]) {
            Ok(None) => begin(socket, room, &mut self.attempt),
            Ok(Some(pid)) => Ok(pid),
            Err(error) => Err(error),
        };
        self.room = room;
        // They make room for the next one.
        drop((events, stdout, stderr));
        match forked {
            Ok(pid) => self.watch(id, pid),
            Err(error) => tell(&mut self.control, &ZygoteEvent::ForkFailed { id, reason: error.to_string() }),
        }
    }

    /// Reads one request, and the descriptors that came with it.
    fn asked(&mut self) -> io::Result<(Fork, Passed)> {
        let (mut bytes, mut passed, mut read) = ([0; ABOUT_PROCESS], Passed::default(), 0);
        while read < ABOUT_PROCESS {
            match linux::receive(&self.control, &mut bytes[read..], &mut passed) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            // Nothing else is asked, and of something shorter no more would come.
            if read >= 5 && bytes[..5] != about_process(b'F', 0, 0)[..5] {
                let unknown = "the runner asked for what this version does not know";
                return Err(io::Error::new(io::ErrorKind::InvalidData, unknown));
            }
        }
        Ok((Fork::decode(&bytes), passed))
    }

    fn watch(&mut self, id: u64, pid: i32) -> io::Result<()> {
        linux::lead_group(pid);
        if let Ok(ended) = linux::pidfd(pid) {
            self.waited.push(&ended);
            self.children.push(Child { id, pid, ended });
            return Ok(());
        }
        // Nobody would hear of its end.
        linux::kill_group(pid);
        let status = linux::wait(pid)?;
        self.control.write_all(&about_process(b'X', id, status))
    }
}

fn tell(control: &mut UnixStream, event: &ZygoteEvent) -> io::Result<()> {
    event.to_frame().write(control)
}

/// Runs the attempt of a child.
fn begin(socket: Socket, room: Box<[u8]>, variable: &mut Variable) -> ! {
    match Told::read(&socket, room) {
        Ok(told) => {
            told.write_id(variable.value());
            attempt::take(told, socket)
        }
        Err(error) => {
            eprintln!("error: failed to take an attempt from the runner: {error}");
            exit(101)
        }
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
