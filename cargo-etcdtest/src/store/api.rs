//! What every store engine offers: the part of etcd's data model that the project uses.
//!
//! Revisions, versions, leases, compares and watches mean what they mean in etcd's v3
//! API; an engine that cannot keep that meaning is refused.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::clock;
use super::error::StoreError;

/// How many keys are read at once to count them, where an engine has no better way.
const COUNTED: usize = 10_000;

/// A connection to a store, shared by everything in the process.
pub type SharedStore = Arc<dyn Store>;

/// The result of an operation on the store.
pub type Result<T> = std::result::Result<T, StoreError>;

/// A key, as bytes; ours are UTF-8 paths made by [`super::keys`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Vec<u8>);

/// A position in the store's history: each transaction that changes something is one revision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub i64);

/// A lease: keys attached to it vanish when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseId(pub i64);

/// A key with its value and its history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Key,
    /// The value; empty where only keys were asked for.
    pub value: Vec<u8>,
    /// When the key came into being, last time.
    pub created: Revision,
    /// When it was last written.
    pub modified: Revision,
    /// How often it was written since it came into being, from 1.
    pub version: i64,
    /// The lease it hangs on.
    pub lease: Option<LeaseId>,
}

/// The keys from `start` up to, not including, `end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// The first key.
    pub start: Key,
    /// The key after the last; `None` for `start` alone.
    pub end: Option<Key>,
}

/// A read of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// Which keys.
    pub range: KeyRange,
    /// At most so many, in the order of keys.
    pub limit: Option<usize>,
    /// As it was at this revision; `None` for now.
    pub at: Option<Revision>,
    /// Leave the values out.
    pub keys_only: bool,
}

/// The answer to a [`Read`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The pairs in the order of their keys.
    pub pairs: Vec<KeyValue>,
    /// There are more keys in the range than the limit let through.
    pub more: bool,
    /// The store's revision when it answered.
    pub revision: Revision,
}

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Read a range; sees the writes before it in the transaction.
    Get(Read),
    /// Write a key.
    Put {
        /// The key.
        key: Key,
        /// Its new value.
        value: Vec<u8>,
        /// The lease it hangs on from now on; `None` takes it off any.
        lease: Option<LeaseId>,
    },
    /// Delete a range.
    Delete(KeyRange),
}

/// A condition of a transaction: every key of the range must satisfy it. Where the range
/// has no key, a value never matches and every other target counts as 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// Which keys.
    pub range: KeyRange,
    /// What of them.
    pub target: Target,
    /// True for "is equal to", false for "is not equal to".
    pub equal: bool,
}

/// What a [`Compare`] looks at, with the value to compare to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The value.
    Value(Vec<u8>),
    /// How often the key was written; 0 for a key that does not exist.
    Version(i64),
    /// The revision at which it came into being; 0 for a key that does not exist.
    Created(Revision),
    /// The revision at which it was last written; 0 for a key that does not exist.
    Modified(Revision),
    /// The lease it hangs on.
    Lease(Option<LeaseId>),
}

/// A transaction: `then` if every compare holds, else `otherwise`; all of it or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// The conditions.
    pub compares: Vec<Compare>,
    /// What is done if all hold.
    pub then: Vec<Op>,
    /// What is done if one does not.
    pub otherwise: Vec<Op>,
}

impl Txn {
    /// Whether it changes nothing, whatever holds.
    pub(super) fn only_reads(&self) -> bool {
        self.then.iter().chain(&self.otherwise).all(|op| matches!(op, Op::Get(_)))
    }
}

/// The answer to a [`Txn`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnOutcome {
    /// Whether every compare held.
    pub succeeded: bool,
    /// The store's revision after it: that of the transaction itself if it wrote anything.
    pub revision: Revision,
    /// One answer for each operation of the branch that was taken, in order.
    pub answers: Vec<Answer>,
}

/// The answer to one [`Op`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To a get.
    Page(Page),
    /// To a put.
    Put,
    /// To a delete: how many keys it removed.
    Deleted(u64),
}

/// What a watch delivers. A watch only wakes; what it woke decides by reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// All changes of one revision in the watched range.
    Changed {
        /// The revision.
        revision: Revision,
        /// The changes in the order of the transaction.
        changes: Vec<Change>,
    },
    /// History before `revision` is gone: changes may have been missed, read the range
    /// again. The watch goes on after `revision`.
    Compacted {
        /// The store's revision from which the watch goes on.
        revision: Revision,
    },
}

/// One change of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was written.
    Put(KeyValue),
    /// It was deleted, or its lease ended.
    Deleted(Key),
}

/// A watch; dropping it ends it.
#[derive(Debug)]
pub struct Watch {
    notices: mpsc::Receiver<Result<Notice>>,
}

/// A lease as the store granted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its id.
    pub id: LeaseId,
    /// How long it lives after each renewal; may be longer than asked for.
    pub ttl: Duration,
}

/// What a store says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreStatus {
    /// `local` or `etcd`.
    pub kind: &'static str,
    /// The file, or the endpoints.
    pub location: String,
    /// The version of the engine, where it may be known.
    pub version: Option<String>,
    /// Bytes on disk.
    pub size: Option<u64>,
    /// The largest size it may reach, in bytes.
    pub quota: Option<u64>,
    /// The current revision.
    pub revision: Revision,
    /// One line for each member of a cluster: endpoint, and `leader`, `follower` or what is wrong.
    pub members: Vec<(String, String)>,
    /// What needs somebody's attention: alarms, known security holes.
    pub warnings: Vec<String>,
}

