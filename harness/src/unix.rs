//! The socket that the runner passes as standard input.
#![expect(unsafe_code, reason = "std cannot put another file in the place of standard input")]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;

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
    // SAFETY: both descriptors are open, `null` because it lives here and standard input
    // because it was duplicated above; std holds standard input by its number alone.
    if unsafe { libc::dup2(null.as_raw_fd(), libc::STDIN_FILENO) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}
