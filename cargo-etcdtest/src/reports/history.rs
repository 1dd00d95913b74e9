//! Reading runs back from the store. One record that cannot be read does not hide the
//! others: it is handed out beside them, as the error that names its key.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use futures::{StreamExt, stream};

use super::details::{AttemptOutput, RunDetails, UnitDetails};
use super::error::ReportError;
use super::text;
use crate::model::{
    Block, Environment, NextPosition, Outcome, PlanChunk, PlannedUnit, Record, Run, RunId, RunState,
    StoredOutput, TestCase, TestCaseId, UnitIndex, UnitResult, Worker,
};
use crate::store::{
    Key, KeyRange, KeyValue, Revision, Store, StoreError, decode, decode_block, decode_output, get_each,
    get_record, keys, list, list_chunks,
};

/// Which stored output is loaded, and how much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Bytes of the beginning of each stream.
    pub head: usize,
    /// Bytes of its end: what went wrong stands mostly there.
    pub tail: usize,
    /// Bytes of all streams together.
    pub total: usize,
    /// Of attempts that passed as well.
    pub of_passed: bool,
}

impl Shown {
    /// For a report: dashboards refuse documents that are too large.
    pub const REPORT: Self =
        Self { head: 16 * 1024, tail: 48 * 1024, total: 32 * 1024 * 1024, of_passed: true };
    /// For a screen.
    pub const BRIEF: Self = Self { head: 1024, tail: 3 * 1024, total: 256 * 1024, of_passed: false };
    /// All of it.
    pub const WHOLE: Self =
        Self { head: usize::MAX / 4, tail: usize::MAX / 4, total: usize::MAX, of_passed: false };
}

/// How many streams are read at once.
const AT_ONCE: usize = 16;
/// How many test cases are read together.
const CASES: usize = 100;

/// What was read, and what could not be.
#[derive(Debug)]
pub struct Found<T> {
    /// What was read.
    pub value: T,
    /// One error for each record that could not be, naming its key.
    pub broken: Vec<StoreError>,
}

/// Whether somebody works for a run that is not over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// A worker does.
    Live,
    /// Nobody yet: no unit of it was dealt, and it waits for workers.
    Awaited,
    /// Nobody any more.
    Stalled,
}

/// A run as a list shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct ListedRun {
    /// Its record.
    pub run: Run,
    /// Whether somebody works for it right now.
    pub life: Life,
}

/// All runs, newest first: by when they were created, for ids may be any text.
///
/// # Errors
/// As [`Store::read`].
pub async fn runs(store: &dyn Store) -> Result<Found<Vec<ListedRun>>, ReportError> {
    let mut broken = Vec::new();
    let records: Vec<Run> = sound(&list(store, KeyRange::prefix(keys::RUNS)).await?.pairs, &mut broken);
    let worked_for = live_runs(store, &mut broken).await?;
    let mut value = Vec::with_capacity(records.len());
    for run in records {
        let life =
            if worked_for.contains(&run.id) { Life::Live } else { life_without_workers(store, &run).await? };
        value.push(ListedRun { run, life });
    }
    value.sort_by(|a, b| (b.run.created, &b.run.id).cmp(&(a.run.created, &a.run.id)));
    Ok(Found { value, broken })
}

/// The runs that a live worker names.
async fn live_runs(store: &dyn Store, broken: &mut Vec<StoreError>) -> Result<HashSet<RunId>, ReportError> {
    let workers = list(store, KeyRange::prefix(keys::WORKERS)).await?.pairs;
    Ok(sound::<Worker>(&workers, broken).into_iter().map(|worker| worker.run).collect())
}

/// The live workers that name a run, each with the revision at which it registered.
///
/// # Errors
/// As [`Store::read`].
pub async fn live_workers(store: &dyn Store, run: &RunId) -> Result<Vec<(Worker, Revision)>, StoreError> {
    let page = list(store, KeyRange::prefix(keys::WORKERS)).await?;
    let workers = page.pairs.iter().filter_map(|pair| Some((decode::<Worker>(pair).ok()?, pair.created)));
    Ok(workers.filter(|(worker, _)| worker.run == *run).collect())
}

/// Whether somebody works for a run.
///
/// # Errors
/// As [`Store::read`].
pub async fn life(store: &dyn Store, run: &Run) -> Result<Life, StoreError> {
    let live = live_workers(store, &run.id).await?;
    if live.is_empty() { life_without_workers(store, run).await } else { Ok(Life::Live) }
}

