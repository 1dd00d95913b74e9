//! A unit on its way: its attempts, one after the other, until it has a result.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use etcdtest::protocol::{ATTEMPT_VARIABLE, ENVIRONMENT_VARIABLE, SECRET_VARIABLES, Start};
use rustix::process::Pid;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::attempt::{Launch, Leave, Progress, Ran, told};
use super::events::{AttemptOutput, EventSink, RunEvent, Unit};
use super::executed::Executed;
use super::lanes::Needs;
use super::policy::TestPolicy;
use super::process::Program;
use super::resources::{Asked, while_held};
use super::services::Supplied;
use super::work::{Seat, Work};
use crate::config::{OutputWhen, PassOrFail};
use crate::environments::{Reservation, ReservationError};
use crate::model::{Attempt, Fence, Outcome, Place, TestKind, UnitIndex, UnitResult};
use crate::testcases::{Binary, ListedTest};

/// How long a unit that asks for a resource keeps its lane while others have it.
const AT_ONCE: Duration = Duration::from_secs(1);
/// After how long a resource is asked for again where the store did not answer.
const STORE_AWAY: Duration = Duration::from_secs(1);
/// A test that is over sooner than this ends before whoever comes after it has to be given up.
const SHORT: Duration = Duration::from_millis(10);

/// A unit that waits for its next attempt, or is at it.
#[derive(Debug)]
pub(super) struct Tried {
    pub(super) index: UnitIndex,
    token: Fence,
    /// Its rules; none for one that is skipped without a try.
    rules: Option<TestPolicy>,
    /// The place of its test among all, and the binary that this is in.
    test: Option<usize>,
    binary: Option<Arc<Binary>>,
    /// The process of its first attempt may be started as that of another one ends, by whoever sees
    /// that first.
    may_follow: bool,
    /// Nothing else may be executed meanwhile.
    alone: bool,
    attempts: Vec<Attempt>,
    outputs: Vec<Arc<AttemptOutput>>,
    /// The resource that it needs for itself, from when it asks for it to the end of its attempt.
    lock: Option<Asked>,
    /// It was told that it waits for its resource.
    has_waited: bool,
}

/// What comes after a unit's turn.
#[derive(Debug)]
pub(super) enum Next {
    /// It has its result.
    Done(Executed),
    /// It is tried again after a while.
    Again(Tried, Duration),
    /// It was stopped on the way: so it is as if it were not begun.
    Stopped(Tried),
    /// It was to come after another process, which did not end in time.
    NotYet(Tried),
    /// Others have the resource that it needs: its lane is for others until they have not.
    Waits(Tried),
}

/// What an attempt that is under way lets others begin.
#[derive(Clone, Copy, Debug)]
pub(super) enum Opening {
    /// Its test is over: the lane is free.
    Lane,
    /// A process may come right after this one.
    After(Pid),
}

/// Whether a unit has the resource that it needs for itself.
enum Locked {
    /// It has it, if it needs one.
    Held(Option<Arc<Reservation>>),
    /// Others have it.
    Waits,
    /// The unit was stopped meanwhile.
    Stopped,
    /// The store did not answer.
    StoreAway,
    /// It will never be its turn; why, in words.
    Never(String),
}

/// An attempt's turn among others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    /// So many others of its binary are to follow, as far as is known.
    pub(super) more: usize,
    /// It comes after this process, the moment that this one has ended with success.
    pub(super) after: Option<Pid>,
}

impl Tried {
    /// A unit that was dealt, before its first attempt.
    pub(super) fn new(work: &Work, index: UnitIndex, token: Fence) -> Self {
        let planned = work.plan.unit(index).filter(|planned| planned.skip.is_none());
        let place = planned.and_then(|planned| work.tests.place(&planned.test));
        let test = place.map(|place| &work.tests[place].test);
        let rules = test.map(|test| work.policy.of(test));
        Self {
            index,
            token,
            rules,
            test: place,
            binary: test.map(|test| Arc::clone(&test.binary)),
            may_follow: test.is_some_and(|test| test.code.kind == TestKind::Plain)
                && planned.is_some_and(|planned| !work.supply.has_own_services(&planned.environment)),
            alone: false,
            attempts: Vec::new(),
            outputs: Vec::new(),
            lock: None,
            has_waited: false,
        }
    }

    /// One during which nothing else may be executed.
    pub(super) fn alone(work: &Work, index: UnitIndex, token: Fence) -> Self {
        Self { alone: true, ..Self::new(work, index, token) }
    }

