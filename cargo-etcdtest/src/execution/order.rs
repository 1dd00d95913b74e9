//! What somebody wants to be run.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::journal::JournalFolder;
use super::plan::Plan;
use super::policy::Policy;
use super::timings::Timings;
use crate::environments::SecretValues;
use crate::model::{
    Build, Commit, Environment, Labels, PlannedUnit, Repetition, Run, RunId, TestCaseId, Worker, WorkerId,
};
use crate::testcases::ListedTest;

/// A run that somebody wants, and this process as one of its workers.
#[derive(Debug)]
pub struct Order {
    /// Its id.
    pub id: RunId,
    /// The tests.
    pub tests: Tests,
    /// Digest of all tests that were listed, selected or not.
    pub tests_digest: String,
    /// What they run against.
    pub environments: Vec<Environment>,
    /// Their secrets.
    pub secrets: SecretValues,
    /// The rules.
    pub policy: Policy,
    /// The seed of the order, if that is left to chance.
    pub shuffle: Option<u64>,
    /// How often each test is run.
    pub repetitions: NonZeroU32,
    /// What this worker has that not every worker has.
    pub labels: Labels,
    /// What was typed.
    pub command: Vec<String>,
    /// Who typed it: `user@host`.
    pub author: String,
    /// This machine's name.
    pub host: String,
    /// The id of the worker that this process is.
    pub worker: WorkerId,
    /// Whether the run may be there already, or must be.
    pub entry: Entry,
    /// This program, which serves as keeper when it is told to.
    pub keeper: PathBuf,
    /// The workspace's root, from which services are started.
    pub root: PathBuf,
    /// The folders of the programs that cargo built.
    pub built: Vec<PathBuf>,
    /// How the tests were built.
    pub build: Build,
    /// The code.
    pub commit: Option<Commit>,
    /// How long an unreachable store is waited for.
    pub patience: Duration,
    /// Where results are kept until a store elsewhere has them.
    pub journals: Option<JournalFolder>,
    /// What was done before the run.
    pub timings: Timings,
}

/// How a worker comes to its run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// It creates the run, or joins it where it is there: its units and environments must then
    /// be those of the order.
    CreateOrJoin,
    /// As that, but it executes nothing: it follows what others do.
    Queue,
    /// It joins a run that is there, whichever of the order's tests that has. The environments
    /// of the order are those that the run has stored.
    Join,
    /// As that, but it leaves the run once nothing is left of it that this worker may execute.
    JoinWhileNeeded,
}

impl Entry {
    /// Whether the run must be there.
    pub(super) fn is_join(self) -> bool {
        matches!(self, Self::Join | Self::JoinWhileNeeded)
    }
}

/// Tests that were selected, in the order of their ids. Clones share them: they may be many.
#[derive(Clone, Debug)]
pub struct Tests(Arc<[Selected]>);

impl Tests {
    /// Where the test of an id stands.
    pub fn place(&self, id: &TestCaseId) -> Option<usize> {
        self.0.binary_search_by(|selected| selected.test.id.cmp(id)).ok()
    }
}

impl FromIterator<Selected> for Tests {
    fn from_iter<T: IntoIterator<Item = Selected>>(tests: T) -> Self {
        let mut tests = Vec::from_iter(tests);
        tests.sort_by(|a, b| a.test.id.cmp(&b.test.id));
        Self(tests.into())
    }
}

impl Deref for Tests {
    type Target = [Selected];

    fn deref(&self) -> &[Selected] {
        &self.0
    }
}

/// A test that was selected.
#[derive(Clone, Debug)]
pub struct Selected {
    /// The test.
    pub test: ListedTest,
    /// For each environment by name, why it is not run there; nothing where it is.
    pub skipped: HashMap<String, String>,
}

impl Order {
    /// This process as a worker of the run.
    pub(super) fn worker(&self) -> Worker {
        Worker {
            lanes: u32::try_from(self.policy.lanes.get()).unwrap_or(u32::MAX),
            labels: self.labels.clone(),
            ..Worker::new(self.worker.clone(), &*self.host, self.id.clone())
        }
    }

    /// The record of the run, which nobody plans yet.
    pub(super) fn describe(&self, plan: &Plan) -> Run {
        let redactor = self.secrets.redactor();
        plan.record(Run {
            command: self.command.iter().map(|word| redactor.text(word.clone())).collect(),
            commit: self.commit.clone(),
            build: self.build.clone(),
            environments: self.environments.iter().map(Environment::identity).collect(),
            tests_digest: self.tests_digest.clone(),
            shuffle: self.shuffle,
            ..Run::new(self.id.clone(), &*self.author)
        })
    }

    /// Each test in each environment, so many times.
    pub(super) fn units(&self) -> Vec<PlannedUnit> {
        let of = self.repetitions.get();
        let needs: Vec<Labels> =
            self.tests.iter().map(|selected| self.policy.of(&selected.test).needs).collect();
        let mut units = Vec::new();
        for repetition in (1..=of).map(|number| (of > 1).then_some(Repetition { number, of })) {
            for environment in &self.environments {
                units.extend(self.tests.iter().zip(&needs).map(|(selected, needs)| PlannedUnit {
                    repetition,
                    needs: needs.clone(),
                    skip: selected.skipped.get(&environment.name).cloned(),
                    ..PlannedUnit::new(selected.test.id.clone(), &*environment.name)
                }));
            }
        }
        units
    }
}
