//! Transactions: conditions, then changes, which together are one revision.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension, params};

use super::fault::Outcome;
use super::history::{self, Position, bounds};
use super::lease;
use crate::store::StoreError;
use crate::store::api::{
    Answer, Compare, Key, KeyRange, LeaseId, Op, Read, Result, Revision, Target, Txn, TxnOutcome,
};

/// etcd's default limits; kept here so that what works on one engine works on the other.
const MAX_OPS: usize = 128;
const MAX_BYTES: usize = 3 << 19;

/// Refuses a transaction that etcd would refuse unseen.
pub(super) fn check(txn: &Txn) -> Result<()> {
    let ops = txn.compares.len().max(txn.then.len()).max(txn.otherwise.len());
    if ops > MAX_OPS {
        return Err(StoreError::TooLarge {
            reason: format!("{ops} operations, at most {MAX_OPS} are taken"),
        });
    }
    let bytes = txn.then.iter().chain(&txn.otherwise).map(op_bytes).sum::<usize>();
    if bytes > MAX_BYTES {
        return Err(StoreError::TooLarge { reason: format!("{bytes} bytes, at most {MAX_BYTES} are taken") });
    }
    check_writes(&txn.then)?;
    check_writes(&txn.otherwise)
}

/// Refuses two puts to one key, and a put within a range that is deleted, in any order.
fn check_writes(ops: &[Op]) -> Result<()> {
    let deleted = || {
        ops.iter().filter_map(|op| match op {
            Op::Delete(range) => Some(range),
            Op::Get(_) | Op::Put { .. } => None,
        })
    };
    let mut put = HashSet::new();
    for op in ops {
        if let Op::Put { key, .. } = op
            && (!put.insert(key) || deleted().any(|range| range.contains(key)))
        {
            return Err(StoreError::DuplicateKey(key.clone()));
        }
    }
    Ok(())
}

fn op_bytes(op: &Op) -> usize {
    match op {
        Op::Put { key, value, .. } => key.as_bytes().len() + value.len(),
        Op::Get(Read { range, .. }) | Op::Delete(range) => range.start.as_bytes().len(),
    }
}

/// Carries out a transaction.
pub(super) fn apply(connection: &Connection, txn: &Txn) -> Outcome<TxnOutcome> {
    let mut succeeded = true;
    for compare in &txn.compares {
        succeeded = succeeded && holds(connection, compare)?;
    }
    let branch = if succeeded { &txn.then } else { &txn.otherwise };
    let position = history::position(connection)?;
    check_leases(connection, branch)?;
    check_reads(branch, position)?;
    let mut changes = Changes::new(connection, position);
    let answers = branch.iter().map(|op| changes.apply(op)).collect::<Outcome<_>>()?;
    Ok(TxnOutcome { succeeded, answers, revision: changes.finish()? })
}

fn check_leases(connection: &Connection, ops: &[Op]) -> Outcome<()> {
    for op in ops {
        if let Op::Put { lease: Some(lease), .. } = op
            && !lease::lives(connection, *lease)?
        {
            return Err(StoreError::LeaseNotFound.into());
        }
    }
    Ok(())
}

fn check_reads(ops: &[Op], position: Position) -> Outcome<()> {
    for op in ops {
        if let Op::Get(read) = op {
            history::check_readable(read.at, position)?;
        }
    }
    Ok(())
}

/// Whether every key of a compare's range satisfies it.
fn holds(connection: &Connection, compare: &Compare) -> Outcome<bool> {
    let read = Read {
        range: compare.range.clone(),
        limit: None,
        at: None,
        keys_only: !matches!(compare.target, Target::Value(_)),
    };
    let pairs = history::page(connection, &read, Revision::default())?.pairs;
    if pairs.is_empty() {
        return Ok(match &compare.target {
            Target::Value(_) => false,
            Target::Version(version) => (*version == 0) == compare.equal,
            Target::Created(revision) | Target::Modified(revision) => (revision.0 == 0) == compare.equal,
            Target::Lease(lease) => lease.is_none() == compare.equal,
        });
    }
    Ok(pairs.into_iter().all(|pair| {
        let same = match &compare.target {
            Target::Value(value) => pair.value == *value,
            Target::Version(version) => pair.version == *version,
            Target::Created(revision) => pair.created == *revision,
            Target::Modified(revision) => pair.modified == *revision,
            Target::Lease(lease) => pair.lease == *lease,
        };
        same == compare.equal
    }))
}

