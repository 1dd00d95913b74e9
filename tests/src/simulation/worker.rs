//! A worker whose attempts take virtual time and nothing else: all that it decides and
//! writes is done by the code that decides and writes in every run.

use std::collections::{BTreeSet, VecDeque};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use cargo_etcdtest::config::StoreOutput;
use cargo_etcdtest::execution::{
    AttemptOutput, Claims, Dealt, EventSink, Executed, Latest, LocksHeld, Membership, Output, Plan, Request,
    Result, Share, finish, record,
};
use cargo_etcdtest::model::{
    Attempt, Fence, Outcome, Run, RunState, UnitIndex, UnitResult, Worker, WorkerId,
};
use cargo_etcdtest::reports::RunDetails;
use cargo_etcdtest::store::SharedStore;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::machine::Machine;

/// Longer than any outage of a trial.
const PATIENCE: Duration = Duration::from_hours(1);

/// What all workers of a run agree on.
#[derive(Debug)]
pub(super) struct Job {
    /// The run as it is proposed.
    pub run: Run,
    /// Its units.
    pub plan: Plan,
    /// How long each unit takes.
    pub durations: Vec<Duration>,
}

/// Works the run off, and says what came of it.
pub(super) async fn work(
    machine: &Arc<Machine>,
    store: SharedStore,
    job: &Job,
    events: &EventSink,
) -> Result<RunDetails> {
    let lanes = fastrand::usize(1..=3);
    let worker = Worker {
        id: WorkerId::new(machine.name()),
        host: machine.name().into(),
        pid: 1,
        run: job.run.id.clone(),
        since: Timestamp::now(),
        lanes: u32::try_from(lanes).unwrap_or(u32::MAX),
    };
    let describe = |state| Run { state, ..job.run.clone() };
    let membership = Membership::create(store, worker, &job.plan, &[], PATIENCE, describe).await?;
    let plan = Arc::new(job.plan.clone());
    let lanes = NonZeroUsize::new(lanes).unwrap_or(NonZeroUsize::MIN);
    let share = Share { plan: plan.clone(), lanes, store_output: StoreOutput::All };
    let claims = Claims::new(membership).await?;
    let (requests, inbox) = mpsc::unbounded_channel();
    let (outbox, dealt) = mpsc::unbounded_channel();
    let recorder = record(share, claims, inbox, outbox, events.clone());
    let executor = execute(machine, job, lanes, requests, dealt);
    let (recorded, ()) = tokio::join!(recorder, executor);
    let (claims, LocksHeld(_)) = recorded?;
    let mut membership = claims.into_membership();
    let cancelled = membership.run().state != RunState::Running;
    let details = finish(&mut membership, &Latest::new(), cancelled).await?;
    membership.leave().await;
    Ok(details)
}

/// Executes what is dealt, on so many lanes.
async fn execute(
    machine: &Arc<Machine>,
    job: &Job,
    lanes: NonZeroUsize,
    requests: mpsc::UnboundedSender<Request>,
    mut dealt: mpsc::UnboundedReceiver<Dealt>,
) {
    let (mut waiting, mut running) = (VecDeque::new(), BTreeSet::new());
    let mut attempts = FuturesUnordered::new();
    let (mut asked, mut more) = (false, true);
    loop {
        while running.len() < lanes.get()
            && let Some((unit, token)) = waiting.pop_front()
        {
            running.insert(unit);
            attempts.push(attempt(machine, job, unit, token));
        }
        if more && !asked && waiting.len() < lanes.get() {
            let running = running.iter().copied().collect();
            asked = requests.send(Request::Claim { running }).is_ok();
            more = asked;
        }
        if !more && waiting.is_empty() && running.is_empty() {
            return;
        }
        tokio::select! {
            biased;
            Some(executed) = attempts.next() => {
                running.remove(&executed.result.unit);
                // A recorder that has ended says why itself.
                let _ = requests.send(Request::Store(executed));
            }
            answer = dealt.recv() => {
                asked = false;
                match answer {
                    Some(Dealt::Units(units, token)) => {
                        waiting.extend(units.into_iter().map(|unit| (unit, token)));
                    }
                    Some(Dealt::NoMore) => more = false,
                    Some(Dealt::Cancelled) | None => {
                        more = false;
                        waiting.clear();
                        if dealt.is_closed() {
                            return;
                        }
                    }
                }
            }
        }
    }
}

/// One attempt at a unit; every seventh fails.
async fn attempt(machine: &Arc<Machine>, job: &Job, unit: UnitIndex, token: Fence) -> Executed {
    let duration = job.durations[unit.0 as usize];
    let started = Timestamp::now();
    sleep(duration).await;
    machine.awake().await;
    let outcome = if unit.0 % 7 == 6 { Outcome::Failed } else { Outcome::Passed };
    let attempt = Attempt { started, duration, ..Attempt::begun(1, outcome) };
    let mut printed = Output::default();
    if unit.0 % 3 == 0 {
        printed.push(b"said");
    }
    let output = AttemptOutput { printed, ..AttemptOutput::default() };
    let worker = WorkerId::new(machine.name());
    let result = UnitResult { unit, outcome, reason: None, attempts: vec![attempt], worker, token };
    Executed { result, outputs: vec![Arc::new(output)] }
}
