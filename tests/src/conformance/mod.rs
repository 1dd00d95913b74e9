//! What every store engine must do, as cases that take an empty store of any engine, and
//! as generated scripts that two engines must answer alike.
//!
//! An empty store may stand at any revision; nobody else writes to it.

#![expect(clippy::unwrap_used, reason = "by a panic a case says what failed")]
#![allow(clippy::wildcard_imports, reason = "every module of cases speaks in the words of this one")]

mod compaction;
mod keys;
mod leases;
pub mod scripts;
mod transactions;
mod transcript;
mod watches;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use cargo_etcdtest::store::{
    Change, Key, KeyRange, KeyValue, LeaseId, Notice, Op, Read, Revision, SharedStore, Store, StoreError,
    Txn, TxnOutcome, Watch,
};

pub use transactions::increment;
pub use transcript::transcript;

/// How long to wait for what must happen.
const PATIENCE: Duration = Duration::from_mins(1);

/// One case of the suite.
#[derive(Clone, Copy)]
pub struct Case {
    /// Where it stands and which behaviour it is about.
    pub name: &'static str,
    run: fn(SharedStore) -> Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// The cases of a module, as a constant; a case that is left out of it is dead code.
macro_rules! cases {
    ($($case:ident),* $(,)?) => {
        pub(super) const CASES: &[super::Case] = &[$(super::Case {
            name: concat!(module_path!(), "::", stringify!($case)),
            run: |store| Box::pin($case(store)),
        }),*];
    };
}
use cases;

/// Runs every case, each on an empty store, one after the other, and panics with the names
/// of those that fail.
pub async fn run_all<F, S>(empty: F)
where
    F: Fn() -> S,
    S: Future<Output = SharedStore>,
{
    let cases = [keys::CASES, transactions::CASES, leases::CASES, watches::CASES, compaction::CASES].concat();
    let mut failed = Vec::new();
    for case in cases {
        if tokio::spawn((case.run)(empty().await)).await.is_err() {
            failed.push(case.name);
        }
    }
    assert!(failed.is_empty(), "cases that failed: {failed:#?}");
}

async fn write(store: &dyn Store, ops: impl Into<Vec<Op>>) -> TxnOutcome {
    store.txn(Txn { then: ops.into(), ..Txn::default() }).await.unwrap()
}

async fn put(store: &dyn Store, key: &str, value: &str) -> Revision {
    write(store, [Op::put(key, value)]).await.revision
}

async fn delete(store: &dyn Store, range: KeyRange) -> Revision {
    write(store, [Op::Delete(range)]).await.revision
}

async fn refused(store: &dyn Store, ops: impl Into<Vec<Op>>) -> StoreError {
    store.txn(Txn { then: ops.into(), ..Txn::default() }).await.unwrap_err()
}

async fn pair(store: &dyn Store, key: &str) -> Option<KeyValue> {
    store.read(Read::key(key)).await.unwrap().pairs.pop()
}

async fn revision(store: &dyn Store) -> Revision {
    store.read(Read::key("any")).await.unwrap().revision
}

/// The keys and values of a range, as text.
async fn texts(store: &dyn Store, read: impl Into<Read>) -> Vec<(String, String)> {
    let text = |pair: &KeyValue| (pair.key.to_string(), String::from_utf8_lossy(&pair.value).into_owned());
    store.read(read.into()).await.unwrap().pairs.iter().map(text).collect()
}

fn at(range: KeyRange, revision: Revision) -> Read {
    Read { at: Some(revision), ..Read::from(range) }
}

fn range(start: &str, end: &str) -> KeyRange {
    KeyRange { start: start.into(), end: Some(end.into()) }
}

fn leased(key: &str, lease: LeaseId) -> Op {
    Op::Put { key: key.into(), value: b"leased".into(), lease: Some(lease) }
}

fn later(revision: Revision, by: i64) -> Revision {
    Revision(revision.0 + by)
}

async fn next(watch: &mut Watch) -> Notice {
    let notice = tokio::time::timeout(PATIENCE, watch.next()).await;
    notice.expect("a notice in time").expect("a watch that goes on").unwrap()
}

/// The next notice, as its revision and `key=value` or `-key` for each change.
async fn next_changes(watch: &mut Watch) -> (Revision, Vec<String>) {
    match next(watch).await {
        Notice::Changed { revision, changes } => (revision, changes.iter().map(change_text).collect()),
        Notice::Compacted { revision } => panic!("compacted up to {revision}"),
    }
}

fn change_text(change: &Change) -> String {
    match change {
        Change::Put(pair) => format!("{}={}", pair.key, String::from_utf8_lossy(&pair.value)),
        Change::Deleted(key) => format!("-{key}"),
    }
}

/// Waits until a watch tells that a key was deleted.
async fn until_deleted(watch: &mut Watch, key: &str) {
    let key = Key::from(key);
    while !matches!(next(watch).await, Notice::Changed { changes, .. } if changes.contains(&Change::Deleted(key.clone())))
    {
    }
}
