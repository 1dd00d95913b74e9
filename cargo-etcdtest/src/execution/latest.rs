//! The latest results: read before a run for its plan, and written at its end. So many tests
//! at once, and of none more than is needed: they may be a hundred thousand.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use backon::Retryable;
use futures::{StreamExt, TryStreamExt, stream};

use super::batches::batches;
use super::error::Result;
use super::history::{Histories, History};
use crate::model::{
    EnvironmentVersion, LatestResult, PastResults, RecentOutcome, Run, RunId, TestCaseId, UnitResult,
};
use crate::reports::RunDetails;
use crate::store::{
    Compare, Key, KeyValue, Op, Revision, SharedStore, StoreError, Txn, decode, encode, get_each, keys,
    pauses,
};

/// How many latest results one transaction carries.
const BATCH: usize = 100;
/// How many bytes of results it carries.
const BATCH_BYTES: usize = 768 << 10;
/// About how many bytes a latest result has beside the result itself.
const BESIDE: usize = 8 << 10;
/// How many such transactions are under way at once.
const AT_ONCE: usize = 4;

/// What the latest results of these tests in these environments say, for a plan.
///
/// # Errors
/// As for any read of the store.
pub async fn read_histories(
    store: &SharedStore,
    tests: &[&TestCaseId],
    environments: &[&str],
    patience: Duration,
) -> Result<Histories> {
    // In the order of their keys: neighbours are read together.
    let units =
        tests.iter().flat_map(|&test| environments.iter().map(move |&environment| (test, environment)));
    let batches = stream::iter(batches(units, BATCH, usize::MAX, |_| 0));
    let read = batches.map(async |units: Vec<(&TestCaseId, &str)>| {
        let keys: Vec<Key> =
            units.iter().map(|(test, environment)| keys::latest_result(test, environment)).collect();
        let found = read_each(store, &keys, patience).await?;
        // What cannot be read tells nothing of the past.
        let known = found.iter().map(|pair| decode::<PastResults>(pair.as_ref()?).ok());
        let known = known.map(|past| past.map(|past| History::of(&past.recent)));
        Ok(units.into_iter().zip(known).collect::<Vec<_>>())
    });
    let known = read.buffered(AT_ONCE).try_fold(Histories::default(), async |mut histories, known| {
        for ((test, environment), history) in known {
            if let Some(history) = history {
                histories.insert(test.clone(), environment, history);
            }
        }
        Ok(histories)
    });
    known.await
}

/// Writes the latest result of every unit, unless there is one of a newer run. Which of two
/// runs is newer, the store says, which created their records one after the other.
///
/// # Errors
/// As for any transaction.
pub(super) async fn store_latest(
    store: &SharedStore,
    details: &RunDetails,
    patience: Duration,
) -> Result<()> {
    let run = &details.run;
    let mut units: Vec<_> = details.units.iter().filter(|unit| unit.result.is_some()).collect();
    // Of several repetitions the last one counts.
    units.sort_by_key(|unit| {
        (&unit.planned.test, &unit.planned.environment, Reverse(unit.planned.repetition))
    });
    units.dedup_by_key(|unit| (&unit.planned.test, &unit.planned.environment));
    let writes = units.into_iter().filter_map(|unit| {
        let name = &unit.planned.environment;
        let environment = run.environments.iter().find(|environment| environment.name == *name)?;
        let key = keys::latest_result(&unit.planned.test, name);
        Some(Write { key, result: unit.result.as_ref()?, environment })
    });
    let run_end = Writer { store, run, patience, created: Mutex::default() };
    stream::iter(batches(writes, BATCH, BATCH_BYTES, |write| write.result.size() + BESIDE))
        .map(|batch| run_end.write(batch))
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

/// A result that is to become the latest one.
struct Write<'a> {
    key: Key,
    result: &'a UnitResult,
    environment: &'a EnvironmentVersion,
}

/// Writes latest results of one run.
struct Writer<'a> {
    store: &'a SharedStore,
    run: &'a Run,
    patience: Duration,
    /// When the records of runs were created, as far as they were looked up; 0 where there
    /// is none any more.
    created: Mutex<HashMap<RunId, Revision>>,
}

