//! What can go wrong with a store.

use super::api::{Key, Revision};

/// Why an operation on the store failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The store could not be asked; nothing was changed.
    #[error("the store at {location} cannot be reached: {reason}")]
    Unavailable {
        /// The file or the endpoints.
        location: String,
        /// What the last try said.
        reason: String,
    },
    /// The connection broke after a write was sent: it may or may not have been applied.
    #[error("the answer to a write was lost: {reason}")]
    UnknownOutcome {
        /// What was heard last.
        reason: String,
    },
    /// User, password, token or certificate were not accepted.
    #[error("the store at {location} refused the credentials: {reason}")]
    Unauthenticated {
        /// The endpoints.
        location: String,
        /// What the store said.
        reason: String,
    },
    /// The user may not do this.
    #[error("the store denied {what}: {reason}")]
    Denied {
        /// What was to be done.
        what: String,
        /// What the store said.
        reason: String,
    },
    /// The history that was asked for is gone.
    #[error("the history up to revision {0} is compacted")]
    Compacted(Revision),
    /// A read at a revision that has not come yet.
    #[error("there is no revision {0} yet")]
    FutureRevision(Revision),
    /// The lease has ended or never was.
    #[error("the lease has ended")]
    LeaseNotFound,
    /// One branch of a transaction writes a key twice.
    #[error("a transaction writes {0} twice")]
    DuplicateKey(Key),
    /// Larger than the store takes in one request.
    #[error("the store refused a request as too large: {reason}")]
    TooLarge {
        /// What the store said.
        reason: String,
    },
    /// The disk is full or the quota is used up.
    #[error("the store at {location} has no space left: {reason}")]
    NoSpace {
        /// The file or the endpoints.
        location: String,
        /// What the store said.
        reason: String,
    },
    /// The server or file cannot keep the promises a store has to keep.
    #[error("the store at {location} cannot be used: {reason}")]
    Unsupported {
        /// The file or the endpoints.
        location: String,
        /// Which promise, or which version.
        reason: String,
    },
    /// A record that this version cannot read.
    #[error("the record {key} cannot be read: {reason}")]
    Record {
        /// Where it is.
        key: Key,
        /// What is wrong with it.
        reason: String,
    },
    /// Anything else that the store said.
    #[error("the store at {location} failed: {reason}")]
    Failed {
        /// The file or the endpoints.
        location: String,
        /// What it said.
        reason: String,
    },
}

impl StoreError {
    /// Whether the same request may succeed later without anybody doing something.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::UnknownOutcome { .. })
    }

    /// What the user can do about it.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Unavailable { .. } => {
                Some("check that the store is running and that --endpoints, or ETCDTEST_ENDPOINTS, names it")
            }
            Self::Unauthenticated { .. } => Some("check --user and ETCDTEST_PASSWORD, or --cert and --key"),
            Self::Denied { .. } => Some("ask the store's administrator for a role that may do this"),
            Self::NoSpace { .. } => Some(
                "on etcd, in this order: `cargo etcdtest store gc --keep-runs 10 --compact`, which works without \
                 space, `etcdctl defrag` for each member, `etcdctl alarm disarm`; for a local store make room on \
                 its disk",
            ),
            Self::Unsupported { .. } => {
                Some("use etcd 3.4 or newer, or a local store on a disk of this machine")
            }
            Self::Record { .. } => Some("if it was written by a newer cargo-etcdtest, update this one"),
            _ => None,
        }
    }
}
