//! Executes units: as many at once as there are lanes, each with its retries.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use etcdtest::protocol::{ENVIRONMENT_VARIABLE, SECRET_VARIABLES, Start};
use rustix::process::Pid;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::attempt::{Launch, Leave, Progress, Ran};
use super::claims::Claims;
use super::error::Result;
use super::events::{AttemptOutput, RunEvent, Unit};
use super::executed::Executed;
use super::lanes::{Lanes, Needs};
use super::policy::TestPolicy;
use super::recorder::{self, Dealt, LocksHeld, Request, Share};
use super::resources::while_held;
use super::run::without_tests;
use super::services::Supplied;
use super::work::Work;
use crate::config::{OutputWhen, PassOrFail};
use crate::environments::{Reservation, ReservationError};
use crate::model::{Attempt, Cancellation, Fence, Outcome, PlannedUnit, TestKind, UnitIndex, UnitResult};
use crate::testcases::{Binary, ListedTest};

/// After how long a resource is asked for again where the store did not answer.
const STORE_AWAY: Duration = Duration::from_secs(1);

/// Where events go. A display that went away is no reason to stop.
pub type EventSink = mpsc::UnboundedSender<RunEvent>;

/// A unit that waits for its next attempt, or is at it.
#[derive(Debug)]
struct Tried {
    index: UnitIndex,
    token: Fence,
    /// Its rules; none for one that is skipped without a try.
    rules: Option<TestPolicy>,
    /// Nothing else may be executed meanwhile.
    alone: bool,
    attempts: Vec<Attempt>,
    outputs: Vec<Arc<AttemptOutput>>,
}

/// What comes after a unit's turn.
#[derive(Debug)]
enum Next {
    /// It has its result.
    Done(Executed),
    /// It is tried again after a while.
    Again(Tried, Duration),
    /// It was stopped on the way: so it is as if it were not begun.
    Stopped(Tried),
    /// It was to come after another process, which did not end in time.
    NotYet(Tried),
}

/// What an attempt that is under way lets others begin.
#[derive(Clone, Copy, Debug)]
enum Opening {
    /// Its test is over: the lane is free.
    Lane,
    /// A process may come right after this one.
    After(Pid),
}

/// What came of waiting for the resource that a unit needs for itself.
enum Locked {
    /// It is the unit's, if it needs one.
    Held(Option<Box<Reservation>>),
    /// It was stopped meanwhile.
    Stopped,
    /// The store did not answer.
    NotYet,
}

/// Why a worker executes no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// No unit is left.
    Complete,
    /// The run was stopped.
    Stopped,
    /// This worker was told to leave.
    Left,
    /// The run's reservation was lost. Results since then are not stored.
    Lost,
}

