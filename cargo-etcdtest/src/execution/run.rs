//! One run, from its plan to its reports, by the worker that created it.

use std::collections::HashMap;
use std::fs::Permissions;
use std::num::NonZeroU32;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::Instant;

use super::attempt::{Leave, told};
use super::claims::Claims;
use super::error::{Result, RunError};
use super::events::RunEvent;
use super::finish::finish;
use super::latest::read_histories;
use super::launcher::Launcher;
use super::membership::Membership;
use super::plan::Plan;
use super::policy::Policy;
use super::reserve::reserve;
use super::services::{Ground, Supply};
use super::timings::Timings;
use super::work::Work;
use super::worker::{Ended, EventSink, execute};
use crate::environments::{DataFiles, DataSets, Reservation, SecretValues};
use crate::model::{
    Build, Commit, Environment, Labels, PlannedUnit, Repetition, Run, RunId, RunState, TestCaseId, TestKind,
    Worker, WorkerId,
};
use crate::reports::RunDetails;
use crate::store::SharedStore;
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
    /// What was done before the run.
    pub timings: Timings,
}

/// A test that was selected.
#[derive(Clone, Debug)]
pub struct Selected {
    /// The test.
    pub test: ListedTest,
    /// For each environment by name, why it is not run there; nothing where it is.
    pub skipped: HashMap<String, String>,
}

