//! One attempt for the runner: it says what to run, and hears how it goes.

use std::convert::Infallible;
use std::io;
use std::process::exit;

use crate::protocol::Outcome;
use crate::registry::ShouldPanic;
use crate::system::{self, Socket};
use crate::told::{Text, Told};
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
    let socket = Socket::from(system::take_socket()?);
    let told = Told::read(&socket, Told::room())?;
    panics::watch();
    take(told, socket);
}

/// Runs the attempt, and exits. Panics are watched already.
pub(crate) fn take(told: Told, socket: Socket) -> ! {
    let exit_code = told.exit_code;
    let context = Context::of_runner(told, socket);
    let outcome = run(&context);
    let code = if matches!(outcome, Outcome::Failed { .. }) { FAILED } else { exit_code };
    context.finish(outcome);
    exit(code)
}

fn run(context: &Context) -> Outcome {
    let name = context.told().text(Text::Test);
    let (name, entry) = match registry::find(name) {
        Ok(Some(named)) => named,
        Ok(None) => return failed(format!("there is no test `{name}` in this binary")),
        Err(same_name) => return failed(same_name.to_string()),
    };
    // A thread of its own would take about 0.15 ms, half as long again as the fork.
    panics::call_this_thread(name);
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
