//! One run, from its plan to its reports, as one of its workers sees it.

use std::collections::{HashMap, HashSet};
use std::fs::Permissions;
use std::num::NonZeroU32;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::Timestamp;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::Instant;

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
use super::plan::Plan;
use super::policy::Policy;
use super::reserve::reserve;
use super::resources::Resources;
use super::services::{Ground, Supply};
use super::timings::Timings;
use super::watch::follow;
use super::work::Work;
use super::worker::{Ended, execute};
use crate::environments::{DataFiles, DataSets, Reservation, Reservations, SecretValues};
use crate::model::{
    Build, Cancellation, Commit, Environment, Labels, PlannedUnit, Repetition, Run, RunId, RunState,
    TestCaseId, TestKind, Worker, WorkerId,
};
use crate::reports::RunDetails;
use crate::reports::history::{self, environments_of};
use crate::store::{SharedStore, get_record, keys};
use crate::testcases::ListedTest;

/// A run that somebody wants.
#[derive(Debug)]
pub struct Order {
    /// Its id.
    pub id: RunId,
    /// The tests.
    pub tests: Vec<Selected>,
    /// Digest of all tests that were listed, selected or not.
    pub tests_digest: String,
    /// What they run against.
    pub environments: Vec<Environment>,
    /// Their secrets.
    pub secrets: SecretValues,
    /// The rules.
    pub policy: Policy,
    /// The seed of the order, if that is left to chance.
    pub shuffle: Option<u64>,
    /// How often each test is run.
    pub repetitions: NonZeroU32,
    /// What this worker has that not every worker has.
    pub labels: Labels,
    /// What was typed.
    pub command: Vec<String>,
    /// Who typed it: `user@host`.
    pub author: String,
    /// This machine's name.
    pub host: String,
    /// The id of the worker that this process is.
    pub worker: WorkerId,
    /// Whether the run may be there already, or must be.
    pub entry: Entry,
    /// This program, which serves as keeper when it is told to.
    pub keeper: PathBuf,
    /// The workspace's root, from which services are started.
    pub root: PathBuf,
    /// The folders of the programs that cargo built.
    pub built: Vec<PathBuf>,
    /// How the tests were built.
    pub build: Build,
    /// The code.
    pub commit: Option<Commit>,
    /// How long an unreachable store is waited for.
    pub patience: Duration,
    /// Where results are kept until a store elsewhere has them.
    pub journals: Option<JournalFolder>,
    /// What was done before the run.
    pub timings: Timings,
}

/// How a worker comes to its run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// It creates the run, or joins it where it is there: its units and environments must then
    /// be those of the order.
    CreateOrJoin,
    /// As that, but it executes nothing: it follows what others do.
    Queue,
    /// It joins a run that is there, whichever of the order's tests that has. The environments
    /// of the order are those that the run has stored.
    Join,
    /// As that, but it leaves the run once nothing is left of it that this worker may execute.
    JoinWhileNeeded,
}

impl Entry {
    /// Whether the run must be there.
    fn is_join(self) -> bool {
        matches!(self, Self::Join | Self::JoinWhileNeeded)
    }
}

