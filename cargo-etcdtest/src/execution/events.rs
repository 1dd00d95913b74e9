//! What happens in a run, for whoever shows it: the progress display, the machine-readable
//! stream, and `watch`.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::config::OutputWhen;
use crate::environments::Waiting;
use crate::model::{
    Attempt, EnvironmentVersion, PlannedUnit, Repetition, RunId, RunSummary, TestCaseId, UnitIndex,
    UnitResult, WorkerId,
};

use super::output::Output;
use super::services::{Part, ServiceLog};
use super::timings::Timings;

/// Where events go. A display that went away is no reason to stop.
pub type EventSink = mpsc::UnboundedSender<RunEvent>;

/// Something that happened in a run.
#[derive(Clone, Debug)]
pub enum RunEvent {
    /// An environment is reserved by others, and waited for; told whenever that changes.
    Waiting(Waiting),
    /// The environments that others may not use meanwhile are reserved for the run.
    Reserved {
        /// Their names.
        environments: Vec<String>,
        /// How long they were waited for.
        waited: Duration,
    },
    /// The run was created, or is being watched from now on.
    Started {
        /// Its id.
        run: RunId,
        /// How many units it has.
        units: u32,
        /// How many test cases.
        tests: u32,
        /// What it runs against.
        environments: Vec<EnvironmentVersion>,
        /// The seed of its order, if that was left to chance.
        shuffle: Option<u64>,
    },
    /// A part of an environment is ready.
    Ready {
        /// The environment.
        environment: String,
        /// Which part.
        part: Part,
        /// Where a service is.
        url: Option<String>,
        /// How long that took.
        took: Duration,
    },
    /// An attempt began.
    AttemptStarted {
        /// Whose.
        unit: Unit,
        /// Its number, from 1.
        attempt: u32,
    },
    /// An attempt has taken long.
    Slow {
        /// Whose.
        unit: Unit,
        /// How long by now.
        elapsed: Duration,
    },
    /// A unit waits for a resource that others have, for more than a moment: told once of each.
    ResourceWaiting {
        /// Which.
        unit: Unit,
        /// What it waits for.
        resource: String,
        /// Who has it; the store may not have said yet.
        waiting: Option<Waiting>,
    },
    /// An attempt failed and there will be another.
    AttemptFailed {
        /// Whose.
        unit: Unit,
        /// What came of it.
        attempt: Attempt,
        /// Its output.
        output: Arc<AttemptOutput>,
        /// After how many attempts there will be none.
        of: u32,
        /// How long until then.
        wait: Duration,
        /// When its output is shown.
        shown: OutputWhen,
    },
    /// A unit has its result.
    Finished {
        /// Which.
        unit: Unit,
        /// The result.
        result: UnitResult,
        /// The output of its last attempt, where it was executed by this process.
        output: Arc<AttemptOutput>,
        /// When that is shown.
        shown: OutputWhen,
    },
    /// These units' results are in the store: whatever ends this process now, they are kept.
    Stored {
        /// Which.
        units: Vec<UnitIndex>,
    },
    /// The run goes no further than what is under way.
    Cancelled {
        /// Why.
        reason: String,
    },
    /// Something that whoever runs the tests should know, and that fails none of them.
    Notice {
        /// What.
        text: String,
    },
    /// A unit that was lost with another worker is executed anew, alone.
    TakenOver {
        /// Which.
        unit: Unit,
        /// The worker it was lost with last.
        worker: WorkerId,
    },
    /// Others took these units over while this worker was away: what came of them here is not
    /// stored.
    Superseded {
        /// Which.
        units: Vec<UnitIndex>,
    },
    /// This worker leaves the run to others: it begins no more tests.
    Leaving {
        /// How many go on.
        others: usize,
    },
    /// No worker works for the run yet: it waits for some.
    Queued {
        /// Its id.
        run: RunId,
    },
    /// No live worker works for the run any more.
    Stalled {
        /// Its id.
        run: RunId,
        /// Why, and what to do about it.
        reason: String,
    },
    /// The store does not answer, and is being waited for.
    StoreAway,
    /// Where the time of the run went, said just before its end.
    Spent {
        /// Its phases.
        timings: Timings,
        /// How long it was waited for claims and results to be stored, while tests ran.
        storing: Duration,
    },
    /// The run is over.
    Ended {
        /// Its id.
        run: RunId,
        /// What came of it.
        summary: RunSummary,
        /// It was cancelled.
        cancelled: bool,
    },
}

/// A unit, as people know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Its place in the plan.
    pub index: UnitIndex,
    /// The test case.
    pub test: TestCaseId,
    /// The environment's name.
    pub environment: String,
    /// Which repetition it is, where there are several.
    pub repetition: Option<Repetition>,
}

/// What an attempt printed and attached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttemptOutput {
    /// Its standard output and standard error, in the order in which they were printed.
    pub printed: Output,
    /// Its attachments: file name and content.
    pub attachments: Vec<(String, Vec<u8>)>,
    /// What the services wrote while it failed.
    pub services: Vec<ServiceLog>,
}

impl Unit {
    /// A planned unit at its place.
    pub fn new(index: UnitIndex, planned: &PlannedUnit) -> Self {
        Self {
            index,
            test: planned.test.clone(),
            environment: planned.environment.clone(),
            repetition: planned.repetition,
        }
    }
}