/// Changes that become one revision.
pub(super) struct Changes<'a> {
    connection: &'a Connection,
    before: Position,
    count: i64,
}

impl<'a> Changes<'a> {
    /// No changes yet, after those of `before`.
    pub(super) fn new(connection: &'a Connection, before: Position) -> Self {
        Self { connection, before, count: 0 }
    }

    /// The store's revision with these changes.
    fn revision(&self) -> Revision {
        Revision(self.before.revision.0 + i64::from(self.count > 0))
    }

    fn apply(&mut self, op: &Op) -> Outcome<Answer> {
        match op {
            Op::Get(read) => Ok(Answer::Page(history::page(self.connection, read, self.revision())?)),
            Op::Put { key, value, lease } => self.put(key, value, *lease).map(|()| Answer::Put),
            Op::Delete(range) => self.delete(range).map(Answer::Deleted),
        }
    }

    /// The log's row for the next change, and its revision.
    fn next_row(&mut self) -> Outcome<(i64, Revision)> {
        let revision = Revision(self.before.revision.0 + 1);
        let row = history::row_number(revision, self.count)
            .ok_or_else(|| StoreError::TooLarge { reason: format!("{} changes at once", self.count) })?;
        self.count += 1;
        Ok((row, revision))
    }

    fn put(&mut self, key: &Key, value: &[u8], lease: Option<LeaseId>) -> Outcome<()> {
        let (row, revision) = self.next_row()?;
        let key = key.as_bytes();
        let lease = lease.map(|lease| lease.0);
        let old = self
            .connection
            .prepare_cached(
                "SELECT l.created, l.version FROM current c JOIN log l USING (id) WHERE c.key = ?1",
            )?
            .query_one([key], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))
            .optional()?;
        let (created, version) = old.map_or((revision.0, 1), |(created, version)| (created, version + 1));
        self.connection
            .prepare_cached("INSERT INTO log VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
            .execute(params![row, key, created, version, lease, value])?;
        self.connection
            .prepare_cached("REPLACE INTO current VALUES (?1, ?2, ?3)")?
            .execute(params![key, row, lease])?;
        Ok(())
    }

    /// Deletes a range and says how many keys it held.
    fn delete(&mut self, range: &KeyRange) -> Outcome<u64> {
        let (start, end) = bounds(range);
        let keys = self
            .connection
            .prepare_cached("SELECT key FROM current WHERE key >= ?1 AND key < ?2 ORDER BY key")?
            .query_map([start, end], |row| row.get(0))?
            .collect::<rusqlite::Result<Vec<Vec<u8>>>>()?;
        for key in &keys {
            self.delete_key(key)?;
        }
        Ok(keys.len() as u64)
    }

    /// Deletes a key that exists.
    pub(super) fn delete_key(&mut self, key: &[u8]) -> Outcome<()> {
        let (row, _) = self.next_row()?;
        self.connection
            .prepare_cached("INSERT INTO log VALUES (?1, ?2, 0, 0, NULL, NULL)")?
            .execute(params![row, key])?;
        self.connection.prepare_cached("DELETE FROM current WHERE key = ?1")?.execute([key])?;
        Ok(())
    }

    /// Makes the changes the store's newest revision, if there are any, and returns the
    /// store's revision.
    pub(super) fn finish(self) -> Outcome<Revision> {
        let revision = self.revision();
        if self.count > 0 {
            self.connection.prepare_cached("UPDATE position SET revision = ?1")?.execute([revision.0])?;
        }
        Ok(revision)
    }
}
