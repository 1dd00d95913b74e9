//! The keeper's own side: one thread that waits for requests and for the ends of processes.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg, send};
use rustix::process::{Pid, Signal, WaitOptions, getpid, set_child_subreaper, wait, waitpid};

use super::ARGUMENT;
use super::message::{Asked, MAX_REQUEST, Reply, Request};
use super::orphans::end_all_children;

/// What stands beside the signal in a status.
const CORE_DUMPED: i32 = 0x80;
/// How many requests are answered before ended processes are looked for again.
const BATCH: usize = 16;
/// What a test may send to make the keeper end or stop, and what a terminal may send.
const IGNORED: [Signal; 11] = [
    Signal::HUP,
    Signal::INT,
    Signal::QUIT,
    Signal::USR1,
    Signal::USR2,
    Signal::ALARM,
    Signal::TERM,
    Signal::TSTP,
    Signal::TTIN,
    Signal::TTOU,
    Signal::XCPU,
];

/// What is to be started when a process has ended, by that one's id.
type Successors = HashMap<i32, (Request, Vec<OwnedFd>)>;

/// What this process came to as the keeper, where its arguments say that it is one.
///
/// # Errors
/// The process cannot be set up as a keeper.
pub fn serve_as_keeper(arguments: impl Iterator<Item = OsString>) -> Option<io::Result<()>> {
    let mut arguments = arguments.skip(1);
    (arguments.next()? == ARGUMENT).then(|| serve(arguments.next().map(PathBuf::from)))
}

/// Starts and reaps processes for the runner at the other end of standard input, until the
/// runner closes it or dies; then kills whatever still runs, and removes the folder.
///
/// # Errors
/// The process cannot be set up as a keeper.
fn serve(folder: Option<PathBuf>) -> io::Result<()> {
    close_strays();
    set_child_subreaper(Some(getpid()))?;
    // Handlers, because what is ignored would be ignored in every test as well.
    let noticed = Arc::new(AtomicBool::new(false));
    for signal in IGNORED {
        signal_hook::flag::register(signal.as_raw(), Arc::clone(&noticed))?;
    }
    let (woken, wake) = UnixStream::pair()?;
    woken.set_nonblocking(true)?;
    signal_hook::low_level::pipe::register(Signal::CHILD.as_raw(), wake)?;

    let socket = io::stdin();
    let mut packet = vec![0; MAX_REQUEST];
    let mut successors = Successors::new();
    while answer(&socket, &mut packet, &mut successors) {
        let mut ready =
            [PollFd::new(&socket, PollFlags::IN), PollFd::from_borrowed_fd(woken.as_fd(), PollFlags::IN)];
        // Whatever it says, both are looked at.
        let _ = poll(&mut ready, None);
        // First the wake-up, then the processes: who ends in between wakes again.
        while (&woken).read(&mut [0; 64]).is_ok_and(|length| length > 0) {}
        while let Some(ended) = next_end() {
            let Reply::Ended { pid, status } = ended else { continue };
            let next = successors.remove(&pid).map(|(request, streams)| {
                if status == 0 { start(request, streams) } else { not_started(request.id) }
            });
            tell(&socket, ended);
            // Only now: were this process killed in between, the system would tell the runner.
            let _ = waitpid(Pid::from_raw(pid), WaitOptions::NOHANG);
            if let Some(next) = next {
                tell(&socket, next);
            }
        }
    }
    end_all_children();
    if let Some(folder) = folder {
        // The runner may have removed it.
        let _ = fs::remove_dir_all(folder);
    }
    Ok(())
}

/// Closes what the runner itself inherited from whoever started it.
fn close_strays() {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return };
    let name = |entry: io::Result<fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse::<RawFd>().ok();
    let open: Vec<RawFd> = entries.filter_map(name).filter(|number| *number > 2).collect();
    for number in open {
        // The one of the folder itself is closed already.
        let _ = nix::unistd::close(number);
    }
}

/// A process that has ended and is not reaped yet.
fn next_end() -> Option<Reply> {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    let (pid, status) = match waitid(Id::All, flags) {
        Ok(WaitStatus::Exited(pid, code)) => (pid.as_raw(), code << 8),
        Ok(WaitStatus::Signaled(pid, signal, core)) => {
            (pid.as_raw(), signal as i32 | if core { CORE_DUMPED } else { 0 })
        }
        // One that was ended by a signal without a name, or nobody.
        _ => {
            let (pid, status) = wait(WaitOptions::NOHANG).ok()??;
            (pid.as_raw_nonzero().get(), status.as_raw())
        }
    };
    Some(Reply::Ended { pid, status })
}

/// Answers what was asked until now; false where nobody will ask again.
fn answer(socket: &impl AsFd, packet: &mut [u8], successors: &mut Successors) -> bool {
    for _ in 0..BATCH {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let length = match recvmsg(socket, &mut [IoSliceMut::new(packet)], &mut control, flags) {
            Ok(message) if message.bytes > 0 => message.bytes,
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => return true,
            Ok(_) | Err(_) => return false,
        };
        let streams: Vec<OwnedFd> = control
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
                _ => None,
            })
            .flatten()
            .collect();
        let reply = match Asked::decode(&packet[..length]) {
            Some(Asked::Start(request)) => match request.after {
                None => start(*request, streams),
                Some(first) if runs(first) && !successors.contains_key(&first.as_raw_nonzero().get()) => {
                    successors.insert(first.as_raw_nonzero().get(), (*request, streams));
                    continue;
                }
                Some(_) => not_started(request.id),
            },
            Some(Asked::Withdraw(id)) => {
                let Some((_, (request, _))) =
                    successors.extract_if(|_, (request, _)| request.id == id).next()
                else {
                    continue;
                };
                not_started(request.id)
            }
            None => continue,
        };
        tell(socket, reply);
    }
    true
}

