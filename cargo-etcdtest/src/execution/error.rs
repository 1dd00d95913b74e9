//! Why a run could not go on.

use super::journal::Kept;
use super::services::NotReady;
use crate::environments::{DataError, ReservationError};
use crate::model::{Run, RunId, RunState, WorkerId};
use crate::reports::ReportError;
use crate::store::{Key, StoreError};

/// Why a run could not be created, executed or finished.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The run's reports could not be made or stored.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// There is a run of this id already.
    #[error("there is a run `{0}` already")]
    Exists(RunId),
    /// The run's record is gone from the store.
    #[error("the run `{0}` was deleted from the store while it was running")]
    Gone(RunId),
    /// There is a run of that id, of other tests or environments.
    #[error("the run `{run}` is of other tests or environments than this command:\n- {differences}")]
    Differs {
        /// The run.
        run: RunId,
        /// The differences, in lines.
        differences: String,
    },
    /// Nothing can be done to a run that is over.
    #[error("the run `{run}` is over: it was {how}")]
    Over {
        /// The run.
        run: RunId,
        /// `finished` or `cancelled`.
        how: &'static str,
    },
    /// Its workers are ending the run.
    #[error("the run `{0}` is just being ended by its workers")]
    Ending(RunId),
    /// Whoever queued the run and followed it was told to leave.
    #[error("the run `{0}` goes on without being followed")]
    Unfollowed(RunId),
    /// This worker was told to leave, and others go on.
    #[error("this worker has left the run `{0}`; others go on with it")]
    Left(RunId),
    /// What is left of the run needs labels that this worker does not have.
    #[error("this worker has left the run `{0}`: what is left of it needs labels that it does not have")]
    Unneeded(RunId),
    /// The worker that planned the run died before the plan was complete.
    #[error("the run `{0}` was never planned: its first worker died before that")]
    Unplanned(RunId),
    /// The plan in the store is not the one that was written.
    #[error("the stored plan of run `{0}` is incomplete or was changed")]
    Plan(RunId),
    /// The units of a worker were taken by others while it was away.
    #[error("the units of worker `{worker}` in run `{run}` were taken over while it was away")]
    Superseded {
        /// The run.
        run: RunId,
        /// The worker.
        worker: WorkerId,
    },
    /// The run does not hold one of its locks any more: its writes are refused.
    #[error("the lock {0} was lost")]
    LockLost(Key),
    /// An environment could not be reserved, or was lost while tests ran.
    #[error(transparent)]
    Reservation(#[from] ReservationError),
    /// A service or a probe is not ready, and so no test was begun.
    #[error(transparent)]
    NotReady(#[from] NotReady),
    /// Somebody asked again to end it while it was being stored.
    #[error("the run `{0}` was interrupted before everything was stored")]
    Interrupted(RunId),
    /// The data of an environment cannot be given to tests, and so none was begun.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The worker ended with results that are only in its journal.
    #[error("{cause}")]
    Unsent {
        /// Why it ended.
        cause: Box<RunError>,
        /// What stays where.
        kept: Kept,
    },
    /// The store went away when all that this worker did was stored.
    #[error("all results of run `{run}` are stored, but it is not concluded: {source}")]
    Unfinished {
        /// The run.
        run: RunId,
        /// It was cancelled.
        cancelled: bool,
        /// What the store said.
        source: StoreError,
    },
    /// A process or file that the run needs could not be had.
    #[error("failed to {what}: {source}")]
    Io {
        /// What was to be done.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
}

impl RunError {
    /// The same for a run that only had to be concluded.
    pub(super) fn when_all_is_stored(self, run: &Run) -> Self {
        match self {
            Self::Store(source) | Self::Report(ReportError::Store(source)) if source.is_transient() => {
                let cancelled =
                    matches!(run.state, RunState::Cancelling | RunState::Finishing { cancelled: true, .. });
                Self::Unfinished { run: run.id.clone(), cancelled, source }
            }
            error => error,
        }
    }
}

/// The result of a step of a run.
pub type Result<T> = std::result::Result<T, RunError>;
