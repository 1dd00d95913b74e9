//! What a run that is not over waits for: a worker, or one that has what its tests need.

use std::collections::BTreeMap;

use super::details::RunDetails;
use super::history::live_workers;
use crate::model::{Labels, Run, RunId, RunState, Worker};
use crate::store::{Store, StoreError};

/// Sets of labels that no live worker of a run has, each with how many units wait for it.
pub type Unserved = BTreeMap<Labels, usize>;

/// What units without a result wait for, given what each of them needs and who works for the run.
pub fn unserved<'a>(needs: impl IntoIterator<Item = &'a Labels>, workers: &[Worker]) -> Unserved {
    let mut unserved = Unserved::new();
    for needs in needs.into_iter().filter(|needs| !needs.is_empty()) {
        if let Some(units) = unserved.get_mut(needs) {
            *units += 1;
        } else if !workers.iter().any(|worker| worker.labels.satisfy(needs)) {
            unserved.insert(needs.clone(), 1);
        }
    }
    unserved
}

/// The same of a run that was read; nothing of one whose units are not dealt, or not any more.
///
/// # Errors
/// As [`Store::read`].
pub async fn unserved_of(store: &dyn Store, details: &RunDetails) -> Result<Unserved, StoreError> {
    if details.run.state != RunState::Running {
        return Ok(Unserved::new());
    }
    let workers = live_workers(store, &details.run.id).await?;
    let workers: Vec<Worker> = workers.into_iter().map(|(worker, _)| worker).collect();
    let left = details.units.iter().filter(|unit| unit.result.is_none());
    Ok(unserved(left.map(|unit| &unit.planned.needs), &workers))
}

/// That so many units wait for a worker with these labels, and how there will be one.
pub fn unserved_text(run: &RunId, needs: &Labels, units: usize) -> String {
    let tests = if units == 1 { "1 test waits".to_owned() } else { format!("{units} tests wait") };
    let labels = if needs.len() == 1 { "label" } else { "labels" };
    format!(
        "{tests} for a worker with the {labels} `{needs}`: `cargo etcdtest worker --run {run} --labels {needs}`"
    )
}

/// Why nobody goes on with a run that no live worker works for, and how somebody will.
pub fn stalled_text(run: &Run) -> String {
    let id = &run.id;
    match run.state {
        RunState::Planning { .. } => format!(
            "its first worker died before it was planned: the same command with `--run-id {id}` plans it anew"
        ),
        RunState::Cancelling | RunState::Finishing { cancelled: true, .. } => {
            format!("no live worker ends it: `cargo etcdtest runs cancel {id}` does")
        }
        RunState::Finishing { .. } => {
            format!("no live worker writes its reports: `cargo etcdtest runs resume {id}` does")
        }
        RunState::Running | RunState::Finished { .. } => {
            format!("no live worker works for it any more: `cargo etcdtest runs resume {id}` goes on with it")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Steward, WorkerId};

    fn labels(text: &str) -> Labels {
        text.parse().unwrap()
    }

    fn worker(has: &str) -> Worker {
        Worker { labels: labels(has), ..Worker::new(WorkerId::new("w"), "host", RunId::new("r")) }
    }

    #[test]
    fn tests_wait_for_labels_that_no_worker_has_all_of() {
        let needs = ["gpu", "", "fast,gpu", "big", "fast,gpu"].map(labels);
        let waiting = |workers: &[Worker]| Vec::from_iter(unserved(&needs, workers));
        assert_eq!(waiting(&[worker("gpu,big"), worker("fast")]), [(labels("fast,gpu"), 2)]);
        assert_eq!(waiting(&[worker("fast,gpu,big")]), []);
        let all = [(labels("big"), 1), (labels("fast,gpu"), 2), (labels("gpu"), 1)];
        assert_eq!(waiting(&[]), all);
    }

    #[test]
    fn what_to_do_about_a_run_that_waits_is_a_command_that_works() {
        let by = Steward { worker: WorkerId::new("w"), identity: 1 };
        let states = [
            RunState::Running,
            RunState::Planning { by: by.clone() },
            RunState::Cancelling,
            RunState::Finishing { by: by.clone(), cancelled: true },
            RunState::Finishing { by, cancelled: false },
        ];
        let run = Run::new(RunId::new("nightly"), "ann@desk");
        let stalled = states.map(|state| stalled_text(&Run { state, ..run.clone() }));
        let unserved =
            [("gpu", 1), ("fast,gpu", 9)].map(|(needs, units)| unserved_text(&run.id, &labels(needs), units));
        insta::assert_snapshot!([&stalled[..], &unserved[..]].concat().join("\n"));
    }
}