/// Creates, executes and finishes a run. `leave` says how far tests under way may go;
/// `events` hears what happens.
///
/// # Errors
/// What the store said, where it failed for good; the run can then be seen in the store as
/// far as it came.
pub async fn run(
    store: SharedStore,
    order: Order,
    leave: watch::Receiver<Leave>,
    events: &EventSink,
) -> Result<RunDetails> {
    let reservation = reserve(&store, &order, leave.clone(), events).await?.map(Arc::new);
    let (id, quit) = (order.id.clone(), leave.clone());
    let reserved = Box::pin(run_reserved(store, order, reservation.clone(), leave, events));
    let result = unless(Leave::ToQuit, quit, &id, reserved).await;
    if let Some(reservation) = reservation {
        reservation.release().await;
    }
    result
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
    order: Order,
    reservation: Option<Arc<Reservation>>,
    leave: watch::Receiver<Leave>,
    events: &EventSink,
) -> Result<RunDetails> {
    let Order {
        id, tests, environments, secrets, policy, patience, shuffle, repetitions, mut timings, ..
    } = order;
    if reservation.is_some() {
        timings.end("reserve");
    }
    let ids: Vec<&TestCaseId> = tests.iter().map(|selected| &selected.test.id).collect();
    let names: Vec<&str> = environments.iter().map(|environment| environment.name.as_str()).collect();
    let histories = without_tests(&leave, &id, read_histories(&store, &ids, &names, patience)).await?;
    let plan = Plan::new(units(&tests, &environments, repetitions.get(), &policy), &histories, shuffle);
    drop(histories);
    timings.end("plan");

    let worker = Worker {
        id: WorkerId::generate(&order.host),
        host: order.host,
        pid: std::process::id(),
        run: id.clone(),
        since: Timestamp::now(),
        lanes: u32::try_from(policy.lanes.get()).unwrap_or(u32::MAX),
        labels: order.labels,
    };
    let redactor = secrets.redactor();
    let command = order.command.into_iter().map(|word| redactor.text(word)).collect();
    let describe = |state| Run {
        id: id.clone(),
        state,
        created: Timestamp::now(),
        finished: None,
        command,
        author: order.author,
        commit: order.commit,
        build: order.build,
        environments: environments.iter().map(Environment::identity).collect(),
        units: u32::try_from(plan.len()).unwrap_or(u32::MAX),
        stripes: plan.stripes_by_group(),
        tests_digest: order.tests_digest,
        plan_digest: plan.digest(),
        shuffle,
        summary: None,
    };
    let by_id = tests.iter().map(|selected| (selected.test.id.clone(), selected.test.clone()));
    let by_id: HashMap<TestCaseId, ListedTest> = by_id.collect();
    // What may fail on this machine comes before there is a run in the store.
    let (folder, data) = files(&store, &by_id, &environments).await?;
    let path = folder.as_ref().map(|folder| folder.path().to_owned());
    let launcher = Arc::new(Launcher::new(order.keeper, path, policy.lanes, events.clone(), redactor));
    let failed = |source| RunError::Io { what: "start the keeper of the tests".to_owned(), source };
    launcher.begin().await.map_err(failed)?;
    let create = Membership::create(store, worker, &plan, &environments, patience, describe);
    let mut membership = without_tests(&leave, &id, create).await?;
    membership.hold(reservation.as_ref().map(|reservation| reservation.locks()).unwrap_or_default());
    timings.end("create");
    let _ = events.send(RunEvent::Started {
        run: membership.id().clone(),
        units: membership.run().units,
        tests: u32::try_from(tests.len()).unwrap_or(u32::MAX),
        environments: membership.run().environments.clone(),
        shuffle: membership.run().shuffle,
    });

    let ground = Ground::new(Arc::clone(&launcher), order.root, order.built, secrets, events.clone());
    let supply = match Supply::provide(ground, &environments, data, folder, &leave).await {
        Ok(supply) => supply,
        Err(error) => {
            launcher.close().await;
            give_up(&mut membership, &error, events).await?;
            membership.leave().await;
            return Err(error);
        }
    };
    timings.end("provide");
    let work = Arc::new(Work {
        run: membership.id().clone(),
        worker: membership.worker().id.clone(),
        host: membership.worker().host.as_str().into(),
        since: Instant::now(),
        plan,
        tests: by_id,
        supply,
        policy,
        launcher,
        reservation: reservation.clone(),
    });
    let claims = Claims::new(membership).await?;
    let (claims, ended) = execute(&work, claims, leave.clone(), events).await?;
    timings.end("execute");
    let storing = claims.storing();
    let mut membership = claims.into_membership();
    // What is recorded was recorded while the locks were held; the rest needs none.
    membership.hold(vec![]);
    let finished = finish(&mut membership, ended != Ended::Complete);
    let details = without_tests(&leave, &id, finished).await?;
    membership.leave().await;
    timings.end("finish");
    let _ = events.send(RunEvent::Spent { timings, storing });
    end(&details, events);
    let cancelled = details.run.state == RunState::Finished { cancelled: true };
    match reservation {
        Some(reservation) if ended == Ended::Lost && cancelled => Err(reservation.loss().await.into()),
        _ => Ok(details),
    }
}

/// Each test in each environment, so many times.
fn units(tests: &[Selected], environments: &[Environment], of: u32, policy: &Policy) -> Vec<PlannedUnit> {
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
    tests: &HashMap<TestCaseId, ListedTest>,
    environments: &[Environment],
) -> Result<(Option<TempDir>, DataFiles)> {
    let has_data = environments.iter().any(|environment| !environment.definition.data.is_empty());
    if !has_data && tests.values().all(|test| test.code.kind != TestKind::Plain) {
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

/// Ends a run of which no test can begin.
async fn give_up(membership: &mut Membership, error: &RunError, events: &EventSink) -> Result<()> {
    let reason = match error {
        RunError::NotReady(not_ready) => not_ready.headline(),
        error => error.to_string(),
    };
    let _ = events.send(RunEvent::Cancelled { reason });
    let details = finish(membership, true).await?;
    end(&details, events);
    Ok(())
}

fn end(details: &RunDetails, events: &EventSink) {
    let _ = events.send(RunEvent::Ended {
        run: details.run.id.clone(),
        summary: details.run.summary.unwrap_or_default(),
        cancelled: details.run.state == RunState::Finished { cancelled: true },
    });
}
