//! Who sees all that is written to a store, while it is written.

use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use cargo_etcdtest::store::etcd::{EtcdOptions, EtcdStore};
use cargo_etcdtest::store::{Change, Key, KeyRange, Notice, Op, Revision, Store, StoreError, Txn};
use tokio::runtime::Runtime;

/// A revision of the store with its changes.
pub(super) type Written = (Revision, Vec<Change>);

/// The key that is written last.
const END: &str = "/end";
/// How long the store may need to answer at the end.
const PATIENCE: Duration = Duration::from_mins(1);

/// A watch over the whole of an etcd, from its beginning.
#[derive(Debug)]
pub(super) struct Witness {
    options: EtcdOptions,
    written: mpsc::Receiver<Written>,
    thread: JoinHandle<()>,
}

impl Witness {
    /// Begins to watch.
    pub(super) fn of(options: EtcdOptions) -> Self {
        let (tell, written) = mpsc::channel();
        let thread = std::thread::spawn({
            let options = options.clone();
            move || runtime().block_on(watch(options, &tell))
        });
        Self { options, written, thread }
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
            tokio::time::timeout(PATIENCE, write).await.expect("the store is back");
        });
        self.thread.join().expect("nobody deletes what the watch has not seen");
        self.written.into_iter().collect()
    }
}

fn runtime() -> Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime can be had")
}

/// Tells all that is written, until the key that is written last.
async fn watch(options: EtcdOptions, tell: &mpsc::Sender<Written>) {
    let store = EtcdStore::connect(options).await.expect("the store is there at first");
    let all = KeyRange::prefix("/");
    let mut watch =
        store.watch(all, Revision(1)).await.expect("a watch from a revision on is none to refuse");
    loop {
        let (revision, changes) = match watch.next().await {
            Some(Ok(Notice::Changed { revision, changes })) => (revision, changes),
            Some(Ok(Notice::Compacted { revision })) => panic!("compacted up to {revision}"),
            Some(Err(error)) => panic!("{}", describe(&error)),
            None => panic!("a watch ends only with an error"),
        };
        let end = Key::from(END);
        let last = changes.iter().any(|change| matches!(change, Change::Put(pair) if pair.key == end));
        if tell.send((revision, changes)).is_err() || last {
            return;
        }
    }
}

fn describe(error: &StoreError) -> String {
    format!("the watch ended: {error}")
}
