//! What the workers of a run agree on: its tests, and what these need.

use std::num::NonZeroUsize;
use std::time::Duration;

use cargo_etcdtest::execution::{Histories, History, JournalFolder, Plan};
use cargo_etcdtest::model::{
    Definition, Environment, Labels, PlannedUnit, Run, RunId, TestCaseId, UnitIndex,
};
use cargo_etcdtest::store::StoreOptions;
use cargo_etcdtest::store::etcd::EtcdOptions;
use tempfile::TempDir;

use super::memory::MemoryStore;

/// What some tests need, and all of it at the most: who has no more than the first of these cannot
/// execute those that need the second.
const LABELS: [&[&str]; 3] = [&[], &["gpu"], &["big", "gpu"]];

/// What some tests use, and only so many at once: they are the same for all runs.
const RESOURCES: [Resource; 2] = [
    Resource { name: "database", capacity: NonZeroUsize::MIN },
    Resource { name: "pool", capacity: NonZeroUsize::MIN.saturating_add(1) },
];

/// A run for some workers.
#[derive(Debug)]
pub(super) struct Job {
    /// The run as it is proposed, but for its plan.
    pub(super) run: Run,
    /// Its tests.
    pub(super) tests: Vec<Test>,
    /// The run keeps its environment from others.
    pub(super) reserves: bool,
    /// Where its workers keep results until the store has them.
    pub(super) journals: Option<JournalFolder>,
    /// After so many failures a worker has no more begun.
    pub(super) max_fail: Option<u32>,
}

/// A test.
#[derive(Clone, Debug)]
pub(super) struct Test {
    id: TestCaseId,
    /// How long it takes.
    pub(super) duration: Duration,
    /// What a worker has to have for it.
    needs: Labels,
    /// What it uses.
    pub(super) resource: Option<Resource>,
}

/// Something that only so many tests may use at once, on all machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Resource {
    pub(super) name: &'static str,
    pub(super) capacity: NonZeroUsize,
}

/// Labels with which a worker can execute whatever there is.
pub(super) fn all_labels() -> Labels {
    labels(LABELS.len() - 1)
}

/// Those that some worker has.
pub(super) fn some_labels() -> Labels {
    labels(fastrand::usize(..LABELS.len()))
}

fn labels(number: usize) -> Labels {
    Labels::new(LABELS[number]).expect("they are words")
}

/// Any tests: longer and shorter ones, which in some trials need what not every worker has, or use
/// what not everybody may use at once.
fn tests() -> Vec<Test> {
    let count = [1, 6, 20, 40][fastrand::usize(..4)];
    let (choosy, exclusive) = (fastrand::u8(..4) == 0, fastrand::u8(..4) == 0);
    let millis = || if fastrand::u8(..10) == 0 { 2_000..30_000 } else { 10..3_000 };
    let test = |number| Test {
        id: TestCaseId::new("shop", "lib", format!("t{number}")),
        duration: Duration::from_millis(fastrand::u64(millis())),
        needs: if choosy { some_labels() } else { Labels::default() },
        resource: (exclusive && fastrand::bool()).then(|| RESOURCES[fastrand::usize(..RESOURCES.len())]),
    };
    (0..count).map(test).collect()
}

impl Job {
    /// Runs of the same few tests. Some keep journals in a folder.
    pub(super) fn any(runs: usize, folder: &TempDir) -> Vec<Self> {
        let tests = tests();
        let reserves = fastrand::u8(..3) == 0;
        let max_fail = (fastrand::u8(..8) == 0).then(|| fastrand::u32(1..3));
        let environment = Environment::unstored("local", Definition::default(), "ann@desk").identity();
        let run = |number| Run {
            environments: vec![environment.clone()],
            ..Run::new(RunId::new(format!("run{number}")), "ann@desk")
        };
        let keeps = fastrand::u8(..3) == 0;
        let journals = |number| {
            let etcd = EtcdOptions { endpoints: vec!["here:1".into()], ..EtcdOptions::default() };
            let local = folder.path().join(format!("run{number}/.etcdtest"));
            JournalFolder::of(&StoreOptions { etcd, local }, &MemoryStore::new()).filter(|_| keeps)
        };
        let job = |number| {
            let (run, journals) = (run(number), journals(number));
            Self { run, tests: tests.clone(), reserves, journals, max_fail }
        };
        (0..runs).map(job).collect()
    }

    /// The run with its plan as one of its workers proposes it: what each knows of the past may
    /// be something else.
    pub(super) fn proposed(&self) -> (Run, Plan) {
        let planned = |test: &Test| PlannedUnit {
            needs: test.needs.clone(),
            ..PlannedUnit::new(test.id.clone(), "local")
        };
        let mut known = Histories::default();
        for test in self.tests.iter().filter(|_| fastrand::bool()) {
            let duration = Some(test.duration.mul_f64(0.5 + fastrand::f64()));
            let history = History { duration, failed_lately: fastrand::u8(..9) == 0 };
            known.insert(test.id.clone(), "local", history);
        }
        let plan = Plan::new(self.tests.iter().map(planned), &known, None);
        (plan.record(self.run.clone()), plan)
    }

    /// The test of a unit.
    pub(super) fn test(&self, plan: &Plan, unit: UnitIndex) -> &Test {
        let planned = plan.unit(unit).map(|planned| &planned.test);
        let test = self.tests.iter().find(|test| Some(&test.id) == planned);
        test.expect("the plan is of these tests")
    }
}
