//! Runs: the record of one, its plan, and who holds which of its units.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{EnvironmentVersion, Labels, Record, RunId, TestCaseId, UnitIndex, WorkerId};

/// A run as stored under `/runs/{run}`: small, since listing runs reads all of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Its id.
    pub id: RunId,
    /// How far it is.
    pub state: RunState,
    /// When it was created, by the clock of the worker that did.
    pub created: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<Timestamp>,
    /// What was typed.
    pub command: Vec<String>,
    /// Who typed it: `user@host`.
    pub author: String,
    /// The code it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<Commit>,
    /// How its tests are built, for whoever joins it by its id.
    #[serde(default)]
    pub build: Build,
    /// What it runs against.
    pub environments: Vec<EnvironmentVersion>,
    /// How many units it has.
    pub units: u32,
    /// Over how many stripes they are dealt: a number for each group of units that need the
    /// same labels, in the order of the plan.
    pub stripes: Vec<u32>,
    /// Digest of the test list: whoever lists other tests may not join.
    pub tests_digest: String,
    /// Digest of the plan's chunks.
    pub plan_digest: String,
    /// The seed of its order, if that was left to chance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shuffle: Option<u64>,
    /// What came of it, once it is finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<RunSummary>,
    /// Why it was cancelled, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancelled: Option<Cancellation>,
}

/// Why a run goes no further than what is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancellation {
    /// The reason, which follows `because`.
    pub reason: String,
    /// Tests under way are ended as well, with their grace; else they go on to their end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ends_tests: bool,
}

impl Record for Run {
    const SCHEMA: u64 = 1;
}

impl Run {
    /// A run that is created now and can be worked for, without units and of no known code.
    pub fn new(id: RunId, author: impl Into<String>) -> Self {
        Self {
            id,
            state: RunState::Running,
            created: Timestamp::now(),
            finished: None,
            command: Vec::new(),
            author: author.into(),
            commit: None,
            build: Build::default(),
            environments: Vec::new(),
            units: 0,
            stripes: Vec::new(),
            tests_digest: String::new(),
            plan_digest: String::new(),
            shuffle: None,
            summary: None,
            cancelled: None,
        }
    }

    /// Its record once it is cancelled; `None` where it is not running.
    pub fn when_cancelled(&self, why: &Cancellation) -> Option<Self> {
        let cancelled = Some(why.clone());
        let running = self.state == RunState::Running;
        running.then(|| Self { state: RunState::Cancelling, cancelled, ..self.clone() })
    }

    /// Whether nothing more will come.
    pub fn is_over(&self) -> bool {
        matches!(self.state, RunState::Finished { .. })
    }
}

/// How far a run is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "phase")]
pub enum RunState {
    /// Its plan is being written.
    Planning {
        /// By whom.
        by: Steward,
    },
    /// Units are being executed.
    Running,
    /// It was cancelled; what is under way is being stored.
    Cancelling,
    /// Its reports are being written.
    Finishing {
        /// By whom.
        by: Steward,
        /// It was cancelled before.
        cancelled: bool,
    },
    /// It is over.
    Finished {
        /// It was cancelled: some units have no result.
        cancelled: bool,
    },
}

/// The worker that does what only one may do, told apart from an earlier one of its name
/// by the revision at which its key was created.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Steward {
    /// The worker.
    pub worker: WorkerId,
    /// The create revision of its key.
    pub identity: i64,
}

/// What cargo is told to build, the same on every machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// The folder in which it is told so, from the workspace's root; empty for that itself.
    pub folder: String,
    /// The flags, as `cargo etcdtest run` has them: packages, targets, features, profile.
    pub flags: Vec<String>,
}

/// The code that a run runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// The git commit id, in full.
    pub id: String,
    /// The branch, if one is checked out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// The workspace's folder in the repository; empty for the repository's own.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub folder: String,
    /// There were changes that are not in the commit.
    pub dirty: bool,
}

/// What came of a run: how many units of each verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSummary {
    /// Passed at the first attempt.
    pub passed: u32,
    /// Passed after a failed attempt.
    pub flaky: u32,
    /// Failed with a panic or an error.
    pub failed: u32,
    /// Took too long.
    pub timed_out: u32,
    /// Their process died.
    pub crashed: u32,
    /// Not run.
    pub skipped: u32,
    /// Without a result: the run was cancelled before.
    pub not_run: u32,
    /// From the run's creation to its end.
    #[serde(with = "super::seconds")]
    pub duration: Duration,
}

