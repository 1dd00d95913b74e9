//! Reading: what is current, what was, what changed, and forgetting it.

use rusqlite::{Connection, Row, params};

use super::fault::Outcome;
use crate::store::StoreError;
use crate::store::api::{Change, Key, KeyRange, KeyValue, LeaseId, Notice, Page, Read, Revision};

/// How many changes one revision can hold, as a power of two.
const SUB_BITS: u32 = 24;

/// How many revisions of history are always kept, and how many more may gather before the
/// oldest of them are forgotten together. A run of 2,000 tests makes about a hundred, of
/// 13 MB. Whoever is further behind reads again what is current.
const KEPT: i64 = 300;
const GATHERED: i64 = 100;

/// From how many unused pages on the file is cut shorter: fewer are soon used again.
const SPARE_PAGES: i64 = 4096;

/// How many pages it is cut by at once.
const CUT_PAGES: u32 = 1024;

/// About how many bytes of changes are read at once.
const CHANGES_BYTES: usize = 1 << 20;

/// Where the store's history stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position {
    /// The revision of the last change.
    pub(super) revision: Revision,
    /// History before this revision is gone.
    pub(super) compacted: Revision,
}

/// The changes of a range from a revision on.
pub(super) struct Changes {
    /// One notice for each revision.
    pub(super) notices: Vec<Notice>,
    /// The revision that was not looked at yet.
    pub(super) next: Revision,
    /// There is more to read at once.
    pub(super) more: bool,
}

/// The number of the log's row for a change of a revision; `None` where it holds no more.
pub(super) fn row_number(revision: Revision, sub: i64) -> Option<i64> {
    (sub < 1 << SUB_BITS).then_some(revision.0 << SUB_BITS | sub)
}

/// The number of the first row of a revision. No revision comes near the limit of 2^39;
/// what is asked for may.
fn first_row(revision: Revision) -> i64 {
    revision.0.clamp(0, i64::MAX >> SUB_BITS) << SUB_BITS
}

/// The bounds of a range: the first key, and the one after the last.
pub(super) fn bounds(range: &KeyRange) -> (Vec<u8>, Vec<u8>) {
    let end = range.end.clone().unwrap_or_else(|| range.start.successor());
    (range.start.as_bytes().to_vec(), end.as_bytes().to_vec())
}

/// Where the store's history stands.
pub(super) fn position(connection: &Connection) -> Outcome<Position> {
    let mut statement = connection.prepare_cached("SELECT revision, compacted FROM position")?;
    Ok(statement.query_one([], |row| {
        Ok(Position { revision: Revision(row.get(0)?), compacted: Revision(row.get(1)?) })
    })?)
}

/// Refuses a revision that cannot be read.
pub(super) fn check_readable(at: Option<Revision>, position: Position) -> Outcome<()> {
    match past(at) {
        Some(at) if at > position.revision => Err(StoreError::FutureRevision(at).into()),
        Some(at) if at < position.compacted => Err(StoreError::Compacted(position.compacted).into()),
        _ => Ok(()),
    }
}

/// Reads a range where the newest change is `now`.
pub(super) fn page(connection: &Connection, read: &Read, now: Revision) -> Outcome<Page> {
    let (start, end) = bounds(&read.range);
    let limit = read.limit;
    // One more tells whether there is more.
    let fetched = limit.map_or(-1, |limit| i64::try_from(limit).map_or(-1, |limit| limit.saturating_add(1)));
    let past = past(read.at).filter(|&at| at < now);
    let until = past.map_or(i64::MAX, |at| first_row(Revision(at.0 + 1)));
    let (source, newest) = match past {
        None => ("current", ""),
        Some(_) => {
            ("log", "AND n.id = (SELECT max(id) FROM log other WHERE other.key = n.key AND other.id < ?4)")
        }
    };
    let value = if read.keys_only { "x''" } else { "l.value" };
    let mut statement = connection.prepare_cached(&format!(
        "SELECT l.id, l.key, l.created, l.version, l.lease, {value} FROM {source} n CROSS JOIN log l ON l.id = n.id
         WHERE n.key >= ?1 AND n.key < ?2 AND n.id < ?4 {newest} AND l.value IS NOT NULL ORDER BY n.key LIMIT ?3"
    ))?;
    let mut pairs =
        statement.query_map(params![start, end, fetched, until], pair)?.collect::<Result<Vec<_>, _>>()?;
    let more = limit.is_some_and(|limit| pairs.len() > limit);
    pairs.truncate(limit.unwrap_or(usize::MAX));
    Ok(Page { pairs, more, revision: now })
}

