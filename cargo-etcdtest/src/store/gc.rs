//! Forgetting runs: the oldest go, with everything that was stored of them.
//!
//! A run's record goes first: every write to the run compares against it, so that nobody
//! writes to the run from then on. What was stored of it follows in pieces, each on the
//! condition that the record is still gone. Where that is interrupted, what is left is found
//! by [`delete_remains`] later.
//!
//! Test data and secrets are left alone: whoever applies an environment writes them before
//! the environment that names them, and relies on those that are there.

use std::time::Duration;

use backon::Retryable;
use jiff::Timestamp;

use super::api::{
    Answer, Compare, Key, KeyRange, KeyValue, Op, Read, Result, Revision, Store, Txn, TxnOutcome,
};
use super::error::StoreError;
use super::{decode, keys, list, list_keys, pauses};
use crate::model::{Run, RunId, Worker};

/// How many keys one transaction deletes at the most.
const PIECE: usize = 1000;

/// How many keys one transaction looks at.
const LOOKS: usize = 100;

/// How many runs go after each run at the most.
const AFTER_A_RUN: usize = 10;

/// How long a deletion stays with a store that does not answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which runs are kept, whatever else: a run goes if neither holds. One that a worker names
/// never goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// So many that were stored last.
    pub newest: usize,
    /// Those that were created less than this ago.
    pub younger_than: Duration,
}

/// A run that is not kept, as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldRun {
    /// Its id.
    pub id: RunId,
    /// When it was created.
    pub created: Timestamp,
    /// When its record was last written.
    modified: Revision,
}

/// The runs that are not kept, those that were stored first before the others; of them at
/// most the first `most` are looked at. A record that cannot be read is kept.
///
/// # Errors
/// As [`Store::read`].
pub async fn old_runs(store: &dyn Store, keep: Keep, now: Timestamp, most: usize) -> Result<Vec<OldRun>> {
    let mut stored = list_keys(store, KeyRange::prefix(keys::RUNS)).await?.pairs;
    stored.sort_by(|a, b| (a.created, &a.key).cmp(&(b.created, &b.key)));
    stored.truncate(stored.len().saturating_sub(keep.newest).min(most));
    if stored.is_empty() {
        return Ok(Vec::new());
    }
    // Those who work are asked first: whoever joins a run later changes its record.
    let workers = list(store, KeyRange::prefix(keys::WORKERS)).await?.pairs;
    let live: Vec<RunId> =
        workers.iter().filter_map(|pair| decode::<Worker>(pair).ok()).map(|worker| worker.run).collect();
    let mut old = Vec::new();
    for some in stored.chunks(LOOKS) {
        for pair in look(store, some.iter().map(|pair| Read::key(pair.key.clone()))).await? {
            let Ok(run) = decode::<Run>(&pair) else { continue };
            let age = Duration::try_from(now.duration_since(run.created)).unwrap_or_default();
            if age >= keep.younger_than && !live.contains(&run.id) {
                old.push(OldRun { id: run.id, created: run.created, modified: pair.modified });
            }
        }
    }
    Ok(old)
}

/// Deletes a run and everything that was stored of it, and says how many records that were;
/// `None` where it has changed since it was found.
///
/// # Errors
/// As [`Store::txn`]; what is left then is deleted by [`delete_remains`].
pub async fn delete_run(store: &dyn Store, run: &OldRun) -> Result<Option<u64>> {
    let key = keys::run(&run.id);
    let delete = Txn {
        compares: vec![Compare::modified(key.clone(), run.modified)],
        then: vec![Op::Delete(KeyRange::key(key.clone()))],
        otherwise: vec![Op::Get(Read { keys_only: true, ..Read::key(key.clone()) })],
    };
    let outcome = patiently(store, &delete).await?;
    let deleted_record = outcome.succeeded;
    if !deleted_record && outcome.pages().any(|page| !page.pairs.is_empty()) {
        return Ok(None);
    }
    let mut deleted = u64::from(deleted_record);
    for children in keys::run_trees(&run.id) {
        deleted += delete_below(store, &key, children).await?;
    }
    Ok(Some(deleted))
}

/// Deletes a few of the runs that are not kept, never `but`: a store that is tidied after
/// every run does not grow, and no run waits long for it.
///
/// # Errors
/// As [`old_runs`] and [`delete_run`].
pub async fn tidy(store: &dyn Store, keep: Keep, but: &RunId, now: Timestamp) -> Result<()> {
    for run in old_runs(store, keep, now, AFTER_A_RUN).await? {
        if run.id != *but {
            delete_run(store, &run).await?;
        }
    }
    Ok(())
}