/// A piece of a run's plan, stored under `/execution/{run}/plan/{chunk}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanChunk {
    /// The index of the first unit in it.
    pub first: UnitIndex,
    /// The units in the order in which they are dealt.
    pub units: Vec<PlannedUnit>,
}

impl Record for PlanChunk {
    const SCHEMA: u64 = 1;
}

/// One of several executions of the same test in the same run, written `2/5`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Repetition {
    /// Its number, from 1.
    pub number: u32,
    /// How many there are.
    pub of: u32,
}

impl fmt::Display for Repetition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

/// One test case in one environment, or one repetition of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedUnit {
    /// The test case.
    #[serde(rename = "t")]
    pub test: TestCaseId,
    /// The environment's name.
    #[serde(rename = "e")]
    pub environment: String,
    /// How long it is expected to take.
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none", with = "super::seconds::option")]
    pub estimate: Option<Duration>,
    /// Which repetition it is, where each test is run several times.
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    pub repetition: Option<Repetition>,
    /// What a worker must have to be dealt it; units that need the same stand together.
    #[serde(rename = "n", default, skip_serializing_if = "Labels::is_empty")]
    pub needs: Labels,
    /// Why it is skipped without a try.
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    pub skip: Option<String>,
}

impl PlannedUnit {
    /// A test case in an environment, of which nothing else is known.
    pub fn new(test: TestCaseId, environment: impl Into<String>) -> Self {
        Self {
            test,
            environment: environment.into(),
            estimate: None,
            repetition: None,
            needs: Labels::default(),
            skip: None,
        }
    }
}

/// The next undealt position of a stripe, stored under `/execution/{run}/next/{stripe}`.
/// Stripe `s` of the `n` of its group deals the units `s`, `s + n`, `s + 2n`, … of the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextPosition {
    /// How many units of the stripe have been dealt.
    pub dealt: u32,
}

impl Record for NextPosition {
    const SCHEMA: u64 = 1;
}

/// How many units of a block of results failed, stored under
/// `/execution/{run}/failed/{worker-revision}.{n}` with the block: who counts the failures of a
/// run need not read its results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures {
    /// How many.
    pub failed: u32,
}

impl Record for Failures {
    const SCHEMA: u64 = 1;
}

/// The units a worker holds, stored under `/execution/{run}/claims/{worker}`.
///
/// Units that never were lost begin without a word to the store; those that were are in
/// `running` before they begin. So when the owner has died, all of the former and the latter
/// of those in `running` may have been what it died of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The create revision of the owner's key under `/workers`.
    pub owner: i64,
    /// The owner's machine.
    pub host: String,
    /// Counts the changes of this record: tells whether a write of unknown outcome landed.
    pub seq: u64,
    /// The units held.
    pub units: Vec<UnitIndex>,
    /// With whom those units were lost before that were.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lost: BTreeMap<UnitIndex, Vec<Loss>>,
    /// The units announced as being executed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub running: Vec<UnitIndex>,
    /// The owner gave them up in good order: nothing of them is being executed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub left: bool,
}

/// A worker that died, or was taken for dead, while it held a unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// The worker.
    pub worker: WorkerId,
    /// When another one took the unit over, by the clock there.
    pub noticed: Timestamp,
}

impl Record for Claim {
    const SCHEMA: u64 = 1;
}

/// A live worker, stored under `/workers/{worker}` on a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// Its id.
    pub id: WorkerId,
    /// The machine.
    pub host: String,
    /// The process there.
    pub pid: u32,
    /// The run it works for.
    pub run: RunId,
    /// Since when, by its own clock.
    pub since: Timestamp,
    /// How many attempts it executes at once.
    pub lanes: u32,
    /// What it has that not every worker has.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
}

impl Worker {
    /// This process, from now on, as a worker that executes nothing.
    pub fn new(id: WorkerId, host: impl Into<String>, run: RunId) -> Self {
        Self {
            id,
            host: host.into(),
            pid: std::process::id(),
            run,
            since: Timestamp::now(),
            lanes: 0,
            labels: Labels::default(),
        }
    }
}

impl Record for Worker {
    const SCHEMA: u64 = 1;
}
