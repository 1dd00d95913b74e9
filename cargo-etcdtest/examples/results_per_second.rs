//! How fast results get into etcd: as a worker claims units and stores their results, no test
//! being run, and as bare puts of the same results, 128 in a transaction. Both send one
//! transaction after the other. `cargo xtask bench store` runs it.
//!
//! Arguments: an endpoint, and how many results. It prints the seconds that the worker took, and
//! those that the bare puts took.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cargo_etcdtest::execution::{
    Claimed, Claims, Hand, Histories, History, Membership, Pace, Plan, Proposal,
};
use cargo_etcdtest::model::{
    Attempt, Build, EnvironmentVersion, Fence, Labels, Outcome, Place, PlannedUnit, Run, RunId, RunState,
    TestCaseId, UnitIndex, UnitResult, Worker, WorkerId,
};
use cargo_etcdtest::store::SharedStore;
use cargo_etcdtest::store::etcd::{EtcdOptions, EtcdStore};
use etcd_client::{Client, Txn, TxnOp};
use jiff::Timestamp;

/// How many puts etcd takes in one transaction.
const PUTS: usize = 128;
/// How long each test is said to take.
const LENGTH: Duration = Duration::from_millis(1);
/// How long an unreachable store is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
const ENVIRONMENT: &str = "local";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or("expected: ENDPOINT RESULTS");
    let (endpoint, count) = (next()?, next()?.parse::<u32>()?);
    let stored = by_a_worker(&endpoint, count).await?;
    let bare = bare(endpoint, count).await?;
    println!("{} {}", stored.as_secs_f64(), bare.as_secs_f64());
    Ok(())
}

/// Has a worker claim and store all units of a run of its own.
async fn by_a_worker(endpoint: &str, count: u32) -> Result<Duration, Box<dyn Error>> {
    let options = EtcdOptions { endpoints: vec![endpoint.to_owned()], ..EtcdOptions::default() };
    let store: SharedStore = Arc::new(EtcdStore::connect(options).await?);
    let plan = plan(count);
    let (run, worker) = (record(&plan), WorkerId::generate("bench"));
    let registered = Worker {
        id: worker.clone(),
        host: "bench".into(),
        pid: std::process::id(),
        run: run.id.clone(),
        since: Timestamp::now(),
        lanes: 1,
        labels: Labels::default(),
    };
    let proposal = Proposal { run: &run, plan: &plan, environments: &[], rules: None };
    let (membership, plan) = Membership::enter(store, registered, proposal, PATIENCE).await?;
    let mut claims = Claims::new(membership).await?;
    let (mut pace, hand) = (Pace::new(&plan), Hand { idle: 1, empty: true });
    let started = Instant::now();
    while let Claimed::Units(units, token) = claims.claim(&plan, &pace, hand, &[]).await? {
        let results: Vec<_> = units.into_iter().map(|unit| result(unit, &worker, token)).collect();
        for result in &results {
            pace.add(&plan, result);
        }
        claims.flush(results, &[]).await?;
    }
    let took = started.elapsed();
    claims.into_membership().leave().await;
    Ok(took)
}

/// Puts the same results, and nothing else.
async fn bare(endpoint: String, count: u32) -> Result<Duration, Box<dyn Error>> {
    let (client, worker) = (Client::connect([endpoint], None).await?, WorkerId::generate("bench"));
    let results: Vec<_> = (0..count).map(UnitIndex).collect();
    let started = Instant::now();
    for some in results.chunks(PUTS) {
        let put = |unit: &UnitIndex| {
            let value = serde_json::to_vec(&result(*unit, &worker, Fence(1)))?;
            Ok(TxnOp::put(format!("/bare/{worker}/{unit}"), value, None))
        };
        let puts = some.iter().map(put).collect::<serde_json::Result<Vec<_>>>()?;
        client.kv_client().txn(Txn::new().and_then(puts)).await?;
    }
    Ok(started.elapsed())
}

fn plan(count: u32) -> Plan {
    let tests: Vec<_> =
        (0..count).map(|number| TestCaseId::new("shop", "orders", format!("t{number:06}"))).collect();
    let mut histories = Histories::default();
    for test in &tests {
        let history = History { duration: Some(LENGTH), failed_lately: false };
        histories.insert(test.clone(), ENVIRONMENT, history);
    }
    let unit = |test| PlannedUnit {
        test,
        environment: ENVIRONMENT.into(),
        estimate: None,
        repetition: None,
        needs: Labels::default(),
        skip: None,
    };
    Plan::new(tests.into_iter().map(unit), &histories, None)
}

fn record(plan: &Plan) -> Run {
    Run {
        id: RunId::generate(),
        state: RunState::Running,
        created: Timestamp::now(),
        finished: None,
        command: vec![],
        author: "bench".into(),
        commit: None,
        build: Build::default(),
        environments: vec![EnvironmentVersion { name: ENVIRONMENT.into(), version: 0, revision: 0 }],
        units: u32::try_from(plan.len()).unwrap_or(u32::MAX),
        stripes: plan.stripes_by_group(),
        tests_digest: String::new(),
        plan_digest: plan.digest(),
        shuffle: None,
        summary: None,
        cancelled: None,
    }
}

/// What came of a test that passed, with what a runner knows of it.
fn result(unit: UnitIndex, worker: &WorkerId, token: Fence) -> UnitResult {
    let place = Place { host: "bench".into(), lane: 1, offset: LENGTH * unit.0 };
    let attempt = Attempt { duration: LENGTH, place: Some(place), ..Attempt::begun(1, Outcome::Passed) };
    UnitResult {
        unit,
        outcome: Outcome::Passed,
        reason: None,
        attempts: vec![attempt],
        worker: worker.clone(),
        token,
    }
}
