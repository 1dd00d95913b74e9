//! A worker whose attempts take virtual time and nothing else: all that it decides and
//! writes is done by the code that decides and writes in every run.

use std::future::pending;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use cargo_etcdtest::config::MaxFail;
use cargo_etcdtest::environments::{Reservation, Reservations, Wanted};
use cargo_etcdtest::execution::{
    Claims, Ended, EventSink, LocksHeld, Membership, Proposal, Resources, Result, Share, conclude, end_part,
    record,
};
use cargo_etcdtest::model::{Holder, Labels, RunState, Worker, WorkerId};
use cargo_etcdtest::reports::RunDetails;
use cargo_etcdtest::store::SharedStore;
use tokio::sync::mpsc;

use super::job::Job;
use super::lanes::Lanes;
use super::machine::Machine;
use super::slots::Slots;
use super::trial::World;

/// Longer than any outage of a trial.
pub(super) const PATIENCE: Duration = Duration::from_hours(1);
/// How long a lock outlives a worker that is not heard of.
const LOCK_TTL: Duration = Duration::from_secs(20);

/// What is decided for one worker.
#[derive(Clone, Debug)]
pub(super) struct Fate {
    /// After this time it is told to leave.
    pub(super) leaves: Option<Duration>,
    /// What it has that not every worker has.
    pub(super) labels: Labels,
    /// It leaves by itself where it cannot execute what is left.
    pub(super) while_needed: bool,
}

/// Works for the run until it is over, and says what came of it; `None` where its process may begin
/// again, as a new worker.
pub(super) async fn work(
    world: &World,
    machine: &Arc<Machine>,
    store: SharedStore,
    job: &Job,
    fate: &Fate,
    events: &EventSink,
) -> Result<Option<RunDetails>> {
    let reservations = Reservations::new(store.clone(), PATIENCE);
    let reservation =
        if job.reserves { Some(reservations.reserve(&wanted(job), pending(), |_| {}).await?) } else { None };
    let lanes = NonZeroUsize::MIN.saturating_add(fastrand::usize(..3));
    let (run, plan) = job.proposed();
    let proposal = Proposal { run: &run, plan: &plan, environments: &[], rules: None };
    let registered = Worker {
        lanes: u32::try_from(lanes.get()).unwrap_or(u32::MAX),
        labels: fate.labels.clone(),
        ..Worker::new(WorkerId::new(machine.name()), machine.name(), job.run.id.clone())
    };
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
        let resources = Resources {
            reservations,
            worker: WorkerId::new(machine.name()),
            author: job.run.author.clone(),
            ttl: LOCK_TTL,
        };
        let claims = Claims::new(membership).await?;
        let (requests, inbox) = mpsc::unbounded_channel();
        let (outbox, dealt) = mpsc::unbounded_channel();
        let recording = record(share, claims, inbox, outbox, events.clone());
        let kept = journal.as_deref();
        let (count, slots) = (lanes, Slots::default());
        let lanes =
            Lanes { world, machine, job, plan: &plan, count, resources, slots, journal: kept, events };
        let (done, ended) = tokio::join!(recording, lanes.work(requests, dealt, fate));
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

fn wanted(job: &Job) -> Wanted {
    Wanted {
        holder: Holder::Run(job.run.id.clone()),
        author: job.run.author.clone(),
        why: String::new(),
        environments: vec![("local".into(), NonZeroU32::MIN)],
        ttl: LOCK_TTL,
        timeout: PATIENCE,
    }
}