    /// The same as it was dealt, for one that was stopped on the way.
    fn anew(&self, work: &Work) -> Self {
        let Self { alone, has_waited, .. } = *self;
        Self { alone, has_waited, ..Self::new(work, self.index, self.token) }
    }

    /// The same with its rules, for one that comes to another turn.
    fn with(self, rules: TestPolicy) -> Self {
        Self { rules: Some(rules), ..self }
    }

    /// Asks for the resource that it needs for itself, if it needs one and has not asked before.
    /// What it gives sees to the lock until nothing of the unit wants it any more; `decided`
    /// hears when it is clear whether it is held.
    pub(super) fn ask(
        &mut self,
        work: &Work,
        decided: &mpsc::UnboundedSender<UnitIndex>,
    ) -> Option<impl Future<Output = ()> + Send + use<>> {
        let resource = self.rules.as_ref()?.exclusive.as_ref().filter(|_| self.lock.is_none())?;
        let test = &work.plan.unit(self.index)?.test;
        let capacity = work.policy.resources.get(resource).copied().unwrap_or(NonZeroUsize::MIN);
        let (index, decided) = (self.index, decided.clone());
        let tell = move || {
            // A worker that has ended waits for nothing.
            let _ = decided.send(index);
        };
        let why = format!("{test} in run {}", work.run);
        let (asked, lock) = work.resources.ask(resource, capacity, (index, self.token), why, tell);
        self.lock = Some(asked);
        Some(lock)
    }

    /// Waits for the resource that it has asked for, but not for long.
    async fn locked(
        &mut self,
        unit: &Unit,
        rules: &TestPolicy,
        mut leave: watch::Receiver<Leave>,
        events: &EventSink,
    ) -> Locked {
        let (Some(asked), Some(resource)) = (&mut self.lock, &rules.exclusive) else {
            return Locked::Held(None);
        };
        let answer = tokio::select! {
            biased;
            () = told(&mut leave, Leave::ToEnd) => return Locked::Stopped,
            answer = timeout(AT_ONCE, asked.decided()) => answer,
        };
        match answer {
            Ok(Ok(lock)) => Locked::Held(Some(lock)),
            Ok(Err(error)) => match &*error {
                ReservationError::Store(error) if error.is_transient() => Locked::StoreAway,
                error => Locked::Never(format!("the resource `{resource}` cannot be locked: {error}")),
            },
            Err(_) => {
                if !std::mem::replace(&mut self.has_waited, true) {
                    let (unit, resource, waiting) = (unit.clone(), resource.clone(), asked.waiting());
                    let _ = events.send(RunEvent::ResourceWaiting { unit, resource, waiting });
                }
                Locked::Waits
            }
        }
    }

    /// Whether it is clear by now if it has the resource that it has asked for.
    pub(super) fn is_decided(&self) -> bool {
        self.lock.as_ref().is_none_or(Asked::is_decided)
    }

    /// Whether it has to be announced before it begins.
    pub(super) fn is_announced(&self) -> bool {
        self.alone
    }

    /// Whether nothing was tried yet.
    pub(super) fn is_fresh(&self) -> bool {
        self.attempts.is_empty()
    }

    pub(super) fn needs(&self, work: &Work) -> Needs {
        let Some(rules) = &self.rules else { return Needs::default() };
        let threads = if self.alone { work.policy.lanes.get() } else { rules.threads };
        Needs { threads, resource: rules.exclusive.clone() }
    }

    /// Whether the tests of both are in one binary.
    pub(super) fn shares_binary(&self, other: &Self) -> bool {
        self.binary.as_ref().zip(other.binary.as_ref()).is_some_and(|(one, other)| Arc::ptr_eq(one, other))
    }

    /// Whether its process may be started as that of another one ends, by whoever sees that
    /// first.
    pub(super) fn may_follow(&self) -> bool {
        self.is_fresh() && self.may_follow
    }

