//! A system on which no test binary waits to fork.

use std::convert::Infallible;
use std::io;
use std::process::exit;

use crate::protocol::ZygoteEvent;
use crate::system;

/// Refuses to be a zygote, and exits.
///
/// # Errors
/// Standard input is no socket, or nobody is at its other end.
pub(crate) fn main() -> io::Result<Infallible> {
    let mut control = system::take_socket()?;
    let reason = format!("a test binary waits to fork on Linux only, not on {}", std::env::consts::OS);
    ZygoteEvent::Refused { reason }.to_frame().write(&mut control)?;
    exit(0)
}
