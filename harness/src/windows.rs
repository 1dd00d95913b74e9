//! Standard input carries no socket here, and nobody asks a process to end.

use std::fs::File;
use std::io;

/// Refuses: the runner does not start attempts this way on this system.
///
/// # Errors
/// Always.
pub(crate) fn take_socket() -> io::Result<File> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this system cannot pass a socket as standard input"))
}

/// Hears of requests to end: there are none.
pub(crate) enum Termination {}

/// Refuses: there are no such requests on this system.
///
/// # Errors
/// Always.
pub(crate) fn on_termination() -> io::Result<Termination> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no requests to end"))
}

impl Termination {
    /// Waits for a request.
    pub(crate) fn wait(self) {
        match self {}
    }
}

/// Ends this process.
pub(crate) fn terminate() {
    std::process::exit(1);
}
