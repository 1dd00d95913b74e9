//! A worker whose attempts take virtual time and nothing else: all that it decides and
//! writes is done by the code that decides and writes in every run.

use std::collections::{BTreeSet, VecDeque};
use std::future::pending;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use cargo_etcdtest::config::MaxFail;
use cargo_etcdtest::environments::{Reservation, Reservations, Wanted};
use cargo_etcdtest::execution::{
    Claims, Dealt, Ended, EventSink, Executed, Histories, History, Journal, JournalFolder, LocksHeld,
    Membership, Plan, Proposal, Request, Result, Share, conclude, end_part, record,
};
use cargo_etcdtest::model::{
    Attempt, Cancellation, Fence, Holder, Outcome, PlannedUnit, Run, RunId, RunState, StoredOutput,
    TestCaseId, UnitIndex, UnitResult, Worker, WorkerId,
};
use cargo_etcdtest::reports::RunDetails;
use cargo_etcdtest::store::{SharedStore, encode_output};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::machine::Machine;

/// Longer than any outage of a trial.
pub(super) const PATIENCE: Duration = Duration::from_hours(1);

/// What all workers of a run agree on.
#[derive(Debug)]
pub(super) struct Job {
    /// The run as it is proposed, but for its plan.
    pub(super) run: Run,
    /// Its tests, each with how long it takes.
    pub(super) tests: Vec<(TestCaseId, Duration)>,
    /// The run keeps its environment from others.
    pub(super) reserves: bool,
    /// Where its workers keep results until the store has them.
    pub(super) journals: Option<JournalFolder>,
    /// After so many failures a worker has no more begun.
    pub(super) max_fail: Option<u32>,
}

/// What is decided for one worker.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fate {
    /// After this time it is told to leave.
    pub(super) leaves: Option<Duration>,
}

/// Works for the run until it is over, and says what came of it; `None` where its process may begin
/// again, as a new worker.
pub(super) async fn work(
    machine: &Arc<Machine>,
    store: SharedStore,
    job: &Job,
    fate: Fate,
    events: &EventSink,
) -> Result<Option<RunDetails>> {
    let reservations = Reservations::new(store.clone(), PATIENCE);
    let reservation =
        if job.reserves { Some(reservations.reserve(&wanted(job), pending(), |_| {}).await?) } else { None };
    let lanes = NonZeroUsize::MIN.saturating_add(fastrand::usize(..3));
    let (run, plan) = job.proposed();
    let proposal = Proposal { run: &run, plan: &plan, environments: &[], rules: None };
    let registered = worker(machine, &job.run.id, lanes);
    let (mut membership, plan) = Membership::enter(store, registered, proposal, PATIENCE).await?;
    let details = if membership.run().state == RunState::Running {
        membership.hold(reservation.as_ref().map(Reservation::locks).unwrap_or_default());
        let journal = job
            .journals
            .as_ref()
            .map(|journals| Arc::new(journals.begin(&membership).expect("the journal can be written")));
        // Failures are counted, and none is one too many.
        let max_fail = MaxFail::After(NonZeroU32::MAX);
        let share = Share { plan: Arc::new(plan.clone()), lanes, journal: journal.clone(), max_fail };
        let claims = Claims::new(membership).await?;
        let (requests, inbox) = mpsc::unbounded_channel();
        let (outbox, dealt) = mpsc::unbounded_channel();
        let recording = record(share, claims, inbox, outbox, events.clone());
        let kept = journal.as_deref();
        let lanes = Lanes { machine, job, plan: &plan, count: lanes, requests, journal: kept, events };
        let (done, ended) = tokio::join!(recording, lanes.execute(dealt, fate));
        let (claims, LocksHeld(held)) = done?;
        let ended = end_part(claims, if held { ended } else { Ended::Lost }, &plan, events).await;
        if let Some(journal) = journal {
            journal.end(ended.is_ok());
        }
        ended?
    } else {
        let details = conclude(&mut membership, &plan).await?;
        membership.leave().await;
        details
    };
    if let Some(reservation) = reservation.filter(|_| details.is_some()) {
        reservation.release().await;
    }
    Ok(details)
}

impl Job {
    /// The run with its plan as one of its workers proposes it: what each knows of the past may
    /// be something else.
    fn proposed(&self) -> (Run, Plan) {
        let planned = |(test, _): &(TestCaseId, Duration)| PlannedUnit::new(test.clone(), "local");
        let mut known = Histories::default();
        for (test, duration) in self.tests.iter().filter(|_| fastrand::bool()) {
            let duration = Some(duration.mul_f64(0.5 + fastrand::f64()));
            let history = History { duration, failed_lately: fastrand::u8(..9) == 0 };
            known.insert(test.clone(), "local", history);
        }
        let plan = Plan::new(self.tests.iter().map(planned), &known, None);
        (plan.record(self.run.clone()), plan)
    }

    /// How long a unit takes.
    fn duration(&self, plan: &Plan, unit: UnitIndex) -> Duration {
        let planned = plan.unit(unit).map(|planned| &planned.test);
        let test = self.tests.iter().find(|(test, _)| Some(test) == planned);
        test.map(|(_, duration)| *duration).unwrap_or_default()
    }
}

