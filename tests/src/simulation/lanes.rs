//! The lanes of a worker, in which units are executed.

use std::collections::{BTreeSet, VecDeque};
use std::num::NonZeroUsize;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use cargo_etcdtest::environments::{Reservation, ReservationError};
use cargo_etcdtest::execution::{
    Dealt, Ended, EventSink, Executed, Journal, Leave, Plan, Request, Resources, while_held,
};
use cargo_etcdtest::model::{
    Attempt, Cancellation, Fence, Outcome, StoredOutput, UnitIndex, UnitResult, WorkerId,
};
use cargo_etcdtest::store::encode_output;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use super::job::{Job, Resource};
use super::judge::{Promise, Wrong};
use super::machine::Machine;
use super::said::Said;
use super::slots::{Slots, Wanted};
use super::trial::{LOCK_LOST, World};
use super::uses::{self, Use};
use super::worker::Fate;

/// A worker that executes units.
pub(super) struct Lanes<'a> {
    pub(super) world: &'a World,
    pub(super) machine: &'a Arc<Machine>,
    pub(super) job: &'a Job,
    pub(super) plan: &'a Plan,
    pub(super) count: NonZeroUsize,
    pub(super) resources: Resources,
    pub(super) slots: Slots,
    pub(super) journal: Option<&'a Journal>,
    pub(super) events: &'a EventSink,
}

/// A unit that was dealt.
#[derive(Debug)]
struct Unit {
    index: UnitIndex,
    token: Fence,
    /// How many lanes it takes: all, where it is executed alone.
    lanes: usize,
    /// The attempts at it until now.
    attempts: Vec<Attempt>,
    /// What it has asked for, if it needs something for itself.
    wanted: Option<Wanted>,
}

/// What came of a unit's turn.
#[derive(Debug)]
enum Next {
    Done(Executed),
    /// It is tried again: it failed for the first time, or its lock was lost on the way.
    Again,
    /// It was told to end.
    Stopped,
}

