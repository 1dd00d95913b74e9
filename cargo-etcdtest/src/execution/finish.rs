//! The end of a run: reports, latest results, summary. Done by one worker, under its fence.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;

use super::error::Result;
use super::membership::Membership;
use crate::model::{EnvironmentVersion, LatestResult, RecentOutcome, Run, RunState, Steward, UnitResult};
use crate::reports::history::{self, Found, Shown};
use crate::reports::{Reports, RunDetails, UnitDetails, render_all};
use crate::store::{
    Commit, Compare, Key, KeyRange, Op, Revision, SharedStore, StoreError, Txn, commit, decode, encode, get,
    keys,
};

/// How many latest results one transaction carries.
const BATCH: usize = 40;
/// How many such transactions are under way at once.
const AT_ONCE: usize = 4;

/// The latest results as they were when the run was planned, with what they were read from.
pub type Latest = HashMap<Key, (LatestResult, Revision)>;

/// Finishes a run whose units all have a result, or that was cancelled.
///
/// # Errors
/// What the store said; the run then stays as it is, and can be finished again.
pub async fn finish(membership: &mut Membership, latest: &Latest, cancelled: bool) -> Result<RunDetails> {
    let by = Steward { worker: membership.worker().id.clone(), identity: membership.identity().0 };
    membership.change_state(RunState::Finishing { by, cancelled }, vec![]).await?;

    let store = membership.store().clone();
    let Found { value: mut details, broken } = history::read(store.as_ref(), membership.id()).await?;
    // A test case adds its description to the reports; they can do without.
    let needed = |error: &StoreError| match error {
        StoreError::Record { key, .. } => !KeyRange::prefix(keys::TEST_CASES).contains(key),
        _ => true,
    };
    if let Some(error) = broken.into_iter().find(needed) {
        return Err(error.into());
    }
    history::load_output(store.as_ref(), &mut details, Shown::REPORT).await?;
    details.run.state = RunState::Finished { cancelled };
    details.run.finished = Some(Timestamp::now());
    details.run.summary = Some(details.summary());

    let reports = Reports::new(store.clone());
    for (name, content) in render_all(&details)? {
        reports.put(membership.id(), name, &content, &membership.fence()).await?;
    }
    store_latest(&store, &details, latest, membership.patience()).await?;
    membership.replace_run(details.run.clone(), &mut vec![]).await?;
    Ok(details)
}

/// Writes the latest result of every unit, unless there is one of a newer run.
async fn store_latest(
    store: &SharedStore,
    details: &RunDetails,
    latest: &Latest,
    patience: Duration,
) -> Result<()> {
    let run = &details.run;
    let mut units: Vec<_> = details.units.iter().filter(|unit| unit.result.is_some()).collect();
    // Of several repetitions the last one counts.
    units.sort_by_key(|unit| {
        (&unit.planned.test, &unit.planned.environment, Reverse(unit.planned.repetition))
    });
    units.dedup_by_key(|unit| (&unit.planned.test, &unit.planned.environment));
    let writes: Vec<_> = units
        .into_iter()
        .filter_map(|unit| {
            let UnitDetails { planned, result, .. } = unit;
            let environment =
                run.environments.iter().find(|environment| environment.name == planned.environment)?;
            Some((keys::latest_result(&planned.test, &planned.environment), result.as_ref()?, environment))
        })
        .collect();
    stream::iter(writes.chunks(BATCH))
        .map(|batch| store_batch(store, batch, run, latest, patience))
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

type Write<'a> = (Key, &'a UnitResult, &'a EnvironmentVersion);

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
        txn.compares
            .push(Compare::modified(key.clone(), known.map_or(Revision(0), |(_, revision)| *revision)));
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
        loop {
            let before = pair.as_ref().map(decode::<LatestResult>).transpose();
            // A record of a newer version is newer than this run.
            let Some(next) = before.ok().and_then(|before| newest(before.as_ref(), result, environment, run))
            else {
                break;
            };
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
