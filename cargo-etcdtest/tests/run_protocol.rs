//! A run on a store that loses answers, lets writes arrive late and ends leases, beside a
//! rival that takes units of the same run: every unit gets exactly one result.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use cargo_etcdtest::execution::{
    Claimed, Claims, Hand, Histories, Membership, Pace, Plan, Proposal, conclude,
};
use cargo_etcdtest::model::{
    Block, Build, Fence, Labels, NextPosition, Outcome, PlannedUnit, Run, RunId, RunState, TestCaseId,
    UnitIndex, UnitResult, Worker, WorkerId,
};
use cargo_etcdtest::store::local::LocalStore;
use cargo_etcdtest::store::{
    Compare, KeyRange, Lease, LeaseId, Op, Page, Read, Result, Revision, SharedStore, Store, StoreError,
    StoreStatus, Txn, TxnOutcome, Watch, decode, decode_block, encode, encode_block, get, keys, list,
};
use fastrand::Rng;
use jiff::Timestamp;

const SEEDS: u64 = 240;
const THREADS: u64 = 60;
const UNITS: u32 = 100;
const PATIENCE: Duration = Duration::from_hours(1);

/// A store between which and its user a bad network lies.
#[derive(Debug)]
struct Faulty {
    inner: SharedStore,
    random: Mutex<Rng>,
    /// Writes that are still on their way, though their sender has given them up.
    late: Mutex<Vec<Txn>>,
    leases: Mutex<Vec<LeaseId>>,
    run: RunId,
    plan: Plan,
    /// Somebody cancels the run at some time.
    cancelled: bool,
}

impl Faulty {
    fn chance(&self, percent: u32) -> bool {
        self.random.lock().unwrap().u32(..100) < percent
    }

    fn below(&self, end: usize) -> usize {
        self.random.lock().unwrap().usize(..end)
    }

    /// What others do meanwhile.
    async fn disturb(&self) {
        let waiting = self.late.lock().unwrap().len();
        if waiting > 0 && self.chance(15) {
            let late = self.late.lock().unwrap().swap_remove(self.below(waiting));
            // Its answer has nobody to go to; a lease that it names may have ended.
            let _ = self.inner.txn(late).await;
        }
        let lease = if self.chance(3) { self.leases.lock().unwrap().pop() } else { None };
        if let Some(lease) = lease {
            // It may have ended by itself.
            let _ = self.inner.revoke(lease).await;
        }
        if self.chance(15) {
            self.take_units().await;
        }
        if self.chance(3) {
            self.rewrite_run().await;
        }
    }

    /// The rival takes some units of a stripe and stores their results, in one transaction.
    async fn take_units(&self) {
        let stripe = self.below(self.plan.stripes());
        let (run, next) = (keys::run(&self.run), keys::next_position(&self.run, stripe));
        let Some(record) = get(&*self.inner, run.clone()).await.unwrap() else { return };
        let Some(pair) = get(&*self.inner, next.clone()).await.unwrap() else { return };
        if decode::<Run>(&record).unwrap().state != RunState::Running {
            return;
        }
        let dealt = decode::<NextPosition>(&pair).unwrap().dealt;
        let units: Vec<UnitIndex> = (dealt..dealt + 3).map_while(|at| self.plan.dealt(stripe, at)).collect();
        let rival = WorkerId::new("rival");
        let stripes = i64::try_from(self.plan.stripes()).unwrap();
        let number = pair.modified.0 * stripes + i64::try_from(stripe).unwrap();
        let block = keys::block(&self.run, &rival, 1, number.unsigned_abs());
        let results = units.iter().map(|&unit| result(unit, &rival, Fence(pair.modified.0))).collect();
        let position = NextPosition { dealt: dealt + u32::try_from(units.len()).unwrap() };
        let txn = Txn {
            compares: vec![
                Compare::modified(run, record.modified),
                Compare::modified(next.clone(), pair.modified),
            ],
            then: vec![Op::put(next, encode(&position)), Op::put(block, encode_block(&Block { results }))],
            otherwise: vec![],
        };
        assert!(self.inner.txn(txn).await.unwrap().succeeded);
    }

    /// Somebody writes the run's record, perhaps to cancel it.
    async fn rewrite_run(&self) {
        let key = keys::run(&self.run);
        let Some(pair) = get(&*self.inner, key.clone()).await.unwrap() else { return };
        let mut run: Run = decode(&pair).unwrap();
        if self.cancelled && run.state == RunState::Running {
            run.state = RunState::Cancelling;
        }
        let put = Op::put(key, encode(&run));
        self.inner.txn(Txn { then: vec![put], ..Txn::default() }).await.unwrap();
    }
}