impl Lanes<'_> {
    /// Executes what is dealt, until there is no more.
    pub(super) async fn work(
        self,
        requests: mpsc::UnboundedSender<Request>,
        mut dealt: mpsc::UnboundedReceiver<Dealt>,
        fate: &Fate,
    ) -> Ended {
        let mut waiting: VecDeque<Unit> = VecDeque::new();
        let mut attempts = FuturesUnordered::new();
        // The locks of units until they are given up, and those units that wait for one.
        let (mut locks, mut asking) = (FuturesUnordered::new(), FuturesUnordered::new());
        // What is said to be executed: what waits for its resource may be, any moment.
        let (mut running, mut said) = (BTreeSet::new(), Said::default());
        let (mut asked, mut more, mut stopped, mut heard) = (false, true, false, true);
        let (mut used, mut later, mut failures, mut ended) = (0, false, 0, Ended::Complete);
        let mut leaves = pin!(sleep(fate.leaves.unwrap_or(Duration::MAX)));
        loop {
            if stopped {
                waiting.clear();
            }
            while let Some(mut unit) = self.next(&mut waiting, used) {
                running.insert(unit.index);
                if let Some(lock) = self.ask(&mut unit) {
                    locks.push(lock);
                    asking.push(decided(unit, said.hear()));
                } else {
                    used += unit.lanes;
                    attempts.push(self.attempt(unit, said.hear()));
                }
            }
            let idle = self.count.get().saturating_sub(used);
            if !stopped && more && !asked && waiting.len() < self.count.get() && (idle > 0 || !later) {
                let running = running.iter().copied().collect();
                asked = requests.send(Request::Claim { running, idle }).is_ok();
                more = asked;
            }
            let done = attempts.is_empty() && asking.is_empty() && waiting.is_empty();
            if done && (stopped || !more) {
                // What is under way to it meanwhile it never hears.
                sleep(Duration::from_millis(fastrand::u64(..20))).await;
                drop(requests);
                while locks.next().await.is_some() {}
                return ended;
            }
            tokio::select! {
                biased;
                Some((unit, next)) = attempts.next() => {
                    let unit: Unit = unit;
                    used -= unit.lanes;
                    later = false;
                    match next {
                        Next::Done(executed) => {
                            running.remove(&unit.index);
                            failures += u32::from(executed.result.outcome.is_failure());
                            // A recorder that has ended says why itself.
                            let _ = requests.send(Request::Store(executed));
                        }
                        Next::Again => waiting.push_front(unit),
                        Next::Stopped => drop(running.remove(&unit.index)),
                    }
                    if !stopped && self.job.max_fail.is_some_and(|most| failures >= most) {
                        (stopped, ended) = (true, Ended::Stopped);
                        let (reason, ends_tests) = ("a test failed".into(), false);
                        let _ = requests.send(Request::Stop(Cancellation { reason, ends_tests }));
                    }
                }
                Some(()) = locks.next() => {}
                Some((unit, error)) = asking.next() => match error.as_deref() {
                    None => waiting.push_front(unit),
                    Some(ReservationError::Interrupted { .. }) => drop(running.remove(&unit.index)),
                    Some(error) => {
                        let how = format!("{} cannot lock: {error}", self.machine.name());
                        self.world.tell(Wrong::new(Promise::Ends, how));
                    }
                },
                answer = dealt.recv(), if heard => match answer {
                    Some(Dealt::Units(units, token)) => {
                        asked = false;
                        waiting.extend(units.into_iter().map(|index| Unit::new(index, token, 1)));
                    }
                    Some(Dealt::Alone(index, token)) => {
                        asked = false;
                        waiting.push_back(Unit::new(index, token, self.count.get()));
                    }
                    Some(Dealt::Withdrawn(units)) => waiting.retain(|unit| !units.contains(&unit.index)),
                    Some(Dealt::Unneeded) if fate.while_needed => {
                        (asked, more, ended) = (false, false, Ended::Unneeded);
                    }
                    Some(Dealt::Failed { .. } | Dealt::Unneeded) => {}
                    Some(Dealt::Later) => (asked, later) = (false, true),
                    Some(Dealt::NoMore) => (asked, more) = (false, false),
                    Some(Dealt::Cancelled { ends_tests }) => {
                        (asked, stopped, ended) = (false, true, Ended::Stopped);
                        if ends_tests {
                            said.end();
                        }
                    }
                    None => {
                        // What is still being executed would be for nothing.
                        (heard, stopped) = (false, true);
                        said.end();
                    }
                },
                () = &mut leaves, if more && !stopped => {
                    (stopped, ended) = (true, Ended::Left);
                    said.end();
                    let _ = requests.send(Request::Leave);
                }
            }
        }
    }

    /// The next unit that may begin: those whose resource others of this worker want let the next
    /// ones pass.
    fn next(&self, waiting: &mut VecDeque<Unit>, used: usize) -> Option<Unit> {
        let may_ask = |unit: &Unit| {
            unit.wanted.is_some() || self.resource(unit).is_none_or(|resource| self.slots.is_free(resource))
        };
        let index = waiting.iter().position(may_ask)?;
        if used + waiting[index].lanes > self.count.get() { None } else { waiting.remove(index) }
    }

    fn resource(&self, unit: &Unit) -> Option<Resource> {
        self.job.test(self.plan, unit.index).resource
    }

    /// Asks for the resource that a unit needs for itself, if it needs one and has not asked before;
    /// what it gives is all that happens to the lock.
    fn ask(&self, unit: &mut Unit) -> Option<impl Future<Output = ()> + use<>> {
        let resource = self.resource(unit).filter(|_| unit.wanted.is_none())?;
        let (of, why) = ((unit.index, unit.token), "a trial".to_owned());
        let (asked, lock) = self.resources.ask(resource.name, resource.capacity, of, why, || {});
        unit.wanted = Some(self.slots.take(resource, asked));
        Some(lock)
    }

    /// A unit's turn, with its resource where it needs one. One that failed for the first time is
    /// tried again, now and then.
    async fn attempt(&self, mut unit: Unit, hear: watch::Receiver<Leave>) -> (Unit, Next) {
        let attempt = match unit.wanted.take() {
            None => self.execute(&unit, hear).await,
            Some(mut wanted) => {
                let lock = wanted.asked.decided().await.expect("its turn begins when it is held");
                let (say, told) = watch::channel(*hear.borrow());
                let used = self.use_it(&unit, &lock, wanted.since, told);
                let (used, lost) = while_held(&lock, used, hear.clone(), say).await;
                if lost {
                    self.world.count(LOCK_LOST);
                    let goes_on = *hear.borrow() == Leave::ToFinish;
                    return (unit, if goes_on { Next::Again } else { Next::Stopped });
                }
                used.map(|(number, attempt)| {
                    self.world.uses.end(number);
                    attempt
                })
            }
        };
        let Some(attempt) = attempt else { return (unit, Next::Stopped) };
        let outcome = attempt.outcome;
        unit.attempts.push(attempt);
        if outcome.is_failure() && unit.index.0 % 5 == 4 && unit.attempts.len() == 1 {
            return (unit, Next::Again);
        }
        let executed = self.done(&unit, outcome);
        executed.keep(self.journal, self.events);
        (unit, Next::Done(executed))
    }

    /// An attempt under a lock, with the number of the use.
    async fn use_it(
        &self,
        unit: &Unit,
        lock: &Reservation,
        asked: Instant,
        told: watch::Receiver<Leave>,
    ) -> Option<(usize, Attempt)> {
        if *told.borrow() > Leave::ToFinish {
            return None;
        }
        let resource = self.resource(unit)?;
        let lease = lock.lock().lease;
        let excused = self.world.was_revoked(lease);
        if let Some(wrong) = uses::fault(self.world.network.store(), resource, lock, excused).await {
            self.world.tell(wrong);
        }
        let of = uses::Unit {
            run: self.job.run.id.clone(),
            index: unit.index,
            worker: WorkerId::new(self.machine.name()),
            token: unit.token,
        };
        let begun = Use { resource, unit: of, lease, asked, from: Instant::now(), to: None };
        let number = self.world.uses.begin(begun);
        Some((number, self.execute(unit, told).await?))
    }

    /// One attempt at a unit: some fail, and some only at first. `None` where it was told to end.
    async fn execute(&self, unit: &Unit, mut told: watch::Receiver<Leave>) -> Option<Attempt> {
        let Unit { index, attempts, .. } = unit;
        let duration = self.job.test(self.plan, *index).duration;
        let started = Timestamp::now();
        tokio::select! {
            biased;
            _ = told.wait_for(|leave| *leave > Leave::ToFinish) => return None,
            () = sleep(duration) => {}
        }
        self.machine.awake().await;
        let fails = index.0 % 7 == 6 || (index.0 % 5 == 4 && attempts.is_empty());
        let outcome = if fails { Outcome::Failed } else { Outcome::Passed };
        let number = if attempts.is_empty() { 1 } else { 2 };
        Some(Attempt { started, duration, ..Attempt::begun(number, outcome) })
    }

    /// A unit with its result; every third has said something at its last attempt.
    fn done(&self, unit: &Unit, outcome: Outcome) -> Executed {
        let (index, token, mut attempts) = (unit.index, unit.token, unit.attempts.clone());
        let mut output = Vec::new();
        if let Some(last) = attempts.last_mut().filter(|_| index.0.is_multiple_of(3)) {
            output = encode_output(&self.job.run.id, index, token, last.number, "output", b"said");
            let (name, chunks) = ("output".into(), output.len());
            last.output.push(StoredOutput { name, size: 4, left_out: 0, chunks });
        }
        let worker = WorkerId::new(self.machine.name());
        Executed {
            result: UnitResult { unit: index, outcome, reason: None, attempts, worker, token },
            output,
        }
    }
}

impl Unit {
    fn new(index: UnitIndex, token: Fence, lanes: usize) -> Self {
        Self { index, token, lanes, attempts: Vec::new(), wanted: None }
    }
}

/// Waits until a unit has what it has asked for, or is told to end.
async fn decided(mut unit: Unit, mut told: watch::Receiver<Leave>) -> (Unit, Option<Arc<ReservationError>>) {
    let Some(wanted) = &mut unit.wanted else { return (unit, None) };
    let error = tokio::select! {
        biased;
        _ = told.wait_for(|leave| *leave > Leave::ToFinish) => {
            Some(Arc::new(ReservationError::Interrupted { waiting: None }))
        }
        decided = wanted.asked.decided() => decided.err(),
    };
    (unit, error)
}