fn worker(machine: &Machine, run: &RunId, lanes: NonZeroUsize) -> Worker {
    let lanes = u32::try_from(lanes.get()).unwrap_or(u32::MAX);
    Worker { lanes, ..Worker::new(WorkerId::new(machine.name()), machine.name(), run.clone()) }
}

fn wanted(job: &Job) -> Wanted {
    Wanted {
        holder: Holder::Run(job.run.id.clone()),
        author: job.run.author.clone(),
        why: String::new(),
        environments: vec![("local".into(), NonZeroU32::MIN)],
        ttl: Duration::from_secs(20),
        timeout: PATIENCE,
    }
}

/// The lanes of a worker, in which units are executed.
struct Lanes<'a> {
    machine: &'a Arc<Machine>,
    job: &'a Job,
    plan: &'a Plan,
    count: NonZeroUsize,
    requests: mpsc::UnboundedSender<Request>,
    journal: Option<&'a Journal>,
    events: &'a EventSink,
}

impl Lanes<'_> {
    /// Executes what is dealt, until there is no more.
    async fn execute(self, mut dealt: mpsc::UnboundedReceiver<Dealt>, fate: Fate) -> Ended {
        let (mut waiting, mut running) = (VecDeque::new(), BTreeSet::new());
        let mut attempts = FuturesUnordered::new();
        let (mut asked, mut more, mut failures, mut ended) = (false, true, 0, Ended::Complete);
        let (mut used, mut later) = (0, false);
        let mut leaves = std::pin::pin!(sleep(fate.leaves.unwrap_or(Duration::MAX)));
        loop {
            while let Some(&(unit, token, needs)) = waiting.front()
                && used + needs <= self.count.get()
            {
                waiting.pop_front();
                running.insert(unit);
                used += needs;
                attempts.push(self.attempt(unit, token, needs));
            }
            let idle = self.count.get().saturating_sub(used);
            if more && !asked && waiting.len() < self.count.get() && (idle > 0 || !later) {
                let running = running.iter().copied().collect();
                asked = self.requests.send(Request::Claim { running, idle }).is_ok();
                more = asked;
            }
            if !more && waiting.is_empty() && running.is_empty() {
                return ended;
            }
            tokio::select! {
                biased;
                Some((executed, freed)) = attempts.next() => {
                    let executed: Executed = executed;
                    used -= freed;
                    later = false;
                    running.remove(&executed.result.unit);
                    failures += u32::from(executed.result.outcome.is_failure());
                    // A recorder that has ended says why itself.
                    let _ = self.requests.send(Request::Store(executed));
                    if more && self.job.max_fail.is_some_and(|most| failures >= most) {
                        (more, ended) = (false, Ended::Stopped);
                        waiting.clear();
                        let (reason, ends_tests) = ("a test failed".into(), false);
                        let _ = self.requests.send(Request::Stop(Cancellation { reason, ends_tests }));
                    }
                }
                answer = dealt.recv() => match answer {
                    Some(Dealt::Units(units, token)) => {
                        asked = false;
                        if more {
                            waiting.extend(units.into_iter().map(|dealt| (dealt, token, 1)));
                        }
                    }
                    Some(Dealt::Alone(unit, token)) => {
                        asked = false;
                        if more {
                            // It takes all lanes.
                            waiting.push_back((unit, token, self.count.get()));
                        }
                    }
                    Some(Dealt::Withdrawn(units)) => waiting.retain(|(unit, ..)| !units.contains(unit)),
                    Some(Dealt::Failed { .. } | Dealt::Unneeded) => {}
                    Some(Dealt::Later) => (asked, later) = (false, true),
                    Some(Dealt::NoMore) => (asked, more) = (false, false),
                    Some(Dealt::Cancelled { ends_tests }) => {
                        (asked, more, ended) = (false, false, Ended::Stopped);
                        waiting.clear();
                        if ends_tests {
                            return ended;
                        }
                    }
                    // What is still being executed would be for nothing.
                    None => return ended,
                },
                () = &mut leaves, if more => {
                    (more, ended) = (false, Ended::Left);
                    waiting.clear();
                    attempts.clear();
                    running.clear();
                    let _ = self.requests.send(Request::Leave);
                }
            }
        }
    }

    /// One attempt at a unit, given back with the lanes that it took; every seventh fails.
    async fn attempt(&self, unit: UnitIndex, token: Fence, lanes: usize) -> (Executed, usize) {
        let duration = self.job.duration(self.plan, unit);
        let started = Timestamp::now();
        sleep(duration).await;
        self.machine.awake().await;
        let outcome = if unit.0 % 7 == 6 { Outcome::Failed } else { Outcome::Passed };
        let mut attempt = Attempt { started, duration, ..Attempt::begun(1, outcome) };
        let mut output = Vec::new();
        if unit.0.is_multiple_of(3) {
            output = encode_output(&self.job.run.id, unit, token, 1, "output", b"said");
            let (name, chunks) = ("output".into(), output.len());
            attempt.output.push(StoredOutput { name, size: 4, left_out: 0, chunks });
        }
        let worker = WorkerId::new(self.machine.name());
        let result = UnitResult { unit, outcome, reason: None, attempts: vec![attempt], worker, token };
        let executed = Executed { result, output };
        executed.keep(self.journal, self.events);
        (executed, lanes)
    }
}