#[async_trait]
impl Store for Faulty {
    async fn txn(&self, txn: Txn) -> Result<TxnOutcome> {
        self.disturb().await;
        let lost = || StoreError::UnknownOutcome { reason: "lost".into() };
        match self.below(100) {
            0..8 => Err(StoreError::Unavailable { location: "here".into(), reason: "away".into() }),
            8..14 => Err(lost()),
            14..22 => {
                self.late.lock().unwrap().push(txn);
                Err(lost())
            }
            22..30 => {
                self.inner.txn(txn).await?;
                self.disturb().await;
                Err(lost())
            }
            _ => self.inner.txn(txn).await,
        }
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease> {
        if self.chance(10) {
            return Err(StoreError::Unavailable { location: "here".into(), reason: "away".into() });
        }
        let lease = self.inner.grant(ttl).await?;
        self.leases.lock().unwrap().push(lease.id);
        Ok(lease)
    }

    async fn read(&self, read: Read) -> Result<Page> {
        self.inner.read(read).await
    }

    async fn watch(&self, range: KeyRange, from: Revision) -> Result<Watch> {
        self.inner.watch(range, from).await
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

fn result(unit: UnitIndex, worker: &WorkerId, token: Fence) -> UnitResult {
    let worker = worker.clone();
    UnitResult { unit, outcome: Outcome::Skipped, reason: None, attempts: vec![], worker, token }
}

fn record(id: &RunId, plan: &Plan, state: RunState) -> Run {
    Run {
        id: id.clone(),
        state,
        created: Timestamp::now(),
        finished: None,
        command: vec![],
        author: "ann@desk".into(),
        commit: None,
        build: Build::default(),
        environments: vec![],
        units: UNITS,
        stripes: plan.stripes_by_group(),
        tests_digest: String::new(),
        plan_digest: plan.digest(),
        shuffle: None,
        summary: None,
        cancelled: None,
    }
}

/// Works a run off to its end, as the worker does, and says whether it was cancelled.
async fn work(store: SharedStore, id: &RunId, plan: &Plan) -> cargo_etcdtest::execution::Result<bool> {
    let worker = Worker {
        id: WorkerId::new("worker"),
        host: "desk".into(),
        pid: 1,
        run: id.clone(),
        since: Timestamp::now(),
        lanes: 1,
        labels: Labels::default(),
    };
    let run = record(id, plan, RunState::Running);
    let proposal = Proposal { run: &run, plan, environments: &[], rules: None };
    let (membership, _) = Membership::enter(store, worker, proposal, PATIENCE).await?;
    let mut claims = Claims::new(membership).await?;
    let mut held = Vec::new();
    let pace = Pace::new(plan);
    let cancelled = loop {
        let hand = Hand { idle: fastrand::usize(0..20), empty: held.is_empty() };
        let (units, token) = match claims.claim(plan, &pace, hand, &[]).await? {
            Claimed::Units(units, token) => (units, token),
            Claimed::Exhausted => break false,
            Claimed::Cancelled => break true,
            Claimed::Alone(unit, token, _) | Claimed::Crashed(unit, token, _) => (vec![unit], token),
            Claimed::Later => continue,
            // The units that it waits for are its own.
            Claimed::Wait(_) => {
                claims.flush(std::mem::take(&mut held), &[]).await?;
                continue;
            }
        };
        held.extend(units.into_iter().map(|unit| result(unit, &WorkerId::new("worker"), token)));
        if fastrand::bool() {
            let log = keys::log_chunk(id, held[0].unit, token.0, 1, "stdout", 0);
            claims.membership_mut().put(log, b"said".to_vec()).await?;
        }
        let some = held.split_off(fastrand::usize(..held.len()));
        claims.flush(some, &[]).await?;
    };
    claims.flush(held, &[]).await?;
    claims.leave().await?;
    let mut membership = claims.into_membership();
    conclude(&mut membership, plan).await?;
    Ok(cancelled)
}

async fn check(seed: u64) {
    let folder = tempfile::tempdir().unwrap();
    let inner: SharedStore = Arc::new(LocalStore::open(folder.path()).unwrap());
    let id = RunId::new("run");
    let units = (0..UNITS).map(|n| PlannedUnit {
        test: TestCaseId::new("p", "b", format!("t{n}")),
        environment: "local".into(),
        repetition: None,
        needs: Labels::default(),
        estimate: None,
        skip: None,
    });
    let plan = Plan::new(units, &Histories::default(), None);
    let faulty = Arc::new(Faulty {
        inner: inner.clone(),
        random: Mutex::new(Rng::with_seed(seed)),
        late: Mutex::default(),
        leases: Mutex::default(),
        run: id.clone(),
        plan: plan.clone(),
        cancelled: seed.is_multiple_of(4),
    });
    let cancelled =
        work(faulty.clone(), &id, &plan).await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    // The network gives back all that it still has.
    let late = std::mem::take(&mut *faulty.late.lock().unwrap());
    for txn in late {
        let _ = inner.txn(txn).await;
    }

    let blocks = list(&*inner, KeyRange::prefix(keys::blocks(&id))).await.unwrap().pairs;
    let mut times = BTreeMap::<UnitIndex, u32>::new();
    for result in blocks.iter().flat_map(|pair| decode_block(pair).unwrap().results) {
        *times.entry(result.unit).or_default() += 1;
    }
    assert!(times.values().all(|&times| times == 1), "seed {seed}: doubled: {times:?}");
    assert!(cancelled || times.len() == UNITS as usize, "seed {seed}: only {} results", times.len());
    let claims = list(&*inner, KeyRange::prefix(keys::claims(&id))).await.unwrap().pairs;
    assert!(claims.is_empty(), "seed {seed}: units are still held");
    let run: Run = decode(&get(&*inner, keys::run(&id)).await.unwrap().unwrap()).unwrap();
    assert!(run.is_over(), "seed {seed}: {:?}", run.state);
    let summary = run.summary.unwrap();
    assert_eq!(u32::try_from(times.len()).unwrap(), summary.skipped, "seed {seed}");
    assert_eq!(UNITS, summary.skipped + summary.not_run, "seed {seed}");
}

#[test]
fn every_unit_gets_exactly_one_result_whatever_the_network_does() {
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                for seed in (thread..SEEDS).step_by(usize::try_from(THREADS).unwrap()) {
                    fastrand::seed(seed);
                    runtime.block_on(check(seed));
                }
            });
        }
    });
}
