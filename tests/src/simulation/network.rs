//! The network between the machines and the store: it delays, loses, repeats, and delivers
//! when nobody waits any more.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use cargo_etcdtest::store::{
    KeyRange, Lease, LeaseId, Notice, Op, Page, Read, Result, Revision, Store, StoreError, StoreStatus, Txn,
    TxnOutcome, Watch,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::guard::{Guard, deed};
use super::lock;
use super::machine::Machine;
use super::memory::MemoryStore;

/// How often what happens to a request, in thousandths.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// It is not sent, and the sender knows.
    pub away: u32,
    /// It is not sent, and the sender cannot know.
    pub unsent: u32,
    /// It arrives when its sender has given it up.
    pub late: u32,
    /// It arrives, and its answer does not.
    pub unanswered: u32,
    /// It arrives twice.
    pub twice: u32,
    /// It or its answer takes longer than a lease lives.
    pub slow: u32,
    /// Its sender dies while it is under way.
    pub fatal: u32,
    /// A watch skips something that was compacted.
    pub skipped: u32,
}

/// The network of one trial.
#[derive(Debug)]
pub struct Network {
    store: MemoryStore,
    weather: Mutex<Weather>,
    /// A compare that never gets to the store.
    without: Option<Guard>,
    /// The store is away until then.
    outage: Mutex<Instant>,
    met: Mutex<BTreeSet<Guard>>,
    /// Which machine wrote what.
    writers: Mutex<BTreeMap<Revision, String>>,
    /// Leases that somebody wanted to end and did not hear that they have.
    unended: Mutex<HashSet<LeaseId>>,
    /// How many watches were told by the store that the history which they missed is gone.
    compacted: AtomicU64,
    trace: Option<Mutex<Vec<String>>>,
    started: Instant,
}

/// The way of one machine to the store.
#[derive(Clone, Debug)]
pub struct Link {
    network: Arc<Network>,
    machine: Arc<Machine>,
}

impl Weather {
    /// Any: of each kind of trouble none, some, or much.
    pub fn any() -> Self {
        let some = || [0, 0, 20, 100][fastrand::usize(..4)];
        Self {
            away: some(),
            unsent: some(),
            late: some(),
            unanswered: some(),
            twice: some(),
            slow: some() / 10,
            fatal: some() / 10,
            skipped: some(),
        }
    }
}

impl Network {
    /// A network before a store. `trace` has it note all that arrives.
    pub fn new(store: MemoryStore, weather: Weather, without: Option<Guard>, trace: bool) -> Self {
        Self {
            store,
            weather: Mutex::new(weather),
            without,
            outage: Mutex::new(Instant::now()),
            met: Mutex::default(),
            writers: Mutex::default(),
            unended: Mutex::default(),
            compacted: AtomicU64::new(0),
            trace: trace.then(Mutex::default),
            started: Instant::now(),
        }
    }

    /// The store behind it.
    pub fn store(&self) -> &MemoryStore {
        &self.store
    }

    /// Changes the weather.
    pub fn set_weather(&self, weather: Weather) {
        *lock(&self.weather) = weather;
    }

    /// Nobody reaches the store for so long.
    pub fn cut(&self, time: Duration) {
        *lock(&self.outage) = Instant::now() + time;
    }

    /// Every compare that was sent.
    pub fn met(&self) -> BTreeSet<Guard> {
        lock(&self.met).clone()
    }

    /// Which machine wrote which revision.
    pub fn writers(&self) -> BTreeMap<Revision, String> {
        lock(&self.writers).clone()
    }

    /// Whether somebody wanted to end a lease and did not hear that it has.
    pub(super) fn is_unended(&self, lease: LeaseId) -> bool {
        lock(&self.unended).contains(&lease)
    }

    /// How many watches were told by the store that the history which they missed is gone.
    pub(super) fn compacted(&self) -> u64 {
        self.compacted.load(Ordering::Relaxed)
    }

    /// What was noted.
    pub fn trace(&self) -> Vec<String> {
        self.trace.as_ref().map(|trace| lock(trace).clone()).unwrap_or_default()
    }

    /// Notes something, where that is wanted.
    pub fn note(&self, what: impl FnOnce() -> String) {
        if let Some(trace) = &self.trace {
            lock(trace).push(format!("{:>12.6} {}", self.started.elapsed().as_secs_f64(), what()));
        }
    }

    fn chance(&self, of: impl Fn(&Weather) -> u32) -> bool {
        fastrand::u32(..1000) < of(&lock(&self.weather))
    }

    /// How long one way takes.
    async fn way(&self) {
        let millis = if self.chance(|weather| weather.slow) { 1000..30_000 } else { 0..8 };
        sleep(Duration::from_micros(1000 * fastrand::u64(millis) + fastrand::u64(100..1000))).await;
    }

    fn is_cut(&self) -> bool {
        Instant::now() < *lock(&self.outage)
    }
}

impl Link {
    /// The way of a machine to the store of a network.
    pub fn new(network: Arc<Network>, machine: Arc<Machine>) -> Self {
        Self { network, machine }
    }

    /// Takes a request to the store; fails where it does not get there.
    async fn send(&self) -> Result<()> {
        self.machine.awake().await;
        self.network.way().await;
        if self.network.is_cut() || self.network.chance(|weather| weather.away) {
            sleep(Duration::from_millis(fastrand::u64(..3000))).await;
            self.machine.awake().await;
            return Err(StoreError::Unavailable { location: "here".into(), reason: "away".into() });
        }
        Ok(())
    }