/// What is to be said of a run that no live worker names.
async fn life_without_workers(store: &dyn Store, run: &Run) -> Result<Life, StoreError> {
    if run.state != RunState::Running {
        return Ok(Life::Stalled);
    }
    let next = list(store, KeyRange::prefix(keys::next_positions(&run.id))).await?;
    let is_dealt = |pair| decode::<NextPosition>(pair).is_ok_and(|next| next.dealt > 0);
    Ok(if next.pairs.iter().any(is_dealt) { Life::Stalled } else { Life::Awaited })
}

/// Reads everything about a run but its output.
///
/// # Errors
/// [`ReportError::UnknownRun`], and as [`Store::read`]; what cannot be read of a run that
/// exists is in [`Found::broken`].
pub async fn read(store: &dyn Store, run: &RunId) -> Result<Found<RunDetails>, ReportError> {
    let (record, _) = get_record::<Run>(store, keys::run(run))
        .await?
        .ok_or_else(|| ReportError::UnknownRun { given: run.to_string(), nearest: Vec::new() })?;
    let mut broken = Vec::new();
    let environments = sound(&children(store, keys::snapshots(run)).await?, &mut broken);
    let mut units = units(children(store, keys::plan(run)).await?, &mut broken);
    for block in children(store, keys::blocks(run)).await? {
        match decode_block(&block) {
            Ok(block) => place(&mut units, block),
            Err(error) => broken.push(error),
        }
    }
    let cases = test_cases(store, units.iter().map(|unit| &unit.planned), &mut broken).await?;
    for unit in &mut units {
        unit.case = cases.get(&unit.planned.test).cloned();
    }
    Ok(Found { value: RunDetails { run: record, environments, units }, broken })
}

/// The environments that a run used, exactly as it used them.
///
/// # Errors
/// [`ReportError::UnknownRun`], where one cannot be read, and as [`Store::read`].
pub async fn environments_of(store: &dyn Store, run: &RunId) -> Result<Vec<Environment>, ReportError> {
    let unknown = || ReportError::UnknownRun { given: run.to_string(), nearest: Vec::new() };
    let (record, _) = get_record::<Run>(store, keys::run(run)).await?.ok_or_else(unknown)?;
    let mut environments = Vec::new();
    for version in &record.environments {
        let snapshot = get_record::<Environment>(store, keys::snapshot(run, &version.name)).await?;
        environments.push(snapshot.ok_or_else(unknown)?.0);
    }
    Ok(environments)
}

/// Loads the stored standard output and standard error of a run's attempts, those of failed
/// units first. Where something is left out or cannot be read, a line in its place says so.
///
/// # Errors
/// As [`Store::read`].
pub async fn load_output(
    store: &dyn Store,
    details: &mut RunDetails,
    shown: Shown,
) -> Result<(), ReportError> {
    let (run, wanted) = (details.run.id.clone(), wanted(details, shown));
    let left = AtomicUsize::new(shown.total);
    let mut streams = stream::iter(wanted)
        .map(|stream| async {
            // What will not be shown need not be read.
            let content = match left.load(Relaxed) {
                0 => Ok(Vec::new()),
                _ => output(store, &run, &stream.result, stream.attempt, &stream.stored).await,
            };
            (stream, content)
        })
        .buffered(AT_ONCE);
    while let Some((stream, content)) = streams.next().await {
        let text = match content {
            _ if left.load(Relaxed) == 0 => "[… left out: there is too much output in all …]\n".into(),
            Ok(content) => {
                let text = text::plain(&String::from_utf8_lossy(&content));
                text::bounded(&text, shown.head, shown.tail).into_owned()
            }
            Err(ReportError::Store(error @ StoreError::Record { .. })) => format!("[… {error} …]\n"),
            Err(error) => return Err(error),
        };
        left.store(left.load(Relaxed).saturating_sub(text.len()), Relaxed);
        let output = AttemptOutput { attempt: stream.attempt, name: stream.stored.name, text };
        details.units[stream.place].output.push(output);
    }
    Ok(())
}

/// A stream that is to be loaded.
struct Wanted {
    place: usize,
    result: UnitResult,
    attempt: u32,
    stored: StoredOutput,
}

