//! One run, from its plan to its reports, as one of its workers sees it.

use std::collections::HashSet;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::attempt::{Leave, told};
use super::claims::Claims;
use super::differences::Differences;
use super::error::{Result, RunError};
use super::events::{EventSink, RunEvent};
use super::finish::conclude;
use super::history::Histories;
use super::journal::{Journal, JournalFolder};
use super::latest::read_histories;
use super::launcher::Launcher;
use super::membership::{Membership, Proposal};
use super::order::{Entry, Order, Selected};
use super::plan::Plan;
use super::policy::Policy;
use super::reserve::reserve;
use super::resources::Resources;
use super::services::{Ground, Supply};
use super::timings::Timings;
use super::watch::follow;
use super::work::Work;
use super::worker::{Ended, execute};
use crate::environments::{DataFiles, DataSets, Reservation, Reservations};
use crate::model::{
    Cancellation, Environment, PlannedUnit, Run, RunId, RunState, TestCaseId, TestKind, WorkerId,
};
use crate::reports::RunDetails;
use crate::reports::history::{self, environments_of};
use crate::store::{KeyRange, Op, SharedStore, Txn, get_record, keys};

/// How long the store may take to forget a worker that failed.
const FAREWELL: Duration = Duration::from_secs(1);

/// Creates a run, or joins it, executes what falls to this worker, and sees it to its end.
/// `leave` says how far tests under way may go; `events` hears what happens. A run that is over
/// already is only told.
///
/// # Errors
/// [`RunError::Differs`] where the run is of other tests or environments,
/// [`RunError::Left`] where this worker was told to leave and others go on; what the store said,
/// where it failed for good: the run can then be seen in the store as far as it came.
pub async fn run(
    store: SharedStore,
    mut order: Order,
    leave: watch::Receiver<Leave>,
    events: &EventSink,
) -> Result<RunDetails> {
    if let Some(text) = order.journals.as_ref().and_then(JournalFolder::reminder) {
        let _ = events.send(RunEvent::Notice { text });
    }
    let (process, mut started) = (order.worker.clone(), false);
    for times in 2.. {
        if let Some(over) = unless(Leave::ToQuit, leave.clone(), &order.id, over(&store, &order)).await? {
            if started {
                tell_end(&over.run, events);
            } else {
                tell_over(&over.run, events);
            }
            return Ok(over);
        }
        if order.entry == Entry::Queue {
            return queue(&store, &order, leave, events).await;
        }
        if started && *leave.borrow() > Leave::ToFinish {
            break;
        }
        if let Some(details) = take_part(&store, &mut order, leave.clone(), &mut started, events).await? {
            return Ok(details);
        }
        // Its record may still have units, which are for whoever takes over from the dead.
        order.worker = process.again(times);
    }
    Err(RunError::Left(order.id))
}

/// Works for the run until it is over. `None` where this worker has to begin again: the run was
/// resumed after it had ended its part, or it is to look at what came of a run that was over.
async fn take_part(
    store: &SharedStore,
    order: &mut Order,
    leave: watch::Receiver<Leave>,
    started: &mut bool,
    events: &EventSink,
) -> Result<Option<RunDetails>> {
    let (id, worker, quit) = (order.id.clone(), order.worker.clone(), leave.clone());
    let reservation = reserve(store, order, leave.clone(), events).await?.map(Arc::new);
    let journal = OnceLock::new();
    let reserved = run_reserved(store, order, reservation.clone(), leave, &journal, started, events);
    let reserved = Box::pin(reserved);
    let result = unless(Leave::ToQuit, quit, &id, reserved).await;
    if result.as_ref().is_err_and(|error| !matches!(error, RunError::Interrupted(_))) {
        forget(store, &worker).await;
    }
    if let Some(reservation) = reservation {
        // It is the run's, not this worker's: whoever is left keeps it.
        if matches!(result, Ok(Some(_))) || !is_worked_for(store, &id, &worker).await {
            reservation.release().await;
        }
    }
    // What is not stored of a run that has ended, or lost its environments, never will be.
    let is_over = matches!(result, Ok(_) | Err(RunError::Reservation(_) | RunError::Gone(_)));
    let kept = journal.get().and_then(|journal: &Arc<Journal>| journal.end(is_over));
    match (result, kept) {
        (Err(cause), Some(kept)) => Err(RunError::Unsent { cause: Box::new(cause), kept }),
        (result, _) => result,
    }
}

