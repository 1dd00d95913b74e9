//! Standard input carries no socket here.

use std::fs::File;
use std::io;

/// Refuses: the runner does not start attempts this way on this system.
///
/// # Errors
/// Always.
pub(crate) fn take_socket() -> io::Result<File> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this system cannot pass a socket as standard input"))
}
