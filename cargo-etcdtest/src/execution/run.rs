//! One run, from its plan to its reports, by the worker that created it.

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

use super::attempt::{Leave, told};
use super::claims::Claims;
use super::error::{Result, RunError};
use super::events::RunEvent;
use super::finish::{Latest, finish};
use super::membership::Membership;
use super::plan::{Histories, History, Plan};
use super::policy::Policy;
use super::process::Launcher;
use super::timings::Timings;
use super::work::{EnvironmentFiles, Work};
use super::worker::{EventSink, execute};
use crate::model::{
    Commit, Environment, LatestResult, PlannedUnit, Repetition, Run, RunId, RunState, TestCaseId, Worker,
    WorkerId,
};
use crate::reports::RunDetails;
use crate::store::{KeyRange, SharedStore, decode, keys, list};
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
    /// The rules.
    pub policy: Policy,
    /// The seed of the order, if that is left to chance.
    pub shuffle: Option<u64>,
    /// How often each test is run.
    pub repetitions: NonZeroU32,
    /// What was typed.
    pub command: Vec<String>,
    /// Who typed it: `user@host`.
    pub author: String,
    /// This machine's name.
    pub host: String,
    /// This program, which serves as keeper when it is told to.
    pub keeper: PathBuf,
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
    let (id, quit) = (order.id.clone(), leave.clone());
    let to_its_end = Box::pin(run_to_its_end(store, order, leave, events));
    unless(Leave::ToQuit, quit, &id, to_its_end).await
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

async fn run_to_its_end(
    store: SharedStore,
    order: Order,
    leave: watch::Receiver<Leave>,
    events: &EventSink,
) -> Result<RunDetails> {
    let Order { id, tests, environments, policy, patience, shuffle, repetitions, mut timings, .. } = order;
    let latest = without_tests(&leave, &id, read_latest(&store, &tests)).await?;
    let histories: Histories = histories(&latest, &tests, &environments);
    let of = repetitions.get();
    let mut units = Vec::new();
    for repetition in (1..=of).map(|number| (of > 1).then_some(Repetition { number, of })) {
        for environment in &environments {
            units.extend(tests.iter().map(|selected| PlannedUnit {
                test: selected.test.id.clone(),
                environment: environment.name.clone(),
                estimate: None,
                repetition,
                skip: selected.skipped.get(&environment.name).cloned(),
            }));
        }
    }
    let plan = Plan::new(units, &histories, shuffle);
    timings.end("plan");

    let worker = Worker {
        id: WorkerId::generate(&order.host),
        host: order.host,
        pid: std::process::id(),
        run: id.clone(),
        since: Timestamp::now(),
        lanes: u32::try_from(policy.lanes.get()).unwrap_or(u32::MAX),
    };
    let describe = |state| Run {
        id: id.clone(),
        state,
        created: Timestamp::now(),
        finished: None,
        command: order.command,
        author: order.author,
        commit: order.commit,
        environments: environments.iter().map(Environment::identity).collect(),
        units: u32::try_from(plan.len()).unwrap_or(u32::MAX),
        stripes: u32::try_from(plan.stripes()).unwrap_or(u32::MAX),
        tests_digest: order.tests_digest,
        plan_digest: plan.digest(),
        shuffle,
        summary: None,
    };
    let by_id = tests.iter().map(|selected| (selected.test.id.clone(), selected.test.clone()));
    let by_id: HashMap<TestCaseId, ListedTest> = by_id.collect();
    // What may fail on this machine comes before there is a run in the store.
    let files = EnvironmentFiles::write(&environments, &by_id)?;
    let launcher = Launcher::new(order.keeper, files.folder(), events.clone());
    let failed = |source| RunError::Io { what: "start the keeper of the tests".into(), source };
    launcher.begin().await.map_err(failed)?;
    let create = Membership::create(store, worker, &plan, &environments, patience, describe);
    let membership = without_tests(&leave, &id, create).await?;
    timings.end("create");
    let _ = events.send(RunEvent::Started {
        run: membership.id().clone(),
        units: membership.run().units,
        tests: u32::try_from(tests.len()).unwrap_or(u32::MAX),
        environments: membership.run().environments.clone(),
        shuffle: membership.run().shuffle,
    });

    let work = Arc::new(Work {
        run: membership.id().clone(),
        worker: membership.worker().id.clone(),
        files,
        plan,
        tests: by_id,
        environments: environments
            .into_iter()
            .map(|environment| (environment.name.clone(), environment))
            .collect(),
        policy,
        launcher,
    });
    let claims = Claims::new(membership).await?;
    let (claims, cancelled) = execute(&work, claims, leave.clone(), events).await?;
    timings.end("execute");
    let storing = claims.storing();
    let mut membership = claims.into_membership();
    let details = without_tests(&leave, &id, finish(&mut membership, &latest, cancelled)).await?;
    membership.leave().await;
    timings.end("finish");
    let _ = events.send(RunEvent::Spent { timings, storing });
    let _ = events.send(RunEvent::Ended {
        run: details.run.id.clone(),
        summary: details.run.summary.unwrap_or_default(),
        cancelled: details.run.state == RunState::Finished { cancelled: true },
    });
    Ok(details)
}

/// The latest results of all tests of the selected tests' binaries.
async fn read_latest(store: &SharedStore, tests: &[Selected]) -> Result<Latest> {
    let binaries: BTreeSet<(&str, &str)> = tests
        .iter()
        .map(|selected| (selected.test.id.package.as_str(), selected.test.id.binary.as_str()))
        .collect();
    let mut latest = Latest::new();
    for (package, binary) in binaries {
        let page = list(store.as_ref(), KeyRange::prefix(keys::latest_results_of(package, binary))).await?;
        for pair in page.pairs {
            // What cannot be read tells nothing of the past.
            if let Ok(result) = decode::<LatestResult>(&pair) {
                latest.insert(pair.key, (result, pair.modified));
            }
        }
    }
    Ok(latest)
}

fn histories(latest: &Latest, tests: &[Selected], environments: &[Environment]) -> Histories {
    let units = environments.iter().flat_map(|environment| {
        tests.iter().map(|selected| (selected.test.id.clone(), environment.name.clone()))
    });
    units
        .filter_map(|unit| {
            let (result, _) = latest.get(&keys::latest_result(&unit.0, &unit.1))?;
            Some((unit, History::of(result)))
        })
        .collect()
}
