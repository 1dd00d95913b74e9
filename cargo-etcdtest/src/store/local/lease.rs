//! Leases. Their deadlines stand in the file and count on a clock that all processes of
//! the machine share.
//!
//! That clock begins anew when the machine starts: a deadline further away than the lease
//! lives is from before, and is set to a whole life from now. One that happens to be
//! nearer ends early, which does no harm, as nobody who held it is alive.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use super::fault::Outcome;
use super::history;
use super::txn::Changes;
use crate::store::StoreError;
use crate::store::api::{Lease, LeaseId};

/// The longest life that etcd grants, in seconds.
const LONGEST: u64 = 9_000_000_000;

/// Grants a lease of whole seconds, at least one.
pub(super) fn grant(connection: &Connection, ttl: Duration, now: i64) -> Outcome<Lease> {
    let seconds = ttl.as_secs().saturating_add(u64::from(ttl.subsec_nanos() > 0)).clamp(1, LONGEST);
    let id = LeaseId(fastrand::i64(1..));
    let lease = Lease { id, ttl: Duration::from_secs(seconds) };
    connection.prepare_cached("INSERT INTO leases VALUES (?1, ?2, ?3 + 1000 * ?2)")?.execute(params![
        id.0,
        seconds.cast_signed(),
        now
    ])?;
    Ok(lease)
}

/// Renews a lease.
pub(super) fn keep_alive(connection: &Connection, lease: LeaseId, now: i64) -> Outcome<Duration> {
    let seconds: Option<i64> = connection
        .prepare_cached("UPDATE leases SET deadline = ?2 + 1000 * ttl WHERE id = ?1 RETURNING ttl")?
        .query_one([lease.0, now], |row| row.get(0))
        .optional()?;
    let seconds = seconds.ok_or(StoreError::LeaseNotFound)?;
    Ok(Duration::from_secs(seconds.cast_unsigned()))
}

/// Whether a lease exists.
pub(super) fn lives(connection: &Connection, lease: LeaseId) -> Outcome<bool> {
    Ok(connection.prepare_cached("SELECT 1 FROM leases WHERE id = ?1")?.exists([lease.0])?)
}

/// Ends a lease and deletes its keys, in their order, as one revision.
pub(super) fn revoke(connection: &Connection, lease: LeaseId) -> Outcome<()> {
    if connection.prepare_cached("DELETE FROM leases WHERE id = ?1")?.execute([lease.0])? == 0 {
        return Err(StoreError::LeaseNotFound.into());
    }
    let keys = connection
        .prepare_cached("SELECT key FROM current WHERE lease = ?1 ORDER BY key")?
        .query_map([lease.0], |row| row.get(0))?
        .collect::<rusqlite::Result<Vec<Vec<u8>>>>()?;
    let mut changes = Changes::new(connection, history::position(connection)?);
    for key in &keys {
        changes.delete_key(key)?;
    }
    changes.finish()?;
    Ok(())
}

/// Whether [`expire`] has something to do.
pub(super) fn is_due(connection: &Connection, now: i64) -> Outcome<bool> {
    Ok(connection
        .prepare_cached("SELECT 1 FROM leases WHERE deadline <= ?1 OR deadline > ?1 + 1000 * ttl")?
        .exists([now])?)
}

/// Ends the leases whose time is over, each as a revision of its own.
pub(super) fn expire(connection: &Connection, now: i64) -> Outcome<()> {
    connection
        .prepare_cached("UPDATE leases SET deadline = ?1 + 1000 * ttl WHERE deadline > ?1 + 1000 * ttl")?
        .execute([now])?;
    let over = connection
        .prepare_cached("SELECT id FROM leases WHERE deadline <= ?1 ORDER BY deadline, id")?
        .query_map([now], |row| row.get(0).map(LeaseId))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    for lease in over {
        revoke(connection, lease)?;
    }
    Ok(())
}
