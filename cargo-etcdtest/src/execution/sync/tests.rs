//! Sending what was left behind, by processes that die at any moment.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tempfile::TempDir;

use super::*;
use crate::execution::executed::Executed;
use crate::execution::journal::JournalFolder;
use crate::execution::{Claimed, Hand, Histories, Pace, Plan, Proposal};
use crate::model::{Fence, Outcome, PlannedUnit, RunId, TestCaseId, UnitResult, WorkerId};
use crate::store::etcd::EtcdOptions;
use crate::store::local::LocalStore;
use crate::store::{
    self, Key, Lease, LeaseId, Page, Read, Store, StoreError, StoreOptions, StoreStatus, TxnOutcome, Watch,
};

const UNITS: u32 = 4;
const PATIENCE: Duration = Duration::from_mins(1);

/// A store whose user dies when it has asked so often: before its last request was carried out,
/// or after that.
#[derive(Debug)]
struct Deadly {
    inner: SharedStore,
    left: AtomicI64,
    last_is_done: bool,
}

impl Deadly {
    async fn ask<T>(&self, request: impl Future<Output = store::Result<T>>) -> store::Result<T> {
        let dead = || StoreError::Failed { location: "here".into(), reason: "dead".into() };
        match self.left.fetch_sub(1, Ordering::Relaxed) {
            2.. => request.await,
            1 if self.last_is_done => request.await.and(Err(dead())),
            _ => Err(dead()),
        }
    }
}

#[async_trait]
impl Store for Deadly {
    async fn read(&self, read: Read) -> store::Result<Page> {
        self.ask(self.inner.read(read)).await
    }
    async fn txn(&self, txn: Txn) -> store::Result<TxnOutcome> {
        self.ask(self.inner.txn(txn)).await
    }
    async fn watch(&self, range: KeyRange, from: Revision) -> store::Result<Watch> {
        self.inner.watch(range, from).await
    }
    async fn grant(&self, ttl: Duration) -> store::Result<Lease> {
        self.ask(self.inner.grant(ttl)).await
    }
    async fn keep_alive(&self, lease: LeaseId) -> store::Result<Duration> {
        self.inner.keep_alive(lease).await
    }
    async fn revoke(&self, lease: LeaseId) -> store::Result<()> {
        self.ask(self.inner.revoke(lease)).await
    }
    async fn compact(&self, upto: Revision) -> store::Result<()> {
        self.inner.compact(upto).await
    }
    async fn status(&self) -> store::Result<StoreStatus> {
        self.inner.status().await
    }
}

/// A run whose only worker died with results in its journal: those of all units but `lacking`.
struct Abandoned {
    _folder: TempDir,
    store: SharedStore,
    journals: JournalFolder,
    id: RunId,
}

impl Abandoned {
    async fn new(lacking: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store: SharedStore = Arc::new(LocalStore::open(folder.path()).unwrap());
        let etcd = EtcdOptions { endpoints: vec!["here:1".into()], ..EtcdOptions::default() };
        let options = StoreOptions { etcd, local: folder.path().join("project/.etcdtest") };
        let journals = JournalFolder::of(&options, &*store).unwrap();
        let id = RunId::new("nightly");
        let test = |number| TestCaseId::new("p", "b", format!("t{number}"));
        let units = (0..UNITS).map(|number| PlannedUnit::new(test(number), "local"));
        let plan = Plan::new(units, &Histories::default(), None);
        let worker = WorkerId::new("desk-1");
        let run = plan.record(Run::new(id.clone(), "ann@desk"));
        let proposal = Proposal { run: &run, plan: &plan, environments: &[], rules: None };
        let registered = Worker { lanes: 1, ..Worker::new(worker.clone(), "desk", id.clone()) };
        let (membership, _) = Membership::enter(store.clone(), registered, proposal, PATIENCE).await.unwrap();
        let journal = journals.begin(&membership).unwrap();
        let mut claims = Claims::new(membership).await.unwrap();
        let mut tokens = BTreeMap::new();
        while tokens.len() < UNITS as usize {
            let claimed =
                claims.claim(&plan, &Pace::new(&plan), Hand { idle: 1, empty: false }, &[]).await.unwrap();
            let Claimed::Units(units, token) = claimed else { panic!("{claimed:?}") };
            tokens.extend(units.into_iter().map(|unit| (unit, token)));
        }
        for (unit, token) in tokens.into_iter().skip(lacking as usize) {
            journal.note(&executed(&id, unit, token, &worker)).unwrap();
        }
        Self { _folder: folder, store, journals, id }
    }

    async fn sync(&self, store: &SharedStore) -> Vec<Result<Synced>> {
        let mut all = Vec::new();
        for left in self.journals.left_behind() {
            let mut left = left.unwrap();
            let synced = sync(store, &mut left, "desk".into(), &PATIENCE.into()).await;
            if synced.as_ref().is_ok_and(|synced| synced.superseded == 0) {
                left.discard();
            }
            all.push(synced);
        }
        all
    }

