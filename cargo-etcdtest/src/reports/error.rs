//! What can go wrong with reports and with reading runs.

use crate::model::RunId;
use crate::store::StoreError;

/// Why a run or a report could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No run has this id, and none begins with it.
    #[error("there is no run `{given}`")]
    UnknownRun {
        /// What was asked for.
        given: String,
        /// The ids that are most like it, or the newest ones.
        nearest: Vec<RunId>,
    },
    /// Several runs begin with this.
    #[error("`{given}` is the beginning of several run ids")]
    AmbiguousRun {
        /// What was asked for.
        given: String,
        /// Some of the runs that begin with it.
        candidates: Vec<RunId>,
    },
    /// There is no run at all.
    #[error("there is no run in this store yet")]
    NoRuns,
    /// The run has no report of this name.
    #[error("run {run} has no report `{name}`")]
    UnknownReport {
        /// The run.
        run: RunId,
        /// What was asked for.
        name: String,
        /// The reports it has.
        existing: Vec<String>,
    },
}

impl ReportError {
    /// What the user can do about it.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Store(error) => error.help().map(Into::into),
            Self::UnknownRun { nearest, .. } => {
                let are = if nearest.len() == 1 { "is" } else { "are" };
                Some(format!("the nearest {are} {}; `cargo etcdtest runs list` shows all", join(nearest)))
            }
            Self::AmbiguousRun { candidates, .. } => Some(format!("write more of it: {}", join(candidates))),
            Self::NoRuns => Some("`cargo etcdtest run` makes one".into()),
            Self::UnknownReport { existing, .. } if existing.is_empty() => Some(
                "reports are written when a run ends; `cargo etcdtest runs show` tells how far it is".into(),
            ),
            Self::UnknownReport { existing, .. } => Some(format!("it has {}", join(existing))),
        }
    }
}

fn join<T: ToString>(names: &[T]) -> String {
    names.iter().map(|name| format!("`{}`", name.to_string())).collect::<Vec<_>>().join(", ")
}
