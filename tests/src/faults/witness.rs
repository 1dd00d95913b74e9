//! Who sees all that is written to a store, while it is written.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Instant;

use cargo_etcdtest::store::etcd::{EtcdOptions, EtcdStore};
use cargo_etcdtest::store::{Change, Key, KeyRange, Notice, Op, Revision, Store, Txn};
use tokio::runtime::Runtime;

use crate::processes::{PATIENCE, eventually, in_time};

/// A revision of the store with its changes.
pub(super) type Written = (Revision, Vec<Change>);

/// The key that is written last.
const END: &str = "/end";

/// A watch over the whole of an etcd, from its beginning.
#[derive(Debug)]
pub(super) struct Witness {
    options: EtcdOptions,
    seen: Arc<AtomicI64>,
    written: mpsc::Receiver<Written>,
    thread: JoinHandle<()>,
}

impl Witness {
    /// Begins to watch.
    pub(super) fn of(options: EtcdOptions) -> Self {
        let (tell, written) = mpsc::channel();
        let seen = Arc::new(AtomicI64::new(0));
        let thread = std::thread::spawn({
            let (options, seen) = (options.clone(), seen.clone());
            move || runtime().block_on(watch(options, &seen, &tell))
        });
        Self { options, seen, written, thread }
    }

    /// Waits until it has seen what was written at this revision.
    ///
    /// # Panics
    /// It never does.
    pub(super) fn wait_for(&self, revision: Revision) {
        let seen = || (self.seen.load(Ordering::Acquire) >= revision.0).then_some(());
        eventually(seen, &format!("the notice of {revision}"));
    }

    /// Waits until all that was written by now was seen, and gives it back.
    ///
    /// # Panics
    /// The store is away, or the watch ended.
    pub(super) fn end(self) -> Vec<Written> {
        runtime().block_on(async {
            let store = EtcdStore::connect(self.options).await.expect("the store is back");
            let put = Txn { then: vec![Op::put(END, "")], ..Txn::default() };
            let write = async {
                while let Err(error) = store.txn(put.clone()).await {
                    assert!(error.is_transient(), "{error}");
                }
            };
            in_time("the answer to the last write", write).await;
        });
        let until = Instant::now() + PATIENCE;
        let mut log = Vec::new();
        loop {
            match self.written.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(written) => log.push(written),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("the watch of all came no further than {:?}", self.seen)
                }
            }
        }
        self.thread.join().expect("nobody deletes what the watch has not seen");
        log
    }
}

fn runtime() -> Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime can be had")
}

/// Tells all that is written, until the key that is written last.
async fn watch(options: EtcdOptions, seen: &AtomicI64, tell: &mpsc::Sender<Written>) {
    let store = EtcdStore::connect(options).await.expect("the store is there at first");
    let all = KeyRange::prefix("/");
    let mut watch =
        store.watch(all, Revision(1)).await.expect("a watch from a revision on is none to refuse");
    loop {
        let (revision, changes) = match watch.next().await {
            Some(Ok(Notice::Changed { revision, changes })) => (revision, changes),
            Some(Ok(Notice::Compacted { revision })) => panic!("compacted up to {revision}"),
            Some(Err(error)) => panic!("the watch of all ended: {error}"),
            None => panic!("a watch ends only with an error"),
        };
        let end = Key::from(END);
        let last = changes.iter().any(|change| matches!(change, Change::Put(pair) if pair.key == end));
        let told = tell.send((revision, changes));
        seen.store(revision.0, Ordering::Release);
        if told.is_err() || last {
            return;
        }
    }
}