/// The run, where it is over already.
async fn over(store: &SharedStore, order: &Order) -> Result<Option<RunDetails>> {
    let Some((run, _)) = get_record::<Run>(store.as_ref(), keys::run(&order.id)).await? else {
        return Ok(None);
    };
    if !run.is_over() {
        return Ok(None);
    }
    let details = history::read(store.as_ref(), &order.id).await?.value;
    // One that was cancelled before it was planned is of nothing yet.
    if !details.units.is_empty() {
        let planned = details.units.iter().map(|unit| &unit.planned);
        check(order, "", &details.run, planned, &details.environments)?;
    }
    Ok(Some(details))
}

/// Deletes the key of a worker that failed on the way, where it still has one: others need not
/// wait for the end of its lease. A store that does not answer is not waited for.
async fn forget(store: &SharedStore, worker: &WorkerId) {
    let key = Op::Delete(KeyRange::key(keys::worker(worker)));
    let _ = timeout(FAREWELL, store.txn(Txn { then: vec![key], ..Txn::default() })).await;
}

/// Whether a live worker other than this one works for a run.
async fn is_worked_for(store: &SharedStore, run: &RunId, own: &WorkerId) -> bool {
    // What cannot be known ends with its lease.
    let workers = history::live_workers(store.as_ref(), run).await;
    workers.is_ok_and(|workers| workers.iter().any(|(worker, _)| worker.id != *own))
}

/// Refuses an order that does not fit a run that is there. `digest` is that of the plan that
/// the order would have.
fn check<'a>(
    order: &Order,
    digest: &str,
    run: &Run,
    planned: impl IntoIterator<Item = &'a PlannedUnit>,
    environments: &[Environment],
) -> Result<()> {
    let mut differences = Differences::default();
    if !order.entry.is_join() {
        differences.of_environments(&order.environments, environments);
        if digest != run.plan_digest {
            differences.of_units(&order.units(), planned);
        }
    }
    differences.of_code(order, run);
    differences.check(&run.id)
}

/// Does something, unless it may go no further than this meanwhile.
async fn unless<T>(
    least: Leave,
    mut leave: watch::Receiver<Leave>,
    run: &RunId,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::select! {
        done = work => done,
        () = told(&mut leave, least) => Err(RunError::Interrupted(run.clone())),
    }
}

/// Does something while no test is under way: whoever asks for the second time to end does
/// not want to wait for it.
pub(super) async fn without_tests<T>(
    leave: &watch::Receiver<Leave>,
    run: &RunId,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let least = if *leave.borrow() < Leave::ToDie { Leave::ToDie } else { Leave::ToQuit };
    unless(least, leave.clone(), run, work).await
}

