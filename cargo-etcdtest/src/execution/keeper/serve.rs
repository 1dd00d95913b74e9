//! The keeper's own side: one thread that waits for requests and for the ends of processes.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
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
use super::spawn::Spawner;

/// What stands beside the signal in a status.
const CORE_DUMPED: i32 = 0x80;
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

/// What a keeper has at hand.
struct Server {
    spawner: Spawner,
    /// The packet that was received last.
    packet: Vec<u8>,
    /// What is to be started when a process has ended, by that one's id.
    successors: HashMap<i32, Successor>,
}

/// A request whose time has not come.
struct Successor {
    id: u64,
    packet: Vec<u8>,
    streams: [OwnedFd; 3],
}

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
    let mut server = Server::new()?;
    loop {
        let mut ready =
            [PollFd::new(&socket, PollFlags::IN), PollFd::from_borrowed_fd(woken.as_fd(), PollFlags::IN)];
        let [asked, ended] = match poll(&mut ready, None) {
            Ok(_) => ready.map(|ready| !ready.revents().is_empty()),
            // What has come is still there.
            Err(Errno::INTR) => continue,
            Err(_) => [true, true],
        };
        if ended {
            // First the wake-up, then the processes: who ends in between wakes again.
            let _ = (&woken).read(&mut [0; 64]);
            server.tell_ends(&socket);
        }
        if asked && !server.answer(&socket) {
            break;
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

/// A process that has ended and is not reaped yet, and its status.
fn next_end() -> Option<(i32, i32)> {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    match waitid(Id::All, flags) {
        Ok(WaitStatus::Exited(pid, code)) => Some((pid.as_raw(), code << 8)),
        Ok(WaitStatus::Signaled(pid, signal, core)) => {
            Some((pid.as_raw(), signal as i32 | if core { CORE_DUMPED } else { 0 }))
        }
        Ok(_) | Err(nix::errno::Errno::ECHILD) => None,
        // One that was ended by a signal without a name.
        Err(_) => {
            let (pid, status) = wait(WaitOptions::NOHANG).ok()??;
            Some((number(pid), status.as_raw()))
        }
    }
}

impl Server {
    fn new() -> io::Result<Self> {
        let (packet, successors) = (vec![0; MAX_REQUEST], HashMap::new());
        Ok(Self { spawner: Spawner::new()?, packet, successors })
    }

    /// Tells of all processes that have ended, and starts what comes after them.
    fn tell_ends(&mut self, socket: &impl AsFd) {
        while let Some((pid, status)) = next_end() {
            let next = self
                .successors
                .remove(&pid)
                .map(|next| if status == 0 { self.start_successor(&next) } else { not_started(next.id) });
            tell(socket, [Reply::Ended { pid, status }].into_iter().chain(next));
            // Only now: were this process killed in between, the system would tell the runner.
            let _ = waitpid(Pid::from_raw(pid), WaitOptions::NOHANG);
        }
    }

    /// Answers what was asked; false where nobody will ask again.
    fn answer(&mut self, socket: &impl AsFd) -> bool {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let length = match recvmsg(socket, &mut [IoSliceMut::new(&mut self.packet)], &mut control, flags) {
            Ok(message) if message.bytes > 0 => message.bytes,
            Err(Errno::AGAIN | Errno::INTR) => return true,
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
        let packet = &self.packet[..length];
        let reply = match (Asked::decode(packet), <[OwnedFd; 3]>::try_from(streams)) {
            (Some(Asked::Start(request)), Ok(streams)) => match request.after {
                None => self.start(&request, &streams),
                Some(first) if runs(first) && !self.successors.contains_key(&number(first)) => {
                    let next = Successor { id: request.id, packet: packet.to_vec(), streams };
                    self.successors.insert(number(first), next);
                    return true;
                }
                Some(_) => not_started(request.id),
            },
            (Some(Asked::Start(request)), Err(_)) => {
                Reply::NotStarted { id: request.id, errno: Errno::BADF.raw_os_error() }
            }
            (Some(Asked::Withdraw(id)), _) => {
                let Some((_, next)) = self.successors.extract_if(|_, next| next.id == id).next() else {
                    return true;
                };
                not_started(next.id)
            }
            (None, _) => return true,
        };
        tell(socket, [reply]);
        true
    }

    fn start_successor(&self, next: &Successor) -> Reply {
        match Asked::decode(&next.packet) {
            Some(Asked::Start(request)) => self.start(&request, &next.streams),
            // It was read when it came.
            _ => not_started(next.id),
        }
    }

    fn start(&self, request: &Request<'_>, streams: &[OwnedFd; 3]) -> Reply {
        let id = request.id;
        match self.spawner.spawn(request, streams) {
            Ok(pid) => Reply::Started { id, pid: pid.as_raw() },
            Err(error) => Reply::NotStarted { id, errno: error as i32 },
        }
    }
}

/// Whether this is a child that has not ended.
fn runs(child: Pid) -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    let child = nix::unistd::Pid::from_raw(number(child));
    matches!(waitid(Id::Pid(child), flags), Ok(WaitStatus::StillAlive))
}

fn not_started(id: u64) -> Reply {
    Reply::NotStarted { id, errno: Errno::CANCELED.raw_os_error() }
}

fn number(pid: Pid) -> i32 {
    pid.as_raw_nonzero().get()
}

/// Tells in one packet.
fn tell(socket: &impl AsFd, replies: impl IntoIterator<Item = Reply>) {
    let packet: Vec<u8> = replies.into_iter().flat_map(Reply::encode).collect();
    // That the runner is gone is seen when its end of the socket closes.
    while send(socket, &packet, SendFlags::NOSIGNAL) == Err(Errno::INTR) {}
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
        Server::new().unwrap().answer(&socket);
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
            self.keeper.spawn(&(&command).into(), [self.write.as_fd(); 3]).await
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
