//! One attempt for the runner: it says what to run, and hears how it goes.

use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::process::exit;

#[cfg(unix)]
use crate::unix as system;
#[cfg(not(unix))]
use crate::windows as system;

use crate::protocol::{Frame, Outcome, Start};
use crate::registry::ShouldPanic;
use crate::{Context, panics, registry, run};

/// The exit code after a failure, as libtest has it.
const FAILED: i32 = 101;
/// The longest message that is sent, in bytes.
const LONGEST_MESSAGE: usize = 1 << 20;

/// Runs the attempt that stands on standard input, and exits.
///
/// # Errors
/// Standard input carries no attempt.
pub(crate) fn main() -> io::Result<Infallible> {
    take(system::take_socket()?, |_| {})
}

/// Runs the attempt that stands on this socket, and exits. `begin` comes before all else.
///
/// # Errors
/// The socket carries no attempt.
pub(crate) fn take(
    mut socket: impl Read + Write + Send + 'static,
    begin: impl FnOnce(&Start),
) -> io::Result<Infallible> {
    let start = Frame::read(&mut socket)?.and_then(Start::from_frame).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "the runner said nothing that this version understands")
    })?;
    begin(&start);
    let exit_code = start.exit_code;
    let name = start.test.clone();
    let context = Context::of_runner(start, socket);
    let outcome = run(&name, &context);
    let code = if matches!(outcome, Outcome::Failed { .. }) { FAILED } else { exit_code };
    context.finish(outcome);
    exit(code)
}

fn run(name: &str, context: &Context) -> Outcome {
    let entry = match registry::find(name) {
        Ok(Some(entry)) => entry,
        Ok(None) => return failed(format!("there is no test `{name}` in this binary")),
        Err(same_name) => return failed(same_name.to_string()),
    };
    panics::watch();
    // A thread of its own would take about 0.15 ms, half as long again as the fork.
    panics::call_this_thread(entry.name());
    match run::in_place(entry, context) {
        Outcome::Failed { message, location } => {
            // The hook has printed a panic that is the failure itself.
            if location.is_none() || !matches!(entry.should_panic, ShouldPanic::No) {
                eprintln!("{message}");
            }
            Outcome::Failed { message: cut(message), location }
        }
        outcome => outcome,
    }
}

fn failed(message: String) -> Outcome {
    eprintln!("{message}");
    Outcome::Failed { message, location: None }
}

/// Comparing large values makes messages that no frame would carry; their end is left out.
fn cut(message: String) -> String {
    if message.len() <= LONGEST_MESSAGE {
        return message;
    }
    let end = (0..=LONGEST_MESSAGE).rev().find(|&end| message.is_char_boundary(end)).unwrap_or(0);
    format!("{}\n… {} more bytes, which are in the output", &message[..end], message.len() - end)
}
