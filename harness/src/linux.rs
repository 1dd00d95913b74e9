//! What a zygote asks of Linux: descriptors out of a socket, children, and their ends.
#![expect(unsafe_code, reason = "std knows neither fork, nor passed descriptors, nor pidfds")]

use std::env;
use std::fs;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::linux::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::ptr;
use std::slice;
use std::thread::sleep;
use std::time::Duration;

/// Reads bytes, and appends the descriptors that came with them to `descriptors`; they are
/// close-on-exec. Those that the process has no room for are lost.
///
/// # Errors
/// What the socket says.
pub(crate) fn receive(
    socket: &UnixStream,
    bytes: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
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
                descriptors.push(unsafe { OwnedFd::from_raw_fd(RawFd::from_ne_bytes(*number)) });
            }
        }
        // SAFETY: as at the first header.
        header = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
    }
    Ok(read)
}

/// Splits the process in two; `None` in the child, its process id in the parent.
///
/// # Errors
/// This is not the only thread, or there is no room for another process.
pub(crate) fn fork() -> io::Result<Option<i32>> {
    let others = other_threads()?;
    if !others.is_empty() {
        return Err(io::Error::other(format!(
            "a thread runs beside the one that forks: {}",
            others.join(", ")
        )));
    }
    // SAFETY: this is the only thread of the process, as was just seen, and no other can
    // start one: so no lock is held in the child by a thread that it does not have.
    match unsafe { libc::fork() } {
        0 => Ok(None),
        pid if pid > 0 => Ok(Some(pid)),
        _ => Err(io::Error::last_os_error()),
    }
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

/// Sets an environment variable in the child of a [`fork`], before it does anything else.
pub(crate) fn set_variable(name: &str, value: &str) {
    // SAFETY: the child of a fork begins with one thread, and no other has been started yet: so
    // nobody reads the environment meanwhile.
    unsafe { env::set_var(name, value) };
}

/// Waits until some of the descriptors can be read or have come to their end, and says
/// which.
///
/// # Errors
/// There is no memory for it.
pub(crate) fn readable(descriptors: &[BorrowedFd]) -> io::Result<Vec<bool>> {
    let polled = |descriptor: &BorrowedFd| libc::pollfd {
        fd: descriptor.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let mut polled: Vec<libc::pollfd> = descriptors.iter().map(polled).collect();
    loop {
        // SAFETY: the pointer and the length are those of one live vector.
        let count = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, -1) };
        if count >= 0 {
            return Ok(polled.iter().map(|descriptor| descriptor.revents != 0).collect());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
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