/// Executes units until none is left, or the run is stopped or loses its reservation. Every
/// result that may be stored has been when it returns.
///
/// # Errors
/// What the store said, where it failed for good: results since then are not stored.
#[expect(clippy::too_many_lines, reason = "one loop over one state reads best in one piece")]
pub async fn execute(
    work: &Arc<Work>,
    claims: Claims,
    mut leave: watch::Receiver<Leave>,
    events: &EventSink,
) -> Result<(Claims, Ended)> {
    let patience = claims.membership().patience().clone();
    let (requests, inbox) = mpsc::unbounded_channel();
    let (outbox, mut dealt) = mpsc::unbounded_channel();
    let mut recorder = JoinSet::new();
    let journal = work.journal.clone();
    let share = Share { plan: work.plan.clone(), lanes: work.policy.lanes, journal };
    recorder.spawn(recorder::record(share, claims, inbox, outbox, events.clone()));
    // Attempts go as far as `leave` says, and no further once nothing can be recorded, or
    // the time of the run is over.
    let (mut say, mut hear) = watch::channel(*leave.borrow_and_update());

    let policy = &work.policy;
    let mut lanes = Lanes::new(policy.lanes, policy.resources.clone());
    let (mut attempts, mut waits) = (JoinSet::new(), JoinSet::new());
    let mut deadline = policy.global_timeout.map(|timeout| Instant::now() + timeout);
    let mut running = BTreeSet::new();
    let (mut asked, mut more, mut stopped, mut heard, mut failures) = (false, true, false, true, 0);
    let (mut lost, mut left) = (false, false);
    // Nothing is begun while it is not known whether the reservation is held.
    let mut suspended = false;
    let stop = |reason: String, ends_tests| {
        let _ = requests.send(Request::Stop(Cancellation { reason, ends_tests }));
    };
    let (open, mut openings) = mpsc::unbounded_channel();
    let attempt = |needs: Needs, unit: Tried, place: Place, leave: watch::Receiver<Leave>| {
        let (work, events, open) = (work.clone(), events.clone(), open.clone());
        async move {
            let given_back = AtomicBool::new(false);
            let on = |opening| {
                // Others share nothing but lanes, and have none if there is only one.
                let alone = needs != Needs::LANE || work.policy.show;
                match opening {
                    Opening::Lane if alone || work.policy.lanes.get() == 1 => return,
                    Opening::Lane => given_back.store(true, Ordering::Relaxed),
                    Opening::After(_) if alone || work.reservation.is_some() => return,
                    Opening::After(_) => {}
                }
                let _ = open.send(opening);
            };
            let next = unit.attempt(&work, place, leave, &events, on).await;
            (Some(needs).filter(|_| !given_back.into_inner()), next)
        }
    };
    loop {
        // A run is cancelled only where something is left that will not run.
        if !stopped && policy.max_fail.is_reached(failures) && lanes.waiting().any(Tried::is_fresh) {
            stopped = true;
            let reason =
                if failures == 1 { "a test failed".into() } else { format!("{failures} tests failed") };
            stop(reason, false);
        }
        // Before anything else begins: this process may have been stopped for long.
        if !lost && !suspended && work.has_lost_reservation() {
            suspended = true;
            // Whoever has the environment now is not to be disturbed by a clean end.
            say.send_if_modified(|now| raise(now, Leave::ToDie));
        }
        if *hear.borrow() > Leave::ToFinish && !stopped && !suspended {
            (left, stopped) = (true, true);
            let _ = requests.send(Request::Leave);
        }
        if stopped {
            lanes.retain(|unit| !unit.is_fresh());
        }
        if *hear.borrow() > Leave::ToFinish && !suspended {
            lanes.retain(|_| false);
            waits.abort_all();
        }
        while !suspended && let Some((needs, unit)) = lanes.begin() {
            running.insert(unit.index);
            let more = unit.binary(work).is_some_and(|binary| {
                lanes.waiting().any(|next| next.binary(work).is_some_and(|other| std::ptr::eq(other, binary)))
            });
            attempts.spawn(attempt(needs, unit, Place { more, after: None }, hear.clone()));
        }
        let few = lanes.is_idle() || lanes.waiting().len() < policy.lanes.get();
        if !stopped && !suspended && more && !asked && few {
            asked = requests.send(Request::Claim { running: running.iter().copied().collect() }).is_ok();
            more = asked;
        }
        let idle = attempts.is_empty() && waits.is_empty() && lanes.waiting().len() == 0;
        patience.set_busy(!idle);
        if idle && !suspended && (stopped || !more) {
            break;
        }
        tokio::select! {
            Some(joined) = attempts.join_next() => {
                let (needs, next) =
                    joined.unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic()));
                if let Some(needs) = needs {
                    lanes.give_back(&needs);
                }
                match next {
                    Next::Stopped(unit) => {
                        running.remove(&unit.index);
                        if suspended && !stopped {
                            lanes.push_first(unit.needs(work), unit);
                        }
                    }
                    Next::NotYet(unit) => {
                        running.remove(&unit.index);
                        lanes.push_first(unit.needs(work), unit);
                    }
                    Next::Again(unit, Duration::ZERO) => lanes.push_first(unit.needs(work), unit),
                    Next::Again(unit, wait) => {
                        waits.spawn(async move {
                            sleep(wait).await;
                            unit
                        });
                    }
                    Next::Done(executed) => {
                        running.remove(&executed.result.unit);
                        failures += u32::from(executed.result.outcome.is_failure());
                        // A recorder that has ended says why when it is joined.
                        let _ = requests.send(Request::Store(executed));
                    }
                }
            }
            // Processes that never end would else become more and more.
            Some(opening) = openings.recv(), if attempts.len() < policy.lanes.get() * 2 => match opening {
                Opening::Lane => lanes.give_back(&Needs::LANE),
                Opening::After(first) => {
                    let follows = |next: &Tried| next.may_follow(work);
                    if !stopped
                        && !suspended
                        && lanes.waiting().len() > policy.lanes.get()
                        && let Some((needs, unit)) = lanes.begin_early(follows)
                    {
                        running.insert(unit.index);
                        attempts.spawn(attempt(needs, unit, Place { more: false, after: Some(first) }, hear.clone()));
                    }
                }
            },
            Some(waited) = waits.join_next() => {
                // One that was told to leave waits no longer.
                if let Ok(unit) = waited {
                    lanes.push_first(unit.needs(work), unit);
                }
            }
            answer = dealt.recv(), if heard => {
                match answer {
                    Some(Dealt::Units(units, fence)) => {
                        asked = false;
                        for unit in units.into_iter().map(|index| Tried::new(work, index, fence)) {
                            lanes.push(unit.needs(work), unit);
                        }
                    }
                    Some(Dealt::Alone(unit, fence)) => {
                        asked = false;
                        let unit = Tried { alone: true, ..Tried::new(work, unit, fence) };
                        lanes.push(unit.needs(work), unit);
                    }
                    Some(Dealt::Withdrawn(units)) => {
                        lanes.retain(|unit| !units.contains(&unit.index));
                    }
                    Some(Dealt::NoMore) => (asked, more) = (false, false),
                    Some(Dealt::Cancelled { ends_tests }) => {
                        (asked, stopped) = (false, true);
                        if ends_tests {
                            say.send_if_modified(|now| raise(now, Leave::ToEnd));
                        }
                    }
                    None => {
                        // What is still being executed would be for nothing.
                        (heard, stopped) = (false, true);
                        say.send_if_modified(|now| raise(now, Leave::ToEnd));
                    }
                }
            }
            Ok(()) = leave.changed() => {
                say.send_if_modified(|now| raise(now, *leave.borrow_and_update()));
            }
            () = work.reservation_lost(), if !lost && !suspended => {}
            held = work.is_reserved_after_all(), if suspended && attempts.is_empty() => {
                suspended = false;
                if held {
                    // Others kept it, while this process was stopped or cut off.
                    (say, hear) = watch::channel(*leave.borrow_and_update());
                } else {
                    (lost, stopped) = (true, true);
                    stop("its reservation was lost".into(), true);
                }
            }
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                deadline = None;
                stopped = true;
                let timeout = policy.global_timeout.unwrap_or_default();
                stop(format!("its time of {} is over", humantime::format_duration(timeout)), true);
                say.send_if_modified(|now| raise(now, Leave::ToEnd));
            }
        }
    }
    drop(requests);
    let the_rest = async {
        work.supply.stop(&hear).await;
        work.launcher.close().await;
        let claims = recorder.join_next().await.expect("it was spawned");
        claims.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    };
    let (claims, LocksHeld(held)) = without_tests(&leave, &work.run, the_rest).await?;
    let ended = match (lost || !held, left, stopped) {
        (true, _, _) => Ended::Lost,
        (false, true, _) => Ended::Left,
        (false, false, true) => Ended::Stopped,
        (false, false, false) => Ended::Complete,
    };
    Ok((claims, ended))
}

