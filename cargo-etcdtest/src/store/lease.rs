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
/// succeeded was sent, whatever became of the server: from then on its keys may be gone.
/// Dropping the keeper stops the renewals and leaves the lease to its time to live.
#[derive(Debug)]
pub struct LeaseKeeper {
    id: LeaseId,
    store: SharedStore,
    deadline: Arc<Deadline>,
    lost: watch::Receiver<bool>,
    renewals: JoinHandle<()>,
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
        let deadline = Arc::new(Deadline(AtomicU64::new(millis(sent + lease.ttl))));
        let (say_lost, lost) = watch::channel(false);
        let renewals = tokio::spawn({
            let (store, deadline) = (store.clone(), deadline.clone());
            async move {
                keep(store, lease.id, lease.ttl, &deadline).await;
                deadline.0.store(0, Ordering::Release);
                say_lost.send_replace(true);
            }
        });
        Ok(Self { id: lease.id, store, deadline, lost, renewals })
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
        let mut lost = self.lost.clone();
        // The sender is dropped only with the task, which ends in the lease's loss.
        let _ = lost.wait_for(|&lost| lost).await;
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
/// the lease is lost.
async fn keep(store: SharedStore, id: LeaseId, mut ttl: Duration, deadline: &Deadline) {
    let mut pause = ttl / 3;
    while wait(&*store, pause, deadline).await {
        let Some(left) = deadline.left(store.now()) else { return };
        let sent = store.now();
        match timeout(left, store.keep_alive(id)).await {
            Ok(Ok(renewed)) => {
                ttl = renewed;
                deadline.0.store(millis(sent + ttl), Ordering::Release);
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
