//! The socket that the runner passes as standard input.
#![expect(unsafe_code, reason = "std cannot put another file in the place of a standard stream")]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;

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
