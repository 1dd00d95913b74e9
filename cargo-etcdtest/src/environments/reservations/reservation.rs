//! Environments that are reserved, or waited for.

use std::num::NonZeroU32;
use std::time::Duration;

use backon::Retryable;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::error::ReservationError;
use super::queue::{Queue, Standing, Waiting};
use crate::model::{Holder, Lock, Released};
use crate::store::{
    Commit, Compare, Key, KeyRange, LeaseId, LeaseKeeper, Op, Revision, SharedStore, StoreError, Txn, Wake,
    commit, encode, get, get_record, keys, list, pauses,
};

type Result<T> = std::result::Result<T, ReservationError>;

/// Places in the queues of environments, all on one lease, which it keeps alive.
///
/// Dropping it leaves the places to the lease's time to live; [`Reservation::release`]
/// gives them up at once.
#[derive(Debug)]
pub struct Reservation {
    store: SharedStore,
    patience: Duration,
    lock: Lock,
    /// The environments, each with how many may use it at once.
    environments: Vec<(String, NonZeroU32)>,
    /// The revision that created all its keys: its place in the order.
    created: Revision,
    lease: LeaseKeeper,
    /// A key of it was found gone.
    gone: watch::Receiver<bool>,
    guard: Option<JoinHandle<()>>,
    say_gone: watch::Sender<bool>,
    /// Another worker of the run made it.
    shared: bool,
}

impl Reservation {
    pub(super) fn new(
        store: SharedStore,
        patience: Duration,
        lock: Lock,
        environments: Vec<(String, NonZeroU32)>,
        created: Revision,
        lease: LeaseKeeper,
    ) -> Self {
        let (say_gone, gone) = watch::channel(false);
        Self {
            store,
            patience,
            lock,
            environments,
            created,
            lease,
            gone,
            guard: None,
            say_gone,
            shared: false,
        }
    }

    /// The same, made by another worker of the run.
    pub(super) fn shared(mut self) -> Self {
        self.shared = true;
        self
    }

    /// What stands at each of its keys.
    pub fn lock(&self) -> &Lock {
        &self.lock
    }

    /// Its environments.
    pub fn environments(&self) -> impl Iterator<Item = &str> {
        self.environments.iter().map(|(name, _)| name.as_str())
    }

    /// The revision that created its keys: its place in the order of arrival.
    pub(super) fn created(&self) -> Revision {
        self.created
    }

    fn queues(&self) -> impl Iterator<Item = Key> {
        self.environments().map(|name| keys::queue(name, &self.lock.holder))
    }

    /// Its keys, each with the revision that created it: whoever writes while it holds them
    /// compares that (`L` of the protocol).
    pub fn locks(&self) -> Vec<(Key, Revision)> {
        self.environments().map(|name| (keys::lock(name, &self.lock.holder), self.created)).collect()
    }

    /// Waits until it holds all environments. `on_wait` hears what it waits for whenever that
    /// has changed.
    ///
    /// # Errors
    /// [`ReservationError::Lost`] or [`ReservationError::TakenAway`] where it is not in a
    /// queue any more, or as the store fails.
    pub(super) async fn wait(&mut self, mut on_wait: impl FnMut(&Waiting)) -> Result<()> {
        let queues: Vec<_> = self.queues().map(KeyRange::prefix).collect();
        let mut wake = Wake::new(self.store.as_ref(), queues, Revision(self.created.0 + 1)).await?;
        let mut told: Option<Waiting> = None;
        loop {
            match self.standing().await? {
                Standing::Held => break,
                Standing::Gone => return Err(self.loss().await),
                Standing::Waiting(waiting) => {
                    if !told.as_ref().is_some_and(|told| waiting.is_like(told)) {
                        on_wait(&waiting);
                        told = Some(waiting);
                    }
                }
            }
            tokio::select! {
                biased;
                changed = wake.changed() => changed?,
                () = self.lease.lost() => return Err(self.loss().await),
            }
        }
        // Who holds a resource is not shown: its tests are short.
        if self.lock.held.is_none() && !matches!(self.lock.holder, Holder::Worker(_)) {
            self.write(Lock { held: Some(Timestamp::now()), ..self.lock.clone() }, self.lease.id()).await?;
        }
        let (store, locks, say_gone) = (self.store.clone(), self.locks(), self.say_gone.clone());
        self.guard = Some(tokio::spawn(async move {
            // Without a watch the store's own refusals still tell.
            if guard(&store, &locks).await.is_ok() {
                say_gone.send_replace(true);
            }
        }));
        Ok(())
    }

    /// Where it stands in the first queue in which it still waits. What it holds it keeps:
    /// nobody can come before it later.
    async fn standing(&self) -> Result<Standing> {
        for (name, capacity) in &self.environments {
            let queue = read_queue(&self.store, keys::queue(name, &self.lock.holder), self.patience).await?;
            match queue.standing(name, &self.lock.holder, self.created, *capacity) {
                Standing::Held => {}
                other => return Ok(other),
            }
        }
        Ok(Standing::Held)
    }