    /// How often each unit has a result in the store.
    async fn results(&self) -> Vec<(UnitIndex, usize)> {
        let blocks = list(&*self.store, KeyRange::prefix(keys::blocks(&self.id))).await.unwrap();
        let mut times = BTreeMap::new();
        for result in blocks.pairs.iter().flat_map(|pair| decode_block(pair).unwrap().results) {
            *times.entry(result.unit).or_default() += 1;
        }
        Vec::from_iter(times)
    }

    async fn run(&self) -> Run {
        decode(&get(&*self.store, keys::run(&self.id)).await.unwrap().unwrap()).unwrap()
    }

    async fn delete(&self, range: KeyRange) {
        self.store.txn(Txn { then: vec![Op::Delete(range)], ..Txn::default() }).await.unwrap();
    }
}

fn executed(run: &RunId, unit: UnitIndex, token: Fence, worker: &WorkerId) -> Executed {
    let (outcome, worker) = (Outcome::Skipped, worker.clone());
    let result = UnitResult { unit, outcome, reason: None, attempts: vec![], worker, token };
    let said: Key = keys::log_chunk(run, unit, token.0, 1, "output", 0);
    Executed { result, output: vec![(said, b"said".to_vec())] }
}

#[tokio::test]
async fn whenever_the_sender_dies_the_next_one_stores_each_result_once() {
    for last_is_done in [false, true] {
        for requests in 0.. {
            let run = Abandoned::new(0).await;
            let deadly = Deadly { inner: run.store.clone(), left: AtomicI64::new(requests), last_is_done };
            let died = run.sync(&(Arc::new(deadly) as SharedStore)).await.remove(0);
            run.sync(&run.store).await.into_iter().for_each(|synced| {
                assert_eq!(synced.unwrap().superseded, 0, "after {requests} requests");
            });
            let all: Vec<_> = (0..UNITS).map(|unit| (UnitIndex(unit), 1)).collect();
            assert_eq!(run.results().await, all, "after {requests} requests");
            let logs = list(&*run.store, KeyRange::prefix("/logs/")).await.unwrap().pairs.len();
            assert_eq!(logs, UNITS as usize);
            let over = run.run().await.is_over();
            assert!(over || died.is_ok(), "after {requests} requests: {:?}", run.run().await.state);
            if over && died.is_ok_and(|synced| synced.finished) {
                assert!(requests > 5, "a sender asks more often than {requests} times");
                break;
            }
        }
    }
}

#[tokio::test]
async fn what_is_sent_leaves_the_rest_to_other_workers() {
    let run = Abandoned::new(1).await;
    let sent = run.sync(&run.store).await.remove(0).unwrap();
    let three = Synced { stored: UNITS as usize - 1, superseded: 0, why: None, finished: false };
    assert_eq!((sent, run.run().await.state), (three, RunState::Running));
    let claims = list(&*run.store, KeyRange::prefix(keys::claims(&run.id))).await.unwrap().pairs;
    let claim: crate::model::Claim = decode(&claims[0]).unwrap();
    assert_eq!((claim.units.len(), claim.left), (1, false), "it may have been what the worker died of");
    let workers = list(&*run.store, KeyRange::prefix(keys::WORKERS)).await.unwrap().pairs;
    assert!(workers.is_empty(), "nobody is to wait for a lease to end");
}

#[tokio::test]
async fn what_can_never_be_stored_is_told_with_the_reason() {
    let told = |why| Synced { superseded: UNITS as usize, why: Some(why), ..Synced::default() };
    let taken = Abandoned::new(0).await;
    taken.delete(KeyRange::prefix(keys::claims(&taken.id))).await;
    let sent = taken.sync(&taken.store).await.remove(0).unwrap();
    assert_eq!((sent.superseded, sent.why), (UNITS as usize, Some(Superseded::TakenOver)));

    let unlocked = Abandoned::new(0).await;
    let lock = ("/locks/environments/lab/nightly".to_owned(), 1);
    let mut left = unlocked.journals.left_behind().remove(0).unwrap();
    left.hold_to(lock);
    let sent = sync(&unlocked.store, &mut left, "desk".into(), &PATIENCE.into()).await.unwrap();
    assert_eq!(sent, told(Superseded::LocksLost));

    let gone = Abandoned::new(0).await;
    gone.delete(KeyRange::key(keys::run(&gone.id))).await;
    assert_eq!(gone.sync(&gone.store).await.remove(0).unwrap(), told(Superseded::Gone));
    assert_eq!(gone.journals.left_behind().len(), 1, "it is kept");

    let over = Abandoned::new(0).await;
    let state = RunState::Finished { cancelled: true };
    let put = Op::put(keys::run(&over.id), crate::store::encode(&Run { state, ..over.run().await }));
    over.store.txn(Txn { then: vec![put], ..Txn::default() }).await.unwrap();
    assert_eq!(over.sync(&over.store).await.remove(0).unwrap(), told(Superseded::Over));
}
