//! A run with one unit of every kind, for the tests of what is made from it.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::{AttemptOutput, RunDetails, UnitDetails};
use crate::model::{
    Attempt, Block, Build, Code, Commit, Definition, Description, Environment, EnvironmentVersion, Fence,
    Labels, Outcome, Place, PlanChunk, PlannedUnit, Run, RunId, RunState, Step, StoredOutput, TestCase,
    TestCaseId, TestKind, UnitIndex, UnitResult, WorkerId,
};
use crate::store::local::LocalStore;
use crate::store::{Key, Op, SharedStore, Txn, encode, encode_block, encode_output, keys};

/// How many bytes of output one chunk holds.
const PIECE: usize = 255 * 1024;

/// A moment of the sample, `seconds` after the run was created.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_798_761_600 + seconds).unwrap()
}

/// An attempt that took 1.5 s.
pub(crate) fn attempt(number: u32, outcome: Outcome, message: &str) -> Attempt {
    Attempt {
        number,
        outcome,
        started: at(2 * i64::from(number)),
        duration: Duration::from_millis(1500),
        message: Some(message.to_owned()).filter(|message| !message.is_empty()),
        location: None,
        exit_code: None,
        signal: None,
        leaky: false,
        place: Some(Place {
            host: "host".into(),
            lane: 1,
            offset: Duration::from_secs(2 * u64::from(number)),
        }),
        steps: vec![],
        output: vec![],
    }
}

/// A unit of `shop::checkout` in the environment `staging`.
pub(crate) fn unit(index: u32, test: &str, mut attempts: Vec<Attempt>) -> UnitDetails {
    for place in attempts.iter_mut().filter_map(|attempt| attempt.place.as_mut()) {
        place.lane = 1 + index % 2;
        place.offset += Duration::from_secs(4) * (index / 2);
    }
    let id = TestCaseId::new("shop", "checkout", test);
    let outcome = attempts.last().map_or(Outcome::Skipped, |attempt| attempt.outcome);
    UnitDetails {
        index: UnitIndex(index),
        planned: PlannedUnit {
            test: id,
            environment: "staging".into(),
            estimate: None,
            repetition: None,
            needs: Labels::default(),
            skip: None,
        },
        case: None,
        result: Some(UnitResult {
            unit: UnitIndex(index),
            outcome,
            reason: None,
            attempts,
            worker: WorkerId::new("host-1-abc"),
            token: Fence(40),
        }),
        output: vec![],
    }
}

/// What the code says of a test.
pub(crate) fn case(test: &str) -> TestCase {
    TestCase {
        id: TestCaseId::new("shop", "checkout", test),
        code: Some(Code {
            kind: TestKind::Annotated,
            description: Description {
                description: "A paid order is listed\nas paid.".into(),
                tags: vec!["smoke".into(), "orders".into()],
                owner: Some("orders".into()),
                ..Description::default()
            },
            timeout: None,
            retries: None,
            environments: vec![],
            exclusive: None,
            needs: Labels::default(),
            ignore: None,
            file: Some("shop/tests/checkout.rs".into()),
            line: Some(12),
        }),
        written: None,
        vanished: None,
    }
}

/// A run of these units in the environment `staging`, finished after 20 s.
pub(crate) fn run(units: Vec<UnitDetails>) -> RunDetails {
    let config = r#"{"orders_url":"http://orders.staging:8080","limits":{"open":3}}"#;
    let definition = Definition {
        description: "Behind the office".into(),
        config: serde_json::from_str(config).unwrap(),
        ..Definition::default()
    };
    let environment = Environment {
        version: 3,
        applied: at(-3600),
        revision: 17,
        ..Environment::unstored("staging", definition, "bob@laptop")
    };
    let mut details = RunDetails {
        run: Run {
            id: RunId::new("20261231-235959-x7k2pq"),
            state: RunState::Finished { cancelled: false },
            created: at(0),
            finished: Some(at(20)),
            command: ["cargo", "etcdtest", "run", "--env", "staging"].map(str::to_owned).to_vec(),
            author: "ann@desk".into(),
            commit: Some(Commit {
                id: "0123456789abcdef0123456789abcdef01234567".into(),
                folder: String::new(),
                branch: Some("main".into()),
                dirty: true,
            }),
            build: Build::default(),
            environments: vec![EnvironmentVersion { name: "staging".into(), version: 3, revision: 17 }],
            units: u32::try_from(units.len()).unwrap(),
            stripes: vec![1],
            tests_digest: "t".into(),
            plan_digest: "p".into(),
            shuffle: None,
            summary: None,
            cancelled: None,
        },
        environments: vec![environment],
        units,
    };
    details.run.summary = Some(details.summary());
    details
}