/// A test that was selected.
#[derive(Clone, Debug)]
pub struct Selected {
    /// The test.
    pub test: ListedTest,
    /// For each environment by name, why it is not run there; nothing where it is.
    pub skipped: HashMap<String, String>,
}

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
    order: Order,
    leave: watch::Receiver<Leave>,
    events: &EventSink,
) -> Result<RunDetails> {
    if let Some(text) = order.journals.as_ref().and_then(JournalFolder::reminder) {
        let _ = events.send(RunEvent::Notice { text });
    }
    let (id, worker, quit) = (order.id.clone(), order.worker.clone(), leave.clone());
    if let Some(over) = unless(Leave::ToQuit, leave.clone(), &id, over(&store, &order)).await? {
        let tests: HashSet<_> = over.units.iter().map(|unit| &unit.planned.test).collect();
        tell_start(&over.run, tests.len(), events);
        tell_end(&over, events);
        return Ok(over);
    }
    if order.entry == Entry::Queue {
        return queue(&store, order, leave, events).await;
    }
    let reservation = reserve(&store, &order, leave.clone(), events).await?.map(Arc::new);
    let journal = OnceLock::new();
    let reserved = run_reserved(store.clone(), order, reservation.clone(), leave, &journal, events);
    let reserved = Box::pin(reserved);
    let result = unless(Leave::ToQuit, quit, &id, reserved).await;
    if let Some(reservation) = reservation {
        // It is the run's, not this worker's: whoever is left keeps it.
        if result.is_ok() || !is_worked_for(&store, &id, &worker).await {
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
    let planned = details.units.iter().map(|unit| &unit.planned);
    check(order, "", &details.run, planned, &details.environments)?;
    Ok(Some(details))
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
            differences.of_units(&units(order), planned);
        }
    }
    differences.of_digests(order, run);
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
    store: SharedStore,
    mut order: Order,
    reservation: Option<Arc<Reservation>>,
    leave: watch::Receiver<Leave>,
    journal: &OnceLock<Arc<Journal>>,
    events: &EventSink,
) -> Result<RunDetails> {
    let mut timings = std::mem::replace(&mut order.timings, Timings::start());
    if reservation.is_some() {
        timings.end("reserve");
    }
    let (id, patience) = (order.id.clone(), order.patience);
    let plan = without_tests(&leave, &id, propose(&store, &order)).await?;
    timings.end("plan");

    let redactor = order.secrets.redactor();
    // What may fail on this machine comes before there is a run in the store.
    let (folder, data) = files(&store, &order.tests, &order.environments).await?;
    let path = folder.as_ref().map(|folder| folder.path().to_owned());
    let keeper = order.keeper.clone();
    let launcher = Arc::new(Launcher::new(keeper, path, order.policy.lanes, events.clone(), redactor));
    let failed = |source| RunError::Io { what: "start the keeper of the tests".to_owned(), source };
    launcher.begin().await.map_err(failed)?;
    let entered = without_tests(&leave, &id, Box::pin(enter(&store, &order, plan))).await;
    let (mut membership, plan) = match entered {
        Ok(entered) => entered,
        Err(error) => {
            launcher.close().await;
            return Err(error);
        }
    };
    if let Some((rules, _)) = get_record::<Policy>(store.as_ref(), keys::rules(&id)).await? {
        order.policy = order.policy.under(rules);
    }
    timings.end("create");
    let tests: HashSet<_> = plan.units().map(|(_, unit)| &unit.test).collect();
    tell_start(membership.run(), tests.len(), events);
    let mut storing = Duration::ZERO;

    let open = membership.run().state == RunState::Running;
    let (mut membership, lost) = if open {
        membership.hold(reservation.as_ref().map(|reservation| reservation.locks()).unwrap_or_default());
        let Order { policy, secrets, root, built, environments, tests, host, journals, entry, .. } = order;
        let tests = tests.into_iter().map(|selected| (selected.test.id.clone(), selected.test)).collect();
        let ground = Ground::new(Arc::clone(&launcher), root, built, secrets, events.clone());
        let supply = match Supply::provide(ground, &environments, data, folder, &leave).await {
            Ok(supply) => supply,
            Err(error) => {
                launcher.close().await;
                give_up(membership, &plan, &error, events).await?;
                return Err(error);
            }
        };
        timings.end("provide");
        let journal = begin_journal(journals, &membership, journal, events);
        let (run, worker) = (id.clone(), membership.worker().id.clone());
        let resources = Resources {
            reservations: Reservations::new(membership.store().clone(), patience),
            worker: worker.clone(),
            author: order.author,
            ttl: policy.reserve_ttl,
        };
        let work = Work {
            run,
            worker,
            host: host.into(),
            since: Instant::now(),
            plan: plan.clone(),
            tests,
            supply,
            policy,
            launcher,
            resources,
            reservation: reservation.clone(),
            journal,
            while_needed: entry == Entry::JoinWhileNeeded,
        };
        let claims = Claims::new(membership).await?;
        let (claims, ended) = execute(&Arc::new(work), claims, leave.clone(), events).await?;
        timings.end("execute");
        if ended == Ended::Unneeded {
            claims.into_membership().leave().await;
            return Err(RunError::Unneeded(id));
        }
        storing = claims.storing();
        let given_back = Box::pin(give_back(claims, ended));
        (without_tests(&leave, &id, given_back).await?, ended == Ended::Lost)
    } else {
        launcher.close().await;
        (membership, false)
    };
    let concluded = conclude(&mut membership, &plan);
    let details = without_tests(&leave, &id, concluded).await?;
    membership.leave().await;
    timings.end("finish");
    let _ = events.send(RunEvent::Spent { timings, storing });
    tell_end(&details, events);
    let cancelled = details.run.state == RunState::Finished { cancelled: true };
    match reservation {
        Some(reservation) if lost && cancelled => Err(reservation.loss().await.into()),
        _ => Ok(details),
    }
}

