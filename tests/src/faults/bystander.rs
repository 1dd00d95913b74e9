//! Who watches a store by the same ways as the workers, and executes nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cargo_etcdtest::store::etcd::{EtcdOptions, EtcdStore};
use cargo_etcdtest::store::{KeyRange, Notice, Revision, Store};
use tokio::runtime::Runtime;

use crate::processes::eventually;

/// A watch as every worker has them, gone with this.
#[derive(Debug)]
pub struct Bystander {
    compacted: Arc<AtomicUsize>,
    runtime: Option<Runtime>,
}

impl Bystander {
    /// One that watches from now on.
    pub(super) fn of(options: EtcdOptions) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a thread can be started");
        let compacted = Arc::new(AtomicUsize::new(0));
        let mut watch = runtime.block_on(async {
            let store = EtcdStore::connect(options).await.expect("the store is there");
            let Revision(now) = store.status().await.expect("the store says how it is").revision;
            store.watch(KeyRange::prefix("/"), Revision(now + 1)).await.expect("it may be watched")
        });
        let count = compacted.clone();
        runtime.spawn(async move {
            while let Some(Ok(notice)) = watch.next().await {
                if let Notice::Compacted { .. } = notice {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self { compacted, runtime: Some(runtime) }
    }

    /// Waits until it is told that what it missed is compacted.
    ///
    /// # Panics
    /// It never is: then no worker was either.
    pub fn wait_until_it_missed_something(&self) {
        let missed = || (self.compacted.load(Ordering::Relaxed) > 0).then_some(());
        eventually(missed, "a watch that missed what was compacted");
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
