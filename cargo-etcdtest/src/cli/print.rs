//! What verbs print, when they have all of it.

use std::io::{self, Write as _};

use serde::Serialize;

use super::{Exit, Failure};

/// Prints text to stdout, without colours where it is no terminal that shows them. A reader
/// that went away, as `head` does, is no failure.
///
/// # Errors
/// Anything else that the stream says.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = anstream::stdout().lock();
    written(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()))
}

/// Prints bytes to stdout as they are.
///
/// # Errors
/// As [`print`].
pub(crate) fn print_raw(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    written(stdout.write_all(bytes).and_then(|()| stdout.flush()))
}

/// A document on one line, as newline-delimited JSON.
pub(crate) fn json_line(document: &impl Serialize) -> String {
    let mut line = serde_json::to_string(document).expect("the documents are maps with text keys");
    line.push('\n');
    line
}

fn written(result: io::Result<()>) -> Result<(), Failure> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::Usage, miette::miette!("failed to print: {error}")))
        }
        _ => Ok(()),
    }
}