/// The run, once its environments are reserved.
async fn run_reserved(
    store: &SharedStore,
    order: &mut Order,
    reservation: Option<Arc<Reservation>>,
    leave: watch::Receiver<Leave>,
    journal: &OnceLock<Arc<Journal>>,
    started: &mut bool,
    events: &EventSink,
) -> Result<Option<RunDetails>> {
    let mut timings = std::mem::replace(&mut order.timings, Timings::start());
    if reservation.is_some() {
        timings.end("reserve");
    }
    let (id, patience) = (order.id.clone(), order.patience);
    let plan = without_tests(&leave, &id, propose(store, order)).await?;
    timings.end("plan");

    let redactor = order.secrets.redactor();
    // What may fail on this machine comes before there is a run in the store.
    let (folder, data) = files(store, &order.tests, &order.environments).await?;
    let path = folder.as_ref().map(tempfile::TempDir::path);
    let launcher = Launcher::new(&order.keeper, path, order.policy.lanes, events.clone(), redactor);
    let launcher = Arc::new(launcher);
    let failed = |source| RunError::Io { what: "start the keeper of the tests".to_owned(), source };
    launcher.begin().await.map_err(failed)?;
    let entered = without_tests(&leave, &id, Box::pin(enter(store, order, plan, *started))).await;
    let (mut membership, plan) = match entered {
        Ok(entered) => entered,
        Err(error) => {
            launcher.close().await;
            return Err(error);
        }
    };
    if membership.run().state != RunState::Running {
        launcher.close().await;
        without_tests(&leave, &id, conclude(&mut membership, &plan)).await?;
        membership.leave().await;
        return Ok(None);
    }
    if let Some((rules, _)) = get_record::<Policy>(store.as_ref(), keys::rules(&id)).await? {
        order.policy = order.policy.under(rules);
    }
    timings.end("create");
    if std::mem::replace(started, true) {
        let text = "the run goes on, and this worker works for it again".into();
        let _ = events.send(RunEvent::Notice { text });
    } else {
        let tests: HashSet<_> = plan.units().map(|(_, unit)| &unit.test).collect();
        tell_start(membership.run(), tests.len(), events);
    }

    membership.hold(reservation.as_ref().map(|reservation| reservation.locks()).unwrap_or_default());
    let (root, built, secrets) = (order.root.clone(), order.built.clone(), order.secrets.clone());
    let ground = Ground::new(Arc::clone(&launcher), root, built, secrets, events.clone());
    let supply = match Supply::provide(ground, &order.environments, data, folder, &leave).await {
        Ok(supply) => supply,
        Err(error) => {
            launcher.close().await;
            give_up(membership, &plan, &error, events).await?;
            return Err(error);
        }
    };
    timings.end("provide");
    let work = Work {
        run: id.clone(),
        worker: order.worker.clone(),
        host: order.host.as_str().into(),
        since: Instant::now(),
        plan: plan.clone(),
        tests: order.tests.clone(),
        supply,
        policy: order.policy.clone(),
        launcher,
        resources: Resources {
            reservations: Reservations::new(store.clone(), patience),
            worker: order.worker.clone(),
            author: order.author.clone(),
            ttl: order.policy.reserve_ttl,
        },
        reservation: reservation.clone(),
        journal: begin_journal(order.journals.as_ref(), &membership, journal, events),
        while_needed: order.entry == Entry::JoinWhileNeeded,
    };
    let claims = Claims::new(membership).await?;
    let (claims, ended) = execute(&Arc::new(work), claims, leave.clone(), events).await?;
    timings.end("execute");
    let storing = claims.storing();
    let ending = Box::pin(end_part(claims, ended, &plan, events));
    let details = without_tests(&leave, &id, ending).await?;
    timings.end("finish");
    let Some(details) = details else {
        order.timings = timings;
        return Ok(None);
    };
    let _ = events.send(RunEvent::Spent { timings, storing });
    tell_end(&details.run, events);
    match reservation {
        Some(reservation) if ended == Ended::Lost && is_cancelled(&details.run) => {
            Err(reservation.loss().await.into())
        }
        _ => Ok(Some(details)),
    }
}

/// Begins the journal of the worker, where it is to have one.
fn begin_journal(
    journals: Option<&JournalFolder>,
    membership: &Membership,
    journal: &OnceLock<Arc<Journal>>,
    events: &EventSink,
) -> Option<Arc<Journal>> {
    match journals?.begin(membership) {
        Ok(begun) => Some(journal.get_or_init(|| Arc::new(begun)).clone()),
        Err(error) => {
            let _ = events.send(RunEvent::Notice { text: error.to_string() });
            None
        }
    }
}

