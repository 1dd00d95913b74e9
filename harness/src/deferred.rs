//! What a test wants done after it, however it ends.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, Once, PoisonError};
use std::thread;

use crate::{Context, system};

type CleanUp = Box<dyn FnOnce() + Send>;

/// What is left to do, the last first.
pub(crate) struct Deferred {
    left: Mutex<Vec<CleanUp>>,
    /// Held by whoever does it: the test's own thread, or the one that heard the request to end.
    working: Mutex<()>,
    listening: Once,
}

impl Deferred {
    /// Nothing.
    pub(crate) const fn new() -> Self {
        Self { left: Mutex::new(Vec::new()), working: Mutex::new(()), listening: Once::new() }
    }

    /// Adds something.
    pub(crate) fn add(&self, clean_up: impl FnOnce() + Send + 'static) {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(clean_up));
    }

    /// Does all that is left, each even where another panicked; gives back the first panic.
    pub(crate) fn run(&self) -> Option<Box<dyn Any + Send>> {
        let _working = self.working.lock().unwrap_or_else(PoisonError::into_inner);
        let mut panicked = None;
        // What it does may itself defer something.
        while let Some(clean_up) = self.next() {
            let ended = catch_unwind(AssertUnwindSafe(clean_up));
            panicked = panicked.or(ended.err());
        }
        panicked
    }

    fn next(&self) -> Option<CleanUp> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// From now on a request to end the process is granted only when all has been done.
    pub(crate) fn run_before_termination(&self, context: &Context) {
        self.listening.call_once(|| {
            let context = context.clone();
            let listened = system::on_termination().and_then(|requested| {
                let wait = move || {
                    requested.wait();
                    // Its panics are printed; the test fails anyhow.
                    context.clean_up();
                    system::terminate();
                };
                thread::Builder::new().name("clean-up".to_owned()).spawn(wait)
            });
            if let Err(error) = listened {
                eprintln!("etcdtest: what is deferred is not done if the test takes too long: {error}");
            }
        });
    }
}
