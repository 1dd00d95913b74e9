//! Reading runs back from the store. One record that cannot be read does not hide the
//! others: it is handed out beside them, as the error that names its key.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use futures::{StreamExt, stream};

use super::details::{AttemptOutput, RunDetails, UnitDetails};
use super::error::ReportError;
use super::text;
use crate::model::{
    Block, Outcome, PlanChunk, PlannedUnit, Record, Run, RunId, StoredOutput, TestCase, TestCaseId,
    UnitIndex, UnitResult, Worker,
};
use crate::store::{
    Key, KeyRange, KeyValue, Store, StoreError, decode, decode_block, decode_output, get_record, keys, list,
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

/// What was read, and what could not be.
#[derive(Debug)]
pub struct Found<T> {
    /// What was read.
    pub value: T,
    /// One error for each record that could not be, naming its key.
    pub broken: Vec<StoreError>,
}

/// A run as a list shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct ListedRun {
    /// Its record.
    pub run: Run,
    /// A worker works for it right now.
    pub live: bool,
}

/// All runs, newest first: by when they were created, for ids may be any text.
///
/// # Errors
/// As [`Store::read`].
pub async fn runs(store: &dyn Store) -> Result<Found<Vec<ListedRun>>, ReportError> {
    let mut broken = Vec::new();
    let records: Vec<Run> = sound(&list(store, KeyRange::prefix(keys::RUNS)).await?.pairs, &mut broken);
    let live = live_runs(store, &mut broken).await?;
    let mut value: Vec<ListedRun> =
        records.into_iter().map(|run| ListedRun { live: live.contains(&run.id), run }).collect();
    value.sort_by(|a, b| (b.run.created, &b.run.id).cmp(&(a.run.created, &a.run.id)));
    Ok(Found { value, broken })
}

/// The runs that a live worker names.
async fn live_runs(store: &dyn Store, broken: &mut Vec<StoreError>) -> Result<HashSet<RunId>, ReportError> {
    let workers = list(store, KeyRange::prefix(keys::WORKERS)).await?.pairs;
    Ok(sound::<Worker>(&workers, broken).into_iter().map(|worker| worker.run).collect())
}

/// Whether a live worker names a run.
///
/// # Errors
/// As [`Store::read`].
pub async fn is_live(store: &dyn Store, run: &RunId) -> Result<bool, ReportError> {
    Ok(live_runs(store, &mut Vec::new()).await?.contains(run))
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
    let plan = plan(&children(store, keys::plan(run)).await?, &mut broken);
    let mut results = results(&children(store, keys::blocks(run)).await?, &mut broken);
    let cases = test_cases(store, plan.values(), &mut broken).await?;
    let units = plan
        .into_iter()
        .map(|(index, planned)| UnitDetails {
            index,
            case: cases.get(&planned.test).cloned(),
            result: results.remove(&index),
            output: Vec::new(),
            planned,
        })
        .collect();
    Ok(Found { value: RunDetails { run: record, environments, units }, broken })
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
    let mut streams = stream::iter(wanted)
        .map(|stream| async {
            let content = output(store, &run, &stream.result, stream.attempt, &stream.stored).await;
            (stream, content)
        })
        .buffered(AT_ONCE);
    let mut left = shown.total;
    while let Some((stream, content)) = streams.next().await {
        let text = match content {
            Ok(_) if left == 0 => "[… left out: there is too much output in all …]\n".into(),
            Ok(content) => {
                let text = text::plain(&String::from_utf8_lossy(&content));
                text::bounded(&text, shown.head, shown.tail).into_owned()
            }
            Err(ReportError::Store(error @ StoreError::Record { .. })) => format!("[… {error} …]\n"),
            Err(error) => return Err(error),
        };
        left = left.saturating_sub(text.len());
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

/// Whether it is a stream, not an attachment.
fn is_stream(stored: &StoredOutput) -> bool {
    matches!(stored.name.as_str(), "stdout" | "stderr")
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
    let chunks = children(store, key.clone()).await?;
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
    keep(pairs, broken, decode)
}

fn keep<T>(
    pairs: &[KeyValue],
    broken: &mut Vec<StoreError>,
    read: impl Fn(&KeyValue) -> Result<T, StoreError>,
) -> Vec<T> {
    let mut kept = Vec::with_capacity(pairs.len());
    for pair in pairs {
        match read(pair) {
            Ok(record) => kept.push(record),
            Err(error) => broken.push(error),
        }
    }
    kept
}

fn plan(chunks: &[KeyValue], broken: &mut Vec<StoreError>) -> BTreeMap<UnitIndex, PlannedUnit> {
    let chunks: Vec<PlanChunk> = sound(chunks, broken);
    let units = chunks.into_iter().flat_map(|chunk| (chunk.first.0..).map(UnitIndex).zip(chunk.units));
    units.collect()
}

fn results(blocks: &[KeyValue], broken: &mut Vec<StoreError>) -> HashMap<UnitIndex, UnitResult> {
    let blocks: Vec<Block> = keep(blocks, broken, decode_block);
    let results = blocks.into_iter().flat_map(|block| block.results);
    results.map(|result| (result.unit, result)).collect()
}

/// The test cases of a plan, read binary by binary.
async fn test_cases(
    store: &dyn Store,
    units: impl Iterator<Item = &PlannedUnit>,
    broken: &mut Vec<StoreError>,
) -> Result<HashMap<TestCaseId, TestCase>, ReportError> {
    let binaries: BTreeSet<(&str, &str)> =
        units.map(|unit| (unit.test.package.as_str(), unit.test.binary.as_str())).collect();
    let mut cases = HashMap::new();
    for (package, binary) in binaries {
        let pairs = children(store, keys::test_cases_of(package, binary)).await?;
        cases.extend(sound::<TestCase>(&pairs, broken).into_iter().map(|case| (case.id.clone(), case)));
    }
    Ok(cases)
}
