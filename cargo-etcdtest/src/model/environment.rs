//! Environments: named, versioned configurations to run against.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Record;

/// An environment as stored: the current one under `/environments/{name}`, every version
/// under `/history/environments/{name}/{version}`, and the copy a run uses, in which it is
/// resolved, under `/execution/{run}/environments/{name}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// Its name.
    pub name: String,
    /// Its version, from 1; numbers go on after a delete.
    pub version: u64,
    /// What its file says; in a run's copy together with what it inherits.
    #[serde(flatten)]
    pub definition: Definition,
    /// When this version was applied.
    pub applied: Timestamp,
    /// By whom: `user@host`.
    pub author: String,
    /// Why, if whoever applied it said so.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// In a run's copy: the revision at which this version was written. 0 elsewhere, where
    /// the key's own revision says it, and for an environment that is not stored.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub revision: i64,
    /// In a run's copy: what it inherits from, the nearest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bases: Vec<EnvironmentVersion>,
}

/// What an environment is. Texts in `config`, `services` and `probes` may refer to other
/// values, as in `${services.orders.url}`; a record keeps the references.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Definition {
    /// What it is, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// For choosing and sorting.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The environment that it inherits from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extends: Option<String>,
    /// What tests read.
    #[serde(default)]
    pub config: Map<String, Value>,
    /// Its secrets by name: where each is stored, never what it is.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, SecretVersion>,
    /// For whom its secrets are encrypted: age's public keys, sorted. Where there are none it
    /// inherits them with the rest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recipients: Vec<String>,
    /// The services that are started for its runs, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub services: BTreeMap<String, Service>,
    /// What must answer before a run begins, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<Probe>,
    /// How many runs may use it at once; no limit if none is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<NonZeroU32>,
    /// Its data sets by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub data: BTreeMap<String, DataSet>,
}

/// A secret, stored under `/secrets/{environment}/{name}/{version}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretVersion {
    /// The environment it belongs to: a base's where it is inherited.
    pub environment: String,
    /// Its version, from 1.
    pub version: u64,
    /// Whether it is encrypted: then nothing else counts in its place.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub encrypted: bool,
}

/// A data set, stored under `/data/{environment}/{digest}/{chunk}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataSet {
    /// The environment it belongs to: a base's where it is inherited.
    pub environment: String,
    /// The digest of its content.
    pub digest: String,
    /// How large it is, in bytes.
    pub size: u64,
}

/// A program that a run needs and starts. In its texts `{port}` is a free port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// The program: a name on PATH, or a path from the workspace's root.
    pub command: String,
    /// Its arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Variables for it, besides the runner's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Where it runs, from the workspace's root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Its URL.
    pub url: String,
    /// The services that must be ready before it starts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<String>,
    /// How it shows that it is ready; at once if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<Ready>,
    /// What happens when it ends by itself.
    #[serde(default)]
    pub restart: Restart,
    /// How long it has between SIGTERM and SIGKILL.
    #[serde(with = "super::seconds")]
    pub stop_grace: Duration,
    /// For how long one of it lives.
    #[serde(default)]
    pub scope: Scope,
}

/// How a service shows that it is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// What is looked at.
    #[serde(flatten)]
    pub by: ReadyBy,
    /// How long it may take.
    #[serde(with = "super::seconds")]
    pub timeout: Duration,
}

/// What shows that a service is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadyBy {
    /// A GET of this URL, or of this path below the service's URL, is answered with 2xx.
    Http(String),
    /// This `host:port` accepts a connection.
    Tcp(String),
    /// It writes a line that matches this regular expression.
    Log(String),
}

/// What happens when a service ends by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// It stays ended.
    #[default]
    Never,
    /// It is started again unless it ended with exit code 0.
    OnFailure,
    /// It is started again.
    Always,
}

/// For how long one of a service lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// For the run, or for a worker's part of it.
    #[default]
    Run,
    /// For one attempt of one test.
    Test,
}

/// Something outside that must answer before a run begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// What is asked.
    #[serde(flatten)]
    pub by: ProbeBy,
    /// How long it is waited for.
    #[serde(with = "super::seconds")]
    pub timeout: Duration,
}

/// What a probe asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeBy {
    /// A GET.
    Http {
        /// Of this URL.
        url: String,
        /// The status that is wanted; any 2xx if none is said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        status: Option<u16>,
        /// A regular expression that the body must match.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        body: Option<String>,
    },
    /// This `host:port` accepts a connection.
    Tcp(String),
    /// This host name has an address.
    Dns(String),
    /// This program with its arguments ends with exit code 0.
    Command(Vec<String>),
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

/// `name@version`; the name alone where it was not stored.
impl fmt::Display for EnvironmentVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            0 => f.write_str(&self.name),
            version => write!(f, "{}@{version}", self.name),
        }
    }
}

impl Environment {
    /// An environment that is not stored: version and revision are 0.
    pub fn unstored(name: &str, definition: Definition, author: &str) -> Self {
        Self {
            name: name.to_owned(),
            version: 0,
            definition,
            applied: Timestamp::now(),
            author: author.to_owned(),
            message: String::new(),
            revision: 0,
            bases: vec![],
        }
    }

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
