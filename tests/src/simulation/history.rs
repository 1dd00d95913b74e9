//! Keys with all that they ever were, and transactions on them.

use std::collections::{BTreeMap, HashSet};
use std::ops::Bound;

use cargo_etcdtest::store::{
    Answer, Change, Compare, Key, KeyRange, KeyValue, LeaseId, Op, Page, Read, Result, Revision, StoreError,
    Target, Txn, TxnOutcome,
};

/// What etcd takes in one transaction.
const MAX_OPS: usize = 128;
const MAX_BYTES: usize = 3 << 19;

/// The whole history of a store. What is compacted is refused, and kept all the same.
#[derive(Debug)]
pub(super) struct History {
    revision: Revision,
    compacted: Revision,
    keys: BTreeMap<Key, Vec<Version>>,
    log: Vec<(Revision, Vec<Change>)>,
}

/// What a key was from a revision on; nothing where it was deleted there.
#[derive(Debug)]
struct Version {
    since: Revision,
    pair: Option<KeyValue>,
}

impl History {
    /// A store in which nothing was ever written.
    pub(super) fn new() -> Self {
        Self { revision: Revision(1), compacted: Revision(0), keys: BTreeMap::new(), log: Vec::new() }
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    pub(super) fn compacted(&self) -> Revision {
        self.compacted
    }

    /// Every revision from this one on, with its changes.
    pub(super) fn since(&self, first: Revision) -> &[(Revision, Vec<Change>)] {
        &self.log[self.log.partition_point(|(revision, _)| *revision < first)..]
    }

    /// Reads a range.
    pub(super) fn read(&self, read: &Read) -> Result<Page> {
        self.check_readable(read)?;
        Ok(self.page(read))
    }

    /// Forgets what was before a revision.
    pub(super) fn compact(&mut self, upto: Revision) -> Result<()> {
        if upto > self.revision {
            return Err(StoreError::FutureRevision(upto));
        }
        if upto <= self.compacted {
            return Err(StoreError::Compacted(self.compacted));
        }
        self.compacted = upto;
        Ok(())
    }

    /// Carries out a transaction, where `lives` knows which leases there are.
    pub(super) fn apply(&mut self, txn: &Txn, lives: impl Fn(LeaseId) -> bool) -> Result<TxnOutcome> {
        check(txn)?;
        let succeeded = txn.compares.iter().all(|compare| self.holds(compare));
        let branch = if succeeded { &txn.then } else { &txn.otherwise };
        let leased = |op: &Op| matches!(op, Op::Put { lease: Some(lease), .. } if !lives(*lease));
        if branch.iter().any(leased) {
            return Err(StoreError::LeaseNotFound);
        }
        for op in branch {
            if let Op::Get(read) = op {
                self.check_readable(read)?;
            }
        }
        let mut changes = Vec::new();
        let answers = branch.iter().map(|op| self.carry_out(op, &mut changes)).collect();
        self.log_changes(changes);
        Ok(TxnOutcome { succeeded, revision: self.revision, answers })
    }

    /// Deletes the keys that hang on a lease, as one revision.
    pub(super) fn end_lease(&mut self, lease: LeaseId) {
        let hangs = |pair: &KeyValue| pair.lease == Some(lease);
        let current = self.keys.values().filter_map(|versions| versions.last()?.pair.as_ref());
        let keys: Vec<Key> = current.filter(|pair| hangs(pair)).map(|pair| pair.key.clone()).collect();
        let mut changes = Vec::new();
        for key in keys {
            self.carry_out(&Op::Delete(KeyRange::key(key)), &mut changes);
        }
        self.log_changes(changes);
    }

    fn log_changes(&mut self, changes: Vec<Change>) {
        if !changes.is_empty() {
            self.log.push((self.revision, changes));
        }
    }

    fn carry_out(&mut self, op: &Op, changes: &mut Vec<Change>) -> Answer {
        match op {
            Op::Get(read) => Answer::Page(self.page(read)),
            Op::Put { key, value, lease } => {
                let now = self.begin(changes);
                let versions = self.keys.entry(key.clone()).or_default();
                let before = versions.last().and_then(|version| version.pair.as_ref());
                let (created, version) = before.map_or((now, 1), |pair| (pair.created, pair.version + 1));
                let pair = KeyValue {
                    key: key.clone(),
                    value: value.clone(),
                    created,
                    modified: now,
                    version,
                    lease: *lease,
                };
                versions.push(Version { since: now, pair: Some(pair.clone()) });
                changes.push(Change::Put(pair));
                Answer::Put
            }
            Op::Delete(range) => {
                let keys: Vec<Key> = self.current(range).map(|pair| pair.key.clone()).collect();
                for key in &keys {
                    let now = self.begin(changes);
                    let versions = self.keys.entry(key.clone()).or_default();
                    versions.push(Version { since: now, pair: None });
                    changes.push(Change::Deleted(key.clone()));
                }
                Answer::Deleted(keys.len() as u64)
            }
        }
    }

    /// The revision of a transaction that has made these changes and makes one more.
    fn begin(&mut self, changes: &[Change]) -> Revision {
        if changes.is_empty() {
            self.revision.0 += 1;
        }
        self.revision
    }

    fn check_readable(&self, read: &Read) -> Result<()> {
        match read.at {
            Some(at) if at > self.revision => Err(StoreError::FutureRevision(at)),
            Some(at) if at < self.compacted => Err(StoreError::Compacted(self.compacted)),
            _ => Ok(()),
        }
    }

    /// The pairs of a range as they are now.
    fn current(&self, range: &KeyRange) -> impl Iterator<Item = &KeyValue> {
        self.at(range, self.revision)
    }

    /// The pairs of a range as they were.
    fn at(&self, range: &KeyRange, at: Revision) -> impl Iterator<Item = &KeyValue> {
        let end = range.end.clone().unwrap_or_else(|| range.start.successor());
        let bounds =
            (Bound::Included(range.start.clone()), Bound::Excluded(end.clone().max(range.start.clone())));
        let inverted = end <= range.start;
        let versions = (!inverted).then(|| self.keys.range(bounds)).into_iter().flatten();
        versions.filter_map(move |(_, versions)| {
            let before = versions.partition_point(|version| version.since <= at);
            versions[..before].last()?.pair.as_ref()
        })
    }

    fn page(&self, read: &Read) -> Page {
        let mut pairs = self.at(&read.range, read.at.unwrap_or(self.revision));
        let shown = |pair: &KeyValue| KeyValue {
            value: if read.keys_only { Vec::new() } else { pair.value.clone() },
            ..pair.clone()
        };
        let taken = pairs.by_ref().take(read.limit.unwrap_or(usize::MAX)).map(shown).collect();
        let more = pairs.next().is_some();
        Page { pairs: taken, more, revision: self.revision }
    }

    /// Whether every key of a compare's range satisfies it.
    fn holds(&self, compare: &Compare) -> bool {
        let mut pairs = self.current(&compare.range).peekable();
        if pairs.peek().is_none() {
            return match &compare.target {
                Target::Value(_) => false,
                Target::Version(version) => (*version == 0) == compare.equal,
                Target::Created(revision) | Target::Modified(revision) => (revision.0 == 0) == compare.equal,
                Target::Lease(lease) => lease.is_none() == compare.equal,
            };
        }
        pairs.all(|pair| {
            let same = match &compare.target {
                Target::Value(value) => pair.value == *value,
                Target::Version(version) => pair.version == *version,
                Target::Created(revision) => pair.created == *revision,
                Target::Modified(revision) => pair.modified == *revision,
                Target::Lease(lease) => pair.lease == *lease,
            };
            same == compare.equal
        })
    }
}

/// Refuses what every engine refuses unseen.
fn check(txn: &Txn) -> Result<()> {
    let ops = txn.compares.len().max(txn.then.len()).max(txn.otherwise.len());
    let bytes = |op: &Op| match op {
        Op::Put { key, value, .. } => key.as_bytes().len() + value.len(),
        Op::Get(_) | Op::Delete(_) => 0,
    };
    let bytes: usize = txn.then.iter().chain(&txn.otherwise).map(bytes).sum();
    if ops > MAX_OPS || bytes > MAX_BYTES {
        return Err(StoreError::TooLarge { reason: format!("{ops} operations, {bytes} bytes") });
    }
    for branch in [&txn.then, &txn.otherwise] {
        let mut put = HashSet::new();
        let deleted =
            |key: &Key| branch.iter().any(|op| matches!(op, Op::Delete(range) if range.contains(key)));
        for op in branch {
            if let Op::Put { key, .. } = op
                && (!put.insert(key) || deleted(key))
            {
                return Err(StoreError::DuplicateKey(key.clone()));
            }
        }
    }
    Ok(())
}
