//! What a test knows of its attempt and says while it runs.

use std::any::{Any, type_name};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::mem::discriminant;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Instant, SystemTime};

use crate::deferred::Deferred;
use crate::environment::Environment;
use crate::protocol::{Event, Outcome, PASSED, Start};
use crate::system::Socket;
use crate::told::{Text, Told};
use crate::{ConfigError, Data};

/// The attempt that a test runs in. Take it as a parameter, `cx: &Context`; a clone of it
/// goes where a reference cannot, such as into a spawned task.
#[derive(Clone)]
pub struct Context(Arc<Inner>);

struct Inner {
    told: Told,
    environment: OnceLock<Arc<Environment>>,
    steps: AtomicU32,
    uniques: AtomicU32,
    unique: OnceLock<String>,
    deferred: Deferred,
    /// Where events go.
    runner: Mutex<Option<Socket>>,
}

impl Context {
    /// The context of an attempt that the runner started and hears.
    pub(crate) fn of_runner(told: Told, runner: Socket) -> Self {
        Self::new(told, const { OnceLock::new() }, Some(runner))
    }

    /// The context of a test that runs without the runner.
    pub(crate) fn alone(test: &str, environment: Arc<Environment>) -> Self {
        let start = Start {
            test: test.to_owned(),
            run: "local".to_owned(),
            worker: "local".to_owned(),
            attempt: 1,
            ..Start::default()
        };
        Self::new(Told::of(&start), environment.into(), None)
    }

    fn new(told: Told, environment: OnceLock<Arc<Environment>>, runner: Option<Socket>) -> Self {
        Self(Arc::new(Inner {
            told,
            environment,
            steps: const { AtomicU32::new(0) },
            uniques: const { AtomicU32::new(0) },
            unique: const { OnceLock::new() },
            deferred: const { Deferred::new() },
            runner: Mutex::new(runner),
        }))
    }

    /// What the runner said.
    pub(crate) fn told(&self) -> &Told {
        &self.0.told
    }

    /// What the test runs against.
    pub fn environment(&self) -> &Environment {
        self.0
            .environment
            .get_or_init(|| Environment::sent(self.told().text(Text::Environment).to_owned()).into())
    }

    /// The test's name in its binary: `module::name` or `module::name::case`.
    pub fn test(&self) -> &str {
        self.told().text(Text::Test)
    }

    /// Id of the run; `local` without the runner.
    pub fn run(&self) -> &str {
        self.told().text(Text::Run)
    }

    /// Number of the attempt, from 1; greater than 1 after failed attempts.
    pub fn attempt(&self) -> u32 {
        self.told().number(Text::Attempt)
    }

    /// Id of the worker that executes the attempt; `local` without the runner.
    pub fn worker(&self) -> &str {
        self.told().text(Text::Worker)
    }

    /// The fencing token: whenever the test moves to another worker it is greater than
    /// before, and so it is from each run that reserves the environment to the next. A service that remembers the greatest one it saw can refuse what comes late
    /// from a worker that was given up. 0 without the runner.
    pub fn fencing_token(&self) -> i64 {
        self.told().number(Text::Token)
    }

    /// Runs `step` as a named step of the test and gives back its value. The step failed if
    /// it panics, skips the test, or returns an `Err`.
    pub fn step<T>(&self, name: &str, step: impl FnOnce() -> T) -> T {
        let running = self.start_step(name);
        let value = step();
        running.finish(&value);
        value
    }

    /// As [`step`](Self::step), for what has to be awaited. A step that is dropped before
    /// its end failed.
    pub async fn step_async<T>(&self, name: &str, step: impl Future<Output = T>) -> T {
        let running = self.start_step(name);
        let value = step.await;
        running.finish(&value);
        value
    }

    /// Stores a document with the attempt, under a file name. At most 64 MiB; what is
    /// larger is left out, with a note on standard error. Dropped without the runner.
    pub fn attach(&self, name: &str, bytes: impl AsRef<[u8]>) {
        self.tell(|| Event::Attachment { name: name.to_owned(), bytes: bytes.as_ref().to_vec() });
    }

    /// The content of a data set of the environment.
    ///
    /// # Errors
    /// There is no such data set, or its file cannot be read.
    pub fn data(&self, name: &str) -> Result<Data, ConfigError> {
        self.environment().data(name)
    }