impl Writer<'_> {
    /// Writes several at once, through an outage of the store.
    async fn write(&self, batch: Vec<Write<'_>>) -> Result<()> {
        let patience = pauses().with_total_delay(Some(self.patience));
        // Of an unknown outcome the next try sees what came.
        let again = |error: &StoreError| error.is_transient() || matches!(error, StoreError::NoSpace { .. });
        Ok((|| self.try_write(&batch)).retry(patience).when(again).await?)
    }

    /// Writes what does not stand there yet; again where others wrote meanwhile.
    async fn try_write(&self, batch: &[Write<'_>]) -> std::result::Result<(), StoreError> {
        let keys: Vec<Key> = batch.iter().map(|write| write.key.clone()).collect();
        loop {
            let found = get_each(self.store.as_ref(), &keys).await?;
            let before: Vec<Before> = found.iter().map(Before::from).collect();
            let created = self.look_up(&before).await?;
            let mut txn = Txn::default();
            for ((write, before), pair) in batch.iter().zip(before).zip(&found) {
                let recent = match before {
                    Before::Nothing => Vec::new(),
                    Before::Past(past) if past.run == self.run.id => past.recent,
                    Before::Past(past) if created(&past.run) < created(&self.run.id) => past.recent,
                    Before::Past(_) | Before::Unreadable => continue,
                };
                let next = encode(&self.after(recent, write));
                if pair.as_ref().is_some_and(|pair| pair.value == next) {
                    continue;
                }
                let modified = pair.as_ref().map_or(Revision(0), |pair| pair.modified);
                txn.compares.push(Compare::modified(write.key.clone(), modified));
                txn.then.push(Op::put(write.key.clone(), next));
            }
            if txn.then.is_empty() || self.store.txn(txn).await?.succeeded {
                return Ok(());
            }
        }
    }

    /// When the runs of these results were created, and this one.
    async fn look_up(
        &self,
        before: &[Before],
    ) -> std::result::Result<impl Fn(&RunId) -> Revision + use<>, StoreError> {
        let created = || self.created.lock().unwrap_or_else(PoisonError::into_inner);
        let runs = before.iter().filter_map(|before| match before {
            Before::Past(past) => Some(&past.run),
            Before::Nothing | Before::Unreadable => None,
        });
        let unknown: BTreeSet<&RunId> = {
            let known = created();
            runs.chain([&self.run.id]).filter(|run| !known.contains_key(run)).collect()
        };
        let unknown: Vec<&RunId> = unknown.into_iter().collect();
        for runs in unknown.chunks(BATCH) {
            let records: Vec<Key> = runs.iter().map(|run| keys::run(run)).collect();
            let found = get_each(self.store.as_ref(), &records).await?;
            let found = found.iter().map(|pair| pair.as_ref().map_or(Revision(0), |pair| pair.created));
            created().extend(runs.iter().copied().cloned().zip(found));
        }
        let known = created().clone();
        Ok(move |run: &RunId| known.get(run).copied().unwrap_or_default())
    }

    /// The record after this run, and after what came of those before it.
    fn after(&self, earlier: Vec<RecentOutcome>, write: &Write<'_>) -> LatestResult {
        let run = self.run;
        let outcome = RecentOutcome {
            run: run.id.clone(),
            created: run.created,
            verdict: write.result.verdict(),
            duration: write.result.duration(),
        };
        let earlier = earlier.into_iter().filter(|recent| recent.run != run.id);
        LatestResult {
            run: run.id.clone(),
            created: run.created,
            environment: write.environment.clone(),
            commit: run.commit.as_ref().map(|commit| commit.id.clone()),
            result: write.result.clone(),
            recent: std::iter::once(outcome).chain(earlier).take(LatestResult::RECENT).collect(),
        }
    }
}

/// What stands where a latest result is to be written.
enum Before {
    Nothing,
    Past(PastResults),
    /// A record of a newer version is newer than this run; so is what somebody else wrote.
    Unreadable,
}

impl From<&Option<KeyValue>> for Before {
    fn from(pair: &Option<KeyValue>) -> Self {
        match pair.as_ref().map(decode) {
            None => Self::Nothing,
            Some(Ok(past)) => Self::Past(past),
            Some(Err(_)) => Self::Unreadable,
        }
    }
}

async fn read_each(
    store: &SharedStore,
    keys: &[Key],
    patience: Duration,
) -> std::result::Result<Vec<Option<KeyValue>>, StoreError> {
    (|| get_each(store.as_ref(), keys))
        .retry(pauses().with_total_delay(Some(patience)))
        .when(StoreError::is_transient)
        .await
}