/// Ends a worker's part in a run: gives back what it still holds, and sees the run to its end, or
/// has it be cancelled first where nobody is left to execute it. `None` where the run goes on and
/// this process may begin again, as a new worker: somebody has resumed it, or its environments were
/// lost and another worker waits for them anew.
///
/// # Errors
/// [`RunError::Left`] where others go on without this one, [`RunError::Unneeded`] where what is left
/// is not for it, [`RunError::Unfinished`] where the store went away after all was stored; what it
/// said, where it failed for good.
pub async fn end_part(
    mut claims: Claims,
    ended: Ended,
    plan: &Plan,
    events: &EventSink,
) -> Result<Option<RunDetails>> {
    let mut anew = false;
    if ended == Ended::Lost {
        let reason = "its reservation was lost".to_owned();
        let cancellation = Cancellation { reason: reason.clone(), ends_tests: true };
        anew = claims.membership_mut().cancel_unlocked(cancellation).await?;
        if !anew {
            let _ = events.send(RunEvent::Cancelled { reason });
        }
    }
    // What is recorded was recorded while the locks were held; the rest needs none.
    claims.membership_mut().hold(vec![]);
    claims.leave().await?;
    let mut membership = claims.into_membership();
    if anew {
        membership.leave().await;
        return Ok(None);
    }
    if ended == Ended::Unneeded && membership.run().state == RunState::Running {
        let run = membership.id().clone();
        membership.leave().await;
        return Err(RunError::Unneeded(run));
    }
    if ended == Ended::Left && membership.run().state == RunState::Running {
        if membership.leave_to_others().await? {
            return Err(RunError::Left(membership.id().clone()));
        }
        let reason = "it was interrupted".into();
        membership.cancel(Cancellation { reason, ends_tests: true }).await?;
    }
    let concluded = conclude(&mut membership, plan).await;
    let details = concluded.map_err(|error| error.when_all_is_stored(membership.run()))?;
    membership.leave().await;
    Ok(details)
}

/// Registers a worker of the run that is wanted: creates that with this plan, unless it must be
/// `there`, or joins it where it fits. Gives the run's own plan.
async fn enter(
    store: &SharedStore,
    order: &Order,
    plan: Plan,
    there: bool,
) -> Result<(Membership, Arc<Plan>)> {
    let (proposed, worker) = (order.describe(&plan), order.worker());
    let digest = proposed.plan_digest.clone();
    let (membership, stored) = match order.entry {
        Entry::CreateOrJoin | Entry::Queue if !there => {
            let environments = &order.environments;
            let proposal = Proposal { run: &proposed, plan: &plan, environments, rules: Some(&order.policy) };
            Membership::enter(store.clone(), worker, proposal, order.patience).await?
        }
        _ => Membership::join(store.clone(), worker, proposed, order.patience).await?,
    };
    // It may be large, and is there twice now.
    drop(plan);
    if !matches!(membership.run().state, RunState::Running | RunState::Cancelling) {
        // Of which tests it is, is looked at when it is over.
        return Ok((membership, Arc::new(stored)));
    }
    let snapshots = environments_of(store.as_ref(), &order.id).await?;
    let planned = stored.units().map(|(_, unit)| unit);
    match check(order, &digest, membership.run(), planned, &snapshots) {
        Ok(()) => Ok((membership, Arc::new(stored))),
        Err(error) => {
            membership.leave().await;
            Err(error)
        }
    }
}

