//! What a zygote asks of Linux: descriptors out of a socket, children, and their ends.
#![expect(unsafe_code, reason = "std knows neither fork, nor passed descriptors, nor pidfds")]

use std::fs;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::linux::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::ptr;
use std::slice;
use std::thread::sleep;
use std::time::Duration;

use crate::protocol::ABOUT_PROCESS;

/// Descriptors that came out of a socket: the first three, and how many there were.
#[derive(Default)]
pub(crate) struct Passed {
    pub(crate) first: [Option<OwnedFd>; 3],
    pub(crate) count: usize,
}

/// Reads bytes, and adds the descriptors that came with them to `passed`; they are
/// close-on-exec. Those that the process has no room for are lost.
///
/// # Errors
/// What the socket says.
pub(crate) fn receive(socket: &UnixStream, bytes: &mut [u8], passed: &mut Passed) -> io::Result<usize> {
    // Of 64-bit words, as the headers in it want to be aligned.
    let mut control = [0_u64; 8];
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: all zeroes are a valid `msghdr`: null pointers and empty lengths.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = mem::size_of_val(&control) as _;
    // SAFETY: `message` points at `part` and `control`, both live and as long as it says.
    let read = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    let Ok(read) = usize::try_from(read) else { return Err(io::Error::last_os_error()) };
    // SAFETY: the kernel filled `message.msg_control`; the macros stay inside of it.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !header.is_null() {
        // SAFETY: the header is not null, so it stands whole and aligned in `control`.
        let libc::cmsghdr { cmsg_len, cmsg_level, cmsg_type, .. } = unsafe { *header };
        if (cmsg_level, cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: the macro only adds sizes.
            let empty = unsafe { libc::CMSG_LEN(0) } as usize;
            #[allow(clippy::unnecessary_cast, reason = "its type is another one in other C libraries")]
            let length = (cmsg_len as usize).saturating_sub(empty);
            // SAFETY: that many bytes follow the header inside of `control`.
            let numbers = unsafe { slice::from_raw_parts(libc::CMSG_DATA(header), length) };
            for number in numbers.as_chunks().0 {
                // SAFETY: each number is a descriptor that was opened for this process just
                // now, and nothing else owns it.
                let descriptor = unsafe { OwnedFd::from_raw_fd(RawFd::from_ne_bytes(*number)) };
                if let Some(place) = passed.first.get_mut(passed.count) {
                    *place = Some(descriptor);
                }
                passed.count += 1;
            }
        }
        // SAFETY: as at the first header.
        header = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
    }
    Ok(read)
}

/// What the parent waits for: its control socket in the first place, then its children. It is kept from
/// one wait to the next, and what is in it is not the child's.
pub(crate) struct Waited(Vec<libc::pollfd>);

impl Waited {
    /// The control socket alone.
    pub(crate) fn new(control: &impl AsRawFd) -> Self {
        Self(vec![polled(control)])
    }

    /// Adds one more in the last place.
    pub(crate) fn push(&mut self, descriptor: &impl AsRawFd) {
        self.0.push(polled(descriptor));
    }

    /// Waits for it no more; those behind it move up.
    pub(crate) fn remove(&mut self, place: usize) {
        self.0.remove(place);
    }

