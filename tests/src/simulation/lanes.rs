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

use super::job::Job;
use super::judge::{Promise, Wrong};
use super::machine::Machine;
use super::trial::{LOCK_LOST, World};
use super::uses::{self, Use};
use super::worker::Fate;

/// After how long a resource is asked for again where the store did not answer.
const STORE_AWAY: Duration = Duration::from_secs(1);

pub(super) struct Lanes<'a> {
    pub(super) world: &'a World,
    pub(super) machine: &'a Arc<Machine>,
    pub(super) job: &'a Job,
    pub(super) plan: &'a Plan,
    pub(super) count: NonZeroUsize,
    pub(super) resources: Resources,
    pub(super) requests: mpsc::UnboundedSender<Request>,
    pub(super) journal: Option<&'a Journal>,
    pub(super) events: &'a EventSink,
}

/// A unit that was dealt.
#[derive(Clone, Debug)]
struct Unit {
    index: UnitIndex,
    token: Fence,
    /// How many lanes it takes.
    lanes: usize,
    /// The attempts at it until now.
    attempts: Vec<Attempt>,
}

/// The resource of a unit, for it alone.
#[derive(Debug)]
struct Held {
    lock: Reservation,
    /// Since when it was waited for.
    asked: Instant,
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

/// What attempts are told, each by a channel of its own: one channel wakes those who hear in a
/// random order.
#[derive(Debug, Default)]
struct Said {
    all: Vec<watch::Sender<Leave>>,
    ends: bool,
}

impl Said {
    /// For one more.
    fn hear(&mut self) -> watch::Receiver<Leave> {
        self.all.retain(|say| !say.is_closed());
        let (say, hear) = watch::channel(if self.ends { Leave::ToEnd } else { Leave::ToFinish });
        self.all.push(say);
        hear
    }