    /// Writes its keys anew, in their places.
    async fn write(&mut self, lock: Lock, lease: LeaseId) -> Result<()> {
        let locks = self.locks();
        let value = encode(&lock);
        let put = |(key, _): &(Key, Revision)| Op::Put {
            key: key.clone(),
            value: value.clone(),
            lease: Some(lease),
        };
        let txn = Txn {
            compares: locks.iter().map(|(key, created)| Compare::created(key.clone(), *created)).collect(),
            then: locks.iter().map(put).collect(),
            otherwise: vec![],
        };
        match commit(self.store.as_ref(), &txn, &locks[0].0, self.patience).await {
            Ok(Commit::Applied(_)) => {
                self.lock = lock;
                Ok(())
            }
            Ok(Commit::Refused(_)) | Err(StoreError::LeaseNotFound) => Err(self.loss().await),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether it must be taken as lost now.
    pub fn is_lost(&self) -> bool {
        self.lease.is_lost() || *self.gone.borrow()
    }

    /// Waits until it must be taken as lost: the lease may have ended, or somebody took an
    /// environment away.
    pub async fn lost(&self) {
        let mut gone = self.gone.clone();
        tokio::select! {
            biased;
            () = self.lease.lost() => {}
            // The sender lives as long as this does.
            _ = gone.wait_for(|&gone| gone) => {}
        }
    }

    /// Waits until it is known whether one that counted as lost is held all the same: others may
    /// have kept it alive while this process could not.
    pub async fn is_held_after_all(&self) -> bool {
        let mut gone = self.gone.clone();
        tokio::select! {
            biased;
            alive = self.lease.is_alive_after_all() => alive && !*self.gone.borrow(),
            _ = gone.wait_for(|&gone| gone) => false,
        }
    }

    /// Why it is lost, for one that is.
    pub async fn loss(&self) -> ReservationError {
        for name in self.environments() {
            let note = keys::released(name, &self.lock.holder);
            let read = || get_record::<Released>(self.store.as_ref(), note.clone());
            let read = read.retry(pauses().with_total_delay(Some(self.patience)));
            if let Ok(Some((Released { by, .. }, _))) = read.when(StoreError::is_transient).await {
                return ReservationError::TakenAway { environment: name.to_owned(), by };
            }
        }
        ReservationError::Lost { environments: self.environments().map(str::to_owned).collect() }
    }

    /// Moves it to a lease of this length from now on, which nobody keeps alive.
    ///
    /// # Errors
    /// [`ReservationError::TooLong`] where the store grants no such lease; else as
    /// [`Reservations::reserve`](super::Reservations::reserve).
    pub async fn keep_for(mut self, time: Duration) -> Result<Lock> {
        let grant = || self.store.grant(time);
        let grant = grant.retry(pauses().with_total_delay(Some(self.patience)));
        let lease = grant.when(StoreError::is_transient).await?;
        if lease.ttl < time {
            // Where that fails, it ends by itself.
            let _ = self.store.revoke(lease.id).await;
            self.release().await;
            return Err(ReservationError::TooLong { longest: lease.ttl });
        }
        let until = Timestamp::now().checked_add(lease.ttl).unwrap_or(Timestamp::MAX);
        let lock = Lock { lease: lease.id.0, until: Some(until), ..self.lock.clone() };
        if let Err(error) = self.write(lock, lease.id).await {
            let _ = self.store.revoke(lease.id).await;
            self.release().await;
            return Err(error);
        }
        self.release().await;
        Ok(self.lock.clone())
    }

    /// Leaves the queues, if they were not joined by another: that one's places stay.
    pub(super) async fn give_up(&self) {
        if !self.shared {
            self.release().await;
        }
    }

    /// Gives up at once all that still hangs on its lease.
    pub async fn release(&self) {
        // Unreachable, the lease ends by itself when its time is up.
        let _ = self.store.revoke(self.lease.id()).await;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(guard) = &self.guard {
            guard.abort();
        }
    }
}

/// Reads a queue, through an outage of the store.
pub(super) async fn read_queue(
    store: &SharedStore,
    queue: Key,
    patience: Duration,
) -> std::result::Result<Queue, StoreError> {
    let read = || list(store.as_ref(), KeyRange::prefix(queue.clone()));
    let read = read.retry(pauses().with_total_delay(Some(patience)));
    Queue::of(&read.when(StoreError::is_transient).await?)
}

/// Returns when one of these keys is gone, or is another than it was.
async fn guard(store: &SharedStore, locks: &[(Key, Revision)]) -> Result<()> {
    let ranges: Vec<_> = locks.iter().map(|(key, _)| KeyRange::key(key.clone())).collect();
    // From its creation on: what happened before the watch began is told as well.
    let mut wake = Wake::new(store.as_ref(), ranges, locks[0].1).await?;
    loop {
        for (key, created) in locks {
            let read = || get(store.as_ref(), key.clone());
            let found = read.retry(pauses()).when(StoreError::is_transient).await?;
            if found.is_none_or(|pair| pair.created != *created) {
                return Ok(());
            }
        }
        wake.changed().await?;
    }
}