/// Deletes what is left of runs that are gone, and says how many records that were. With
/// `dry_run` it says only how many there are.
///
/// # Errors
/// As [`Store::txn`].
pub async fn delete_remains(store: &dyn Store, dry_run: bool) -> Result<u64> {
    let runs = list_keys(store, KeyRange::prefix(keys::RUNS)).await?.pairs;
    let names: Vec<&[u8]> = runs.iter().map(|run| &run.key.as_bytes()[keys::RUNS.len()..]).collect();
    let mut found = 0;
    for tree in keys::RUN_TREES {
        let mut kept: Vec<Key> = names.iter().map(|name| below(tree, name)).collect();
        kept.sort();
        // Between what is stored of two runs that exist there should be nothing.
        let starts = std::iter::once(Some(Key::from(tree))).chain(kept.iter().map(Key::prefix_end));
        let ends = kept.iter().cloned().map(Some).chain([Key::from(tree).prefix_end()]);
        let gaps: Vec<KeyRange> =
            starts.flatten().zip(ends).map(|(start, end)| KeyRange { start, end }).collect();
        for some in gaps.chunks(LOOKS) {
            let first = |gap: &KeyRange| Read { limit: Some(1), keys_only: true, ..gap.clone().into() };
            let mut left: Vec<KeyValue> = look(store, some.iter().map(first)).await?;
            while let Some(pair) = left.pop() {
                let Some(gap) = some.iter().find(|gap| gap.contains(&pair.key)) else { continue };
                let rest = &pair.key.as_bytes()[tree.len()..];
                let name = rest.split(|&byte| byte == b'/').next().unwrap_or(rest);
                let remains = below(tree, name);
                found += if dry_run {
                    store.count(KeyRange::prefix(remains.clone())).await?
                } else {
                    let run = Key::new([keys::RUNS.as_bytes(), name].concat());
                    delete_below(store, &run, remains.clone()).await?
                };
                let Some(start) = remains.prefix_end() else { continue };
                let rest = KeyRange { start: start.max(pair.key.successor()), end: gap.end.clone() };
                left.extend(look(store, [first(&rest)]).await?);
            }
        }
    }
    Ok(found)
}

/// What is stored of a run in one of the trees, by the run's segment.
fn below(tree: &str, name: &[u8]) -> Key {
    Key::new([tree.as_bytes(), name, b"/"].concat())
}

/// Deletes what is below a prefix in pieces, for as long as the run is gone; says how many
/// records that were.
async fn delete_below(store: &dyn Store, run: &Key, prefix: Key) -> Result<u64> {
    let mut read = Read { limit: Some(PIECE), keys_only: true, ..KeyRange::prefix(prefix).into() };
    let mut deleted = 0;
    loop {
        let page = (|| store.read(read.clone()))
            .retry(pauses().with_total_delay(Some(PATIENCE)))
            .when(StoreError::is_transient)
            .await?;
        let (Some(first), Some(last)) = (page.pairs.first(), page.pairs.last()) else { return Ok(deleted) };
        let end = last.key.successor();
        let piece = KeyRange { start: first.key.clone(), end: Some(end.clone()) };
        let delete = Txn {
            compares: vec![Compare::created(run.clone(), Revision(0))],
            then: vec![Op::Delete(piece)],
            otherwise: vec![],
        };
        let outcome = patiently(store, &delete).await?;
        if !outcome.succeeded {
            return Ok(deleted);
        }
        deleted += outcome
            .answers
            .iter()
            .map(|answer| if let Answer::Deleted(count) = answer { *count } else { 0 })
            .sum::<u64>();
        if !page.more {
            return Ok(deleted);
        }
        read.range.start = end;
    }
}

/// Carries out a deletion, again where its answer was lost: a second time changes nothing.
async fn patiently(store: &dyn Store, txn: &Txn) -> Result<TxnOutcome> {
    (|| store.txn(txn.clone()))
        .retry(pauses().with_total_delay(Some(PATIENCE)))
        .when(StoreError::is_transient)
        .await
}

/// Reads several at once.
async fn look(store: &dyn Store, reads: impl IntoIterator<Item = Read>) -> Result<Vec<KeyValue>> {
    let then = reads.into_iter().map(Op::Get).collect();
    let outcome = store.txn(Txn { then, ..Txn::default() }).await?;
    Ok(outcome.pages().flat_map(|page| page.pairs).collect())
}

#[cfg(test)]
mod tests;
