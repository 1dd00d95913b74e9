//! Running one test and judging how it ended.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use crate::Context;
use crate::panics;
use crate::protocol::Outcome;
use crate::registry::{Entry, ShouldPanic};
use crate::result::Failure;
use crate::skip::Skip;

/// Runs the test in a thread of its name, which a panic message then shows.
pub(crate) fn in_thread(entry: &Entry, context: &Context) -> Outcome {
    let run = || in_place(entry, context);
    thread::scope(|scope| {
        let thread = thread::Builder::new().name(entry.name().to_owned()).spawn_scoped(scope, run);
        match thread {
            Ok(thread) => thread.join().unwrap_or_else(|payload| panicked(&*payload)),
            Err(error) => failed(format!("the system gives no thread to run in: {error}")),
        }
    })
}

/// Runs the test in this thread.
pub(crate) fn in_place(entry: &Entry, context: &Context) -> Outcome {
    let ended = catch_unwind(AssertUnwindSafe(|| (entry.call)(context)));
    let outcome = judge(entry.should_panic, ended);
    match (context.clean_up(), outcome) {
        (Some(payload), Outcome::Passed | Outcome::Skipped(_)) => Outcome::Failed {
            message: format!("what the test deferred panicked: {}", panics::message(&*payload)),
            location: panics::location(&*payload),
        },
        (_, outcome) => outcome,
    }
}

fn judge(should_panic: ShouldPanic, ended: Result<Result<(), Failure>, Box<dyn Any + Send>>) -> Outcome {
    let payload = match (ended, should_panic) {
        (Ok(Ok(())), ShouldPanic::No) => return Outcome::Passed,
        (Ok(Err(error)), ShouldPanic::No) => return failed(error.0),
        (Ok(Ok(())), _) => return failed("the test did not panic, as it should".into()),
        (Ok(Err(error)), _) => {
            return failed(format!("the test did not panic, as it should, but returned: {}", error.0));
        }
        (Err(payload), _) => payload,
    };
    if let Some(Skip(reason)) = payload.downcast_ref() {
        return Outcome::Skipped(reason.clone());
    }
    match should_panic {
        ShouldPanic::No => panicked(&*payload),
        ShouldPanic::Anyhow => Outcome::Passed,
        ShouldPanic::With(text) if panics::message(&*payload).contains(text) => Outcome::Passed,
        ShouldPanic::With(text) => {
            let message = panics::message(&*payload);
            let message = format!(
                "the test panicked with another message than it should\n  should contain: {text}\n  message: {message}"
            );
            Outcome::Failed { message, location: panics::location(&*payload) }
        }
    }
}

fn panicked(payload: &(dyn Any + Send)) -> Outcome {
    Outcome::Failed { message: panics::message(payload), location: panics::location(payload) }
}

fn failed(message: String) -> Outcome {
    Outcome::Failed { message, location: None }
}
