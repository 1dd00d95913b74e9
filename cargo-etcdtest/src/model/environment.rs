//! Environments: named, versioned configurations to run against.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Record;

/// An environment as stored: the current one under `/environments/{name}`, every version
/// under `/history/environments/{name}/{version}`, and the copy a run uses under
/// `/execution/{run}/environments/{name}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// Its name.
    pub name: String,
    /// Its version, from 1; numbers go on after a delete.
    pub version: u64,
    /// What it is, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// What tests read.
    #[serde(default)]
    pub config: Map<String, Value>,
    /// When this version was applied.
    pub applied: Timestamp,
    /// By whom: `user@host`.
    pub author: String,
    /// In a run's copy: the revision at which this version was written. 0 elsewhere, where
    /// the key's own revision says it, and for an environment that is not stored.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub revision: i64,
}

impl Record for Environment {
    const SCHEMA: u64 = 1;
}

/// Which environment a result came from, exactly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvironmentVersion {
    /// Its name.
    pub name: String,
    /// Its version; 0 when it was not stored.
    pub version: u64,
    /// The store revision at which it was written; 0 when it was not stored.
    pub revision: i64,
}

impl Environment {
    /// Its name, version and revision.
    pub fn identity(&self) -> EnvironmentVersion {
        EnvironmentVersion { name: self.name.clone(), version: self.version, revision: self.revision }
    }

    /// The same environment with the revision at which it was found.
    #[must_use]
    pub fn at(self, revision: i64) -> Self {
        Self { revision, ..self }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}
