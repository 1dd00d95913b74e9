//! The socket that the runner passes as standard input, and the signal by which it asks a test
//! to end.
#![expect(unsafe_code, reason = "std cannot replace standard streams, and knows no signals")]

use std::fs::File;
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::exit;
use std::sync::atomic::{AtomicI32, Ordering};

/// Without it, to write to a socket that nobody reads any more would end the process.
#[cfg(not(target_vendor = "apple"))]
const NO_SIGNAL: libc::c_int = libc::MSG_NOSIGNAL;
/// There is no such flag; Rust's start-up has the signal ignored.
#[cfg(target_vendor = "apple")]
const NO_SIGNAL: libc::c_int = 0;

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
    let null = File::open("/dev/null")?;
    // SAFETY: `null` is open; std holds the standard streams by their numbers alone, so nobody owns
    // what is closed here.
    if unsafe { libc::dup2(null.as_raw_fd(), 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}

/// The socket of this process's attempt, open as long as the process: a test may have closed it, and to
/// close it again would be to close something else.
pub(crate) struct Socket(RawFd);

impl From<UnixStream> for Socket {
    fn from(stream: UnixStream) -> Self {
        Self(stream.into_raw_fd())
    }
}

impl Socket {
    /// The socket of this number.
    #[cfg(target_os = "linux")]
    pub(crate) const fn numbered(number: RawFd) -> Self {
        Self(number)
    }

    /// Reads `bytes` from `from` until `to`; false where the stream ended before that.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn fill(&self, bytes: &mut [u8], from: usize, to: usize) -> io::Result<bool> {
        assert!(from <= to && to <= bytes.len(), "the range lies in the bytes");
        let mut at = from;
        while at < to {
            // SAFETY: `at` to `to` lies inside of `bytes`, as was just seen.
            let read =
                unsafe { libc::recv(self.0, (&raw mut *bytes).cast::<libc::c_void>().add(at), to - at, 0) };
            if read == 0 {
                return Ok(false);
            }
            if read > 0 {
                at += read.cast_unsigned();
                continue;
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        Ok(true)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // SAFETY: the pointer and the length are those of one live slice.
        let written = unsafe { libc::send(self.0, (&raw const *bytes).cast(), bytes.len(), NO_SIGNAL) };
        usize::try_from(written).map_err(|_| io::Error::last_os_error())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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