/// A store engine.
///
/// # Errors
/// Every method fails with [`StoreError::Unavailable`] where nothing was changed because
/// the store could not be asked, and [`Store::txn`] with [`StoreError::UnknownOutcome`]
/// where it may or may not have been applied.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// Reads a range.
    async fn read(&self, read: Read) -> Result<Page>;

    /// How many keys a range holds now.
    async fn count(&self, range: KeyRange) -> Result<u64> {
        let mut read = Read { limit: Some(COUNTED), keys_only: true, ..range.into() };
        let mut count = 0;
        loop {
            let page = self.read(read.clone()).await?;
            count += page.pairs.len() as u64;
            match page.pairs.last() {
                Some(last) if page.more => read.range.start = last.key.successor(),
                _ => return Ok(count),
            }
        }
    }

    /// Carries out a transaction. A key that is put twice, or put and deleted, in one
    /// branch is refused with [`StoreError::DuplicateKey`].
    async fn txn(&self, txn: Txn) -> Result<TxnOutcome>;

    /// Watches a range from a revision on, that revision included; 0 for from now on.
    async fn watch(&self, range: KeyRange, from: Revision) -> Result<Watch>;

    /// Grants a lease of at least `ttl`, which counts in whole seconds.
    async fn grant(&self, ttl: Duration) -> Result<Lease>;

    /// Renews a lease and says how long it lives from now;
    /// [`StoreError::LeaseNotFound`] where it has ended.
    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration>;

    /// Ends a lease and deletes the keys that hang on it.
    async fn revoke(&self, lease: LeaseId) -> Result<()>;

    /// Forgets the history up to a revision; what is current stays.
    async fn compact(&self, upto: Revision) -> Result<()>;

    /// What the store says of itself.
    async fn status(&self) -> Result<StoreStatus>;

    /// The time since some moment, by the clock of this machine that tells when a lease of
    /// the store must be taken as lost: one that runs on while the machine sleeps.
    fn now(&self) -> Duration {
        clock::now()
    }

    /// The id that a cluster gave itself, where there is one that may be known.
    fn cluster_id(&self) -> Option<u64> {
        None
    }
}

impl Key {
    /// A key of these bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The smallest key after all that begin with this one; `None` for a key of `0xff` alone.
    pub fn prefix_end(&self) -> Option<Self> {
        let kept = self.0.iter().rposition(|&byte| byte != u8::MAX)?;
        let mut end = self.0[..=kept].to_vec();
        end[kept] += 1;
        Some(Self(end))
    }

    /// The smallest key after this one.
    #[must_use]
    pub fn successor(&self) -> Self {
        Self([&self.0[..], &[0]].concat())
    }
}

impl From<&str> for Key {
    fn from(key: &str) -> Self {
        Self(key.into())
    }
}

impl From<String> for Key {
    fn from(key: String) -> Self {
        Self(key.into_bytes())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl KeyRange {
    /// One key.
    pub fn key(key: impl Into<Key>) -> Self {
        Self { start: key.into(), end: None }
    }

    /// All keys that begin with a prefix, which ends in `/` for the children of a key.
    pub fn prefix(prefix: impl Into<Key>) -> Self {
        let start = prefix.into();
        let end = start.prefix_end();
        Self { start, end }
    }

    /// Whether a key lies in the range.
    pub fn contains(&self, key: &Key) -> bool {
        match &self.end {
            None => *key == self.start,
            Some(end) => (&self.start..end).contains(&key),
        }
    }
}

impl Read {
    /// One key, as it is now.
    pub fn key(key: impl Into<Key>) -> Self {
        KeyRange::key(key).into()
    }
}

impl From<KeyRange> for Read {
    fn from(range: KeyRange) -> Self {
        Self { range, limit: None, at: None, keys_only: false }
    }
}

impl Op {
    /// Writes a key that hangs on no lease.
    pub fn put(key: impl Into<Key>, value: impl Into<Vec<u8>>) -> Self {
        Self::Put { key: key.into(), value: value.into(), lease: None }
    }
}

impl Compare {
    /// Holds where the key was last written at `revision`; at 0, where it does not exist.
    pub fn modified(key: impl Into<Key>, revision: Revision) -> Self {
        Self { range: KeyRange::key(key), target: Target::Modified(revision), equal: true }
    }

    /// Holds where the key came into being at `revision`; at 0, where it does not exist.
    pub fn created(key: impl Into<Key>, revision: Revision) -> Self {
        Self { range: KeyRange::key(key), target: Target::Created(revision), equal: true }
    }

    /// Holds where the range has no key.
    pub fn absent(range: KeyRange) -> Self {
        Self { range, target: Target::Created(Revision(0)), equal: true }
    }
}

impl TxnOutcome {
    /// The pages of the gets of the branch that was taken, in order.
    pub fn pages(self) -> impl Iterator<Item = Page> {
        self.answers.into_iter().filter_map(|answer| match answer {
            Answer::Page(page) => Some(page),
            Answer::Put | Answer::Deleted(_) => None,
        })
    }
}

impl Watch {
    /// A watch that delivers what an engine sends.
    pub fn new(notices: mpsc::Receiver<Result<Notice>>) -> Self {
        Self { notices }
    }

    /// The next notice. Waits through outages, which the engine mends by itself; an error
    /// is final, and `None` comes after it.
    pub async fn next(&mut self) -> Option<Result<Notice>> {
        self.notices.recv().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_range_holds_the_children_and_nothing_else() {
        let range = KeyRange::prefix("/runs/");
        assert!(range.contains(&"/runs/".into()));
        assert!(range.contains(&Key::new(b"/runs/\xff\xff".to_vec())));
        assert!(!range.contains(&"/runs0".into()));
        assert!(!range.contains(&"/runs".into()));
        assert_eq!(Key::new(b"a\xff\xff".to_vec()).prefix_end(), Some("b".into()));
        assert_eq!(Key::new(b"\xff".to_vec()).prefix_end(), None);
    }
}
