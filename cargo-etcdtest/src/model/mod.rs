//! The records of the store as plain data.

mod environment;
mod ids;
mod labels;
mod lock;
mod record;
mod result;
mod run;
pub(crate) mod seconds;
mod secret;
mod test_case;

pub use environment::{
    DataSet, Definition, Environment, EnvironmentVersion, Probe, ProbeBy, Ready, ReadyBy, Restart, Scope,
    SecretVersion, Service,
};
pub use ids::{Fence, RunId, TestCaseId, TestCaseIdError, UnitIndex, WorkerId};
pub use labels::{LabelError, Labels};
pub use lock::{Holder, Lock, Released};
pub use record::Record;
pub use result::{
    Attempt, Block, LatestResult, Outcome, PastResults, Place, RecentOutcome, Step, StoredOutput, UnitResult,
    Verdict,
};
pub use run::{
    Build, Cancellation, Claim, Commit, Failures, Loss, NextPosition, PlanChunk, PlannedUnit, Repetition,
    Run, RunState, RunSummary, Steward, Worker,
};
pub use secret::{SecretContent, StoredSecret};
pub use test_case::{Code, Description, TestCase, TestCaseState, TestKind};