/// A run with one unit of every kind.
pub(crate) fn every_kind() -> RunDetails {
    let mut passed = unit(0, "orders::paid", vec![attempt(1, Outcome::Passed, "")]);
    passed.case = Some(case("orders::paid").into());

    let mut flaky = unit(
        1,
        "orders::flaky",
        vec![attempt(1, Outcome::Failed, "connection refused"), attempt(2, Outcome::Passed, "")],
    );
    print(&mut flaky, 1, "output", "trying\n");
    print(&mut flaky, 2, "output", "done\n");

    let mut last = attempt(2, Outcome::Failed, "assertion `left == right` failed\n  left: 1\n right: 2");
    last.location = Some("shop/tests/checkout.rs:14:5".into());
    last.exit_code = Some(101);
    last.steps = vec![
        Step { name: "create an order".into(), ok: Some(true), duration: Duration::from_millis(12) },
        Step { name: "pay it".into(), ok: Some(false), duration: Duration::from_millis(3) },
        Step { name: "ship it".into(), ok: None, duration: Duration::ZERO },
    ];
    let mut failed = unit(2, "orders::refused", vec![attempt(1, Outcome::TimedOut, ""), last]);
    failed.case = Some(case("orders::refused").into());
    print(&mut failed, 2, "output", "id\tstate\n1\topen\n");
    print(&mut failed, 2, "attachments/order.json", "{}");

    let mut crash = attempt(1, Outcome::Crashed, "");
    crash.signal = Some(11);
    let crashed = unit(3, "crashes", vec![crash]);
    let mut hung = attempt(1, Outcome::TimedOut, "");
    hung.place = Some(Place { host: "ci-2".into(), lane: 2, offset: Duration::from_millis(500) });
    let mut timed_out = unit(4, "hangs", vec![hung]);
    timed_out.result.as_mut().unwrap().worker = WorkerId::new("ci-2-7-xyz");
    let mut ignored = unit(5, "ignored", vec![]);
    ignored.result.as_mut().unwrap().reason = Some("needs a printer".into());
    let skipped = unit(6, "skips_itself", vec![attempt(1, Outcome::Skipped, "no printer here")]);
    let mut not_run = unit(7, "never_reached", vec![]);
    not_run.result = None;
    run(vec![passed, flaky, failed, crashed, timed_out, ignored, skipped, not_run])
}

/// Says that an attempt printed this, or attached it.
pub(crate) fn print(unit: &mut UnitDetails, attempt: u32, name: &str, text: &str) {
    let result = unit.result.as_mut().unwrap();
    let stored = StoredOutput {
        name: name.into(),
        size: text.len() as u64,
        left_out: 0,
        chunks: text.len().div_ceil(PIECE),
    };
    result.attempts[attempt as usize - 1].output.push(stored);
    unit.output.push(AttemptOutput { attempt, name: name.into(), text: text.into() });
}

/// A store of its own in a folder of its own.
pub(crate) struct TestStore {
    pub(crate) store: SharedStore,
    _folder: tempfile::TempDir,
}

impl TestStore {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { store: Arc::new(LocalStore::open(folder.path()).unwrap()), _folder: folder }
    }

    /// Writes these pairs.
    pub(crate) async fn put(&self, pairs: Vec<(Key, Vec<u8>)>) {
        let then = pairs.into_iter().map(|(key, value)| Op::put(key, value)).collect();
        self.store.txn(Txn { then, ..Txn::default() }).await.unwrap();
    }

    /// Writes a run as the executing side does: the plan in two chunks, each result in a
    /// block of its own.
    pub(crate) async fn write(&self, details: &RunDetails) {
        let run = &details.run.id;
        let mut pairs = vec![(keys::run(run), encode(&details.run))];
        for environment in &details.environments {
            pairs.push((keys::snapshot(run, &environment.name), encode(environment)));
        }
        let planned: Vec<PlannedUnit> = details.units.iter().map(|unit| unit.planned.clone()).collect();
        for (chunk, units) in planned.chunks(5).enumerate() {
            let first = UnitIndex(u32::try_from(chunk * 5).unwrap());
            let record = PlanChunk { first, units: units.to_vec() };
            pairs.push((keys::plan_chunk(run, chunk), encode(&record)));
        }
        for (number, unit) in (0..).zip(&details.units) {
            if let Some(case) = &unit.case {
                pairs.push((keys::test_case(&case.id), encode(case.as_ref())));
            }
            let Some(result) = &unit.result else { continue };
            let block = Block { results: vec![result.clone()] };
            pairs.push((keys::block(run, &result.worker, 7, number), encode_block(&block)));
            for output in &unit.output {
                let (name, text) = (&output.name, output.text.as_bytes());
                pairs.extend(encode_output(run, unit.index, result.token, output.attempt, name, text));
            }
        }
        self.put(pairs).await;
    }
}