    /// Waits until some can be read or have come to their end.
    ///
    /// # Errors
    /// There is no memory for it.
    pub(crate) fn wait(&mut self) -> io::Result<()> {
        // SAFETY: the pointer and the length are those of one live vector.
        while unsafe { libc::poll(self.0.as_mut_ptr(), self.0.len() as libc::nfds_t, -1) } < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Whether the one in this place can be read, as the last wait found.
    pub(crate) fn is_readable(&self, place: usize) -> bool {
        self.0[place].revents != 0
    }

    /// Splits the process in two; gives the child's process id in the parent, and `None` in the child, which
    /// must neither use nor drop what is waited for. It leads a group of its own, has the two streams as its
    /// standard output and standard error, and has told the runner of itself by `announcement`, the last four
    /// bytes of which it made its process id.
    ///
    /// # Errors
    /// This is not the only thread, or there is no room for another process.
    pub(crate) fn fork(
        &self,
        mut announcement: [u8; ABOUT_PROCESS],
        [stdout, stderr]: [&OwnedFd; 2],
    ) -> io::Result<Option<i32>> {
        be_alone()?;
        // All numbers: what is less simple is more code, and each further page of it costs the child a fault.
        let (waited, stdout, stderr) = (self.0.as_slice(), stdout.as_raw_fd(), stderr.as_raw_fd());
        // SAFETY: this is the only thread of the process, as was just seen, and no other can
        // start one: so no lock is held in the child by a thread that it does not have.
        let pid = unsafe { libc::fork() };
        if pid > 0 {
            return Ok(Some(pid));
        }
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        become_child(&mut announcement, waited, stdout, stderr);
        Ok(None)
    }
}

fn polled(descriptor: &impl AsRawFd) -> libc::pollfd {
    libc::pollfd { fd: descriptor.as_raw_fd(), events: libc::POLLIN, revents: 0 }
}

/// What the child of a fork does first.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the lowest byte is meant")]
fn become_child(
    announcement: &mut [u8; ABOUT_PROCESS],
    waited: &[libc::pollfd],
    stdout: RawFd,
    stderr: RawFd,
) {
    lead_group(0);
    // SAFETY: `announcement` is live and as long as is said; the numbers are those of open descriptors, and
    // nobody uses in the child what is closed here.
    unsafe {
        let (pid, mut byte) = (libc::getpid(), 0);
        while byte < 4 {
            announcement[ABOUT_PROCESS - 4 + byte] = (pid >> (8 * byte)) as u8;
            byte += 1;
        }
        libc::send(waited[0].fd, (&raw const *announcement).cast(), ABOUT_PROCESS, libc::MSG_NOSIGNAL);
        let mut place = 0;
        while place < waited.len() {
            libc::close(waited[place].fd);
            place += 1;
        }
        libc::dup2(stdout, libc::STDOUT_FILENO);
        libc::dup2(stderr, libc::STDERR_FILENO);
        libc::close(stdout);
        libc::close(stderr);
    }
}

/// Sees that this is the only thread of the process.
fn be_alone() -> io::Result<()> {
    // SAFETY: the call takes a number. It does nothing in a process of one thread, and fails in others.
    if unsafe { libc::unshare(libc::CLONE_VM) } == 0 {
        return Ok(());
    }
    // It may also be forbidden.
    let others = other_threads()?;
    if others.is_empty() {
        return Ok(());
    }
    Err(io::Error::other(format!("a thread runs beside the one that forks: {}", others.join(", "))))
}

/// The names of all threads but this one.
///
/// # Errors
/// `/proc` is not to be read.
pub(crate) fn other_threads() -> io::Result<Vec<String>> {
    // A thread that was joined is counted for a moment still.
    for wait in [1, 2, 4, 8, 16, 32] {
        // A folder has a link from its parent, one from itself, and one from each in it.
        if fs::metadata("/proc/self/task")?.st_nlink() == 3 {
            return Ok(Vec::new());
        }
        sleep(Duration::from_millis(wait));
    }
    // SAFETY: it only tells a number.
    let this = unsafe { libc::gettid() }.to_string();
    let mut names = Vec::new();
    for task in fs::read_dir("/proc/self/task")? {
        let task = task?;
        if task.file_name() != *this {
            // One that ended meanwhile has no name.
            names.extend(fs::read_to_string(task.path().join("comm")).map(|name| name.trim_end().to_owned()));
        }
    }
    Ok(names)
}

/// A descriptor that is readable once the child of this id has ended.
///
/// # Errors
/// The system is older than Linux 5.3, or has no room for it.
pub(crate) fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two numbers and gives a new descriptor or -1.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    match RawFd::try_from(descriptor) {
        // SAFETY: the descriptor is new, so nothing else owns it.
        Ok(descriptor) if descriptor >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// An environment variable that every child sets for itself, with room for its value made before the
/// fork: to set it as std does writes to more memory than all else that a child does.
pub(crate) struct Variable(&'static mut [u8; Variable::ROOM]);

impl Variable {
    /// More than the longest [`Start::id`](crate::protocol::Start::id): a run has 128 characters at the most.
    const ROOM: usize = 1 << 10;

    /// Sets it, to nothing at first.
    pub(crate) fn new(name: &str) -> Self {
        let mut text = vec![0; name.len() + 1 + Self::ROOM + 1];
        text[..name.len()].copy_from_slice(name.as_bytes());
        text[name.len()] = b'=';
        let text = Box::leak(text.into_boxed_slice());
        // SAFETY: the text ends with a zero byte, which nobody can write to, and is never freed. There is one
        // thread, so that nobody reads the environment meanwhile.
        unsafe { libc::putenv(text.as_mut_ptr().cast()) };
        Self(text[name.len() + 1..].first_chunk_mut().expect("there is one byte more"))
    }

    /// The value, ended by a zero byte if it is shorter. To be changed by the child of a fork
    /// alone, before it does anything else.
    pub(crate) fn value(&mut self) -> &mut [u8] {
        self.0
    }
}

/// Has the system keep the status of every child that ended until it is asked for: where
/// their signal is ignored, which a process inherits, it does not.
pub(crate) fn keep_statuses() {
    // SAFETY: no handler is named that could run.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// Waits for the end of the child and gives its status, which it leaves to be taken: were this
/// process killed before it could tell it, whoever gets its children would still have it.
///
/// # Errors
/// There is no such child.
pub(crate) fn await_end(pid: i32) -> io::Result<i32> {
    // SAFETY: all zeroes are a valid `siginfo_t`, which is numbers alone.
    let mut ended: libc::siginfo_t = unsafe { mem::zeroed() };
    let id = libc::id_t::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: `ended` is live and of the type that is written.
    while unsafe { libc::waitid(libc::P_PID, id, &raw mut ended, libc::WEXITED | libc::WNOWAIT) } < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    // SAFETY: the call filled it in for the end of a child, which has a status.
    let status = unsafe { ended.si_status() };
    Ok(match ended.si_code {
        libc::CLD_EXITED => status << 8,
        libc::CLD_DUMPED => status | 0x80,
        _ => status,
    })
}

/// Takes the status of the child, waiting for its end.
///
/// # Errors
/// There is no such child.
pub(crate) fn wait(pid: i32) -> io::Result<i32> {
    let mut status = 0;
    // SAFETY: `status` is live and of the type that is written.
    while unsafe { libc::waitpid(pid, &raw mut status, 0) } < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(status)
}

/// Makes the process (0 for this one) the leader of a group of its own.
pub(crate) fn lead_group(pid: i32) {
    // Parent and child both do it, so that neither has to wait for the other; the later one
    // may find that the child is gone or leads already.
    // SAFETY: the call takes numbers alone.
    unsafe { libc::setpgid(pid, pid) };
}

/// Kills the group that this child, which was not waited for yet, leads.
pub(crate) fn kill_group(pid: i32) {
    // SAFETY: the call takes numbers alone. The child still holds its id, so it is no other
    // group's.
    unsafe { libc::kill(-pid, libc::SIGKILL) };
}

/// Writes out what C code left in its buffers: every child would write it again.
pub(crate) fn flush_c() {
    // SAFETY: null stands for all streams.
    unsafe { libc::fflush(ptr::null_mut()) };
}

/// The memory of this process that a fork copies, in KiB.
///
/// # Errors
/// `/proc` does not tell.
pub(crate) fn own_memory_kib() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
    kib.ok_or_else(|| io::Error::other("/proc/self/status has no `RssAnon`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_of_several_threads_does_not_fork() {
        let (other, _) = UnixStream::pair().unwrap();
        let stream = OwnedFd::from(other.try_clone().unwrap());
        // The thread of this test is not the first one of its process.
        let error = Waited::new(&other).fork([0; ABOUT_PROCESS], [&stream, &stream]).unwrap_err();
        assert!(error.to_string().starts_with("a thread runs beside the one that forks: "), "{error}");
    }
}
