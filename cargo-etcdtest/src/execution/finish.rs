//! The end of a run: reports, latest results, summary. Done by one worker, under its fence.

use std::collections::HashMap;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;

use super::error::{Result, RunError};
use super::membership::Membership;
use super::plan::Plan;
use crate::model::{
    EnvironmentVersion, LatestResult, Outcome, RecentOutcome, Run, RunState, RunSummary, Steward, UnitResult, Verdict,
};
use crate::reports::{self, RunHistory};
use crate::store::{Commit, Compare, KeyValue, Op, Revision, SharedStore, Txn, commit, decode, encode, get, keys};

/// How many latest results one transaction carries.
const BATCH: usize = 40;
/// How many such transactions are under way at once.
const AT_ONCE: usize = 4;

/// The latest results as they were when the run was planned, with what they were read from.
pub type Latest = HashMap<crate::store::Key, (LatestResult, Revision)>;

/// Finishes a run whose units all have a result, or that was cancelled.
///
/// # Errors
/// What the store said; the run then stays as it is, and can be finished again.
pub async fn finish(membership: &mut Membership, plan: &Plan, latest: &Latest, cancelled: bool) -> Result<RunSummary> {
    let by = Steward { worker: membership.worker().id.clone(), identity: membership.identity().0 };
    membership.change_state(RunState::Finishing { by, cancelled }, vec![]).await?;

    let store = membership.store().clone();
    let history = RunHistory::read(&store, membership.id()).await?;
    let ended = Timestamp::now();
    let summary = summarise(&history.results, membership.run(), ended);
    let run = Run {
        state: RunState::Finished { cancelled },
        finished: Some(ended),
        summary: Some(summary),
        ..membership.run().clone()
    };

    let documents = reports::render_all(&store, &RunHistory { run: run.clone(), ..history.clone() }).await?;
    for (name, content) in documents {
        for (key, piece) in reports::chunks(&run.id, &name, &content) {
            membership.put(key, piece).await?;
        }
    }
    store_latest(&store, plan, &history.results, &run, latest, membership.patience()).await?;
    membership.replace_run(run, &mut vec![]).await?;
    Ok(summary)
}

/// Counts what a run came to.
pub fn summarise(results: &[UnitResult], run: &Run, ended: Timestamp) -> RunSummary {
    let duration = ended.duration_since(run.created);
    let mut summary =
        RunSummary { duration: Duration::try_from(duration).unwrap_or_default(), ..RunSummary::default() };
    for result in results {
        let count = match (result.verdict(), result.outcome) {
            (Verdict::Flaky, _) => &mut summary.flaky,
            (_, Outcome::Passed) => &mut summary.passed,
            (_, Outcome::Failed) => &mut summary.failed,
            (_, Outcome::TimedOut) => &mut summary.timed_out,
            (_, Outcome::Crashed) => &mut summary.crashed,
            (_, Outcome::Skipped) => &mut summary.skipped,
        };
        *count += 1;
    }
    let recorded = u32::try_from(results.len()).unwrap_or(u32::MAX);
    summary.not_run = run.units.saturating_sub(recorded);
    summary
}

/// Writes the latest result of every unit, unless there is one of a newer run.
async fn store_latest(
    store: &SharedStore,
    plan: &Plan,
    results: &[UnitResult],
    run: &Run,
    latest: &Latest,
    patience: Duration,
) -> Result<()> {
    let writes: Vec<_> = results
        .iter()
        .filter_map(|result| {
            let unit = plan.unit(result.unit)?;
            let environment = run.environments.iter().find(|environment| environment.name == unit.environment)?;
            Some((keys::latest_result(&unit.test, &unit.environment), result, environment))
        })
        .collect();
    stream::iter(writes.chunks(BATCH))
        .map(|batch| store_batch(store, batch, run, latest, patience))
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

type Write<'a> = (crate::store::Key, &'a UnitResult, &'a EnvironmentVersion);

/// Writes several at once where nothing has changed since the run was planned; else one by one.
async fn store_batch(
    store: &SharedStore,
    batch: &[Write<'_>],
    run: &Run,
    latest: &Latest,
    patience: Duration,
) -> Result<()> {
    let mut txn = Txn::default();
    for (key, result, environment) in batch {
        let known = latest.get(key);
        txn.compares.push(Compare::modified(key.clone(), known.map_or(Revision(0), |(_, revision)| *revision)));
        if let Some(next) = newest(known.map(|(latest, _)| latest), result, environment, run) {
            txn.then.push(Op::put(key.clone(), encode(&next)));
        }
    }
    let Some(Op::Put { key: proof, .. }) = txn.then.last().cloned() else { return Ok(()) };
    if let Commit::Applied(_) = commit(store.as_ref(), &txn, &proof, patience).await? {
        return Ok(());
    }
    for (key, result, environment) in batch {
        let mut pair = get(store.as_ref(), key.clone()).await?;
        while let Some(next) = next_to(pair.as_ref(), result, environment, run)? {
            let modified = pair.as_ref().map_or(Revision(0), |pair| pair.modified);
            let txn = Txn {
                compares: vec![Compare::modified(key.clone(), modified)],
                then: vec![Op::put(key.clone(), encode(&next))],
                otherwise: vec![],
            };
            if let Commit::Applied(_) = commit(store.as_ref(), &txn, key, patience).await? {
                break;
            }
            pair = get(store.as_ref(), key.clone()).await?;
        }
    }
    Ok(())
}

fn next_to(
    pair: Option<&KeyValue>,
    result: &UnitResult,
    environment: &EnvironmentVersion,
    run: &Run,
) -> Result<Option<LatestResult>> {
    let before = pair.map(decode::<LatestResult>).transpose().map_err(RunError::Store)?;
    Ok(newest(before.as_ref(), result, environment, run))
}

/// The record to write after this run; `None` where a newer run has written one already.
fn newest(
    before: Option<&LatestResult>,
    result: &UnitResult,
    environment: &EnvironmentVersion,
    run: &Run,
) -> Option<LatestResult> {
    if before.is_some_and(|before| before.created > run.created) {
        return None;
    }
    let outcome = RecentOutcome {
        run: run.id.clone(),
        created: run.created,
        verdict: result.verdict(),
        duration: result.duration(),
    };
    let earlier = before.into_iter().flat_map(|before| before.recent.iter().cloned());
    let earlier = earlier.filter(|recent| recent.run != run.id);
    Some(LatestResult {
        run: run.id.clone(),
        created: run.created,
        environment: environment.clone(),
        commit: run.commit.as_ref().map(|commit| commit.id.clone()),
        result: result.clone(),
        recent: std::iter::once(outcome).chain(earlier).take(LatestResult::RECENT).collect(),
    })
}
