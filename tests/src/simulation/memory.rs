//! A store in memory, whose leases live on tokio's clock: with that paused, hours pass in
//! no time, and always in the same way.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use async_trait::async_trait;
use cargo_etcdtest::store::{
    Change, Key, KeyRange, Lease, LeaseId, Notice, Page, Read, Result, Revision, Store, StoreError,
    StoreStatus, Txn, TxnOutcome, Watch,
};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until};

use super::history::History;
use super::lock;

/// How many notices wait for whoever watches.
const NOTICES: usize = 16;

/// A store engine without a disk and without a network.
#[derive(Clone, Debug)]
pub struct MemoryStore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Wakes the watches, in the order in which they began to wait.
    written: Notify,
}

#[derive(Debug)]
struct State {
    history: History,
    leases: BTreeMap<i64, Granted>,
    /// How many leases were ever granted.
    grants: i64,
}

#[derive(Clone, Copy, Debug)]
struct Granted {
    ttl: Duration,
    deadline: Instant,
}

impl MemoryStore {
    /// An empty store.
    #[expect(clippy::new_without_default, reason = "as the other engines, it is made, not assumed")]
    pub fn new() -> Self {
        let state = State { history: History::new(), leases: BTreeMap::new(), grants: 0 };
        Self(Arc::new(Shared { state: Mutex::new(state), written: Notify::new() }))
    }

    /// All that ever changed, compacted or not: every revision with its changes, in order.
    pub fn log(&self) -> Vec<(Revision, Vec<Change>)> {
        self.0.state().history.since(Revision(0)).to_vec()
    }

    /// The leases that live, the oldest first.
    pub fn leases(&self) -> Vec<LeaseId> {
        self.0.state().leases.keys().copied().map(LeaseId).collect()
    }
}

impl Shared {
    /// The state in which all leases whose time is over have ended.
    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = lock(&self.state);
        let now = Instant::now();
        let due = |(&id, lease): (&i64, &Granted)| (lease.deadline <= now).then_some((lease.deadline, id));
        let mut over: Vec<_> = state.leases.iter().filter_map(due).collect();
        over.sort_unstable();
        for (_, id) in over {
            state.end(LeaseId(id));
            self.written.notify_waiters();
        }
        state
    }
}

impl State {
    fn end(&mut self, lease: LeaseId) -> bool {
        let ended = self.leases.remove(&lease.0).is_some();
        if ended {
            self.history.end_lease(lease);
        }
        ended
    }

    /// What a watch has to tell from a revision on, and where it goes on after that.
    fn notices(&self, range: &KeyRange, from: Revision) -> (Vec<Notice>, Revision) {
        let revision = self.history.revision();
        let next = Revision(revision.0 + 1);
        if from < self.history.compacted() {
            return (vec![Notice::Compacted { revision }], next);
        }
        let key = |change: &Change| -> Key {
            match change {
                Change::Put(pair) => pair.key.clone(),
                Change::Deleted(key) => key.clone(),
            }
        };
        let seen = |(revision, changes): &(Revision, Vec<Change>)| {
            let changes: Vec<_> =
                changes.iter().filter(|change| range.contains(&key(change))).cloned().collect();
            (!changes.is_empty()).then_some(Notice::Changed { revision: *revision, changes })
        };
        (self.history.since(from).iter().filter_map(seen).collect(), from.max(next))
    }
}

/// Ends a lease when its time is over, whether somebody asks the store meanwhile or not.
async fn expire(shared: Weak<Shared>, lease: LeaseId) {
    loop {
        let deadline =
            shared.upgrade().and_then(|shared| Some(shared.state().leases.get(&lease.0)?.deadline));
        let Some(deadline) = deadline else { return };
        sleep_until(deadline).await;
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn read(&self, read: Read) -> Result<Page> {
        self.0.state().history.read(&read)
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome> {
        let mut state = self.0.state();
        let State { history, leases, .. } = &mut *state;
        let outcome = history.apply(&txn, |lease| leases.contains_key(&lease.0));
        self.0.written.notify_waiters();
        outcome
    }

    async fn watch(&self, range: KeyRange, from: Revision) -> Result<Watch> {
        let (told, notices) = mpsc::channel(NOTICES);
        let now = self.0.state().history.revision();
        let mut from = if from == Revision(0) { Revision(now.0 + 1) } else { from };
        let shared = self.0.clone();
        tokio::spawn(async move {
            loop {
                let written = shared.written.notified();
                let (notices, next) = shared.state().notices(&range, from);
                from = next;
                for notice in notices {
                    if told.send(Ok(notice)).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    biased;
                    () = told.closed() => return,
                    () = written => {}
                }
            }
        });
        Ok(Watch::new(notices))
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease> {
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let ttl = Duration::from_secs(seconds.max(1));
        let mut state = self.0.state();
        state.grants += 1;
        let id = LeaseId(1000 + state.grants);
        state.leases.insert(id.0, Granted { ttl, deadline: Instant::now() + ttl });
        tokio::spawn(expire(Arc::downgrade(&self.0), id));
        Ok(Lease { id, ttl })
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration> {
        let mut state = self.0.state();
        let granted = state.leases.get_mut(&lease.0).ok_or(StoreError::LeaseNotFound)?;
        granted.deadline = Instant::now() + granted.ttl;
        Ok(granted.ttl)
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        let mut state = self.0.state();
        let ended = state.end(lease);
        self.0.written.notify_waiters();
        if ended { Ok(()) } else { Err(StoreError::LeaseNotFound) }
    }

    async fn compact(&self, upto: Revision) -> Result<()> {
        self.0.state().history.compact(upto)
    }

    async fn status(&self) -> Result<StoreStatus> {
        Ok(StoreStatus {
            kind: "memory",
            location: "memory".into(),
            version: None,
            size: None,
            quota: None,
            revision: self.0.state().history.revision(),
            members: Vec::new(),
            warnings: Vec::new(),
        })
    }
}
