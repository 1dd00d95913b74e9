//! Empty stores of either engine, as many as a test asks for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cargo_etcdtest::store::SharedStore;
use cargo_etcdtest::store::etcd::{EtcdOptions, EtcdStore};
use cargo_etcdtest::store::local::LocalStore;
use tempfile::TempDir;

use crate::etcd::Etcd;

/// Embedded stores, gone with this.
#[derive(Debug)]
pub struct LocalStores {
    root: TempDir,
    count: AtomicUsize,
}

/// Stores on one etcd process, each in a namespace of its own, gone with this. They share
/// the process's revisions and compactions, so only one may be in use at a time.
#[derive(Debug)]
pub struct EtcdStores {
    etcd: Etcd,
    count: AtomicUsize,
}

impl LocalStores {
    /// No store yet.
    #[expect(clippy::new_without_default, reason = "it makes a folder")]
    pub fn new() -> Self {
        Self { root: tempfile::tempdir().expect("make a folder"), count: AtomicUsize::default() }
    }

    /// An empty store.
    pub fn empty(&self) -> SharedStore {
        let folder = self.count.fetch_add(1, Ordering::Relaxed).to_string();
        Arc::new(LocalStore::open(&self.root.path().join(folder)).expect("a new folder takes a store"))
    }
}

impl EtcdStores {
    /// Starts an etcd whose leases end soon: it grants none shorter than one and a half
    /// times its election timeout.
    pub fn start() -> Self {
        let etcd = Etcd::with(&["--heartbeat-interval=50", "--election-timeout=500"]);
        Self { etcd, count: AtomicUsize::default() }
    }

    /// An empty store.
    pub async fn empty(&self) -> SharedStore {
        let namespace = format!("{}/", self.count.fetch_add(1, Ordering::Relaxed));
        let options = EtcdOptions { namespace, ..self.etcd.options() };
        Arc::new(EtcdStore::connect(options).await.expect("a healthy etcd takes a connection"))
    }
}
