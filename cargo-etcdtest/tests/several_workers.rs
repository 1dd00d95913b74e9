//! One run of several workers: who joins it, who takes over from whom, and who ends it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cargo_etcdtest::config::MaxFail;
use cargo_etcdtest::execution::{
    Cancelled, Claimed, Claims, Executed, Hand, Histories, Membership, Pace, Plan, Proposal, Request,
    RunError, RunEvent, Share, cancel, conclude, record, resume,
};
use cargo_etcdtest::model::{
    Block, Cancellation, Fence, Outcome, PlannedUnit, Run, RunId, RunState, Steward, TestCaseId, UnitIndex,
    UnitResult, Worker, WorkerId,
};
use cargo_etcdtest::store::local::LocalStore;
use cargo_etcdtest::store::{
    KeyRange, Lease, LeaseId, Op, Page, Read, Result, Revision, SharedStore, Store, StoreStatus, Txn,
    TxnOutcome, Watch, decode, decode_block, encode, encode_output, get, keys, list,
};
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_mins(1);

/// A store with a run of so many units, which need a second each.
struct Site {
    store: SharedStore,
    plan: Plan,
    _folder: tempfile::TempDir,
}

impl Site {
    fn new(units: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(LocalStore::open(folder.path()).unwrap());
        let test = |number| TestCaseId::new("p", "b", format!("t{number:02}"));
        let units = (0..units).map(|number| PlannedUnit::new(test(number), "local"));
        Self { store, plan: Plan::new(units, &Histories::default(), None), _folder: folder }
    }

    fn run(&self) -> Run {
        self.plan.record(Run::new(RunId::new("run"), "ann@desk"))
    }

    async fn enter(&self, name: &str) -> Membership {
        let run = self.run();
        let proposal = Proposal { run: &run, plan: &self.plan, environments: &[], rules: None };
        let worker = worker(name);
        let entered = Membership::enter(self.store.clone(), worker, proposal, PATIENCE).await;
        let (membership, plan) = entered.unwrap();
        assert_eq!(plan, self.plan);
        membership
    }

    async fn claims(&self, name: &str) -> Claims {
        Claims::new(self.enter(name).await).await.unwrap()
    }

    /// What the store loses when a worker has not been heard of for long.
    async fn bury(&self, name: &str) {
        let gone = Op::Delete(KeyRange::key(keys::worker(&WorkerId::new(name))));
        self.store.txn(Txn { then: vec![gone], ..Txn::default() }).await.unwrap();
    }

    async fn stored(&self) -> Vec<UnitResult> {
        let blocks = list(&*self.store, KeyRange::prefix(keys::blocks(&RunId::new("run")))).await.unwrap();
        let blocks = blocks.pairs.iter().map(|pair| decode_block(pair).unwrap());
        blocks.flat_map(|block: Block| block.results).collect()
    }

    async fn state(&self) -> RunState {
        let pair = get(&*self.store, keys::run(&RunId::new("run"))).await.unwrap().unwrap();
        decode::<Run>(&pair).unwrap().state
    }

    /// Takes units for so many idle lanes.
    async fn take(&self, claims: &mut Claims, idle: usize) -> Claimed {
        let hand = Hand { idle, empty: true };
        claims.claim(&self.plan, &Pace::new(&self.plan), hand, &[]).await.unwrap()
    }

    /// Takes all units that there are, in the name of a worker.
    async fn take_all(&self, claims: &mut Claims) -> Vec<UnitResult> {
        match self.take(claims, 1000).await {
            Claimed::Units(units, token) => {
                assert_eq!(units.len(), self.plan.len());
                units.into_iter().map(|unit| result(unit, token)).collect()
            }
            other => panic!("{other:?}"),
        }
    }
}

fn worker(name: &str) -> Worker {
    let (host, _) = name.split_once('-').unwrap();
    Worker { lanes: 1, ..Worker::new(WorkerId::new(name), host, RunId::new("run")) }
}

fn result(unit: UnitIndex, token: Fence) -> UnitResult {
    let worker = WorkerId::new("desk-1");
    UnitResult { unit, outcome: Outcome::Passed, reason: None, attempts: vec![], worker, token }
}

