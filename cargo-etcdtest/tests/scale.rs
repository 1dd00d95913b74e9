//! What a run asks of the store grows as its tests do, and no faster: counted, not timed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use async_trait::async_trait;
use cargo_etcdtest::execution::{
    Claimed, Claims, Hand, Membership, Pace, Plan, Proposal, conclude, read_histories,
};
use cargo_etcdtest::model::{
    Attempt, Code, Description, EnvironmentVersion, Labels, Outcome, PlannedUnit, Run, RunId, TestCaseId,
    TestKind, UnitResult, Worker, WorkerId,
};
use cargo_etcdtest::store::local::LocalStore;
use cargo_etcdtest::store::{
    Lease, LeaseId, Op, Page, Read, Result, Revision, SharedStore, Store, StoreStatus, Txn, TxnOutcome, Watch,
};
use cargo_etcdtest::testcases::{Binary, BinaryKind, Catalog, ListedTest, TestList};

/// How long each test takes.
const LENGTH: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(30);

/// A store that counts what is asked of it.
#[derive(Debug)]
struct Counting {
    inner: LocalStore,
    /// Requests.
    requests: AtomicUsize,
    /// Keys that a server looks at: those of a range behind the limit too, as etcd does.
    walked: AtomicUsize,
    /// Keys and bytes that are written.
    puts: AtomicUsize,
    bytes: AtomicUsize,
}

/// What was counted.
#[derive(Clone, Copy, Debug)]
struct Counts {
    requests: usize,
    walked: usize,
    puts: usize,
    bytes: usize,
}

impl Counting {
    fn counts(&self) -> Counts {
        let Self { requests, walked, puts, bytes, .. } = self;
        let [requests, walked, puts, bytes] =
            [requests, walked, puts, bytes].map(|count| count.load(Relaxed));
        Counts { requests, walked, puts, bytes }
    }

    async fn walk(&self, read: &Read) -> Result<()> {
        let all = Read { limit: None, keys_only: true, at: None, ..read.clone() };
        self.walked.fetch_add(self.inner.read(all).await?.pairs.len(), Relaxed);
        Ok(())
    }
}