    /// Runs `clean_up` after the test, however it ends: passed, failed, skipped, by a panic,
    /// and when its time is up, within the grace that the runner leaves it. What was deferred
    /// last runs first; a panic in it fails a test that would have passed. Nothing runs in a
    /// test that is killed, crashes or exits, nor without the runner on a signal.
    ///
    /// It runs outside of the runtime of an `async` test. When the time is up, the test's own
    /// thread still goes on beside it.
    pub fn defer(&self, clean_up: impl FnOnce() + Send + 'static) {
        self.0.deferred.add(clean_up);
        if self.runner().is_some() {
            self.0.deferred.run_before_termination(self);
        }
    }

    /// Does what was deferred; gives back the first panic.
    pub(crate) fn clean_up(&self) -> Option<Box<dyn Any + Send>> {
        self.0.deferred.run()
    }

    /// A name for data of this test that no other test, attempt, process or machine makes
    /// up: `user-7m2x9qk4tz0c-1`. Lower-case letters, digits and hyphens follow the prefix.
    pub fn unique(&self, prefix: &str) -> String {
        let number = self.0.uniques.fetch_add(1, Ordering::Relaxed) + 1;
        let attempt = self.0.unique.get_or_init(|| self.random_name());
        format!("{prefix}-{attempt}-{number}")
    }

    /// 60 bits from the system's random numbers; as forked processes may share those, also
    /// from all that sets this attempt apart.
    fn random_name(&self) -> String {
        const LETTERS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let attempt = (self.test(), self.run(), self.worker(), self.attempt(), self.fencing_token());
        let hash = RandomState::new().hash_one((attempt, std::process::id(), now, Arc::as_ptr(&self.0)));
        let five_bits = |place: u32| usize::try_from((hash >> (5 * place)) & 31).unwrap_or_default();
        (0..12).map(|place| char::from(LETTERS[five_bits(place)])).collect()
    }

    fn start_step(&self, name: &str) -> Step<'_> {
        let number = self.0.steps.fetch_add(1, Ordering::Relaxed) + 1;
        self.tell(|| Event::StepStarted { step: number, name: name.to_owned() });
        Step { context: self, number, started: Instant::now(), ok: false }
    }

    /// Sends the last event; what other threads of the test say from then on is dropped.
    pub(crate) fn finish(&self, outcome: Outcome) {
        // Both under one lock, so that nothing comes between.
        if let Some(mut runner) = self.runner().take() {
            match outcome {
                Outcome::Passed => drop(runner.write_all(&PASSED)),
                outcome => send(&mut runner, Event::Finished(outcome)),
            }
        }
    }

    /// Sends an event to the runner, if there is one.
    fn tell(&self, event: impl FnOnce() -> Event) {
        if let Some(runner) = &mut *self.runner() {
            send(runner, event());
        }
    }

    fn runner(&self) -> MutexGuard<'_, Option<Socket>> {
        self.0.runner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends an event; the test must not fail where that cannot be done.
fn send(runner: &mut Socket, event: Event) {
    match event.into_frame().encode() {
        // A runner that is gone hears nothing.
        Ok(frame) => drop(runner.write_all(&frame)),
        Err(error) => eprintln!("etcdtest: left out, {error}"),
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Context")
            .field("test", &self.test())
            .field("environment", self.environment())
            .field("run", &self.run())
            .field("worker", &self.worker())
            .field("attempt", &self.attempt())
            .finish_non_exhaustive()
    }
}

/// A step that has not ended; one that is dropped so has failed.
struct Step<'a> {
    context: &'a Context,
    number: u32,
    started: Instant,
    ok: bool,
}

impl Step<'_> {
    fn finish<T>(mut self, value: &T) {
        self.ok = !is_err(value);
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        let (step, ok, duration) = (self.number, self.ok, self.started.elapsed());
        self.context.tell(|| Event::StepFinished { step, ok, duration });
    }
}

/// Whether a value of any type is a `Result` with an error. No bound can tell, as every
/// type must be allowed; the names of type and discriminant can. They are not promised to
/// stay as they are, and no more than the mark of a step hangs on them.
fn is_err<T>(value: &T) -> bool {
    type_name::<T>().starts_with("core::result::Result<")
        && format!("{:?}", discriminant(value)) == format!("{:?}", discriminant(&Err::<(), ()>(())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_err_is_an_err() {
        assert!(is_err(&Err::<String, Box<dyn std::error::Error>>("no".into())));
        assert!(is_err(&Err::<(), std::num::NonZeroU8>(std::num::NonZeroU8::MIN)));
        assert!(!is_err(&Ok::<String, u8>(String::new())));
        assert!(!is_err(&None::<Result<(), ()>>));
        assert!(!is_err(&Some(Err::<(), ()>(()))));
        assert!(!is_err(&()));
        assert!(!is_err(&"Err"));
    }
}
