//! Runs that want workers.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::code::commit_of;
use super::error::{Result, RunError};
use crate::model::{Claim, Commit, NextPosition, Run, RunId, RunState};
use crate::reports::history::live_workers;
use crate::store::{
    KeyRange, Patience, Revision, SharedStore, Store, StoreError, Wake, decode, get_record, keys, list,
};

/// A run as a worker found it that wanted something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Where its record was last written.
    modified: Revision,
    /// How far it had come, where nobody works for it.
    deserted: Option<Progress>,
}

/// How far a run is that no live worker works for: others change that, and nothing else does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Progress {
    /// How many of its units have been dealt.
    dealt: u32,
    /// How many of those are without a result.
    held: usize,
}

impl Seen {
    /// Whether there may be something to do now for a worker that has passed it over.
    fn wants_again(self, before: Self) -> bool {
        let again = self.deserted.is_some() && self.deserted != before.deserted;
        again || self.modified != before.modified
    }
}

/// Waits for a run of the code in a folder that is planned, goes on or was left before its end, and
/// is not as it was when it was `passed` over: the oldest one. With it comes how it was found.
///
/// A run is of that code where both are the same commit of the same folder, without changes
/// beside it; where neither is in a repository, whoever joins finds out by its tests.
///
/// # Errors
/// What the store said, once it has not answered for as long as the patience is.
pub async fn next_joinable(
    store: &SharedStore,
    root: &Path,
    passed: &BTreeMap<RunId, Seen>,
    patience: Duration,
) -> Result<(RunId, Seen)> {
    let (runs, workers) = (KeyRange::prefix(keys::RUNS), KeyRange::prefix(keys::WORKERS));
    let patience = Patience::from(patience);
    loop {
        let page = patience.lasts(|| list(store.as_ref(), runs.clone())).await?;
        let folder = root.to_owned();
        let commit = tokio::task::spawn_blocking(move || commit_of(&folder)).await.unwrap_or_default();
        let open = page.pairs.iter().filter_map(|pair| Some((decode::<Run>(pair).ok()?, pair)));
        let open = open.filter(|(run, _)| !run.is_over());
        let mut open: Vec<_> =
            open.filter(|(run, _)| is_same_code(commit.as_ref(), run.commit.as_ref())).collect();
        open.sort_by_key(|(_, pair)| pair.created);
        let mut ranges = vec![runs.clone()];
        // Who dies may leave such a run to this worker.
        ranges.extend((!open.is_empty()).then(|| workers.clone()));
        for (run, pair) in open {
            let deserted = patience.lasts(|| deserted(store.as_ref(), &run)).await?;
            let seen = Seen { modified: pair.modified, deserted };
            let goes_on = run.state == RunState::Running || deserted.is_some();
            if goes_on && passed.get(&run.id).is_none_or(|before| seen.wants_again(*before)) {
                return Ok((run.id, seen));
            }
        }
        let after = Revision(page.revision.0 + 1);
        Wake::new(store.as_ref(), ranges, after).await?.changed().await?;
    }
}

/// How far a run is, if no live worker works for it. One that was never planned nobody can go on
/// with.
async fn deserted(store: &dyn Store, run: &Run) -> std::result::Result<Option<Progress>, StoreError> {
    if matches!(run.state, RunState::Planning { .. }) || !live_workers(store, &run.id).await?.is_empty() {
        return Ok(None);
    }
    let next = list(store, KeyRange::prefix(keys::next_positions(&run.id))).await?;
    let claims = list(store, KeyRange::prefix(keys::claims(&run.id))).await?;
    // What cannot be read is told by whoever joins.
    let dealt = next.pairs.iter().filter_map(|pair| decode::<NextPosition>(pair).ok());
    let held = claims.pairs.iter().filter_map(|pair| decode::<Claim>(pair).ok());
    Ok(Some(Progress {
        dealt: dealt.map(|next| next.dealt).sum(),
        held: held.map(|claim| claim.units.len()).sum(),
    }))
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
    fn a_run_that_was_passed_over_is_wanted_again_where_its_record_changed_or_others_left_it() {
        let seen = |modified, dealt: Option<u32>| Seen {
            modified: Revision(modified),
            deserted: dealt.map(|dealt| Progress { dealt, held: 0 }),
        };
        assert!(seen(2, None).wants_again(seen(1, None)));
        assert!(seen(1, Some(5)).wants_again(seen(1, None)));
        assert!(seen(1, Some(6)).wants_again(seen(1, Some(5))), "others came, and went");
        assert!(!seen(1, Some(5)).wants_again(seen(1, Some(5))));
        assert!(!seen(1, None).wants_again(seen(1, Some(5))), "others work for it");
    }

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
