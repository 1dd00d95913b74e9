//! The socket that the runner passes as standard input, and the signal by which it asks a test
//! to end.
#![expect(unsafe_code, reason = "std cannot replace standard streams, and knows no signals")]

use std::fs::File;
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd};
use std::os::unix::net::UnixStream;
use std::process::exit;
use std::sync::atomic::{AtomicI32, Ordering};

/// A standard stream.
#[derive(Clone, Copy)]
pub(crate) enum Standard {
    Input = 0,
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "only a zygote's child replaces it"))]
    Output = 1,
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "only a zygote's child replaces it"))]
    Error = 2,
}

/// Takes the socket from standard input, so that neither the test reads from it nor the
/// processes it starts inherit it, and leaves `/dev/null` in its place.
///
/// # Errors
/// Standard input is no stream socket.
pub(crate) fn take_socket() -> io::Result<UnixStream> {
    let stdin = io::stdin();
    // The duplicate is close-on-exec and has a number above the standard streams.
    let socket = UnixStream::from(stdin.as_fd().try_clone_to_owned()?);
    // A file that is no socket has no address.
    socket.local_addr().map_err(|error| io::Error::new(error.kind(), "standard input is no socket"))?;
    replace(Standard::Input, File::open("/dev/null")?.as_fd())?;
    Ok(socket)
}

/// Puts a duplicate of `file` in the place of a standard stream.
///
/// # Errors
/// What the system says.
pub(crate) fn replace(stream: Standard, file: BorrowedFd) -> io::Result<()> {
    // SAFETY: `file` is open as long as it is borrowed; std holds the standard streams by
    // their numbers alone, so nobody owns what is closed here.
    if unsafe { libc::dup2(file.as_raw_fd(), stream as libc::c_int) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Where the handler writes that termination was requested; never closed.
static REQUESTS: AtomicI32 = AtomicI32::new(-1);

/// Hears of requests to end.
pub(crate) struct Termination(PipeReader);

/// Takes requests to end this process (SIGTERM) from now on, which otherwise ended it at once.
///
/// # Errors
/// What the system says.
pub(crate) fn on_termination() -> io::Result<Termination> {
    extern "C" fn note(_: libc::c_int) {
        // SAFETY: `write` may be called in a signal handler; the pipe is open for ever, and
        // one byte fits, so that neither does it wait nor does it change `errno`.
        unsafe { libc::write(REQUESTS.load(Ordering::Relaxed), [0_u8].as_ptr().cast(), 1) };
    }
    let (reader, writer) = io::pipe()?;
    REQUESTS.store(writer.into_raw_fd(), Ordering::Relaxed);
    let handler: extern "C" fn(libc::c_int) = note;
    // SAFETY: the handler does nothing but what a signal handler may.
    if unsafe { libc::signal(libc::SIGTERM, handler as libc::sighandler_t) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(Termination(reader))
}

impl Termination {
    /// Waits for a request.
    pub(crate) fn wait(mut self) {
        // The other end is never closed.
        let _ = self.0.read_exact(&mut [0]);
    }
}

/// Ends this process as a request to end does that nobody takes.
pub(crate) fn terminate() {
    // SAFETY: neither call touches memory of ours.
    unsafe {
        libc::signal(libc::SIGTERM, libc::SIG_DFL);
        libc::raise(libc::SIGTERM);
    }
    // It was blocked.
    exit(128 + libc::SIGTERM);
}
