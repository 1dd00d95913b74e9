//! Where the panic of a test happened.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{self, PanicHookInfo};

struct Seen {
    message: String,
    location: Option<String>,
}

thread_local! {
    static LAST: RefCell<Option<Seen>> = const { RefCell::new(None) };
}

/// Notes the panics of every thread from now on; they are printed as before.
pub(crate) fn watch() {
    let previous = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        note(info);
        previous(info);
    }));
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