#[async_trait]
impl Store for Counting {
    async fn read(&self, read: Read) -> Result<Page> {
        self.requests.fetch_add(1, Relaxed);
        self.walk(&read).await?;
        self.inner.read(read).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome> {
        self.requests.fetch_add(1, Relaxed);
        let outcome = self.inner.txn(txn.clone()).await?;
        for op in if outcome.succeeded { &txn.then } else { &txn.otherwise } {
            match op {
                Op::Get(read) => self.walk(read).await?,
                Op::Put { value, .. } => {
                    self.puts.fetch_add(1, Relaxed);
                    self.bytes.fetch_add(value.len(), Relaxed);
                }
                Op::Delete(_) => {}
            }
        }
        Ok(outcome)
    }

    async fn watch(&self, range: cargo_etcdtest::store::KeyRange, from: Revision) -> Result<Watch> {
        self.inner.watch(range, from).await
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease> {
        self.inner.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration> {
        self.inner.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.inner.revoke(lease).await
    }

    async fn compact(&self, upto: Revision) -> Result<()> {
        self.inner.compact(upto).await
    }

    async fn status(&self) -> Result<StoreStatus> {
        self.inner.status().await
    }
}

fn tests(count: usize) -> TestList {
    let binary = Arc::new(Binary {
        package: "shop".into(),
        name: "smoke".into(),
        target: "smoke".into(),
        kind: BinaryKind::Test,
        path: "/x".into(),
        directory: "/".into(),
        variables: Vec::new(),
    });
    let test = |number| ListedTest {
        id: TestCaseId::new("shop", "smoke", format!("module_{}::test_{number:06}", number % 100)),
        code: Code {
            kind: TestKind::Annotated,
            description: Description {
                description: "It does what it says.".into(),
                ..Description::default()
            },
            timeout: None,
            retries: None,
            environments: Vec::new(),
            exclusive: None,
            needs: Labels::default(),
            ignore: None,
            file: Some("tests/smoke.rs".into()),
            line: Some(7),
        }
        .into(),
        typed: false,
        binary: Arc::clone(&binary),
    };
    let mut list = TestList { tests: (0..count).map(test).collect(), ..TestList::default() };
    list.tests.sort_by(|a, b| a.id.cmp(&b.id));
    list.targets.entry("shop".into()).or_default().insert("smoke".into());
    list.binaries.push(binary);
    list
}

/// Registers, plans, claims, stores and finishes, as a run does, and says how often it claimed.
async fn run(store: &SharedStore, list: &TestList, name: &str) -> usize {
    Catalog::new(store.clone()).sync(list).await.unwrap();
    let ids: Vec<&TestCaseId> = list.tests.iter().map(|test| &test.id).collect();
    let histories = read_histories(store, &ids, &["local"], PATIENCE).await.unwrap();
    let units = ids.iter().map(|&id| PlannedUnit::new(id.clone(), "local"));
    let plan = Plan::new(units, &histories, None);
    let id = RunId::new(name);
    let worker = Worker { lanes: 1, ..Worker::new(WorkerId::new("worker"), "desk", id.clone()) };
    let record = plan.record(Run {
        environments: vec![EnvironmentVersion { name: "local".into(), version: 0, revision: 0 }],
        tests_digest: list.digest(),
        ..Run::new(id, "ann@desk")
    });
    let proposal = Proposal { run: &record, plan: &plan, environments: &[], rules: None };
    let (membership, _) = Membership::enter(store.clone(), worker, proposal, PATIENCE).await.unwrap();
    let mut claims = Claims::new(membership).await.unwrap();
    let mut count = 0;
    let (mut pace, hand) = (Pace::new(&plan), Hand { idle: 1, empty: true });
    while let Claimed::Units(units, token) = claims.claim(&plan, &pace, hand, &[]).await.unwrap() {
        count += 1;
        let result = |unit| UnitResult {
            unit,
            outcome: Outcome::Passed,
            reason: None,
            attempts: vec![Attempt { duration: LENGTH, ..Attempt::begun(1, Outcome::Passed) }],
            worker: WorkerId::new("worker"),
            token,
        };
        let results: Vec<UnitResult> = units.into_iter().map(result).collect();
        for result in &results {
            pace.add(&plan, result);
        }
        claims.flush(results, &[]).await.unwrap();
    }
    let mut membership = claims.into_membership();
    conclude(&mut membership, &plan).await.unwrap();
    membership.leave().await;
    count
}

async fn counted(count: usize) -> (Counts, usize) {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(Counting {
        inner: LocalStore::open(folder.path()).unwrap(),
        requests: AtomicUsize::new(0),
        walked: AtomicUsize::new(0),
        puts: AtomicUsize::new(0),
        bytes: AtomicUsize::new(0),
    });
    let list = tests(count);
    let shared: SharedStore = store.clone();
    let mut claims = 0;
    for name in ["first", "second"] {
        claims += run(&shared, &list, name).await;
    }
    (store.counts(), claims)
}

#[tokio::test]
async fn what_a_test_costs_does_not_grow_with_their_number() {
    let (few, few_claims) = counted(1_000).await;
    let (many, many_claims) = counted(4_000).await;
    assert!(many_claims <= 4 * few_claims, "{many_claims} claims among 4,000, {few_claims} among 1,000");
    for (what, many, few) in [
        ("requests", many.requests, few.requests),
        ("keys walked", many.walked, few.walked),
        ("keys written", many.puts, few.puts),
        ("bytes written", many.bytes, few.bytes),
    ] {
        // At most 1.1 times as many for each test.
        assert!(many * 10 <= few * 44, "{what}: {many} among 4,000 tests, {few} among 1,000");
    }
}
