//! Whose journal it is.

use serde::{Deserialize, Serialize};

use crate::model::{Record, RunId, WorkerId};
use crate::store::etcd::EtcdOptions;

/// The first record of a journal: which worker of which run wrote it, and for which store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Where its results belong.
    pub store: StoreName,
    /// The run.
    pub run: RunId,
    /// The worker.
    pub worker: WorkerId,
    /// The create revision of the worker's key when it began.
    pub identity: i64,
    /// The locks that the run held, each with the revision that created it: results that were
    /// executed under them are stored under them.
    pub locks: Vec<(String, i64)>,
    /// The root folder of the project.
    pub project: String,
}

impl Record for Header {
    const SCHEMA: u64 = 1;
}

/// A store, without what gives access to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreName {
    /// Its endpoints.
    pub endpoints: Vec<String>,
    /// What stands before every key; may be empty.
    pub namespace: String,
    /// The id that the cluster gave itself, if it may be known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<u64>,
}

impl StoreName {
    /// The store that these options mean, whose cluster has this id.
    pub fn new(options: &EtcdOptions, cluster: Option<u64>) -> Self {
        let endpoints = options.urls().iter().map(|url| without_user(url)).collect();
        Self { endpoints, namespace: options.namespace.clone(), cluster }
    }

    /// Whether both are the same store, as far as can be told.
    pub fn is(&self, other: &Self) -> bool {
        let same = match (self.cluster, other.cluster) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => self.endpoints.iter().any(|endpoint| other.endpoints.contains(endpoint)),
        };
        same && self.namespace == other.namespace
    }
}

/// A URL without user and password.
fn without_user(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    format!("{scheme}://{host}")
}

impl std::fmt::Display for StoreName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.endpoints.join(","))?;
        if self.namespace.is_empty() { Ok(()) } else { write!(f, " under {}", self.namespace) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(endpoints: &[&str], namespace: &str, cluster: Option<u64>) -> StoreName {
        let endpoints = endpoints.iter().map(ToString::to_string).collect();
        let options = EtcdOptions { endpoints, namespace: namespace.into(), ..EtcdOptions::default() };
        StoreName::new(&options, cluster)
    }

    #[test]
    fn a_store_is_known_by_its_cluster_and_else_by_an_endpoint() {
        let team = name(&["a:1", "b:1"], "/team", Some(7));
        assert!(team.is(&name(&["elsewhere:1"], "/team", Some(7))));
        assert!(!team.is(&name(&["a:1"], "/team", Some(8))));
        assert!(team.is(&name(&["http://b:1/"], "/team", None)));
        assert!(!team.is(&name(&["c:1"], "/team", None)));
        assert!(!team.is(&name(&["a:1"], "/others", Some(7))));
        assert_eq!(team.to_string(), "http://a:1,http://b:1 under /team");
    }

    #[test]
    fn neither_user_nor_password_of_an_endpoint_is_kept() {
        let name = name(&["https://ann:hunter2@a:1", "ann:hunt@er2@b:1"], "", None);
        assert_eq!(name.endpoints, ["https://a:1", "http://b:1"]);
    }
}
