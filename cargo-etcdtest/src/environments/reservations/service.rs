//! Reserving environments, and giving them back.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::pin::pin;
use std::time::Duration;

use backon::Retryable;
use jiff::Timestamp;
use tokio::time::sleep;

use super::error::ReservationError;
use super::queue::{Queue, Waiting};
use super::reservation::{Reservation, read_queue};
use crate::model::{Holder, Lock};
use crate::store::{
    Commit, Compare, Key, KeyRange, LeaseId, LeaseKeeper, Op, Page, Read, Revision, SharedStore, StoreError,
    Txn, commit, decode, encode, keys, list, pauses,
};

type Result<T> = std::result::Result<T, ReservationError>;

/// The reservations of one store.
#[derive(Clone, Debug)]
pub struct Reservations {
    pub(super) store: SharedStore,
    /// How long an unreachable store is waited for.
    pub(super) patience: Duration,
}

/// What somebody wants to reserve.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// For whom.
    pub holder: Holder,
    /// Who typed the command: `user@host`.
    pub author: String,
    /// Why, if a person says so.
    pub why: String,
    /// The environments, each with how many may use it at once; at least one.
    pub environments: Vec<(String, NonZeroU32)>,
    /// How long the reservation outlives a holder that is not heard of.
    pub ttl: Duration,
    /// How long the environments are waited for.
    pub timeout: Duration,
}

/// How a wait came to its end.
enum End {
    Itself(Result<()>),
    Stopped,
    TimedOut,
}

impl Reservations {
    /// The reservations of this store, which is waited for so long where it does not answer.
    pub fn new(store: SharedStore, patience: Duration) -> Self {
        Self { store, patience }
    }

    /// Waits in the queues of all environments at once until all are held. `on_wait` hears
    /// what is waited for whenever that has changed; at the end of `stop` the queues are left.
    /// The workers of a run share its places.
    ///
    /// # Errors
    /// [`ReservationError::TimedOut`], [`ReservationError::Interrupted`],
    /// [`ReservationError::TakenAway`], [`ReservationError::Exists`],
    /// [`ReservationError::AlreadyYours`], or as the store fails.
    pub async fn reserve(
        &self,
        wanted: &Wanted,
        stop: impl Future<Output = ()>,
        mut on_wait: impl FnMut(&Waiting),
    ) -> Result<Reservation> {
        let mut stop = pin!(stop);
        let mut timeout = pin!(sleep(wanted.timeout));
        loop {
            let mut place = self.enqueue(wanted).await?;
            if let Err(error) = self.refuse_second(wanted, place.created()).await {
                place.give_up().await;
                return Err(error);
            }
            let mut last = None;
            let told = |waiting: &Waiting| {
                last = Some(Box::new(waiting.clone()));
                on_wait(waiting);
            };
            let end = tokio::select! {
                biased;
                ended = place.wait(told) => End::Itself(ended),
                () = &mut stop => End::Stopped,
                () = &mut timeout => End::TimedOut,
            };
            let error = match end {
                End::Itself(Ok(())) => return Ok(place),
                End::Itself(Err(error)) => error,
                End::Stopped => ReservationError::Interrupted { waiting: last },
                End::TimedOut => ReservationError::TimedOut { timeout: wanted.timeout, waiting: last },
            };
            place.give_up().await;
            // Who was away for too long waits again, behind all others.
            if !matches!(error, ReservationError::Lost { .. }) {
                return Err(error);
            }
        }
    }

    /// Refuses a person who was in one of the queues before this place was `created` there, and would
    /// wait for themselves.
    async fn refuse_second(&self, wanted: &Wanted, created: Revision) -> Result<()> {
        if let Holder::Person(_) = wanted.holder {
            for (name, _) in &wanted.environments {
                let queue = self.queue(name).await?;
                let mut own = queue.of_person(&wanted.author);
                if let Some(place) = own.find(|place| place.created < created) {
                    let lock = Box::new(place.lock.clone());
                    return Err(ReservationError::AlreadyYours { name: name.clone(), lock });
                }
            }
        }
        Ok(())
    }

    /// The notes of earlier reservations of theirs, which say nothing of a new one.
    async fn old_notes(&self, wanted: &Wanted) -> Result<Vec<Key>> {
        let mut old = Vec::new();
        for (name, _) in &wanted.environments {
            match wanted.holder {
                Holder::Worker(_) => {}
                Holder::Run(_) => old.push(keys::released(name, &wanted.holder)),
                Holder::Person(_) => {
                    old.extend(self.notes(name, &wanted.author).await?.into_iter().map(|(key, _)| key));
                }
            }
        }
        Ok(old)
    }

