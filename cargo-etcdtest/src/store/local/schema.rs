//! The tables, and how a connection to them is opened.
//!
//! - `position`: one row, the store's revision and up to where its history is compacted.
//! - `log`: every change since then. The row's number is the change's revision and its
//!   place within it, so that rows stand in the order of history; a deletion has no value.
//! - `current`: for each key that exists, its newest row of the log.
//! - `leases`: the live leases; deadlines are milliseconds on the clock of `system::now`.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::fault::Outcome;
use crate::store::StoreError;

/// The format that this version writes; a higher one is refused.
const FORMAT: i32 = 1;

/// Marks the file as ours (`SQLite`'s application id).
const APPLICATION: i32 = i32::from_be_bytes(*b"etct");

/// How long to wait for another process that writes, in milliseconds.
const PATIENCE: i32 = 10_000;

/// How long the log of writes beside the file stays after a large write.
const LOG_BYTES: i64 = 8 << 20;

/// The file begins at revision 1, as a new etcd does.
const TABLES: &str = "
    CREATE TABLE position (
        only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
        revision INTEGER NOT NULL,
        compacted INTEGER NOT NULL
    ) STRICT;
    INSERT INTO position VALUES (1, 1, 0);
    CREATE TABLE log (
        id INTEGER PRIMARY KEY,
        key BLOB NOT NULL,
        created INTEGER NOT NULL,
        version INTEGER NOT NULL,
        lease INTEGER,
        value BLOB
    ) STRICT;
    CREATE INDEX log_by_key ON log (key, id);
    CREATE TABLE current (
        key BLOB PRIMARY KEY,
        id INTEGER NOT NULL,
        lease INTEGER
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX current_by_lease ON current (lease, key) WHERE lease IS NOT NULL;
    CREATE TABLE leases (
        id INTEGER PRIMARY KEY,
        ttl INTEGER NOT NULL,
        deadline INTEGER NOT NULL
    ) STRICT;
";

/// Opens the file, which may be empty, and brings it to this version's format.
pub(super) fn open(file: &Path) -> Outcome<Connection> {
    let began = Instant::now();
    let patience = Duration::from_millis(PATIENCE.unsigned_abs().into());
    loop {
        match open_once(file) {
            // While several make one file, `SQLite` says at some steps that it is locked
            // without asking whether to wait.
            Err(fault) if fault.is_locked() && began.elapsed() < patience => {
                sleep(Duration::from_millis(1));
            }
            opened => return opened,
        }
    }
}

fn open_once(file: &Path) -> Outcome<Connection> {
    let mut connection = Connection::open_with_flags(
        file,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.busy_handler(Some(wait_for_lock))?;
    connection.set_prepared_statement_cache_capacity(64);
    // Else a statement is prepared anew for each LIMIT that it is given.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // One look at all of it: another process may be making the tables.
    let look = connection.transaction()?;
    let fresh = is_fresh(&look, file)?;
    drop(look);
    if fresh {
        connection.pragma_update(None, "auto_vacuum", "incremental")?;
    }
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
    if mode != "wal" {
        let reason = "its file system cannot share memory between processes".into();
        return Err(StoreError::Unsupported { location: file.display().to_string(), reason }.into());
    }
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update_and_check(None, "journal_size_limit", LOG_BYTES, |_| Ok(()))?;
    if fresh {
        create(&connection, file)?;
    }
    Ok(connection)
}

/// Waits a little for another process that writes; `SQLite`'s own back-off would let a busy
/// writer starve the others.
fn wait_for_lock(tries: i32) -> bool {
    sleep(Duration::from_millis(1));
    tries < PATIENCE
}

/// Whether the tables are still to be made; refuses what is not ours or newer.
fn is_fresh(connection: &Connection, file: &Path) -> Outcome<bool> {
    let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let refused = |reason| StoreError::Unsupported { location: file.display().to_string(), reason };
    let (application, format) = (number("application_id")?, number("user_version")?);
    if application == APPLICATION {
        return match format {
            0 => Ok(true),
            1..=FORMAT => Ok(false),
            _ => Err(refused(format!(
                "it was written by a newer cargo-etcdtest (format {format}, this version knows {FORMAT}); \
                 update this one"
            ))
            .into()),
        };
    }
    let empty =
        connection.query_one("SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)", [], |row| row.get(0))?;
    if application == 0 && empty {
        return Ok(true);
    }
    Err(refused("it is a database of another program".into()).into())
}

fn create(connection: &Connection, file: &Path) -> Outcome<()> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    // Another process may have made the tables since.
    let created = is_fresh(connection, file).and_then(|fresh| {
        if fresh {
            connection.execute_batch(TABLES)?;
            connection.pragma_update(None, "application_id", APPLICATION)?;
            connection.pragma_update(None, "user_version", FORMAT)?;
        }
        Ok(())
    });
    connection.execute_batch(if created.is_ok() { "COMMIT" } else { "ROLLBACK" })?;
    created
}