    /// The next attempt, in its place among others. `on` hears what it lets others begin.
    pub(super) async fn attempt(
        mut self,
        work: &Work,
        seat: Seat,
        turn: Turn,
        leave: watch::Receiver<Leave>,
        events: &EventSink,
        on: impl Fn(Opening),
    ) -> Next {
        let index = self.index;
        let Some(planned) = work.plan.unit(index) else { return Next::Stopped(self) };
        let unit = Unit::new(index, planned);
        let test = self.test.map(|place| &work.tests[place].test);
        let (Some(rules), Some(test)) = (self.rules.take(), test) else {
            return match planned.skip.clone() {
                Some(reason) => {
                    let rules = OutputWhen::Never;
                    Next::Done(self.done(work, unit, Outcome::Skipped, Some(reason), rules, events))
                }
                None => Next::Stopped(self),
            };
        };
        let number = u32::try_from(self.attempts.len()).unwrap_or(u32::MAX).saturating_add(1);
        let lock = match self.locked(&unit, &rules, leave.clone(), events).await {
            Locked::Held(lock) => Ok(lock),
            Locked::Waits => return Next::Waits(self.with(rules)),
            Locked::Stopped => return Next::Stopped(self.anew(work)),
            // Whether that ends the run, its recorder says.
            Locked::StoreAway => {
                self.lock = None;
                return Next::Again(self.with(rules), STORE_AWAY);
            }
            Locked::Never(reason) => Err(reason),
        };
        let begin = || {
            let _ = events.send(RunEvent::AttemptStarted { unit: unit.clone(), attempt: number });
        };
        if turn.after.is_none() {
            begin();
        }
        let on = |progress| match progress {
            Progress::Started(process) => {
                if turn.after.is_some() {
                    begin();
                }
                // Whoever comes after a long one would only wait for it in vain.
                let is_short = planned.estimate.is_some_and(|estimate| estimate < SHORT);
                if is_short && test.code.kind == TestKind::Plain {
                    on(Opening::After(process));
                }
            }
            Progress::Slow(elapsed) => {
                let _ = events.send(RunEvent::Slow { unit: unit.clone(), elapsed });
            }
            Progress::Passed => on(Opening::Lane),
        };
        let (ran, lost) = match &lock {
            Err(reason) => (failed(number, reason.clone(), None), false),
            Ok(None) => {
                let ran =
                    execute_attempt(work, &seat, &unit, test, &rules, self.token, number, turn, &leave, on);
                (ran.await, false)
            }
            Ok(Some(lock)) => {
                let (say, hear) = watch::channel(*leave.borrow());
                let ran =
                    execute_attempt(work, &seat, &unit, test, &rules, self.token, number, turn, &hear, on);
                while_held(lock, ran, leave.clone(), say).await
            }
        };
        self.lock = None;
        if lost {
            return self.unlocked(work, rules, *leave.borrow());
        }
        let (mut attempt, output) = match ran {
            Ran::ToItsEnd(attempt) => *attempt,
            Ran::Stopped => return Next::Stopped(self.anew(work)),
            Ran::NotYet => {
                self.rules = Some(rules);
                return Next::NotYet(self);
            }
        };
        if attempt.leaky && attempt.outcome == Outcome::Passed && rules.leaky_result == PassOrFail::Fail {
            attempt.outcome = Outcome::Failed;
            attempt.message = Some("it left processes behind, and leaky tests count as failed".into());
        }
        let output = Arc::new(output);
        self.outputs.push(output.clone());
        self.attempts.push(attempt.clone());

        let of = rules.retries.count.saturating_add(1);
        if attempt.outcome.is_failure() && number < of {
            let wait = rules.retries.wait(number, fastrand::f64());
            let shown = rules.failure_output;
            let _ = events.send(RunEvent::AttemptFailed { unit, attempt, output, of, wait, shown });
            self.rules = Some(rules);
            return Next::Again(self, wait);
        }
        let mut outcome = attempt.outcome;
        if outcome == Outcome::Passed && number > 1 && rules.flaky_result == PassOrFail::Fail {
            outcome = Outcome::Failed;
            if let Some(last) = self.attempts.last_mut() {
                last.message =
                    Some(format!("it passed only at attempt {number}, and flaky tests count as failed"));
            }
        }
        let reason = attempt.message.filter(|_| outcome == Outcome::Skipped);
        let shown = if outcome.is_failure() { rules.failure_output } else { rules.success_output };
        Next::Done(self.done(work, unit, outcome, reason, shown, events))
    }

    /// What comes after an attempt whose lock was lost: somebody else may have used the resource at
    /// the same time, so it says nothing.
    fn unlocked(self, work: &Work, rules: TestPolicy, leave: Leave) -> Next {
        match leave {
            Leave::ToFinish => Next::Again(self.with(rules), Duration::ZERO),
            Leave::ToEnd | Leave::ToDie | Leave::ToQuit => Next::Stopped(self.anew(work)),
        }
    }

