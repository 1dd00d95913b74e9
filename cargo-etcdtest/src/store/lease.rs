//! Keeping a lease, and knowing when it is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::api::{LeaseId, Result, SharedStore, Store};
use super::error::StoreError;

/// The longest time between two looks at the clock: it runs on while the machine sleeps,
/// timers do not.
const LOOK: Duration = Duration::from_secs(1);

/// Keeps a lease alive until it is ended, dropped or lost.
///
/// The lease counts as lost once its time to live has passed since the last renewal that
/// succeeded was sent, whatever became of the server: from then on its keys may be gone. It
/// may turn out that they are not, where others keep the same lease alive or the server gave
/// it more time: [`LeaseKeeper::is_alive_after_all`].
/// Dropping the keeper stops the renewals and leaves the lease to its time to live.
#[derive(Debug)]
pub struct LeaseKeeper {
    id: LeaseId,
    store: SharedStore,
    deadline: Arc<Deadline>,
    life: watch::Receiver<Life>,
    renewals: JoinHandle<()>,
}

/// What is known of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Alive,
    /// It may have ended: the store has not been heard of for too long.
    Doubtful,
    Ended,
}

/// When the lease ends if it is not renewed, in milliseconds of the clock; 0 once it is lost.
#[derive(Debug)]
struct Deadline(AtomicU64);

impl LeaseKeeper {
    /// Grants a lease of at least `ttl` and keeps it alive.
    ///
    /// # Errors
    /// As [`Store::grant`](super::Store::grant).
    pub async fn start(store: SharedStore, ttl: Duration) -> Result<Self> {
        let sent = store.now();
        let lease = store.grant(ttl).await?;
        Ok(Self::keep(store, lease.id, lease.ttl, sent))
    }

    /// Keeps a lease alive that is there, as others may as well.
    ///
    /// # Errors
    /// As [`Store::keep_alive`](super::Store::keep_alive).
    pub async fn join(store: SharedStore, id: LeaseId) -> Result<Self> {
        let sent = store.now();
        let ttl = store.keep_alive(id).await?;
        Ok(Self::keep(store, id, ttl, sent))
    }

    /// Keeps a lease alive that was last renewed by what was sent at this time.
    fn keep(store: SharedStore, id: LeaseId, ttl: Duration, sent: Duration) -> Self {
        let deadline = Arc::new(Deadline(AtomicU64::new(millis(sent + ttl))));
        let (say, life) = watch::channel(Life::Alive);
        let renewals = tokio::spawn({
            let (store, deadline) = (store.clone(), deadline.clone());
            async move {
                keep(store, id, ttl, &deadline, &say).await;
                deadline.0.store(0, Ordering::Release);
                say.send_replace(Life::Ended);
            }
        });
        Self { id, store, deadline, life, renewals }
    }

    /// The lease.
    pub fn id(&self) -> LeaseId {
        self.id
    }

    /// Whether the lease must be taken as lost now.
    pub fn is_lost(&self) -> bool {
        self.deadline.left(self.store.now()).is_none()
    }

    /// Waits until the lease is lost.
    pub async fn lost(&self) {
        let mut life = self.life.clone();
        // The sender is dropped only with the task, which ends in the lease's loss.
        let _ = life.wait_for(|life| *life != Life::Alive).await;
    }

    /// Waits until it is known whether a lease that counted as lost lives on.
    pub async fn is_alive_after_all(&self) -> bool {
        let mut life = self.life.clone();
        life.wait_for(|life| *life != Life::Doubtful).await.is_ok_and(|life| *life == Life::Alive)
    }

    /// Ends the lease, and the keys that hang on it with it.
    ///
    /// # Errors
    /// As [`Store::revoke`](super::Store::revoke); a lease that has ended already is none.
    pub async fn end(self) -> Result<()> {
        self.renewals.abort();
        match self.store.revoke(self.id).await {
            Err(StoreError::LeaseNotFound) => Ok(()),
            other => other,
        }
    }
}

impl Drop for LeaseKeeper {
    fn drop(&mut self) {
        self.renewals.abort();
    }
}

