//! Where the panic of a test happened.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::io::{self, Write};
use std::panic::{self, PanicHookInfo};
use std::process;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::backtrace;

struct Seen {
    message: String,
    location: Option<String>,
}

thread_local! {
    static LAST: RefCell<Option<Seen>> = const { RefCell::new(None) };
    /// The test that this thread runs, where the thread has another name.
    static TEST: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Notes the panics of every thread from now on; they are printed as before.
pub(crate) fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            note(info);
            match TEST.get() {
                Some(name) => print(name, info),
                None => previous(info),
            }
        }));
    });
}

/// Prints the panics of this thread under the test's name from now on.
pub(crate) fn call_this_thread(test: &'static str) {
    TEST.set(Some(test));
}

/// Prints a panic as std does.
fn print(name: &str, info: &PanicHookInfo) {
    static FIRST: AtomicBool = AtomicBool::new(true);
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    let message = info.payload_as_str().unwrap_or("Box<dyn Any>");
    // It is the process's first thread, so they have one id.
    let mut text = format!("\nthread '{name}' ({}) panicked at {place}:\n{message}\n", process::id());
    text += &backtrace::after_message(FIRST.swap(false, Ordering::Relaxed));
    // Where nobody reads it, it is noted all the same.
    let _ = io::stderr().write_all(text.as_bytes());
}

fn note(info: &PanicHookInfo) {
    let location = info.location().map(ToString::to_string);
    let seen = Seen { message: message(info.payload()), location };
    // A panic while the thread's values are destroyed has nowhere to be noted.
    let _ = LAST.try_with(|last| last.replace(Some(seen)));
}

/// Where the panic of this thread that was caught with `payload` happened, if it was noted.
pub(crate) fn location(payload: &(dyn Any + Send)) -> Option<String> {
    // A payload handed on from another thread has another message than the last one here.
    LAST.take().filter(|seen| seen.message == message(payload)).and_then(|seen| seen.location)
}

/// The text a panic was raised with.
pub(crate) fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a text").to_owned()
}