    /// All are to end.
    fn to_end(&mut self) {
        self.ends = true;
        for say in &self.all {
            say.send_replace(Leave::ToEnd);
        }
    }
}

impl Lanes<'_> {
    /// Executes what is dealt, until there is no more.
    pub(super) async fn work(self, mut dealt: mpsc::UnboundedReceiver<Dealt>, fate: &Fate) -> Ended {
        let mut new: Vec<Unit> = Vec::new();
        let mut waiting: VecDeque<(Unit, Option<Held>)> = VecDeque::new();
        let (mut attempts, mut locks) = (FuturesUnordered::new(), FuturesUnordered::new());
        // What is said to be executed: what waits for its resource may be, any moment.
        let mut running = BTreeSet::new();
        let (mut asked, mut more, mut stopped, mut heard) = (false, true, false, true);
        let (mut used, mut later, mut failures, mut ended) = (0, false, 0, Ended::Complete);
        let mut leaves = pin!(sleep(fate.leaves.unwrap_or(Duration::MAX)));
        let mut said = Said::default();
        loop {
            if stopped {
                new.clear();
                give_back(waiting.drain(..)).await;
            }
            for unit in new.drain(..) {
                if self.job.test(self.plan, unit.index).resource.is_some() {
                    running.insert(unit.index);
                    locks.push(self.lock(unit, said.hear()));
                } else {
                    waiting.push_back((unit, None));
                }
            }
            while waiting.front().is_some_and(|(unit, _)| used + unit.lanes <= self.count.get())
                && let Some((unit, held)) = waiting.pop_front()
            {
                running.insert(unit.index);
                used += unit.lanes;
                attempts.push(self.attempt(unit, held, said.hear()));
            }
            let idle = self.count.get().saturating_sub(used);
            if !stopped && more && !asked && waiting.len() < self.count.get() && (idle > 0 || !later) {
                let running = running.iter().copied().collect();
                asked = self.requests.send(Request::Claim { running, idle }).is_ok();
                more = asked;
            }
            let done = attempts.is_empty() && locks.is_empty() && waiting.is_empty();
            if done && (stopped || !more) {
                // What is under way to it meanwhile it never hears.
                sleep(Duration::from_millis(fastrand::u64(..20))).await;
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
                            let _ = self.requests.send(Request::Store(executed));
                        }
                        Next::Again => new.push(unit),
                        Next::Stopped => drop(running.remove(&unit.index)),
                    }
                    if !stopped && self.job.max_fail.is_some_and(|most| failures >= most) {
                        (stopped, ended) = (true, Ended::Stopped);
                        let (reason, ends_tests) = ("a test failed".into(), false);
                        let _ = self.requests.send(Request::Stop(Cancellation { reason, ends_tests }));
                    }
                }
                Some((unit, held)) = locks.next() => match held {
                    Some(held) => waiting.push_front((unit, Some(held))),
                    None => drop(running.remove(&unit.index)),
                },
                answer = dealt.recv(), if heard => match answer {
                    Some(Dealt::Units(units, token)) => {
                        asked = false;
                        new.extend(units.into_iter().map(|index| Unit { index, token, lanes: 1, attempts: Vec::new() }));
                    }
                    Some(Dealt::Alone(index, token)) => {
                        asked = false;
                        let lanes = self.count.get();
                        new.push(Unit { index, token, lanes, attempts: Vec::new() });
                    }
                    Some(Dealt::Withdrawn(units)) => {
                        let gone = |(unit, _): &(Unit, _)| units.contains(&unit.index);
                        let (gone, kept): (VecDeque<_>, _) = waiting.drain(..).partition(gone);
                        waiting = kept;
                        give_back(gone.into_iter()).await;
                    }
                    Some(Dealt::Unneeded) if fate.while_needed => {
                        (asked, more, ended) = (false, false, Ended::Unneeded);
                    }
                    Some(Dealt::Failed { .. } | Dealt::Unneeded) => {}
                    Some(Dealt::Later) => (asked, later) = (false, true),
                    Some(Dealt::NoMore) => (asked, more) = (false, false),
                    Some(Dealt::Cancelled { ends_tests }) => {
                        (asked, stopped, ended) = (false, true, Ended::Stopped);
                        if ends_tests {
                            said.to_end();
                        }
                    }
                    None => {
                        // What is still being executed would be for nothing.
                        (heard, stopped) = (false, true);
                        said.to_end();
                    }
                },
                () = &mut leaves, if more && !stopped => {
                    (stopped, ended) = (true, Ended::Left);
                    said.to_end();
                    let _ = self.requests.send(Request::Leave);
                }
            }
        }
    }

    /// Waits for the resource that a unit needs; `None` where it was told to leave.
    async fn lock(&self, unit: Unit, hear: watch::Receiver<Leave>) -> (Unit, Option<Held>) {
        let Some(resource) = self.job.test(self.plan, unit.index).resource else { return (unit, None) };
        let asked = Instant::now();
        loop {
            let lock =
                self.resources.lock(resource.name, resource.capacity, unit.index, unit.token, hear.clone());
            match lock.await {
                Ok(lock) => return (unit, lock.map(|lock| Held { lock, asked })),
                Err(ReservationError::Store(error)) if error.is_transient() => sleep(STORE_AWAY).await,
                Err(error) => {
                    let how = format!("{} cannot lock {}: {error}", self.machine.name(), resource.name);
                    self.world.tell(Wrong::new(Promise::Ends, how));
                    return (unit, None);
                }
            }
        }
    }

    /// A unit's turn, with its resource where it needs one. One that failed for the first time is
    /// tried again, now and then.
    async fn attempt(
        &self,
        mut unit: Unit,
        held: Option<Held>,
        hear: watch::Receiver<Leave>,
    ) -> (Unit, Next) {
        let attempt = match held {
            None => self.execute(&unit, hear).await,
            Some(held) => {
                let (say, told) = watch::channel(*hear.borrow());
                let (used, lost) =
                    while_held(&held.lock, self.use_it(&unit, &held, told), hear.clone(), say).await;
                let valid = used.filter(|_| !lost);
                if let Some((number, _)) = &valid {
                    self.world.uses.end(*number);
                }
                held.lock.release().await;
                if lost {
                    self.world.count(LOCK_LOST);
                }
                if lost && *hear.borrow() == Leave::ToFinish {
                    return (unit, Next::Again);
                }
                valid.map(|(_, attempt)| attempt)
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
        held: &Held,
        told: watch::Receiver<Leave>,
    ) -> Option<(usize, Attempt)> {
        if *told.borrow() > Leave::ToFinish {
            return None;
        }
        let resource = self.job.test(self.plan, unit.index).resource?;
        let lease = held.lock.lock().lease;
        let excused = self.world.was_revoked(lease);
        if let Some(wrong) = uses::fault(self.world.network.store(), resource, &held.lock, excused).await {
            self.world.tell(wrong);
        }
        let of = uses::Unit {
            run: self.job.run.id.clone(),
            index: unit.index,
            worker: WorkerId::new(self.machine.name()),
            token: unit.token,
        };
        let begun = Use { resource, unit: of, lease, asked: held.asked, from: Instant::now(), to: None };
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
        let Unit { index, token, mut attempts, .. } = unit.clone();
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

/// Gives up what units hold that are not begun any more.
async fn give_back(units: impl Iterator<Item = (Unit, Option<Held>)>) {
    for held in units.filter_map(|(_, held)| held) {
        held.lock.release().await;
    }
}