    /// The unit with its result, which is announced once it is kept.
    fn done(
        self,
        work: &Work,
        unit: Unit,
        outcome: Outcome,
        reason: Option<String>,
        shown: OutputWhen,
        events: &EventSink,
    ) -> Executed {
        let Self { index, token, attempts, outputs, .. } = self;
        let worker = work.worker.clone();
        let result = UnitResult { unit: index, outcome, reason, attempts, worker, token };
        let executed = Executed::new(&work.run, work.policy.store_output, result.clone(), &outputs);
        executed.keep(work.journal.as_deref(), events);
        let output = outputs.last().cloned().unwrap_or_default();
        let _ = events.send(RunEvent::Finished { unit, result, output, shown });
        executed
    }
}

/// One attempt in its environment, with services of its own where it has such.
#[expect(clippy::too_many_arguments, reason = "an attempt is where all of these meet")]
async fn execute_attempt(
    work: &Work,
    seat: &Seat,
    unit: &Unit,
    test: &ListedTest,
    rules: &TestPolicy,
    token: Fence,
    number: u32,
    turn: Turn,
    leave: &watch::Receiver<Leave>,
    on: impl Fn(Progress),
) -> Ran {
    let mut leaving = leave.clone();
    let supplied = tokio::select! {
        supplied = work.supply.for_attempt(&unit.environment) => supplied,
        Ok(_) = leaving.wait_for(|leave| *leave > Leave::ToFinish) => return Ran::Stopped,
    };
    let supplied = match supplied {
        Some(Ok(supplied)) => supplied,
        Some(Err(reason)) => return failed(number, reason, Some(seat.place())),
        None => return Ran::Stopped,
    };
    let launch = launch(work, seat, unit, &supplied, test, rules, token, number, turn);
    let mut ran = launch.run(&work.launcher, leave.clone(), on).await;
    if let Ran::ToItsEnd(ended) = &mut ran
        && ended.0.outcome.is_failure()
    {
        ended.1.services = supplied.logs().await;
    }
    supplied.stop(leave).await;
    ran
}

/// An attempt that failed before there was a process.
fn failed(number: u32, message: String, place: Option<Place>) -> Ran {
    let attempt = Attempt { message: Some(message), place, ..Attempt::begun(number, Outcome::Failed) };
    Ran::ToItsEnd(Box::new((attempt, AttemptOutput::default())))
}

/// The process of one attempt.
#[expect(clippy::too_many_arguments, reason = "an attempt is where all of these meet")]
fn launch(
    work: &Work,
    seat: &Seat,
    unit: &Unit,
    supplied: &Supplied,
    test: &ListedTest,
    rules: &TestPolicy,
    token: Fence,
    attempt: u32,
    turn: Turn,
) -> Launch {
    let start = Start {
        test: test.id.test.clone(),
        environment: supplied.environment.clone(),
        run: work.run.to_string(),
        unit: unit.index.0,
        worker: work.worker.to_string(),
        attempt,
        token: token.0,
        // Neither a code that programs like to exit with, nor one that a shell gives a meaning.
        exit_code: fastrand::i32(30..100),
    };
    let mut program = Program::new(Arc::clone(&test.binary));
    match test.code.kind {
        // How it is spoken to depends on how it is started; it names the attempt itself.
        TestKind::Annotated => {}
        TestKind::Plain => {
            // How many threads one test needs is nothing that each process has to look for; said
            // to be one, its name would stand in front of what it prints.
            program = program.arg(&test.id.test).arg("--exact").arg("--nocapture").arg("--test-threads=2");
            if test.code.ignore.is_some() {
                program = program.arg("--include-ignored");
            }
            program = program.env(ATTEMPT_VARIABLE, start.id());
            for (name, value) in &supplied.secrets.0 {
                program = program.env(format!("{SECRET_VARIABLES}{name}"), value);
            }
        }
    }
    if let Some(file) = &supplied.file {
        program = program.env(ENVIRONMENT_VARIABLE, file);
    }
    Launch {
        program,
        kind: test.code.kind,
        start,
        timeout: rules.timeout,
        grace: rules.grace,
        slow: rules.slow,
        show: work.policy.show,
        more: turn.more,
        after: turn.after,
        seat: seat.clone(),
    }
}
