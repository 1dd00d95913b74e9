//! The end of a run: reports, latest results, summary. Done by one worker, under its fence.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

use backon::Retryable;
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;

use super::batches::batches;
use super::error::Result;
use super::membership::Membership;
use crate::model::{
    EnvironmentVersion, LatestResult, RecentOutcome, Run, RunId, RunState, Steward, UnitResult,
};
use crate::reports::history::{self, Found, Shown};
use crate::reports::{ReportError, RunDetails, UnitDetails, render_all, report_writes};
use crate::store::{
    Commit, Compare, Key, KeyRange, Op, Revision, SharedStore, StoreError, Txn, commit, decode, encode, get,
    keys, pauses,
};

/// How many latest results one transaction carries.
const BATCH: usize = 100;
/// How many bytes of results it carries.
const BATCH_BYTES: usize = 768 << 10;
/// About how many bytes a latest result has beside the result itself.
const BESIDE: usize = 8 << 10;
/// How many such transactions are under way at once.
const AT_ONCE: usize = 4;

/// The latest results as they were when the run was planned, with what they were read from.
pub type Latest = HashMap<Key, (LatestResult, Revision)>;

/// Finishes a run whose units all have a result, or that was cancelled.
///
/// # Errors
/// What the store said; the run then stays as it is, and can be finished again.
pub async fn finish(membership: &mut Membership, latest: &Latest, cancelled: bool) -> Result<RunDetails> {
    let finishing = |run: &Run, by: Steward| {
        let cancelled = cancelled || run.state == RunState::Cancelling;
        let open = match &run.state {
            RunState::Running | RunState::Cancelling => true,
            RunState::Finishing { by: finisher, .. } => finisher.worker == by.worker,
            RunState::Planning { .. } | RunState::Finished { .. } => false,
        };
        open.then(|| Run { state: RunState::Finishing { by, cancelled }, ..run.clone() })
    };
    membership.advance(finishing, vec![]).await?;
    membership.check_open()?;

    let (store, patience) = (membership.store().clone(), membership.patience().limit());
    let mut details = (|| read_details(&store, membership.id()))
        .retry(pauses().with_total_delay(Some(patience)))
        .when(|error| matches!(error, ReportError::Store(error) if error.is_transient()))
        .await?;
    // Whoever stops a run when all of it was under way has stopped nothing.
    let cancelled = cancelled && details.summary().not_run > 0;
    details.run.state = RunState::Finished { cancelled };
    details.run.finished = Some(Timestamp::now());
    details.run.summary = Some(details.summary());

    let rendered = render_all(&details)?;
    let reports = async {
        for (name, content) in &rendered {
            for (proof, then) in report_writes(membership.id(), name, content) {
                membership.write(&proof, then).await?;
            }
        }
        Ok(())
    };
    tokio::try_join!(reports, store_latest(&store, &details, latest, patience))?;
    let finished = |run: &Run, by: Steward| {
        let mine =
            matches!(&run.state, RunState::Finishing { by: finisher, .. } if finisher.worker == by.worker);
        mine.then(|| details.run.clone())
    };
    if membership.advance(finished, vec![]).await? { Ok(details) } else { Err(membership.superseded()) }
}

/// Everything about a run, with its output.
async fn read_details(store: &SharedStore, run: &RunId) -> std::result::Result<RunDetails, ReportError> {
    let Found { value: mut details, broken } = history::read(store.as_ref(), run).await?;
    // A test case adds its description to the reports; they can do without.
    let needed = |error: &StoreError| match error {
        StoreError::Record { key, .. } => !KeyRange::prefix(keys::TEST_CASES).contains(key),
        _ => true,
    };
    if let Some(error) = broken.into_iter().find(needed) {
        return Err(error.into());
    }
    history::load_output(store.as_ref(), &mut details, Shown::REPORT).await?;
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
    stream::iter(batches(writes, BATCH, BATCH_BYTES, |(_, result, _)| result.size() + BESIDE))
        .map(|batch| store_batch(store, batch, run, latest, patience))
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

type Write<'a> = (Key, &'a UnitResult, &'a EnvironmentVersion);

/// Writes several at once where nothing has changed since the run was planned; else one by one.
async fn store_batch(
    store: &SharedStore,
    batch: Vec<Write<'_>>,
    run: &Run,
    latest: &Latest,
    patience: Duration,
) -> Result<()> {
    let mut txn = Txn::default();
    for (key, result, environment) in &batch {
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
    for (key, result, environment) in &batch {
        let read = || get(store.as_ref(), key.clone());
        let read = || read.retry(pauses().with_total_delay(Some(patience))).when(StoreError::is_transient);
        let mut pair = read().await?;
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
            pair = read().await?;
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