impl Deadline {
    /// How long the lease lives from `now` on if it is not renewed; `None` once it is lost.
    fn left(&self, now: Duration) -> Option<Duration> {
        let left = self.0.load(Ordering::Acquire).checked_sub(millis(now))?;
        (left > 0).then(|| Duration::from_millis(left))
    }
}

/// Renews a lease at a third of its time to live, sooner where that failed; returns when
/// the lease has ended.
async fn keep(
    store: SharedStore,
    id: LeaseId,
    mut ttl: Duration,
    deadline: &Deadline,
    life: &watch::Sender<Life>,
) {
    let mut pause = ttl / 3;
    loop {
        if !wait(&*store, pause, deadline).await && life.send_replace(Life::Doubtful) == Life::Doubtful {
            sleep(pause).await;
        }
        let sent = store.now();
        match timeout(deadline.left(sent).unwrap_or(ttl), store.keep_alive(id)).await {
            Ok(Ok(renewed)) => {
                ttl = renewed;
                deadline.0.store(millis(sent + ttl), Ordering::Release);
                life.send_if_modified(|life| std::mem::replace(life, Life::Alive) != Life::Alive);
                pause = ttl / 3;
            }
            Ok(Err(StoreError::LeaseNotFound)) => return,
            // The next try may do better; the deadline decides.
            Ok(Err(_)) | Err(_) => pause = ttl / 15,
        }
    }
}

/// Waits; false where the lease is lost meanwhile.
async fn wait(store: &dyn Store, pause: Duration, deadline: &Deadline) -> bool {
    let until = store.now() + pause;
    loop {
        let now = store.now();
        let Some(left) = deadline.left(now) else { return false };
        let rest = until.saturating_sub(now);
        if rest.is_zero() {
            return true;
        }
        sleep(rest.min(left).min(LOOK)).await;
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::local::LocalStore;
    use crate::store::{KeyRange, Notice, Op, Read, Revision, Txn};

    /// The shortest time to live that a lease may have.
    const TTL: Duration = Duration::from_secs(1);

    fn store() -> (tempfile::TempDir, SharedStore) {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::open(folder.path()).unwrap();
        (folder, Arc::new(store))
    }

    async fn worker(store: &dyn Store, lease: LeaseId) {
        let put = Op::Put { key: "/worker".into(), value: Vec::new(), lease: Some(lease) };
        store.txn(Txn { then: vec![put], ..Txn::default() }).await.unwrap();
    }

    #[tokio::test]
    async fn a_kept_lease_outlives_its_time_to_live_and_goes_when_it_is_ended() {
        let (_folder, store) = store();
        let keeper = LeaseKeeper::start(store.clone(), TTL).await.unwrap();
        worker(&*store, keeper.id()).await;
        assert!(timeout(TTL * 3, keeper.lost()).await.is_err());
        assert_eq!(store.read(Read::key("/worker")).await.unwrap().pairs.len(), 1);
        keeper.end().await.unwrap();
        assert!(store.read(Read::key("/worker")).await.unwrap().pairs.is_empty());
    }

    #[tokio::test]
    async fn a_lease_that_somebody_else_ended_is_lost() {
        let (_folder, store) = store();
        let keeper = LeaseKeeper::start(store.clone(), TTL).await.unwrap();
        store.revoke(keeper.id()).await.unwrap();
        keeper.lost().await;
        assert!(keeper.is_lost());
        keeper.end().await.unwrap();
    }

    #[tokio::test]
    async fn a_dropped_keeper_leaves_the_lease_to_its_time_to_live() {
        let (_folder, store) = store();
        let keeper = LeaseKeeper::start(store.clone(), TTL).await.unwrap();
        worker(&*store, keeper.id()).await;
        let mut watch = store.watch(KeyRange::prefix("/"), Revision(0)).await.unwrap();
        drop(keeper);
        assert!(matches!(watch.next().await, Some(Ok(Notice::Changed { .. }))));
        assert!(store.read(Read::key("/worker")).await.unwrap().pairs.is_empty());
    }
}
