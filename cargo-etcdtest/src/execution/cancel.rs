//! Ending a run before its time, and going on with it, from outside.

use std::time::Duration;

use super::error::{Result, RunError};
use super::finish::conclude;
use super::membership::{Membership, is_gone, read_plan};
use super::plan::Plan;
use crate::model::{Cancellation, Run, RunId, RunState, Steward, Worker};
use crate::reports::history::live_workers;
use crate::store::{
    Commit, Compare, KeyRange, KeyValue, Op, Revision, SharedStore, Txn, Wake, commit, encode, get_record,
    keys,
};

/// What came of a [`cancel`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// So many workers end what they have under way, and then the run.
    ByWorkers(usize),
    /// The run is over.
    Over,
}

/// Cancels a run: its workers hear of it at once. Where it has none, it is finished here, by
/// `worker`, which is none yet.
///
/// # Errors
/// [`RunError::Gone`] where there is no such run, [`RunError::Over`] where it is over, and as
/// the store fails.
pub async fn cancel(
    store: &SharedStore,
    worker: Worker,
    cancellation: &Cancellation,
    patience: Duration,
) -> Result<Cancelled> {
    let id = worker.run.clone();
    loop {
        let (run, pair) = record(store, &id).await?;
        let worker = worker.clone();
        if let Some(next) = run.when_cancelled(cancellation) {
            replace(store, &pair, &next, vec![], vec![], patience).await?;
            continue;
        }
        match &run.state {
            RunState::Finished { cancelled } => return Err(over(id, *cancelled)),
            RunState::Planning { by } if is_alive(store, &id, by).await? => {
                let ranges = [KeyRange::key(pair.key), KeyRange::key(keys::worker(&by.worker))];
                let after = Revision(pair.modified.0 + 1);
                Wake::new(store.as_ref(), ranges, after).await?.changed().await?;
            }
            RunState::Planning { by } => {
                let (store, gone, before) = (store.clone(), vec![is_gone(by)], run.clone());
                let mut membership =
                    Membership::register(store, worker, before, pair.modified, patience).await?;
                let state = RunState::Finishing { by: membership.steward(), cancelled: true };
                // Nobody is to take what there is of its plan for one.
                let plan = vec![Op::Delete(KeyRange::prefix(keys::execution(&id)))];
                let cancelled = Some(cancellation.clone());
                membership.try_advance(Run { state, cancelled, ..run }, gone, plan).await?;
                if see_off(membership, &Plan::default()).await? {
                    return Ok(Cancelled::Over);
                }
            }
            RunState::Running | RunState::Cancelling | RunState::Finishing { .. } => {
                let workers = live_workers(store.as_ref(), &id).await?.len();
                if workers > 0 {
                    return Ok(Cancelled::ByWorkers(workers));
                }
                let (membership, plan) = Membership::join(store.clone(), worker, run, patience).await?;
                if see_off(membership, &plan).await? {
                    return Ok(Cancelled::Over);
                }
            }
        }
    }
}

/// Finishes a run that is being ended, and says whether it is over: else all begins anew.
async fn see_off(mut membership: Membership, plan: &Plan) -> Result<bool> {
    let state = &membership.run().state;
    let is_over =
        matches!(state, RunState::Cancelling | RunState::Finishing { .. } | RunState::Finished { .. })
            && conclude(&mut membership, plan).await?.is_some();
    membership.leave().await;
    Ok(is_over)
}

/// Opens a run again that was cancelled, or whose workers died while they ended it: whoever
/// joins it then executes what has no result yet.
///
/// # Errors
/// [`RunError::Gone`], [`RunError::Over`] where all of it has a result, or it was cancelled before it
/// was planned, [`RunError::Ending`] where its workers are ending it, [`RunError::Unplanned`], and as
/// the store fails.
pub async fn resume(store: &SharedStore, id: &RunId, patience: Duration) -> Result<()> {
    loop {
        let (run, pair) = record(store, id).await?;
        let given = match &run.state {
            RunState::Finished { cancelled: false } => return Err(over(id.clone(), false)),
            RunState::Finished { cancelled: true } => {
                check_planned(store, &run, patience).await?;
                vec![]
            }
            RunState::Planning { by } if !is_alive(store, id, by).await? => {
                return Err(RunError::Unplanned(id.clone()));
            }
            RunState::Finishing { by, .. } if !is_alive(store, id, by).await? => {
                check_planned(store, &run, patience).await?;
                vec![is_gone(by)]
            }
            RunState::Running | RunState::Planning { .. } => return Ok(()),
            RunState::Cancelling if live_workers(store.as_ref(), id).await?.is_empty() => vec![],
            RunState::Cancelling | RunState::Finishing { .. } => return Err(RunError::Ending(id.clone())),
        };
        let next = Run { state: RunState::Running, finished: None, summary: None, cancelled: None, ..run };
        // As many may fail again before it is given up.
        let counts = vec![Op::Delete(KeyRange::prefix(keys::failures(id)))];
        replace(store, &pair, &next, given, counts, patience).await?;
    }
}

/// Refuses a run that was cancelled before it was planned: there is nothing to go on with.
async fn check_planned(store: &SharedStore, run: &Run, patience: Duration) -> Result<()> {
    match read_plan(store, run, &patience.into()).await {
        Ok(_) => Ok(()),
        Err(RunError::Plan(run)) => Err(RunError::Over { run, how: "cancelled before it was planned" }),
        Err(error) => Err(error),
    }
}

async fn record(store: &SharedStore, id: &RunId) -> Result<(Run, KeyValue)> {
    get_record(store.as_ref(), keys::run(id)).await?.ok_or_else(|| RunError::Gone(id.clone()))
}

/// Whether the worker that does what only one may do is alive.
async fn is_alive(store: &SharedStore, id: &RunId, by: &Steward) -> Result<bool> {
    let live = live_workers(store.as_ref(), id).await?;
    Ok(live.iter().any(|(worker, created)| worker.id == by.worker && created.0 == by.identity))
}

/// Writes the run's record anew, if it is as it was read, and does this with it. Says whether it was
/// written.
async fn replace(
    store: &SharedStore,
    read: &KeyValue,
    run: &Run,
    given: Vec<Compare>,
    with: Vec<Op>,
    patience: Duration,
) -> Result<bool> {
    let unchanged = Compare::modified(read.key.clone(), read.modified);
    let txn = Txn {
        compares: given.into_iter().chain([unchanged]).collect(),
        then: [vec![Op::put(read.key.clone(), encode(run))], with].concat(),
        otherwise: vec![],
    };
    let committed = commit(store.as_ref(), &txn, &read.key, patience).await?;
    Ok(matches!(committed, Commit::Applied(_)))
}

fn over(run: RunId, cancelled: bool) -> RunError {
    RunError::Over { run, how: if cancelled { "cancelled" } else { "finished" } }
}
