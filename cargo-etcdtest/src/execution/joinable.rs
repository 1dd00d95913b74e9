//! Runs that want workers.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use backon::Retryable;

use super::code::commit_of;
use super::error::{Result, RunError};
use crate::model::{Commit, Run, RunId, RunState};
use crate::reports::history::live_workers;
use crate::store::{
    KeyRange, Revision, SharedStore, StoreError, Wake, decode, get_record, keys, list, pauses,
};

/// Waits for a run of the code in a folder that goes on, and is not as it was when it was
/// `passed` over: the oldest one. With it comes where its record was last written.
///
/// A run is of that code where both are the same commit of the same folder, without changes
/// beside it; where neither is in a repository, whoever joins finds out by its tests.
///
/// # Errors
/// What the store said, once it has not answered for as long as the patience is.
pub async fn next_joinable(
    store: &SharedStore,
    root: &Path,
    passed: &BTreeMap<RunId, Revision>,
    patience: Duration,
) -> Result<(RunId, Revision)> {
    let range = KeyRange::prefix(keys::RUNS);
    let mut wake = None;
    loop {
        let read = || list(store.as_ref(), range.clone());
        let page =
            read.retry(pauses().with_total_delay(Some(patience))).when(StoreError::is_transient).await?;
        let after = Revision(page.revision.0 + 1);
        if wake.is_none() {
            wake = Some(Wake::new(store.as_ref(), [range.clone()], after).await?);
        }
        let folder = root.to_owned();
        let commit = tokio::task::spawn_blocking(move || commit_of(&folder)).await.unwrap_or_default();
        let goes_on = |run: &Run| matches!(run.state, RunState::Planning { .. } | RunState::Running);
        let runs = page.pairs.iter().filter_map(|pair| Some((decode::<Run>(pair).ok()?, pair)));
        let wanted = runs.filter(|(run, pair)| {
            goes_on(run)
                && is_same_code(commit.as_ref(), run.commit.as_ref())
                && passed.get(&run.id) != Some(&pair.modified)
        });
        if let Some((run, pair)) = wanted.min_by_key(|(_, pair)| pair.created) {
            return Ok((run.id, pair.modified));
        }
        if let Some(wake) = &mut wake {
            wake.changed().await?;
        }
    }
}

/// Waits until a run is planned, and gives its record.
///
/// # Errors
/// [`RunError::Gone`] where there is none, [`RunError::Unplanned`] where its planner died.
pub async fn planned(store: &SharedStore, id: &RunId) -> Result<Run> {
    loop {
        let record = get_record::<Run>(store.as_ref(), keys::run(id)).await?;
        let (run, pair) = record.ok_or_else(|| RunError::Gone(id.clone()))?;
        let RunState::Planning { by } = &run.state else { return Ok(run) };
        let live = live_workers(store.as_ref(), id).await?;
        if !live.iter().any(|(worker, created)| worker.id == by.worker && created.0 == by.identity) {
            return Err(RunError::Unplanned(id.clone()));
        }
        let ranges = [KeyRange::key(pair.key), KeyRange::key(keys::worker(&by.worker))];
        Wake::new(store.as_ref(), ranges, Revision(pair.modified.0 + 1)).await?.changed().await?;
    }
}

fn is_same_code(here: Option<&Commit>, there: Option<&Commit>) -> bool {
    match (here, there) {
        (Some(here), Some(there)) => {
            here.id == there.id && here.folder == there.folder && !here.dirty && !there.dirty
        }
        (None, None) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_code_is_the_same_commit_of_the_same_folder_without_changes() {
        let commit = |id: &str, folder: &str, dirty| {
            Some(Commit { id: id.into(), branch: None, folder: folder.into(), dirty })
        };
        let same = |here: Option<Commit>, there: Option<Commit>| is_same_code(here.as_ref(), there.as_ref());
        assert!(same(commit("a", "x", false), commit("a", "x", false)));
        assert!(same(None, None), "the tests decide");
        assert!(!same(commit("a", "x", false), commit("b", "x", false)));
        assert!(!same(commit("a", "x", false), commit("a", "y", false)));
        assert!(!same(commit("a", "x", true), commit("a", "x", false)));
        assert!(!same(commit("a", "x", false), commit("a", "x", true)));
        assert!(!same(None, commit("a", "", false)));
    }
}