fn wanted(details: &RunDetails, shown: Shown) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    for (place, unit) in details.units.iter().enumerate() {
        let Some(result) = &unit.result else { continue };
        for attempt in &result.attempts {
            if attempt.outcome == Outcome::Passed && !shown.of_passed {
                continue;
            }
            for stored in attempt.output.iter().filter(|stored| is_stream(stored)) {
                let (result, stored) = (result.clone(), stored.clone());
                wanted.push(Wanted { place, result, attempt: attempt.number, stored });
            }
        }
    }
    wanted.sort_by_key(|stream| !stream.result.outcome.is_failure());
    wanted
}

/// Whether it is a stream of the test or of a service, not an attachment.
fn is_stream(stored: &StoredOutput) -> bool {
    !stored.name.starts_with("attachments/")
}

/// Reads one whole stream or attachment of an attempt.
///
/// # Errors
/// As [`Store::read`]; [`StoreError::Record`] where a chunk is missing or damaged.
pub async fn output(
    store: &dyn Store,
    run: &RunId,
    result: &UnitResult,
    attempt: u32,
    stored: &StoredOutput,
) -> Result<Vec<u8>, ReportError> {
    let key = keys::log(run, result.unit, result.token.0, attempt, &stored.name);
    let chunks = list_chunks(store, KeyRange::prefix(key.clone())).await?.pairs;
    if chunks.len() < stored.chunks {
        let reason = format!("{} of its {} chunks are missing", stored.chunks - chunks.len(), stored.chunks);
        return Err(StoreError::Record { key, reason }.into());
    }
    Ok(decode_output(&chunks)?)
}

async fn children(store: &dyn Store, prefix: Key) -> Result<Vec<KeyValue>, ReportError> {
    Ok(list(store, KeyRange::prefix(prefix)).await?.pairs)
}

/// The records that can be read.
fn sound<T: Record>(pairs: &[KeyValue], broken: &mut Vec<StoreError>) -> Vec<T> {
    let mut kept = Vec::with_capacity(pairs.len());
    for pair in pairs {
        match decode(pair) {
            Ok(record) => kept.push(record),
            Err(error) => broken.push(error),
        }
    }
    kept
}

/// The units of a plan in their order, of which nothing has come yet.
fn units(chunks: Vec<KeyValue>, broken: &mut Vec<StoreError>) -> Vec<UnitDetails> {
    let unit =
        |(index, planned)| UnitDetails { index, planned, case: None, result: None, output: Vec::new() };
    let mut units = Vec::new();
    for chunk in chunks {
        match decode::<PlanChunk>(&chunk) {
            Ok(chunk) => units.extend((chunk.first.0..).map(UnitIndex).zip(chunk.units).map(unit)),
            Err(error) => broken.push(error),
        }
    }
    units.sort_by_key(|unit| unit.index);
    units
}

/// Gives results to the units that they are of.
fn place(units: &mut [UnitDetails], block: Block) {
    for result in block.results {
        if let Ok(place) = units.binary_search_by_key(&result.unit, |unit| unit.index) {
            units[place].result = Some(result);
        }
    }
}