/// Reads the changes of a range from a revision on, not all at once if they are many.
pub(super) fn changes(connection: &Connection, range: &KeyRange, from: Revision) -> Outcome<Changes> {
    let position = position(connection)?;
    let next = from.max(Revision(position.revision.0 + 1));
    let mut changes = Changes { notices: Vec::new(), next, more: false };
    if from < position.compacted {
        changes.notices.push(Notice::Compacted { revision: position.compacted });
        changes.next = Revision(position.compacted.0 + 1);
        changes.more = true;
        return Ok(changes);
    }
    let (start, end) = bounds(range);
    // The plus signs make SQLite walk the log in its order, not by key.
    let mut statement = connection.prepare_cached(
        "SELECT id, key, created, version, lease, value FROM log
         WHERE id >= ?1 AND +key >= ?2 AND +key < ?3 ORDER BY id",
    )?;
    let mut rows = statement.query(params![first_row(from), start, end])?;
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let at = revision_of(row.get(0)?);
        let change = change(row)?;
        bytes += size_of::<Change>() + change_bytes(&change);
        if let Some(Notice::Changed { revision, changes }) = changes.notices.last_mut()
            && *revision == at
        {
            changes.push(change);
        } else if bytes > CHANGES_BYTES && !changes.notices.is_empty() {
            changes.next = at;
            changes.more = true;
            break;
        } else {
            changes.notices.push(Notice::Changed { revision: at, changes: vec![change] });
        }
    }
    Ok(changes)
}

/// How many keys a range holds.
pub(super) fn count(connection: &Connection, range: &KeyRange) -> Outcome<u64> {
    let (start, end) = bounds(range);
    let mut statement =
        connection.prepare_cached("SELECT count(*) FROM current WHERE key >= ?1 AND key < ?2")?;
    Ok(statement.query_one([start, end], |row| row.get::<_, i64>(0))?.unsigned_abs())
}

/// Forgets what was before a revision, and gives back the space. What can be read at it
/// stays, and all its changes.
pub(super) fn compact(connection: &Connection, upto: Revision) -> Outcome<()> {
    let position = position(connection)?;
    if upto > position.revision {
        return Err(StoreError::FutureRevision(upto).into());
    }
    if upto <= position.compacted {
        return Err(StoreError::Compacted(position.compacted).into());
    }
    forget(connection, position, upto)?;
    cut(connection, "PRAGMA incremental_vacuum")
}

/// Whether more history has gathered than is kept.
pub(super) fn is_long(connection: &Connection) -> Outcome<bool> {
    let Position { revision, compacted } = position(connection)?;
    Ok(revision.0 - compacted.0 > KEPT + GATHERED)
}

/// Forgets the oldest history where more has gathered than is kept, a little at a time. The
/// space is used again; a file that is mostly unused is cut shorter, a little at a time too.
pub(super) fn trim(connection: &Connection) -> Outcome<()> {
    if !is_long(connection)? {
        return Ok(());
    }
    let position = position(connection)?;
    forget(connection, position, Revision(position.compacted.0 + GATHERED))?;
    let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (unused, pages) = (number("freelist_count")?, number("page_count")?);
    if unused > SPARE_PAGES && unused > pages / 2 {
        cut(connection, &format!("PRAGMA incremental_vacuum({CUT_PAGES})"))?;
    }
    Ok(())
}

/// Deletes what was superseded before a revision. Only what was written since the last time
/// is looked at: it is what supersedes, and what was deleted.
fn forget(connection: &Connection, position: Position, upto: Revision) -> Outcome<()> {
    let (from, before, until) =
        (first_row(position.compacted), first_row(upto), first_row(Revision(upto.0 + 1)));
    connection
        .prepare_cached(
            "DELETE FROM log WHERE id < ?2 AND id IN (
                SELECT (SELECT max(older.id) FROM log older WHERE older.key = newer.key AND older.id < newer.id)
                FROM log newer WHERE newer.id >= ?1 AND newer.id < ?3)",
        )?
        .execute([from, before, until])?;
    connection
        .prepare_cached("DELETE FROM log WHERE id >= ?1 AND id < ?2 AND value IS NULL")?
        .execute([from, before])?;
    connection.prepare_cached("UPDATE position SET compacted = ?1")?.execute([upto.0])?;
    Ok(())
}

/// Cuts off the end of the file what is no longer used.
fn cut(connection: &Connection, pragma: &str) -> Outcome<()> {
    let mut statement = connection.prepare(pragma)?;
    let mut pages = statement.raw_query();
    while pages.next()?.is_some() {}
    Ok(())
}

/// The revision that is asked for; as in etcd, one that is not positive asks for now.
fn past(at: Option<Revision>) -> Option<Revision> {
    at.filter(|at| at.0 > 0)
}

fn revision_of(row_number: i64) -> Revision {
    Revision(row_number >> SUB_BITS)
}

fn pair(row: &Row<'_>) -> rusqlite::Result<KeyValue> {
    Ok(KeyValue {
        modified: revision_of(row.get(0)?),
        key: Key::new(row.get::<_, Vec<u8>>(1)?),
        created: Revision(row.get(2)?),
        version: row.get(3)?,
        lease: row.get::<_, Option<i64>>(4)?.map(LeaseId),
        value: row.get(5)?,
    })
}

fn change(row: &Row<'_>) -> rusqlite::Result<Change> {
    match row.get_ref(5)? {
        rusqlite::types::ValueRef::Null => Ok(Change::Deleted(Key::new(row.get::<_, Vec<u8>>(1)?))),
        _ => Ok(Change::Put(pair(row)?)),
    }
}

fn change_bytes(change: &Change) -> usize {
    match change {
        Change::Put(pair) => pair.key.as_bytes().len() + pair.value.len(),
        Change::Deleted(key) => key.as_bytes().len(),
    }
}
