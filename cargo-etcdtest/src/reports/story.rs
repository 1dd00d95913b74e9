//! How an attempt went, in words.

use std::fmt::Write as _;

use super::text;
use crate::model::{Attempt, Outcome, Step};

/// How much of a failure's message is told, in bytes of its beginning and of its end.
const MESSAGE: usize = 16 * 1024;

/// The longest location or name of a step, in characters.
const NAME: usize = 2000;

/// One line about an attempt that did not pass.
pub fn headline(attempt: &Attempt) -> String {
    let said = text::one_line(attempt.message.as_deref().unwrap_or_default(), text::MESSAGE);
    if said.is_empty() { ending(attempt) } else { said }
}

/// All that is known of an attempt that did not pass but its output: message or how its
/// process ended, location, steps. Without line break at its end.
pub fn whole(attempt: &Attempt) -> String {
    let said = attempt.message.as_deref().map(text::plain).unwrap_or_default();
    let said = text::bounded(said.trim_end().trim_start_matches('\n'), MESSAGE, MESSAGE);
    let mut story = if said.is_empty() { ending(attempt) } else { said.into_owned() };
    // Writing to a text cannot fail.
    if let Some(location) = &attempt.location {
        let _ = write!(story, "\nat {}", text::one_line(location, NAME));
    }
    if !attempt.steps.is_empty() {
        story.push_str("\n\nsteps:");
    }
    for (number, step) in (1..).zip(&attempt.steps) {
        let name = text::one_line(&step.name, NAME);
        let _ = write!(story, "\n{number}. {name}: {}", step_outcome(step));
    }
    story
}

/// How an attempt's process ended, where its test said nothing: `timed out after 30.000s`.
pub fn ending(attempt: &Attempt) -> String {
    match (attempt.outcome, attempt.signal, attempt.exit_code) {
        (Outcome::TimedOut, _, _) => format!("timed out after {:.3}s", attempt.duration.as_secs_f64()),
        (_, Some(signal), _) => format!("killed by {}", signal_name(signal)),
        (_, None, Some(code)) => format!("exited with code {code}"),
        (Outcome::Crashed, None, None) => "its process ended without a word".into(),
        (_, None, None) => "it gave no reason".into(),
    }
}

/// The name of a signal that ends processes, the same on every Unix; another one's number.
pub fn signal_name(signal: i32) -> String {
    let name = match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        _ => return format!("signal {signal}"),
    };
    name.into()
}

/// How a step ended, and after how long.
fn step_outcome(step: &Step) -> String {
    let seconds = step.duration.as_secs_f64();
    match step.ok {
        Some(true) => format!("ok ({seconds:.3}s)"),
        Some(false) => format!("failed ({seconds:.3}s)"),
        None => "not finished".into(),
    }
}
