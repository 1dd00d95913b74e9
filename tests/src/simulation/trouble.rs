//! Trouble of the larger kind, which comes from outside of a run.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use cargo_etcdtest::environments::Reservations;
use cargo_etcdtest::execution::{RunError, cancel, resume, sync};
use cargo_etcdtest::model::{Cancellation, RunId, Worker, WorkerId};
use cargo_etcdtest::store::{Compare, KeyRange, Op, Revision, SharedStore, Store, Txn, keys};
use tokio::time::{Instant, sleep, timeout};

use super::judge::{Promise, Wrong};
use super::lock;
use super::machine::Machine;
use super::network::{Link, Weather};
use super::trial::World;
use super::worker::PATIENCE;

/// For how long there is trouble.
pub(super) const TROUBLE: Duration = Duration::from_mins(3);

/// What may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// A worker dies.
    Death,
    /// A worker is stopped for a while.
    Freeze,
    /// Somebody ends a lease.
    Revoked,
    /// Somebody takes the environment away from a run.
    TakenAway,
    /// The store is away.
    Outage,
    /// The store forgets its history.
    Compaction,
    /// Somebody cancels a run, and perhaps thinks better of it.
    Cancelled,
    /// Somebody deletes a run with all that belongs to it.
    Deleted,
    /// Somebody sends what dead workers left in their journals.
    Sent,
}

impl Trouble {
    const ALL: [Self; 9] = [
        Self::Death,
        Self::Freeze,
        Self::Revoked,
        Self::TakenAway,
        Self::Outage,
        Self::Compaction,
        Self::Cancelled,
        Self::Deleted,
        Self::Sent,
    ];

    /// Whether a trial has it: what ends a run soon is rare, unless somebody is meddlesome.
    fn is_had(self, meddlesome: bool) -> bool {
        match self {
            Self::Cancelled | Self::Deleted | Self::TakenAway if !meddlesome => fastrand::u8(..8) == 0,
            _ => fastrand::bool(),
        }
    }
}

/// Some time of this range, in tenths of a second.
fn seconds(range: Range<u64>) -> Duration {
    Duration::from_millis(fastrand::u64(range) * 100)
}

/// Stops a machine for a while.
fn freeze(machine: Arc<Machine>) {
    machine.freeze();
    let time = seconds(1..600);
    tokio::spawn(async move {
        sleep(time).await;
        machine.thaw();
    });
}

impl World {
    /// Makes trouble for a while.
    pub(super) async fn trouble(self: Arc<Self>, meddlesome: bool) {
        let end = Instant::now() + TROUBLE;
        let kinds: Vec<Trouble> = Trouble::ALL.into_iter().filter(|kind| kind.is_had(meddlesome)).collect();
        while Instant::now() < end && !kinds.is_empty() {
            sleep(Duration::from_millis(fastrand::u64(100..20_000))).await;
            self.make(kinds[fastrand::usize(..kinds.len())]).await;
        }
        self.network.set_weather(Weather::default());
        self.network.note(|| "the trouble is over".into());
    }

    async fn make(self: &Arc<Self>, trouble: Trouble) {
        let one = self.any_machine();
        let run = self.jobs[fastrand::usize(..self.jobs.len())].run.id.clone();
        let store = self.network.store();
        self.network
            .note(|| format!("trouble: {trouble:?} {run} {}", one.as_ref().map_or("", |one| one.name())));
        match (trouble, one) {
            (Trouble::Death, Some(machine)) => machine.die(),
            (Trouble::Freeze, Some(machine)) => freeze(machine),
            (Trouble::Revoked, _) => self.revoke_any().await,
            (Trouble::TakenAway, _) => {
                // Others may be about to take units over, or to join.
                if fastrand::bool() {
                    self.revoke_any().await;
                }
                let reservations = Reservations::new(Arc::new(store.clone()), PATIENCE);
                // It may be free.
                let _ = reservations.take_away("local", None, "bob@desk").await;
                if fastrand::bool() {
                    let world = self.clone();
                    tokio::task::spawn_local(async move { world.go_on(&run).await });
                }
            }
            (Trouble::Outage, _) => self.network.cut(seconds(1..400)),
            (Trouble::Compaction, _) => {
                let revision = store.status().await.map(|status| status.revision);
                // There may be nothing new to forget.
                let _ = store.compact(revision.unwrap_or_default()).await;
            }
            (Trouble::Cancelled, _) => drop(tokio::task::spawn_local(self.clone().cancel(run))),
            (Trouble::Sent, _) => drop(tokio::task::spawn_local(self.clone().send(run))),
            (Trouble::Deleted, _) => drop(tokio::task::spawn_local(self.clone().delete(run))),
            (Trouble::Death | Trouble::Freeze, None) => {}
        }
    }

