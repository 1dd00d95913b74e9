//! Locks: places in the queue for an environment or a resource.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Record, RunId};

/// A place in the queue for an environment, stored under
/// `/locks/environments/{environment}/{holder}` on a lease; for a resource under
/// `/locks/resources/{resource}/{holder}`.
///
/// Who holds the environment is decided by the create revisions of the keys alone: those
/// do who have fewer than its capacity before them. Times are for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// Whose place it is.
    pub holder: Holder,
    /// Who typed the command: `user@host`.
    pub author: String,
    /// Why a person wants it; for which test of which run a worker does.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// The lease it hangs on, for all workers of a run to keep alive.
    pub lease: i64,
    /// Since when it is in the queue.
    pub since: Timestamp,
    /// Since when it holds the environment, once it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Timestamp>,
    /// When a person's reservation ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

impl Record for Lock {
    const SCHEMA: u64 = 1;
}

/// Who reserves environments and resources.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holder {
    /// A run.
    Run(RunId),
    /// A person: an id of the reservation, `user@host-x7k2pq`.
    Person(String),
    /// A worker with one of its units and the token under which it has that,
    /// `host-1234-x7k2pq.17.3921`: it holds resources.
    Worker(String),
}

impl Holder {
    /// A new reservation of a person, `user@host`.
    pub fn person(author: &str) -> Self {
        Self::Person(format!("{author}-{}", super::ids::random_part()))
    }

    /// The last segment of its keys, unescaped.
    pub fn id(&self) -> String {
        match self {
            Self::Run(run) => run.to_string(),
            Self::Person(id) => format!("person:{id}"),
            Self::Worker(id) => id.clone(),
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run(run) => write!(f, "run {run}"),
            Self::Person(id) => write!(f, "reservation person:{id}"),
            Self::Worker(id) => write!(f, "worker {id}"),
        }
    }
}

/// A note for whoever lost a lock to somebody, stored under
/// `/locks/released/{environment}/{holder}` on the lease that the lock was on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Released {
    /// Who took it away: `user@host`.
    pub by: String,
    /// When, by the clock there.
    pub at: Timestamp,
}

impl Record for Released {
    const SCHEMA: u64 = 1;
}