/// Creates a run, or finds it, and tells what others make of it.
async fn queue(
    store: &SharedStore,
    order: &Order,
    leave: watch::Receiver<Leave>,
    events: &EventSink,
) -> Result<RunDetails> {
    let id = &order.id;
    let work = async {
        let plan = propose(store, order).await?;
        let (membership, _) = Box::pin(enter(store, order, plan, false)).await?;
        membership.leave().await;
        loop {
            follow(store, id, events).await?;
            // It may have been resumed since.
            if let Some(details) = over(store, order).await? {
                return Ok(details);
            }
        }
    };
    match unless(Leave::ToEnd, leave, id, work).await {
        Err(RunError::Interrupted(run)) => Err(RunError::Unfollowed(run)),
        done => done,
    }
}

/// The plan of a run of this order.
async fn propose(store: &SharedStore, order: &Order) -> Result<Plan> {
    let histories = match order.entry {
        Entry::CreateOrJoin | Entry::Queue => {
            let tests: Vec<&TestCaseId> = order.tests.iter().map(|selected| &selected.test.id).collect();
            let environments = order.environments.iter().map(|environment| &*environment.name);
            read_histories(store, &tests, &environments.collect::<Vec<_>>(), order.patience).await?
        }
        // It has its plan.
        Entry::Join | Entry::JoinWhileNeeded => Histories::default(),
    };
    Ok(Plan::new(order.units(), &histories, order.shuffle))
}

/// The files that tests read: a folder of this user's own where there are any, and the data
/// of the environments in it.
async fn files(
    store: &SharedStore,
    tests: &[Selected],
    environments: &[Environment],
) -> Result<(Option<TempDir>, DataFiles)> {
    let has_data = environments.iter().any(|environment| !environment.definition.data.is_empty());
    if !has_data && tests.iter().all(|selected| selected.test.code.kind != TestKind::Plain) {
        return Ok((None, DataFiles::default()));
    }
    let only_ours = Permissions::from_mode(0o700);
    let folder = tempfile::Builder::new().prefix("etcdtest-").permissions(only_ours).tempdir();
    let folder = folder.map_err(|source| {
        let what = "write the environments for the tests".to_owned();
        RunError::Io { what, source }
    })?;
    let data = DataFiles::fetch(&DataSets::new(store.clone()), environments, folder.path()).await?;
    Ok((Some(folder), data))
}

/// Leaves a run of which this worker can begin no test, and ends it where no other goes on.
async fn give_up(
    mut membership: Membership,
    plan: &Plan,
    error: &RunError,
    events: &EventSink,
) -> Result<()> {
    membership.hold(vec![]);
    if membership.leave_to_others().await? {
        return Ok(());
    }
    let reason = match error {
        RunError::NotReady(not_ready) => not_ready.headline(),
        error => error.to_string(),
    };
    let _ = events.send(RunEvent::Cancelled { reason: reason.clone() });
    membership.cancel(Cancellation { reason, ends_tests: true }).await?;
    if let Some(details) = conclude(&mut membership, plan).await? {
        tell_end(&details.run, events);
    }
    membership.leave().await;
    Ok(())
}

/// Tells of a run that was over before anything could be done for it.
pub fn tell_over(run: &Run, events: &EventSink) {
    let how = if is_cancelled(run) { "cancelled" } else { "finished" };
    let text = format!("the run {} is over: it was {how} before this worker came", run.id);
    let _ = events.send(RunEvent::Notice { text });
    tell_end(run, events);
}

fn tell_start(run: &Run, tests: usize, events: &EventSink) {
    let _ = events.send(RunEvent::Started {
        run: run.id.clone(),
        units: run.units,
        tests: u32::try_from(tests).unwrap_or(u32::MAX),
        environments: run.environments.clone(),
        shuffle: run.shuffle,
    });
}

fn tell_end(run: &Run, events: &EventSink) {
    let _ = events.send(RunEvent::Ended {
        run: run.id.clone(),
        summary: run.summary.unwrap_or_default(),
        cancelled: is_cancelled(run),
    });
}

fn is_cancelled(run: &Run) -> bool {
    run.state == RunState::Finished { cancelled: true }
}