    /// Goes into all queues, in one transaction.
    async fn enqueue(&self, wanted: &Wanted) -> Result<Reservation> {
        let old = self.old_notes(wanted).await?;
        let old = old.into_iter().map(|note| Op::Delete(KeyRange::key(note)));
        let paths: Vec<_> =
            wanted.environments.iter().map(|(name, _)| keys::lock(name, &wanted.holder)).collect();
        loop {
            let start = || LeaseKeeper::start(self.store.clone(), wanted.ttl);
            let start = start.retry(pauses().with_total_delay(Some(self.patience)));
            let lease = start.when(StoreError::is_transient).await?;
            let lock = Lock {
                holder: wanted.holder.clone(),
                author: wanted.author.clone(),
                why: wanted.why.clone(),
                lease: lease.id().0,
                since: Timestamp::now(),
                held: None,
                until: None,
            };
            let value = encode(&lock);
            let put = |key| Op::Put { key, value: value.clone(), lease: Some(lease.id()) };
            let txn = Txn {
                compares: paths.iter().map(|key| Compare::created(key.clone(), Revision(0))).collect(),
                then: paths.iter().cloned().map(put).chain(old.clone()).collect(),
                otherwise: paths.iter().map(|key| Op::Get(Read::key(key.clone()))).collect(),
            };
            // Its lease makes the value one that nobody else writes.
            let committed = commit(self.store.as_ref(), &txn, &paths[0], self.patience).await;
            let error = match committed {
                Ok(Commit::Applied(created)) => {
                    let (store, environments) = (self.store.clone(), wanted.environments.clone());
                    return Ok(Reservation::new(store, self.patience, lock, environments, created, lease));
                }
                // The store was away for longer than the lease lived.
                Err(StoreError::LeaseNotFound) => continue,
                Ok(Commit::Refused(outcome)) if matches!(wanted.holder, Holder::Run(_)) => {
                    let _ = lease.end().await;
                    match self.join(wanted, outcome.pages()).await? {
                        Some(reservation) => return Ok(reservation),
                        None => continue,
                    }
                }
                Ok(Commit::Refused(outcome)) if matches!(wanted.holder, Holder::Worker(_)) => {
                    let _ = lease.end().await;
                    self.end_places(outcome.pages()).await?;
                    continue;
                }
                Ok(Commit::Refused(_)) => ReservationError::Exists(wanted.holder.clone()),
                Err(error) => error.into(),
            };
            // Unreachable, it ends by itself, and a copy that is still under way with it.
            let _ = lease.end().await;
            return Err(error);
        }
    }

    /// Ends the places that a worker's earlier try has left, when the store did not hear of its end.
    async fn end_places(&self, pages: impl Iterator<Item = Page>) -> Result<()> {
        for pair in pages.flat_map(|page| page.pairs) {
            let lease = LeaseId(decode::<Lock>(&pair)?.lease);
            let end = || self.store.revoke(lease);
            let end = end.retry(pauses().with_total_delay(Some(self.patience)));
            match end.when(StoreError::is_transient).await {
                Ok(()) | Err(StoreError::LeaseNotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Shares the places that another worker of the same run has in the queues; `None` where they
    /// have ended meanwhile.
    async fn join(&self, wanted: &Wanted, pages: impl Iterator<Item = Page>) -> Result<Option<Reservation>> {
        let pairs: Vec<_> = pages.flat_map(|page| page.pairs).collect();
        let Some(first) = pairs.first() else { return Ok(None) };
        let together = pairs.iter().all(|pair| pair.created == first.created);
        if !together || pairs.len() < wanted.environments.len() {
            return Err(ReservationError::Exists(wanted.holder.clone()));
        }
        let lock: Lock = decode(first)?;
        let join = || LeaseKeeper::join(self.store.clone(), LeaseId(lock.lease));
        let join = join.retry(pauses().with_total_delay(Some(self.patience)));
        let lease = match join.when(StoreError::is_transient).await {
            Ok(lease) => lease,
            Err(StoreError::LeaseNotFound) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let (store, environments) = (self.store.clone(), wanted.environments.clone());
        let place = Reservation::new(store, self.patience, lock, environments, first.created, lease);
        Ok(Some(place.shared()))
    }

    /// The queue for an environment.
    ///
    /// # Errors
    /// As the store fails.
    pub async fn queue(&self, environment: &str) -> Result<Queue> {
        Ok(read_queue(&self.store, keys::locks(environment), self.patience).await?)
    }

    /// The queues of all environments that somebody holds or waits for.
    ///
    /// # Errors
    /// As the store fails.
    pub async fn queues(&self) -> Result<BTreeMap<String, Queue>> {
        let page = list(self.store.as_ref(), KeyRange::prefix(keys::LOCKS)).await?;
        let mut pages = BTreeMap::<String, Page>::new();
        for pair in page.pairs {
            let name = keys::segments_below(&pair.key, keys::LOCKS).map(|names| names.into_iter().next());
            if let Some(Some(name)) = name {
                pages.entry(name).or_default().pairs.push(pair);
            }
        }
        let queue = |(name, page)| Ok((name, Queue::of(&page)?));
        pages.into_iter().map(queue).collect()
    }
}
