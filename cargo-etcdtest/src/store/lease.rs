//! A lease that is kept alive as long as somebody wants it.

use std::time::Duration;

use tokio::task::JoinHandle;

use super::api::{LeaseId, Result, SharedStore};

/// Keeps a lease alive until it is dropped or [ended](LeaseKeeper::end).
#[derive(Debug)]
pub struct LeaseKeeper {
    store: SharedStore,
    id: LeaseId,
    task: JoinHandle<()>,
}

impl LeaseKeeper {
    /// Grants a lease and renews it three times in its life.
    ///
    /// # Errors
    /// As [`super::Store::grant`].
    pub async fn start(store: SharedStore, ttl: Duration) -> Result<Self> {
        let lease = store.grant(ttl).await?;
        let task = tokio::spawn({
            let store = store.clone();
            async move {
                loop {
                    tokio::time::sleep(lease.ttl / 3).await;
                    if store.keep_alive(lease.id).await.is_err_and(|error| !error.is_transient()) {
                        return;
                    }
                }
            }
        });
        Ok(Self { store, id: lease.id, task })
    }

    /// The lease's id.
    pub fn id(&self) -> LeaseId {
        self.id
    }

    /// Ends the lease: what hangs on it goes at once.
    pub async fn end(self) {
        self.task.abort();
        // Unreachable, it ends by itself when its time is up.
        let _ = self.store.revoke(self.id).await;
    }
}

impl Drop for LeaseKeeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}