/// Raises to what is said, and says whether that was a change.
fn raise(now: &mut Leave, said: Leave) -> bool {
    let raised = said > *now;
    *now = said.max(*now);
    raised
}

impl Tried {
    /// A unit that was dealt, before its first attempt.
    fn new(work: &Work, index: UnitIndex, token: Fence) -> Self {
        let planned = work.plan.unit(index).filter(|planned| planned.skip.is_none());
        let test = planned.and_then(|planned| work.tests.get(&planned.test));
        let rules = test.map(|test| work.policy.of(test));
        Self { index, token, rules, alone: false, attempts: Vec::new(), outputs: Vec::new() }
    }

    /// The same as it was dealt, for one that was stopped on the way.
    fn anew(&self, work: &Work) -> Self {
        Self { alone: self.alone, ..Self::new(work, self.index, self.token) }
    }

    /// The same with its rules, for one that comes to another turn.
    fn with(self, rules: TestPolicy) -> Self {
        Self { rules: Some(rules), ..self }
    }

    /// Waits until no other machine uses the resource that it needs for itself.
    ///
    /// # Errors
    /// In words, where it will never be its turn.
    async fn lock(
        &self,
        work: &Work,
        rules: &TestPolicy,
        leave: watch::Receiver<Leave>,
    ) -> std::result::Result<Locked, String> {
        let Some(resource) = &rules.exclusive else { return Ok(Locked::Held(None)) };
        let capacity = work.policy.resources.get(resource).copied().unwrap_or(NonZeroUsize::MIN);
        match work.resources.lock(resource, capacity, self.index, leave).await {
            Ok(Some(lock)) => Ok(Locked::Held(Some(Box::new(lock)))),
            Ok(None) => Ok(Locked::Stopped),
            Err(ReservationError::Store(error)) if error.is_transient() => Ok(Locked::NotYet),
            Err(error) => Err(format!("the resource `{resource}` cannot be locked: {error}")),
        }
    }