    /// Waits until something gets through without being asked for.
    async fn calm(&self) {
        self.network.way().await;
        let outage = *lock(&self.network.outage);
        sleep_until(outage).await;
        self.machine.awake().await;
    }

    /// Brings an answer back.
    async fn answer<T>(&self, answer: T) -> T {
        self.network.way().await;
        self.machine.awake().await;
        answer
    }

    /// A request that is neither repeated nor of unknown outcome.
    async fn ask<T>(&self, request: impl Future<Output = Result<T>>) -> Result<T> {
        self.send().await?;
        let answer = request.await;
        self.answer(answer).await
    }

    /// The machine dies now, perhaps.
    async fn survive(&self) {
        if self.network.chance(|weather| weather.fatal) {
            self.network.note(|| format!("{} dies", self.machine.name()));
            self.machine.die();
            self.machine.awake().await;
        }
    }

    /// Delivers a copy of a transaction later, whatever becomes of its sender.
    fn deliver_later(&self, txn: Txn, within: Duration) {
        let link = self.clone();
        let wait = within.mul_f64(fastrand::f64());
        tokio::spawn(async move {
            sleep(wait).await;
            // Its answer has nobody to go to.
            let _ = link.deliver(txn, "late").await;
        });
    }

    async fn deliver(&self, txn: Txn, how: &str) -> Result<TxnOutcome> {
        let what = self.network.trace.is_some().then(|| deed(&txn, self.machine.name()));
        let writes = txn.then.iter().any(|op| !matches!(op, Op::Get(_)));
        let outcome = self.network.store.txn(txn).await;
        if let Ok(TxnOutcome { succeeded: true, revision, .. }) = outcome
            && writes
        {
            lock(&self.network.writers).entry(revision).or_insert_with(|| self.machine.name().to_owned());
        }
        self.network.note(|| {
            let name = self.machine.name();
            let outcome = match &outcome {
                Ok(outcome) if outcome.succeeded => format!("applied at {}", outcome.revision),
                Ok(outcome) => format!("refused at {}", outcome.revision),
                Err(error) => error.to_string(),
            };
            format!("{name} {how}{} {outcome}", what.unwrap_or_default())
        });
        outcome
    }

    /// The transaction as the store gets to see it.
    fn as_seen(&self, mut txn: Txn) -> Txn {
        let guards = Guard::all(&txn, self.machine.name());
        let mut kept = guards.iter().map(|guard| Some(guard) != self.network.without.as_ref());
        txn.compares.retain(|_| kept.next().unwrap_or(true));
        lock(&self.network.met).extend(guards);
        txn
    }
}

#[async_trait]
impl Store for Link {
    async fn txn(&self, txn: Txn) -> Result<TxnOutcome> {
        let lost = || Err(StoreError::UnknownOutcome { reason: "lost".into() });
        let txn = self.as_seen(txn);
        self.send().await?;
        self.survive().await;
        let chance = |of: fn(&Weather) -> u32| self.network.chance(of);
        if chance(|weather| weather.unsent) {
            return self.answer(lost()).await;
        }
        if chance(|weather| weather.late) {
            self.deliver_later(txn, Duration::from_secs(40));
            sleep(Duration::from_millis(fastrand::u64(..5000))).await;
            return self.answer(lost()).await;
        }
        if chance(|weather| weather.twice) {
            self.deliver_later(txn.clone(), Duration::from_secs(10));
        }
        let outcome = self.deliver(txn, "").await;
        self.survive().await;
        if chance(|weather| weather.unanswered) {
            sleep(Duration::from_millis(fastrand::u64(..5000))).await;
            return self.answer(lost()).await;
        }
        self.answer(outcome).await
    }

    async fn read(&self, read: Read) -> Result<Page> {
        self.ask(self.network.store.read(read)).await
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease> {
        self.ask(self.network.store.grant(ttl)).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration> {
        self.ask(self.network.store.keep_alive(lease)).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        let ended = self.ask(self.network.store.revoke(lease)).await;
        if ended.as_ref().is_err_and(StoreError::is_transient) {
            lock(&self.network.unended).insert(lease);
        }
        ended
    }

    async fn compact(&self, upto: Revision) -> Result<()> {
        self.ask(self.network.store.compact(upto)).await
    }

    async fn status(&self) -> Result<StoreStatus> {
        self.ask(self.network.store.status()).await
    }

    /// As the engines do, it fails only where it has to ask from when on.
    async fn watch(&self, range: KeyRange, from: Revision) -> Result<Watch> {
        let from = match from {
            Revision(0) => Revision(self.status().await?.revision.0 + 1),
            from => from,
        };
        let (told, notices) = mpsc::channel(16);
        let link = self.clone();
        tokio::spawn(async move {
            link.calm().await;
            let Ok(mut inner) = link.network.store.watch(range, from).await else { return };
            loop {
                let notice = tokio::select! {
                    biased;
                    () = told.closed() => return,
                    notice = inner.next() => notice,
                };
                let Some(mut notice) = notice else { return };
                if let Ok(Notice::Compacted { .. }) = notice {
                    link.network.compacted.fetch_add(1, Ordering::Relaxed);
                }
                if let Ok(Notice::Changed { revision, .. }) = notice
                    && link.network.chance(|weather| weather.skipped)
                {
                    notice = Ok(Notice::Compacted { revision });
                }
                link.calm().await;
                if told.send(notice).await.is_err() {
                    return;
                }
            }
        });
        Ok(Watch::new(notices))
    }

    fn now(&self) -> Duration {
        self.machine.clock()
    }
}
