//! One attempt for the runner: it says what to run, and hears how it goes.

use std::io;
use std::process::exit;

#[cfg(unix)]
use crate::unix as system;
#[cfg(not(unix))]
use crate::windows as system;

use crate::protocol::{Event, Frame, Outcome, Start};
use crate::{Context, panics, registry, run};

/// The exit code after a failure, as libtest has it.
pub(crate) const FAILED: i32 = 101;

/// Runs the attempt that stands on standard input, and exits.
///
/// # Errors
/// Standard input carries no attempt.
pub(crate) fn main() -> io::Result<std::convert::Infallible> {
    let mut socket = system::take_socket()?;
    let start = Frame::read(&mut socket)?.and_then(Start::from_frame).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "the runner said nothing that this version understands")
    })?;
    let exit_code = start.exit_code;
    let name = start.test.clone();
    let context = Context::of_runner(start, socket);
    let outcome = run(&name, &context);
    let code = if matches!(outcome, Outcome::Failed { .. }) { FAILED } else { exit_code };
    context.tell(|| Event::Finished(outcome));
    exit(code)
}

fn run(name: &str, context: &Context) -> Outcome {
    let entry = match registry::find(name) {
        Ok(Some(entry)) => entry,
        Ok(None) => return failed(format!("there is no test `{name}` in this binary")),
        Err(same_name) => return failed(same_name.to_string()),
    };
    panics::watch();
    let outcome = run::in_thread(entry, context);
    if let Outcome::Failed { message, location: None } = &outcome {
        eprintln!("{message}");
    }
    outcome
}

fn failed(message: String) -> Outcome {
    eprintln!("{message}");
    Outcome::Failed { message, location: None }
}
