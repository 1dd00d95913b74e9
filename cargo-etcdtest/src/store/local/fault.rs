//! What `SQLite` and the file system say, as the store's errors.

use std::io;
use std::path::Path;

use rusqlite::ErrorCode;
use rusqlite::ffi::SQLITE_IOERR_SHMSIZE;

use crate::store::StoreError;

/// Why something on the database failed, before it is known which file it was.
#[derive(Debug)]
pub(super) enum Fault {
    /// `SQLite` said so.
    Sqlite(rusqlite::Error),
    /// The request cannot be granted; the database is well.
    Refused(StoreError),
}

/// The result of something done on the database.
pub(super) type Outcome<T> = Result<T, Fault>;

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Refused(error)
    }
}

impl Fault {
    /// Another connection has it locked.
    pub(super) fn is_locked(&self) -> bool {
        let code = match self {
            Self::Sqlite(error) => error.sqlite_error_code(),
            Self::Refused(_) => None,
        };
        matches!(code, Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
    }

    /// The store's error for the database at `location`.
    pub(super) fn at(self, location: &str) -> StoreError {
        match self {
            Self::Refused(error) => error,
            Self::Sqlite(error) => sqlite(&error, location),
        }
    }
}

/// The store's error for a failed `COMMIT`: where the disk broke while it was written, it
/// may turn out to be there when the file is opened next.
pub(super) fn commit(error: &rusqlite::Error, location: &str) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::SystemIoFailure) => {
            StoreError::UnknownOutcome { reason: format!("{location}: {error}") }
        }
        _ => sqlite(error, location),
    }
}

/// The store's error for what `SQLite` said.
pub(super) fn sqlite(error: &rusqlite::Error, location: &str) -> StoreError {
    let location = location.to_owned();
    let reason = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::NoSpace { location, reason },
        _ if error.sqlite_error().is_some_and(|error| error.extended_code == SQLITE_IOERR_SHMSIZE) => {
            StoreError::NoSpace { location, reason }
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            StoreError::Unavailable { location, reason: "another process keeps it locked".into() }
        }
        Some(ErrorCode::NotADatabase) => StoreError::Unsupported {
            location,
            reason: "it is not a database; move it away to begin with an empty store".into(),
        },
        Some(ErrorCode::DatabaseCorrupt) => StoreError::Failed {
            location,
            reason: format!("the file is damaged ({reason}); move it away to begin with an empty store"),
        },
        Some(ErrorCode::TooBig) => StoreError::TooLarge { reason },
        _ => StoreError::Failed { location, reason },
    }
}

/// The store's error for what the file system said about `path`.
pub(super) fn file(what: &str, path: &Path, error: &io::Error) -> StoreError {
    let location = path.display().to_string();
    if error.kind() == io::ErrorKind::StorageFull {
        return StoreError::NoSpace { location, reason: error.to_string() };
    }
    StoreError::Failed { location, reason: format!("{what}: {error}") }
}