/// Begins the journal of the worker, where it is to have one.
fn begin_journal(
    journals: Option<JournalFolder>,
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

/// Gives back what the worker still holds, and has the run be cancelled where nobody is left to
/// execute it.
///
/// # Errors
/// [`RunError::Left`] where others go on; what the store said, where it failed for good.
pub async fn give_back(mut claims: Claims, ended: Ended) -> Result<Membership> {
    // What is recorded was recorded while the locks were held; the rest needs none.
    claims.membership_mut().hold(vec![]);
    if ended == Ended::Lost {
        let reason = "its reservation was lost".into();
        claims.membership_mut().cancel(Cancellation { reason, ends_tests: true }).await?;
    }
    claims.leave().await?;
    let mut membership = claims.into_membership();
    if ended == Ended::Left && membership.run().state == RunState::Running {
        if membership.leave_to_others().await? {
            return Err(RunError::Left(membership.id().clone()));
        }
        let reason = "it was interrupted".into();
        membership.cancel(Cancellation { reason, ends_tests: true }).await?;
    }
    Ok(membership)
}

/// Registers a worker of the run that is wanted: creates that with this plan, or joins it where
/// it is there and fits. Gives the run's own plan.
async fn enter(store: &SharedStore, order: &Order, plan: Plan) -> Result<(Membership, Arc<Plan>)> {
    let (proposed, worker) = (order.describe(&plan), order.worker());
    let digest = proposed.plan_digest.clone();
    let (membership, stored) = match order.entry {
        Entry::CreateOrJoin | Entry::Queue => {
            let environments = &order.environments;
            let proposal = Proposal { run: &proposed, plan: &plan, environments, rules: Some(&order.policy) };
            Membership::enter(store.clone(), worker, proposal, order.patience).await?
        }
        Entry::Join | Entry::JoinWhileNeeded => {
            Membership::join(store.clone(), worker, proposed, order.patience).await?
        }
    };
    // It may be large, and is there twice now.
    drop(plan);
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
    order: Order,
    leave: watch::Receiver<Leave>,
    events: &EventSink,
) -> Result<RunDetails> {
    let id = order.id.clone();
    let work = async {
        let plan = propose(store, &order).await?;
        let (membership, _) = Box::pin(enter(store, &order, plan)).await?;
        membership.leave().await;
        follow(store, &id, events).await?;
        Ok(history::read(store.as_ref(), &id).await?.value)
    };
    match unless(Leave::ToEnd, leave, &id, work).await {
        Err(RunError::Interrupted(run)) => Err(RunError::Unfollowed(run)),
        done => done,
    }
}

impl Order {
    /// This process as a worker of the run.
    fn worker(&self) -> Worker {
        Worker {
            id: self.worker.clone(),
            host: self.host.clone(),
            pid: std::process::id(),
            run: self.id.clone(),
            since: Timestamp::now(),
            lanes: u32::try_from(self.policy.lanes.get()).unwrap_or(u32::MAX),
            labels: self.labels.clone(),
        }
    }

    /// The record of the run, which nobody plans yet.
    fn describe(&self, plan: &Plan) -> Run {
        let redactor = self.secrets.redactor();
        Run {
            id: self.id.clone(),
            state: RunState::Running,
            created: Timestamp::now(),
            finished: None,
            command: self.command.iter().map(|word| redactor.text(word.clone())).collect(),
            author: self.author.clone(),
            commit: self.commit.clone(),
            build: self.build.clone(),
            environments: self.environments.iter().map(Environment::identity).collect(),
            units: u32::try_from(plan.len()).unwrap_or(u32::MAX),
            stripes: plan.stripes_by_group(),
            tests_digest: self.tests_digest.clone(),
            plan_digest: plan.digest(),
            shuffle: self.shuffle,
            summary: None,
            cancelled: None,
        }
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
    Ok(Plan::new(units(order), &histories, order.shuffle))
}

/// Each test in each environment, so many times.
fn units(order: &Order) -> Vec<PlannedUnit> {
    let Order { tests, environments, policy, .. } = order;
    let of = order.repetitions.get();
    let needs: Vec<Labels> = tests.iter().map(|selected| policy.of(&selected.test).needs).collect();
    let mut units = Vec::new();
    for repetition in (1..=of).map(|number| (of > 1).then_some(Repetition { number, of })) {
        for environment in environments {
            units.extend(tests.iter().zip(&needs).map(|(selected, needs)| PlannedUnit {
                test: selected.test.id.clone(),
                environment: environment.name.clone(),
                estimate: None,
                repetition,
                needs: needs.clone(),
                skip: selected.skipped.get(&environment.name).cloned(),
            }));
        }
    }
    units
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
    let details = conclude(&mut membership, plan).await?;
    tell_end(&details, events);
    membership.leave().await;
    Ok(())
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

fn tell_end(details: &RunDetails, events: &EventSink) {
    let _ = events.send(RunEvent::Ended {
        run: details.run.id.clone(),
        summary: details.run.summary.unwrap_or_default(),
        cancelled: details.run.state == RunState::Finished { cancelled: true },
    });
}