fn alone(claimed: Claimed) -> (UnitIndex, Fence, Vec<String>) {
    match claimed {
        Claimed::Alone(unit, token, losses) => {
            (unit, token, losses.into_iter().map(|loss| loss.worker.to_string()).collect())
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn several_workers_share_one_run_and_any_of_them_finishes_it() {
    let site = Site::new(10);
    let (mut first, mut second) = (site.claims("desk-1").await, site.claims("desk-2").await);
    let mut by_each = Vec::new();
    for claims in [&mut first, &mut second] {
        let Claimed::Units(units, token) = site.take(claims, 5).await else { panic!() };
        assert_eq!(units.len(), 5);
        by_each.push(units.into_iter().map(|unit| result(unit, token)).collect::<Vec<_>>());
    }
    let (of_first, of_second) = (by_each.remove(0), by_each.remove(0));
    second.flush(of_second, &[]).await.unwrap();
    assert_eq!(site.take(&mut second, 1).await, Claimed::Wait(None), "the first one still has some");
    first.flush(of_first, &[]).await.unwrap();
    assert_eq!(site.take(&mut second, 1).await, Claimed::Exhausted);
    let mut both = [first.into_membership(), second.into_membership()];
    let [first, second] = &mut both;
    let (first, second) = tokio::join!(conclude(first, &site.plan), conclude(second, &site.plan));
    let summary = first.unwrap().unwrap().run.summary.unwrap();
    assert_eq!(second.unwrap().unwrap().run.summary, Some(summary));
    assert_eq!((summary.passed, summary.not_run), (10, 0));
}

#[tokio::test]
async fn the_units_of_a_dead_worker_are_taken_one_by_one_and_only_by_who_is_idle() {
    let site = Site::new(3);
    let mut dead = site.claims("desk-1").await;
    let results = site.take_all(&mut dead).await;
    dead.flush(results[..1].to_vec(), &[]).await.unwrap();
    let mut other = site.claims("desk-2").await;
    assert_eq!(site.take(&mut other, 9).await, Claimed::Wait(None), "it lives");
    site.bury("desk-1").await;
    let busy =
        other.claim(&site.plan, &Pace::new(&site.plan), Hand { idle: 1, empty: false }, &[]).await.unwrap();
    assert_eq!(busy, Claimed::Wait(None));
    let mut rerun = Vec::new();
    for _ in 0..2 {
        let (unit, token, lost_with) = alone(site.take(&mut other, 9).await);
        assert_eq!(lost_with, ["desk-1"]);
        other.flush(vec![result(unit, token)], &[]).await.unwrap();
        rerun.push(unit);
    }
    assert_eq!(rerun, [results[1].unit, results[2].unit]);
    assert_eq!(site.take(&mut other, 9).await, Claimed::Exhausted);
    assert_eq!(site.stored().await.len(), 3);
}

#[tokio::test]
async fn a_unit_that_is_lost_with_three_workers_is_given_up_and_its_neighbour_is_not_blamed() {
    let site = Site::new(2);
    let mut claims = site.claims("desk-1").await;
    site.take_all(&mut claims).await;
    let mut died = vec!["desk-1"];
    for next in ["desk-2", "desk-3", "desk-4"] {
        site.bury(died.last().unwrap()).await;
        claims = site.claims(next).await;
        // Two records are left behind, and which is looked at first is left to chance.
        let (losses, crashed) = loop {
            let (unit, token, losses, crashed) = match site.take(&mut claims, 9).await {
                Claimed::Alone(unit, token, losses) => (unit, token, losses, false),
                Claimed::Crashed(unit, token, losses) => (unit, token, losses, true),
                other => panic!("{other:?}"),
            };
            if unit == UnitIndex(0) {
                break (losses, crashed);
            }
            assert_eq!((losses.len(), crashed), (1, false), "the neighbour was never begun again");
            claims.flush(vec![result(unit, token)], &[]).await.unwrap();
        };
        let lost_with: Vec<_> = losses.iter().map(|loss| loss.worker.as_str()).collect();
        assert_eq!((&lost_with, crashed), (&died, died.len() == 3));
        died.push(next);
    }
}

#[tokio::test]
async fn what_a_worker_gave_up_in_good_order_is_taken_together_and_not_suspected() {
    let site = Site::new(3);
    let mut leaving = site.claims("desk-1").await;
    site.take_all(&mut leaving).await;
    leaving.leave().await.unwrap();
    let mut other = site.claims("desk-2").await;
    assert_eq!(site.take(&mut other, 9).await, Claimed::Wait(None), "it may still change its mind");
    leaving.into_membership().leave().await;
    let Claimed::Units(units, _) = site.take(&mut other, 9).await else { panic!() };
    assert_eq!(units.len(), 3);
}

#[tokio::test]
async fn a_unit_that_was_lost_here_is_left_to_other_machines_for_a_while() {
    let site = Site::new(1);
    let mut dead = site.claims("desk-1").await;
    site.take_all(&mut dead).await;
    let (mut here, mut there) = (site.claims("desk-2").await, site.claims("lab-1").await);
    site.bury("desk-1").await;
    assert!(matches!(site.take(&mut here, 9).await, Claimed::Wait(Some(_))));
    alone(site.take(&mut there, 9).await);
}

#[tokio::test]
async fn a_worker_that_was_away_goes_on_with_what_is_still_its_own() {
    let site = Site::new(3);
    let mut frozen = site.claims("desk-1").await;
    let results = site.take_all(&mut frozen).await;
    site.bury("desk-1").await;
    let mut other = site.claims("desk-2").await;
    let (stolen, token, _) = alone(site.take(&mut other, 9).await);
    // It thaws, and stores all that it has finished meanwhile.
    frozen.flush(results, &[]).await.unwrap();
    assert_eq!(frozen.take_superseded(), [stolen]);
    assert_eq!(site.take(&mut other, 9).await, Claimed::Wait(None), "what it has taken over itself");
    other.flush(vec![result(stolen, token)], &[]).await.unwrap();
    assert_eq!(site.take(&mut frozen, 9).await, Claimed::Exhausted);
    let mut units: Vec<_> = site.stored().await.iter().map(|result| result.unit.0).collect();
    units.sort_unstable();
    assert_eq!(units, [0, 1, 2]);
}

/// A store in which somebody resumes the run as soon as a worker was refused to store output.
#[derive(Debug)]
struct Resumed(SharedStore);

#[async_trait]
impl Store for Resumed {
    async fn txn(&self, txn: Txn) -> Result<TxnOutcome> {
        let log = |op: &Op| matches!(op, Op::Put { key, .. } if key.as_bytes().starts_with(b"/logs/"));
        let stores_output = txn.then.iter().any(log);
        let outcome = self.0.txn(txn).await?;
        if stores_output && !outcome.succeeded {
            set_state(&self.0, RunState::Running).await;
        }
        Ok(outcome)
    }

    async fn read(&self, read: Read) -> Result<Page> {
        self.0.read(read).await
    }

    async fn watch(&self, range: KeyRange, from: Revision) -> Result<Watch> {
        self.0.watch(range, from).await
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease> {
        self.0.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration> {
        self.0.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.0.revoke(lease).await
    }

    async fn compact(&self, upto: Revision) -> Result<()> {
        self.0.compact(upto).await
    }

    async fn status(&self) -> Result<StoreStatus> {
        self.0.status().await
    }
}

/// Writes the run's record, whoever else does so.
async fn set_state(store: &SharedStore, state: RunState) {
    let key = keys::run(&RunId::new("run"));
    let run = decode::<Run>(&get(&**store, key.clone()).await.unwrap().unwrap()).unwrap();
    let put = Op::put(key, encode(&Run { state, ..run }));
    store.txn(Txn { then: vec![put], ..Txn::default() }).await.unwrap();
}

#[tokio::test]
async fn a_result_that_comes_between_the_end_of_a_run_and_its_resumption_is_stored_when_it_is_told() {
    let mut site = Site::new(1);
    site.store = Arc::new(Resumed(site.store));
    let mut claims = site.claims("desk-1").await;
    let result = site.take_all(&mut claims).await.remove(0);
    let by = Steward { worker: WorkerId::new("desk-2"), identity: 1 };
    set_state(&site.store, RunState::Finishing { by, cancelled: true }).await;

    let output = encode_output(&RunId::new("run"), result.unit, result.token, 1, "output", b"said");
    let (requests, inbox) = mpsc::unbounded_channel();
    let ((answers, _dealt), (events, mut told)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
    requests.send(Request::Store(Executed { result: result.clone(), output })).unwrap();
    drop(requests);
    let (plan, lanes) = (Arc::new(site.plan.clone()), NonZeroUsize::MIN);
    let share = Share { plan, lanes, journal: None, max_fail: MaxFail::All };
    record(share, claims, inbox, answers, events).await.unwrap();
    assert_eq!(site.stored().await, [result]);
    let mut stored = Vec::new();
    while let Some(event) = told.recv().await {
        if let RunEvent::Stored { units } = event {
            stored.extend(units);
        }
    }
    assert_eq!(stored, [UnitIndex(0)]);
}

#[tokio::test]
async fn a_worker_that_registers_again_is_not_robbed_of_what_it_took_over_itself() {
    let site = Site::new(2);
    let mut frozen = site.claims("desk-1").await;
    let results = site.take_all(&mut frozen).await;
    site.bury("desk-1").await;
    frozen.renew().await.unwrap();
    let mut other = site.claims("desk-2").await;
    assert_eq!(site.take(&mut other, 9).await, Claimed::Wait(None));
    frozen.flush(results, &[]).await.unwrap();
    assert_eq!(frozen.take_superseded(), []);
    assert_eq!(site.stored().await.len(), 2);
}

#[tokio::test]
async fn a_planner_that_died_is_replaced_and_its_plan_with_it() {
    let site = Site::new(40);
    let by = Steward { worker: WorkerId::new("desk-9"), identity: 1 };
    let run = Run { state: RunState::Planning { by }, ..site.run() };
    let then = vec![
        Op::put(keys::run(&run.id), encode(&run)),
        Op::put(keys::plan_chunk(&run.id, 0), "half a"),
        Op::put(keys::plan_chunk(&run.id, 7), "plan"),
    ];
    site.store.txn(Txn { then, ..Txn::default() }).await.unwrap();
    let joined = Membership::join(site.store.clone(), worker("desk-1"), run, PATIENCE).await;
    assert!(matches!(joined, Err(RunError::Unplanned(_))));
    let (first, second) = tokio::join!(site.enter("desk-2"), site.enter("desk-3"));
    assert_eq!((&first.run().state, &second.run().state), (&RunState::Running, &RunState::Running));
}

#[tokio::test]
async fn a_finisher_that_died_is_replaced() {
    let site = Site::new(2);
    let mut claims = site.claims("desk-1").await;
    let results = site.take_all(&mut claims).await;
    claims.flush(results, &[]).await.unwrap();
    let by = Steward { worker: WorkerId::new("desk-9"), identity: 1 };
    let finishing = Run { state: RunState::Finishing { by, cancelled: false }, ..site.run() };
    let then = vec![Op::put(keys::run(&finishing.id), encode(&finishing))];
    site.store.txn(Txn { then, ..Txn::default() }).await.unwrap();
    let details = conclude(&mut claims.into_membership(), &site.plan).await.unwrap().unwrap();
    assert_eq!(details.run.summary.unwrap().passed, 2);
    assert_eq!(site.state().await, RunState::Finished { cancelled: false });
}

#[tokio::test]
async fn what_failed_anywhere_is_counted_and_what_others_have_not_begun_is_seen() {
    let site = Site::new(4);
    let (mut first, mut second) = (site.claims("desk-1").await, site.claims("desk-2").await);
    let Claimed::Units(units, token) = site.take(&mut first, 1).await else { panic!() };
    let failed = |unit, token| UnitResult { outcome: Outcome::Failed, ..result(unit, token) };
    first.flush(vec![failed(units[0], token)], &[]).await.unwrap();
    assert_eq!(first.failures(&site.plan).await.unwrap(), (1, true), "three are not dealt");
    let Claimed::Units(units, token) = site.take(&mut second, 3).await else { panic!() };
    assert_eq!(first.failures(&site.plan).await.unwrap(), (1, true), "the other holds them");
    second.flush(vec![failed(units[0], token)], &units[1..]).await.unwrap();
    assert_eq!(first.failures(&site.plan).await.unwrap(), (2, false), "it is at them");
    site.bury("desk-2").await;
    let Claimed::Alone(..) = site.take(&mut first, 1).await else { panic!() };
    assert_eq!(second.failures(&site.plan).await.unwrap(), (2, false), "and so is who takes one over");
}

#[tokio::test]
async fn a_cancelled_run_ends_when_everybody_has_given_up_and_is_resumed_where_it_stood() {
    let site = Site::new(4);
    let (mut first, mut second) = (site.claims("desk-1").await, site.claims("desk-2").await);
    let Claimed::Units(units, token) = site.take(&mut first, 2).await else { panic!() };
    first.flush(vec![result(units[0], token)], &[]).await.unwrap();
    let cancellation = Cancellation { reason: "enough".into(), ends_tests: true };
    assert!(second.membership_mut().cancel(cancellation).await.unwrap());
    assert_eq!(site.take(&mut second, 1).await, Claimed::Cancelled);
    let mut second = second.into_membership();
    let end = conclude(&mut second, &site.plan);
    tokio::pin!(end);
    let early = tokio::time::timeout(Duration::from_millis(200), &mut end).await;
    assert!(early.is_err(), "the first one may still store what it has");
    first.leave().await.unwrap();
    let details = end.await.unwrap().unwrap();
    assert_eq!(details.run.state, RunState::Finished { cancelled: true });
    assert_eq!((details.run.summary.unwrap().passed, details.run.summary.unwrap().not_run), (1, 3));
}

#[tokio::test]
async fn who_waits_for_the_end_of_a_run_that_is_resumed_meanwhile_is_told_so() {
    let site = Site::new(4);
    let (mut first, second) = (site.claims("desk-1").await, site.claims("desk-2").await);
    site.take(&mut first, 2).await;
    let mut second = second.into_membership();
    let cancellation = Cancellation { reason: "enough".into(), ends_tests: true };
    assert!(second.cancel(cancellation).await.unwrap());
    let end = conclude(&mut second, &site.plan);
    tokio::pin!(end);
    assert!(tokio::time::timeout(Duration::from_millis(200), &mut end).await.is_err(), "it waits");
    // What came between is not seen by who was away.
    let running = Run { state: RunState::Running, cancelled: None, ..site.run() };
    let put = Op::put(keys::run(&running.id), encode(&running));
    site.store.txn(Txn { then: vec![put], ..Txn::default() }).await.unwrap();
    assert!(end.await.unwrap().is_none(), "there is something to be executed again");
}

#[tokio::test]
async fn a_run_that_is_cancelled_before_it_is_planned_has_its_end_and_its_reports() {
    let site = Site::new(4);
    let by = Steward { worker: WorkerId::new("desk-9"), identity: 1 };
    let run = Run { state: RunState::Planning { by }, ..site.run() };
    let chunk = site.plan.chunks().next().unwrap();
    let then = vec![
        Op::put(keys::run(&run.id), encode(&run)),
        Op::put(keys::plan_chunk(&run.id, 0), encode(&chunk)),
    ];
    site.store.txn(Txn { then, ..Txn::default() }).await.unwrap();
    let cancellation = Cancellation { reason: "enough".into(), ends_tests: true };
    let cancelled = cancel(&site.store, worker("desk-1"), &cancellation, PATIENCE).await.unwrap();
    assert_eq!((cancelled, site.state().await), (Cancelled::Over, RunState::Finished { cancelled: true }));
    let reports = list(&*site.store, KeyRange::prefix(keys::reports(&run.id))).await.unwrap();
    assert!(reports.pairs.len() > 1, "{reports:?}");
    // Its planner, or whoever else comes late, is told what came of it.
    let proposal = Proposal { run: &site.run(), plan: &site.plan, environments: &[], rules: None };
    let (mut late, plan) =
        Membership::enter(site.store.clone(), worker("desk-2"), proposal, PATIENCE).await.unwrap();
    let details = conclude(&mut late, &plan).await.unwrap().unwrap();
    assert_eq!(details.run.summary.unwrap().not_run, 4);
    assert_eq!(details.run.cancelled.unwrap().reason, "enough");
    let resumed = resume(&site.store, &run.id, PATIENCE).await.unwrap_err();
    assert_eq!(resumed.to_string(), "the run `run` is over: it was cancelled before it was planned");
}