/// Whether this is a child that has not ended.
fn runs(child: Pid) -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    let child = nix::unistd::Pid::from_raw(child.as_raw_nonzero().get());
    matches!(waitid(Id::Pid(child), flags), Ok(WaitStatus::StillAlive))
}

fn not_started(id: u64) -> Reply {
    Reply::NotStarted { id, errno: Errno::CANCELED.raw_os_error() }
}

fn start(request: Request, streams: Vec<OwnedFd>) -> Reply {
    let Request { id, mut command, .. } = request;
    let Ok([stdin, stdout, stderr]) = <[OwnedFd; 3]>::try_from(streams) else {
        return Reply::NotStarted { id, errno: Errno::BADF.raw_os_error() };
    };
    match command.stdin(stdin).stdout(stdout).stderr(stderr).process_group(0).spawn() {
        Ok(child) => {
            let pid = Pid::from_child(&child).as_raw_nonzero().get();
            Reply::Started { id, pid }
        }
        Err(error) => {
            Reply::NotStarted { id, errno: error.raw_os_error().unwrap_or(Errno::INVAL.raw_os_error()) }
        }
    }
}

fn tell(socket: &impl AsFd, reply: Reply) {
    // A runner that is gone is noticed by the next request.
    while send(socket, &reply.encode(), SendFlags::NOSIGNAL) == Err(Errno::INTR) {}
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;
    use std::time::Duration;

    use rustix::net::{Shutdown, shutdown};
    use rustix::pipe::{PipeFlags, pipe_with};
    use rustix::process::kill_process;

    use super::super::client::Keeper;
    use super::*;
    use crate::execution::process::Started;

    /// No test but a keeper, which starts what it is asked for and is killed before it says so: at
    /// once, or once that has ended, where its folder is `late`, or has been reaped, where it is `last`.
    #[test]
    #[ignore = "the tests below start it"]
    fn is_killed_before_it_answers() {
        let socket = io::stdin();
        if shutdown(&socket, Shutdown::Write).is_err() {
            return;
        }
        let _ = poll(&mut [PollFd::new(&socket, PollFlags::IN)], None);
        answer(&socket, &mut vec![0; MAX_REQUEST], &mut Successors::new());
        match std::env::var("KEEPER_FOLDER").as_deref() {
            Ok("late") => drop(waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)),
            Ok("last") => drop(waitid(Id::All, WaitPidFlag::WEXITED)),
            _ => {}
        }
        let _ = kill_process(getpid(), Signal::KILL);
    }

    /// What comes of a script that notes its start, whose keeper dies.
    struct Attempt {
        keeper: Keeper,
        name: String,
        folder: tempfile::TempDir,
        write: OwnedFd,
        _read: OwnedFd,
    }

    impl Attempt {
        fn new(death: &str) -> Self {
            let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keeper-that-dies.sh");
            let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
            let keeper = Keeper::new(program, Some(death.into()), <_>::default());
            Self { keeper, name: death.into(), folder: tempfile::tempdir().unwrap(), write, _read: read }
        }

        async fn spawn(&self, script: &str) -> io::Result<Started> {
            // Of a name of its own: what others start is told apart by that.
            let shell = self.folder.path().join(&self.name);
            std::os::unix::fs::symlink("/bin/sh", &shell).unwrap();
            let mut command = Command::new(shell);
            command.args(["-c", &format!("echo started >> starts; {script}")]).current_dir(&self.folder);
            self.keeper.spawn(&command, [self.write.as_fd(); 3]).await
        }

        fn starts(&self) -> usize {
            fs::read_to_string(self.folder.path().join("starts")).unwrap().lines().count()
        }
    }

    async fn status(started: io::Result<Started>) -> Option<i32> {
        tokio::time::timeout(Duration::from_mins(1), started.unwrap().1).await.unwrap().unwrap().code()
    }

    #[tokio::test]
    async fn what_a_keeper_started_before_it_was_killed_is_not_started_again() {
        let attempt = Attempt::new("early");
        let started = attempt.spawn("while [ ! -e go ]; do sleep 0.01; done; exit 7").await;
        fs::write(attempt.folder.path().join("go"), "").unwrap();
        assert_eq!((status(started).await, attempt.starts()), (Some(7), 1));
    }

    #[tokio::test]
    async fn nor_is_what_has_ended_by_then_and_its_status_is_told() {
        let attempt = Attempt::new("late");
        let started = attempt.spawn("echo begun; exit 7").await;
        assert_eq!((status(started).await, attempt.starts()), (Some(7), 1));
    }

    #[tokio::test]
    async fn nor_is_what_is_gone_without_a_trace_but_what_it_has_printed() {
        let attempt = Attempt::new("last");
        let lost = attempt.spawn("echo begun; exit 7").await.unwrap_err();
        assert!(lost.to_string().contains("it was begun"), "{lost}");
        assert_eq!(attempt.starts(), 1);
    }
}