    /// Ends a lease of somebody's.
    async fn revoke_any(&self) {
        let store = self.network.store();
        let leases = store.leases();
        if !leases.is_empty() {
            let lease = leases[fastrand::usize(..leases.len())];
            lock(&self.revoked).insert(lease.0);
            // It may have ended by itself.
            let _ = store.revoke(lease).await;
        }
    }

    /// One that is not dead.
    fn any_machine(&self) -> Option<Arc<Machine>> {
        let machines = lock(&self.machines).clone();
        let living: Vec<_> = machines.into_iter().filter(|machine| !machine.is_dead()).collect();
        (!living.is_empty()).then(|| living[fastrand::usize(..living.len())].clone())
    }

    /// Cancels a run from a machine of its own, and goes on with it in half of the cases.
    async fn cancel(self: Arc<Self>, run: RunId) {
        lock(&self.meddled).insert(run.clone());
        let machine = self.machine();
        let store: SharedStore = Arc::new(Link::new(self.network.clone(), machine.clone()));
        let cancellation = Cancellation { reason: "somebody said so".into(), ends_tests: fastrand::bool() };
        loop {
            let canceller = Worker::new(WorkerId::new(machine.name()), machine.name(), run.clone());
            match cancel(&store, canceller, &cancellation, PATIENCE).await {
                Err(RunError::Store(error)) if error.is_transient() => {}
                _ => break,
            }
        }
        let goes_on = Machine::new("resume");
        let store: SharedStore = Arc::new(Link::new(self.network.clone(), Arc::new(goes_on)));
        if fastrand::bool() {
            // Somebody may hear of neither in time.
            if let Some(machine) = self.any_machine() {
                freeze(machine);
            }
            sleep(Duration::from_millis(fastrand::u64(..20_000))).await;
            // It may be too late, or too early.
            if resume(&store, &run, PATIENCE).await.is_ok() {
                self.go_on(&run).await;
            }
        }
    }

    /// Whoever resumes a run works for it, for as long as it lives.
    async fn go_on(self: Arc<Self>, run: &RunId) {
        let Some(job) = self.jobs.iter().position(|job| job.run.id == *run) else { return };
        let life = if fastrand::bool() { Duration::from_hours(1) } else { Duration::from_secs(10) };
        // It may vanish in the middle of whatever it does.
        let _ = timeout(life.mul_f64(fastrand::f64()), self.worker(job, Duration::from_secs(5), false)).await;
    }

    /// Sends what dead workers of a run left in their journals, each from its own machine, which is
    /// there again.
    async fn send(self: Arc<Self>, run: RunId) {
        let job = self.jobs.iter().find(|job| job.run.id == run);
        let Some(journals) = job.and_then(|job| job.journals.as_ref()) else { return };
        for left in journals.left_behind() {
            let mut left = left.expect("a journal can be read");
            let worker = left.header().worker.clone();
            let machine = Arc::new(Machine::new(worker.as_str()));
            lock(&self.machines).push(machine.clone());
            let store: SharedStore = Arc::new(Link::new(self.network.clone(), machine.clone()));
            let patience = PATIENCE.into();
            let sent = tokio::select! {
                biased;
                () = machine.dead() => continue,
                sent = sync(&store, &mut left, worker.as_str().into(), &patience) => sent,
            };
            machine.die();
            self.network.note(|| format!("{worker} sends what it left: {sent:?}"));
            match sent {
                Ok(sent) => {
                    lock(&self.sent).push((run.clone(), worker, sent.stored));
                    if sent.superseded == 0 {
                        left.discard();
                    }
                }
                Err(_) if lock(&self.deleted).contains(&run) => {}
                Err(error) => {
                    self.tell(Wrong::new(Promise::Ends, format!("{worker} cannot send: {error}")));
                }
            }
        }
    }

    /// Deletes a run as it stands: first its record, and after a while the rest, if no other run
    /// of its id was begun.
    async fn delete(self: Arc<Self>, run: RunId) {
        lock(&self.meddled).insert(run.clone());
        lock(&self.deleted).insert(run.clone());
        let record = keys::run(&run);
        let trees = [keys::execution(&run), keys::logs(&run), keys::reports(&run)];
        let trees = trees.map(|tree| Op::Delete(KeyRange::prefix(tree)));
        let first = Txn { then: vec![Op::Delete(KeyRange::key(record.clone()))], ..Txn::default() };
        let absent = Compare::created(record, Revision(0));
        let second = Txn { compares: vec![absent], then: trees.to_vec(), otherwise: vec![] };
        // The store itself has no faults.
        let _ = self.network.store().txn(first).await;
        sleep(Duration::from_millis(fastrand::u64(..5000))).await;
        let _ = self.network.store().txn(second).await;
    }
}
