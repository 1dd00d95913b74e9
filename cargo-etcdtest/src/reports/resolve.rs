//! Which run somebody means.

use super::error::ReportError;
use super::history;
use crate::model::RunId;
use crate::store::{Key, KeyRange, Read, Store, get, keys};

/// What people write for the newest run.
pub const LATEST: &str = "latest";

/// How many ids an error names.
const NAMED: usize = 3;

/// The run that is meant by `latest`, an id, or the beginning of just one id.
///
/// # Errors
/// [`ReportError::NoRuns`], [`ReportError::UnknownRun`], [`ReportError::AmbiguousRun`], and
/// as [`Store::read`].
pub async fn resolve_run(store: &dyn Store, given: &str) -> Result<RunId, ReportError> {
    let exact = RunId::new(given);
    if get(store, keys::run(&exact)).await?.is_some() {
        return Ok(exact);
    }
    if given == LATEST {
        let newest = history::runs(store).await?.value.into_iter().next();
        return newest.map(|listed| listed.run.id).ok_or(ReportError::NoRuns);
    }
    let mut matching = ids(store, keys::run(&exact), NAMED).await?;
    match matching.len() {
        1 => return Ok(matching.remove(0)),
        0 => {}
        _ => return Err(ReportError::AmbiguousRun { given: given.to_owned(), candidates: matching }),
    }
    let mut all = ids(store, keys::RUNS.into(), usize::MAX).await?;
    if all.is_empty() {
        return Err(ReportError::NoRuns);
    }
    // Generated ids sort by time: of those that are equally near, the newest first.
    all.sort_by(|a, b| b.cmp(a));
    all.sort_by_cached_key(|id| nearness(given, id.as_str()));
    all.truncate(NAMED);
    Err(ReportError::UnknownRun { given: given.to_owned(), nearest: all })
}

/// The nearest first: by similarity, in thousandths so that it can be sorted by.
#[expect(clippy::cast_possible_truncation, reason = "similarity is between 0 and 1")]
fn nearness(given: &str, id: &str) -> i32 {
    -(strsim::jaro_winkler(given, id) * 1000.0) as i32
}

/// The ids of the runs whose keys begin with a prefix.
async fn ids(store: &dyn Store, prefix: Key, most: usize) -> Result<Vec<RunId>, ReportError> {
    let limit = (most != usize::MAX).then_some(most);
    let read = Read { keys_only: true, limit, ..KeyRange::prefix(prefix).into() };
    let pairs = store.read(read).await?.pairs;
    let segments = pairs.iter().filter_map(|pair| keys::segments_below(&pair.key, keys::RUNS));
    Ok(segments.filter_map(|segments| segments.into_iter().next()).map(RunId::new).collect())
}
