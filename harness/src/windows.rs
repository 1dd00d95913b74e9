//! Standard input carries no socket here, and nobody asks a process to end.

use std::fs::File;
use std::io::{self, Read, Write};

/// Refuses: the runner does not start attempts this way on this system.
///
/// # Errors
/// Always.
pub(crate) fn take_socket() -> io::Result<File> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this system cannot pass a socket as standard input"))
}

/// The socket of this process's attempt.
pub(crate) struct Socket(File);

impl From<File> for Socket {
    fn from(file: File) -> Self {
        Self(file)
    }
}

impl Socket {
    /// Reads `bytes` from `from` until `to`; false where the stream ended before that.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn fill(&self, bytes: &mut [u8], from: usize, to: usize) -> io::Result<bool> {
        match (&self.0).read_exact(&mut bytes[from..to]) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            read => read.map(|()| true),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
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