/// The test cases of a plan.
async fn test_cases(
    store: &dyn Store,
    units: impl Iterator<Item = &PlannedUnit>,
    broken: &mut Vec<StoreError>,
) -> Result<HashMap<TestCaseId, Arc<TestCase>>, ReportError> {
    let tests: BTreeSet<&TestCaseId> = units.map(|unit| &unit.test).collect();
    let keys: Vec<Key> = tests.into_iter().map(keys::test_case).collect();
    let mut found = stream::iter(keys.chunks(CASES)).map(|keys| get_each(store, keys)).buffered(AT_ONCE);
    let mut cases = HashMap::new();
    while let Some(pairs) = found.next().await {
        let pairs: Vec<KeyValue> = pairs?.into_iter().flatten().collect();
        cases.extend(
            sound::<TestCase>(&pairs, broken).into_iter().map(|case| (case.id.clone(), Arc::new(case))),
        );
    }
    Ok(cases)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reports::resolve_run;
    use crate::reports::sample::{self, TestStore, at, attempt, every_kind, print, unit};
    use crate::store::{KeyRange, Op, Txn};

    #[tokio::test]
    async fn a_run_reads_back_as_it_was_written_with_its_output() {
        let store = TestStore::new();
        let written = every_kind();
        store.write(&written).await;
        let mut found = read(&*store.store, &written.run.id).await.unwrap();
        load_output(&*store.store, &mut found.value, Shown::REPORT).await.unwrap();
        assert!(found.broken.is_empty());
        let mut expected = written;
        for unit in &mut expected.units {
            unit.output.retain(|output| !output.name.starts_with("attachments/"));
        }
        assert_eq!(found.value, expected);
    }

    #[tokio::test]
    async fn a_broken_record_is_named_and_the_others_are_read() {
        let store = TestStore::new();
        let written = every_kind();
        let run = &written.run.id;
        store.write(&written).await;
        let first = keys::block(run, &written.units[0].result.as_ref().unwrap().worker, 7, 0);
        store
            .put(vec![(first.clone(), b"garbage".to_vec()), (keys::plan_chunk(run, 1), b"{}".to_vec())])
            .await;
        let found = read(&*store.store, run).await.unwrap();
        let broken: Vec<String> = found.broken.iter().map(ToString::to_string).collect();
        assert_eq!(
            broken,
            [
                format!("the record {} cannot be read: it has no `schema` number", keys::plan_chunk(run, 1)),
                format!("the record {first} cannot be read: not JSON: expected value at line 1 column 1"),
            ]
        );
        assert_eq!(found.value.units.len(), 5);
        assert_eq!(found.value.units[0].result, None);
        assert_eq!(found.value.units[1], UnitDetails { output: vec![], ..written.units[1].clone() });
    }

    #[tokio::test]
    async fn output_that_is_gone_or_too_much_says_so_in_its_place() {
        let store = TestStore::new();
        let mut gone = unit(0, "gone", vec![attempt(1, Outcome::Failed, "no")]);
        print(&mut gone, 1, "output", &"x".repeat(600_000));
        let mut passed = unit(1, "passed", vec![attempt(1, Outcome::Passed, "")]);
        print(&mut passed, 1, "output", "0123456789");
        let mut failed = unit(2, "failed", vec![attempt(1, Outcome::Failed, "no")]);
        print(&mut failed, 1, "output", "0123456789");
        let written = sample::run(vec![gone, passed, failed]);
        let run = &written.run.id;
        store.write(&written).await;
        let gone = Op::Delete(KeyRange::key(keys::log_chunk(run, UnitIndex(0), 40, 1, "output", 2)));
        store.store.txn(Txn { then: vec![gone], ..Txn::default() }).await.unwrap();

        let mut details = read(&*store.store, run).await.unwrap().value;
        let shown = Shown { head: 2, tail: 3, total: 125, of_passed: true };
        load_output(&*store.store, &mut details, shown).await.unwrap();
        let texts: Vec<_> = details.units.iter().map(|unit| unit.output(1, "output").unwrap()).collect();
        assert_eq!(
            texts,
            [
                "[… the record /logs/20261231-235959-x7k2pq/000000.40.1/output/ cannot be read: \
                 1 of its 3 chunks are missing …]\n",
                "[… left out: there is too much output in all …]\n",
                "01\n[… 5 bytes left out …]\n789",
            ]
        );
    }

    #[tokio::test]
    async fn a_run_is_meant_by_id_by_its_beginning_or_as_the_latest() {
        let store = TestStore::new();
        let means = |given: &'static str| resolve_run(&*store.store, given);
        assert!(matches!(means("latest").await, Err(ReportError::NoRuns)));
        assert!(matches!(means("x").await, Err(ReportError::NoRuns)));
        for (id, created) in [("20261231-a", 5), ("20261231-b", 1), ("nightly", 9), ("nightly-2", 7)] {
            let mut written = sample::run(vec![]);
            (written.run.id, written.run.created) = (RunId::new(id), at(created));
            store.write(&written).await;
        }
        for (given, meant) in [
            ("latest", "nightly"),
            ("nightly", "nightly"),
            ("nightly-", "nightly-2"),
            ("20261231-b", "20261231-b"),
        ] {
            assert_eq!(means(given).await.unwrap(), RunId::new(meant), "{given}");
        }
        let error = means("2026").await.unwrap_err();
        assert_eq!(error.help().unwrap(), "write more of it: `20261231-a`, `20261231-b`");
        let error = means("nihgtly").await.unwrap_err();
        assert!(error.help().unwrap().starts_with("the nearest are `nightly`, `nightly-2`"), "{error:?}");
    }
}