    /// Whether nothing was tried yet.
    fn is_fresh(&self) -> bool {
        self.attempts.is_empty()
    }

    fn needs(&self, work: &Work) -> Needs {
        let Some(rules) = &self.rules else { return Needs::default() };
        let threads = if self.alone { work.policy.lanes.get() } else { rules.threads };
        Needs { threads, resource: rules.exclusive.clone() }
    }

    /// The binary that its test is in.
    fn binary<'a>(&self, work: &'a Work) -> Option<&'a Binary> {
        let planned = work.plan.unit(self.index)?;
        work.tests.get(&planned.test).map(|test| &*test.binary)
    }

    /// Whether its process may be started as that of another one ends, by whoever sees that
    /// first.
    fn may_follow(&self, work: &Work) -> bool {
        let planned = work.plan.unit(self.index);
        let test = planned.and_then(|planned| Some((planned, work.tests.get(&planned.test)?)));
        self.is_fresh()
            && test.is_some_and(|(planned, test)| {
                test.code.kind == TestKind::Plain && !work.supply.has_own_services(&planned.environment)
            })
    }

    /// The next attempt, in its place among others. `on` hears what it lets others begin.
    async fn attempt(
        mut self,
        work: &Work,
        place: Place,
        leave: watch::Receiver<Leave>,
        events: &EventSink,
        on: impl Fn(Opening),
    ) -> Next {
        let index = self.index;
        let Some(planned) = work.plan.unit(index) else { return Next::Stopped(self) };
        let unit = Unit::new(index, planned);
        let (Some(rules), Some(test)) = (self.rules.take(), work.tests.get(&planned.test)) else {
            return match planned.skip.clone() {
                Some(reason) => {
                    let rules = OutputWhen::Never;
                    Next::Done(self.done(work, unit, Outcome::Skipped, Some(reason), rules, events))
                }
                None => Next::Stopped(self),
            };
        };
        let number = u32::try_from(self.attempts.len()).unwrap_or(u32::MAX).saturating_add(1);
        let lock = match self.lock(work, &rules, leave.clone()).await {
            Ok(Locked::Held(lock)) => Ok(lock),
            Ok(Locked::Stopped) => return Next::Stopped(self.anew(work)),
            // Whether that ends the run, its recorder says.
            Ok(Locked::NotYet) => return Next::Again(self.with(rules), STORE_AWAY),
            Err(reason) => Err(reason),
        };
        let begin = || {
            let _ = events.send(RunEvent::AttemptStarted { unit: unit.clone(), attempt: number });
        };
        if place.after.is_none() {
            begin();
        }
        let on = |progress| match progress {
            Progress::Started(process) => {
                if place.after.is_some() {
                    begin();
                }
                if test.code.kind == TestKind::Plain {
                    on(Opening::After(process));
                }
            }
            Progress::Slow(elapsed) => {
                let _ = events.send(RunEvent::Slow { unit: unit.clone(), elapsed });
            }
            Progress::Passed => on(Opening::Lane),
        };
        let ran = match &lock {
            Err(reason) => {
                let attempt =
                    Attempt { message: Some(reason.clone()), ..Attempt::begun(number, Outcome::Failed) };
                Ran::ToItsEnd(Box::new((attempt, AttemptOutput::default())))
            }
            Ok(None) => {
                execute_attempt(work, planned, test, &rules, self.token, number, place, &leave, on).await
            }
            Ok(Some(lock)) => {
                let (say, hear) = watch::channel(*leave.borrow());
                let ran = execute_attempt(work, planned, test, &rules, self.token, number, place, &hear, on);
                while_held(lock, ran, leave.clone(), say).await
            }
        };
        if let Ok(Some(lock)) = lock {
            let lost = lock.is_lost();
            lock.release().await;
            // Somebody else may have used it at the same time: so this says nothing.
            if lost && *leave.borrow() == Leave::ToFinish {
                return Next::Again(self.with(rules), Duration::ZERO);
            }
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

/// An attempt's place among others.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Others of its binary are to follow.
    more: bool,
    /// It comes after this process, the moment that this one has ended with success.
    after: Option<Pid>,
}

/// One attempt in its environment, with services of its own where it has such.
#[expect(clippy::too_many_arguments, reason = "an attempt is where all of these meet")]
async fn execute_attempt(
    work: &Work,
    planned: &PlannedUnit,
    test: &ListedTest,
    rules: &TestPolicy,
    token: Fence,
    number: u32,
    place: Place,
    leave: &watch::Receiver<Leave>,
    on: impl Fn(Progress),
) -> Ran {
    let mut leaving = leave.clone();
    let supplied = tokio::select! {
        supplied = work.supply.for_attempt(&planned.environment) => supplied,
        Ok(_) = leaving.wait_for(|leave| *leave > Leave::ToFinish) => return Ran::Stopped,
    };
    let supplied = match supplied {
        Some(Ok(supplied)) => supplied,
        Some(Err(reason)) => {
            let attempt = Attempt { message: Some(reason), ..Attempt::begun(number, Outcome::Failed) };
            return Ran::ToItsEnd(Box::new((attempt, AttemptOutput::default())));
        }
        None => return Ran::Stopped,
    };
    let launch = launch(work, &supplied, test, rules, token, number, place);
    let mut ran = launch.run(&work.launcher, leave.clone(), on).await;
    if let Ran::ToItsEnd(ended) = &mut ran
        && ended.0.outcome.is_failure()
    {
        ended.1.services = supplied.logs().await;
    }
    supplied.stop(leave).await;
    ran
}

/// The process of one attempt.
fn launch(
    work: &Work,
    supplied: &Supplied,
    test: &ListedTest,
    rules: &TestPolicy,
    token: Fence,
    attempt: u32,
    place: Place,
) -> Launch {
    let mut command = test.binary.command();
    match test.code.kind {
        // How it is spoken to depends on how it is started.
        TestKind::Annotated => {}
        TestKind::Plain => {
            // How many threads one test needs is nothing that each process has to look for; said
            // to be one, its name would stand in front of what it prints.
            command.args([&test.id.test, "--exact", "--nocapture", "--test-threads=2"]);
            if test.code.ignore.is_some() {
                command.arg("--include-ignored");
            }
            for (name, value) in &supplied.secrets.0 {
                command.env(format!("{SECRET_VARIABLES}{name}"), value);
            }
        }
    }
    if let Some(file) = &supplied.file {
        command.env(ENVIRONMENT_VARIABLE, file);
    }
    let start = Start {
        test: test.id.test.clone(),
        environment: supplied.environment.clone(),
        run: work.run.to_string(),
        worker: work.worker.to_string(),
        attempt,
        token: token.0,
        // Neither a code that programs like to exit with, nor one that a shell gives a meaning.
        exit_code: fastrand::i32(30..100),
    };
    Launch {
        command,
        kind: test.code.kind,
        start,
        timeout: rules.timeout,
        grace: rules.grace,
        slow: rules.slow,
        show: work.policy.show,
        more: place.more,
        after: place.after,
    }
}
