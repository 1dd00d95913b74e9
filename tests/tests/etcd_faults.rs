//! The etcd engine against real processes that die, freeze, fill up and refuse.

use std::time::Duration;

use cargo_etcdtest::store::etcd::{EtcdOptions, EtcdStore};
use cargo_etcdtest::store::{Notice, Op, Read, Revision, Store, StoreError, Txn, Watch};
use whole_program::etcd::{Cluster, Etcd};

async fn put(store: &EtcdStore, key: &str, value: &str) -> Result<Revision, StoreError> {
    let txn = Txn { then: vec![Op::put(key, value)], ..Txn::default() };
    Ok(store.txn(txn).await?.revision)
}

#[tokio::test]
async fn a_key_written_is_read() {
    let etcd = Etcd::start();
    let store = etcd.connect().await;
    let revision = put(&store, "/a", "1").await.unwrap();
    let page = store.read(Read::key("/a")).await.unwrap();
    assert_eq!(page.pairs[0].modified, revision);
    println!("{:?}", store.status().await.unwrap());
}
