//! What a worker executes, and by which rules.

use std::collections::HashMap;
use std::sync::Arc;

use super::plan::Plan;
use super::policy::Policy;
use super::process::Launcher;
use super::services::Supply;
use crate::model::{RunId, TestCaseId, WorkerId};
use crate::testcases::ListedTest;

/// A run as one worker sees it.
#[derive(Debug)]
pub struct Work {
    /// The run.
    pub run: RunId,
    /// The worker.
    pub worker: WorkerId,
    /// All units.
    pub plan: Plan,
    /// The tests that the units name.
    pub tests: HashMap<TestCaseId, ListedTest>,
    /// The environments that the units name, ready for them.
    pub supply: Supply,
    /// The rules.
    pub policy: Policy,
    /// What starts its attempts.
    pub launcher: Arc<Launcher>,
}
