//! Reading runs back from the store. One record that cannot be read does not hide the
//! others: it is handed out beside them, as the error that names its key.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use futures::{StreamExt, stream};

use super::details::{AttemptOutput, RunDetails, UnitDetails};
use super::error::ReportError;
use super::text;
use crate::model::{
    Block, PlanChunk, PlannedUnit, Record, Run, RunId, StoredOutput, TestCase, TestCaseId, UnitIndex,
    UnitResult, Worker,
};
use crate::store::{
    Key, KeyRange, KeyValue, Store, StoreError, decode, decode_block, decode_output, get_record, keys, list,
};

/// How many bytes of a stream are shown, of its beginning and of its end: what went wrong
/// stands mostly at the end.
const HEAD: usize = 16 * 1024;
const TAIL: usize = 48 * 1024;

/// How many bytes of output are loaded for a whole run; dashboards refuse larger reports.
const BUDGET: usize = 32 * 1024 * 1024;

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
/// units first, each bounded to its head and tail and all together to 32 MiB; what is left
/// out then says so in its place, and so does what cannot be read.
///
/// # Errors
/// As [`Store::read`].
pub async fn load_output(store: &dyn Store, details: &mut RunDetails) -> Result<(), ReportError> {
    let mut wanted = Vec::new();
    for (place, unit) in details.units.iter().enumerate() {
        let Some(result) = &unit.result else { continue };
        for attempt in &result.attempts {
            for stored in attempt.output.iter().filter(|stored| is_stream(stored)) {
                wanted.push((
                    place,
                    !result.outcome.is_failure(),
                    result.clone(),
                    attempt.number,
                    stored.clone(),
                ));
            }
        }
    }
    wanted.sort_by_key(|(place, harmless, ..)| (*harmless, *place));
    let run = details.run.id.clone();
    let mut streams = stream::iter(wanted)
        .map(|(place, _, result, attempt, stored)| {
            let run = &run;
            async move {
                let content = output(store, run, &result, attempt, &stored).await;
                (place, attempt, stored.name, content)
            }
        })
        .buffered(AT_ONCE);
    let mut left = BUDGET;
    while let Some((place, attempt, name, content)) = streams.next().await {
        let text = match content {
            Ok(_) if left == 0 => "[… left out: the report holds 32 MiB of output already …]\n".into(),
            Ok(content) => shown(&content),
            Err(ReportError::Store(error @ StoreError::Record { .. })) => format!("[… {error} …]\n"),
            Err(error) => return Err(error),
        };
        left = left.saturating_sub(text.len());
        details.units[place].output.push(AttemptOutput { attempt, name, text });
    }
    Ok(())
}

/// Whether it is a stream, not an attachment.
fn is_stream(stored: &StoredOutput) -> bool {
    matches!(stored.name.as_str(), "stdout" | "stderr")
}

fn shown(content: &[u8]) -> String {
    text::bounded(&text::plain(&String::from_utf8_lossy(content)), HEAD, TAIL).into_owned()
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
