//! What the cluster says of itself, and whether it can be used.

use std::fmt;

use etcd_client::{Error, ResponseHeader, StatusResponse};
use futures::future::join_all;
use tokio::time::timeout;
use tonic::Code;

use super::cluster::{Cluster, Member};
use super::failure::{Failure, Subject};
use crate::store::{Result, Revision, StoreError, StoreStatus};

/// The oldest version that keeps what a store has to keep.
const OLDEST: Version = Version(3, 4, 0);

/// Known ways around etcd's authentication and permissions, with the first version of each
/// minor line without them; a line below the first listed never got a fix.
/// Source: the project's advisories as recorded in the Go vulnerability database.
const HOLES: [(&str, &[Version]); 6] = [
    ("CVE-2021-28235", &[Version(3, 4, 25), Version(3, 5, 8)]),
    ("CVE-2023-32082", &[Version(3, 4, 26), Version(3, 5, 9)]),
    ("CVE-2026-33343", &[Version(3, 4, 42), Version(3, 5, 28), Version(3, 6, 9)]),
    ("CVE-2026-33413", &[Version(3, 4, 42), Version(3, 5, 28), Version(3, 6, 9)]),
    ("CVE-2026-44283", &[Version(3, 4, 44), Version(3, 5, 30), Version(3, 6, 11)]),
    ("CVE-2026-73499", &[Version(3, 5, 33), Version(3, 6, 14), Version(3, 7, 1)]),
];

/// What to do about a member's alarm of this name.
const NO_SPACE: &str = "etcd has used up its quota and takes no writes (alarm NOSPACE). In this order: \
    `cargo etcdtest store gc --keep-runs 10 --compact`, which works without space, `etcdctl defrag` for each \
    member, `etcdctl alarm disarm`";

/// From how many per cent of the quota on somebody should do something.
const NEARLY_FULL: u64 = 80;

/// A version of etcd: major, minor, patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u64, u64, u64);

impl Version {
    fn parse(text: &str) -> Option<Self> {
        let plain = text.split(['-', '+']).next()?;
        let mut numbers = plain.split('.').map(str::parse);
        let mut number = || numbers.next()?.ok();
        Some(Self(number()?, number()?, number().unwrap_or_default()))
    }

    /// The known holes that this version has.
    fn holes(self) -> Vec<&'static str> {
        let has_hole = |fixes: &[Self]| {
            let line = fixes.iter().find(|fix| (fix.0, fix.1) >= (self.0, self.1));
            line.is_some_and(|fix| (fix.0, fix.1) > (self.0, self.1) || self < *fix)
        };
        HOLES.iter().filter(|(_, fixes)| has_hole(fixes)).map(|(name, _)| *name).collect()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// Asks a member for its state, having authenticated; `None` where it may not be known.
pub(super) async fn ask(member: &Member) -> std::result::Result<Option<StatusResponse>, Failure> {
    let subject = Subject::new("asking for the status");
    let failure = |error| subject.failure(&member.url, error);
    member.requests.token().await.map_err(failure)?;
    match member.requests.maintenance().status().await {
        Ok(status) => Ok(Some(status)),
        // Some versions keep it to root.
        Err(Error::GRpcStatus(status)) if status.code() == Code::PermissionDenied => Ok(None),
        Err(error) => Err(failure(error)),
    }
}

/// Refuses a server that cannot keep what a store has to keep.
pub(super) fn check(url: &str, status: Option<&StatusResponse>) -> Result<()> {
    let Some(status) = status else { return Ok(()) };
    let unsupported = |reason| StoreError::Unsupported { location: url.into(), reason };
    // kine, for one, answers with an empty header whatever version it claims to be.
    if status.header().is_none_or(|header| header.cluster_id() == 0) || status.raft_term() == 0 {
        return Err(unsupported(
            "it imitates etcd's interface, as kine does, but is no etcd: it has no real leases and only \
             part of the transactions"
                .into(),
        ));
    }
    match Version::parse(status.version()) {
        Some(version) if version < OLDEST => {
            Err(unsupported(format!("it is etcd {version}, older than {OLDEST}")))
        }
        _ => Ok(()),
    }
}

/// What the cluster says of itself; an error only where no member says anything.
pub(super) async fn status(
    cluster: &Cluster,
    revision: impl Future<Output = Result<Revision>>,
) -> Result<StoreStatus> {
    let asked = cluster.members().iter().map(|member| timeout(cluster.request_timeout(), ask(member)));
    let (answers, revision) = tokio::join!(join_all(asked), revision);
    let heard = answers.iter().any(|answer| matches!(answer, Ok(Ok(_))));
    let mut warnings = Vec::new();
    let revision = match revision {
        Ok(revision) => revision,
        Err(error) if !heard => return Err(error),
        Err(error) => {
            // A user may be denied the key that is read for this.
            if error.is_transient() {
                warnings.push(error.to_string());
            }
            Revision(0)
        }
    };
    let mut status = StoreStatus {
        kind: "etcd",
        location: cluster.location().into(),
        version: None,
        size: None,
        quota: None,
        revision,
        members: Vec::new(),
        warnings,
    };
    for (member, answer) in cluster.members().iter().zip(answers) {
        let state = match answer {
            Ok(Ok(Some(answer))) => add(&mut status, &answer),
            Ok(Ok(None)) => "answers; its state is only for root to know".into(),
            Ok(Err(failure)) => failure.into_error().to_string(),
            Err(_) => "does not answer".into(),
        };
        status.members.push((member.url.clone(), state));
    }
    if let (Some(size), Some(quota)) = (status.size, status.quota)
        && size.saturating_mul(100) / quota >= NEARLY_FULL
    {
        status.warnings.push(format!(
            "{} per cent of the quota are used: `cargo etcdtest store gc --compact` and `etcdctl defrag` give \
             space back, etcd's --quota-backend-bytes gives more",
            size.saturating_mul(100) / quota
        ));
    }
    if let Some(version) = status.version.as_deref().and_then(Version::parse) {
        let holes = version.holes();
        if !holes.is_empty() {
            status.warnings.push(format!(
                "etcd {version} has known security holes ({}): update it to a supported release",
                holes.join(", ")
            ));
        }
    }
    Ok(status)
}

/// Adds what one member says; returns what it is. The oldest version counts for all.
fn add(status: &mut StoreStatus, answer: &StatusResponse) -> String {
    let size = |bytes: i64| u64::try_from(bytes).ok().filter(|&bytes| bytes > 0);
    let older = |known: &String| Version::parse(answer.version()) < Version::parse(known);
    if status.version.as_ref().is_none_or(older) {
        status.version = Some(answer.version().into());
    }
    status.size = status.size.max(size(answer.db_size()));
    status.quota = status.quota.or(size(answer.db_size_quota()));
    status.revision = status.revision.max(Revision(answer.header().map_or(0, ResponseHeader::revision)));
    for error in answer.errors() {
        let warning = if error.contains("NOSPACE") {
            NO_SPACE.to_owned()
        } else {
            format!("etcd reports: {}", error.trim())
        };
        if !status.warnings.contains(&warning) {
            status.warnings.push(warning);
        }
    }
    let id = answer.header().map_or(0, ResponseHeader::member_id);
    match answer.leader() {
        0 => "has no leader".into(),
        leader if leader == id => "leader".into(),
        _ if answer.is_learner() => "learner".into(),
        _ => "follower".into(),
    }
}

#[cfg(test)]
mod tests {
    use etcd_client::proto::{PbResponseHeader, PbStatusResponse};

    use super::*;

    fn holes(version: &str) -> Vec<&'static str> {
        Version::parse(version).unwrap().holes()
    }

    #[test]
    fn each_minor_line_has_its_own_first_version_without_a_hole() {
        assert_eq!(holes("3.4.23").len(), 6);
        assert_eq!(holes("3.4.44"), ["CVE-2026-73499"]);
        assert_eq!(holes("3.5.30"), ["CVE-2026-73499"]);
        assert_eq!(holes("3.5.33"), [""; 0]);
        assert_eq!(holes("3.6.0").len(), 4);
        assert_eq!(holes("3.7.0-rc.1"), ["CVE-2026-73499"]);
        assert_eq!(holes("3.8.0"), [""; 0]);
    }

    fn reason(version: &str, cluster_id: u64, raft_term: u64) -> Option<String> {
        let header = PbResponseHeader { cluster_id, ..PbResponseHeader::default() };
        let status = StatusResponse(PbStatusResponse {
            header: Some(header),
            version: version.into(),
            raft_term,
            ..PbStatusResponse::default()
        });
        check("http://a:1", Some(&status)).err().map(|error| error.to_string())
    }

    #[test]
    fn an_old_etcd_and_what_only_looks_like_one_are_refused_with_the_reason() {
        assert_eq!(reason("3.4.0", 1, 2), None);
        assert_eq!(
            reason("3.3.27", 1, 2).as_deref(),
            Some("the store at http://a:1 cannot be used: it is etcd 3.3.27, older than 3.4.0")
        );
        assert!(reason("3.5.13", 0, 0).is_some_and(|reason| reason.contains("is no etcd")));
    }

    #[test]
    fn a_version_is_read_with_and_without_a_suffix() {
        assert_eq!(Version::parse("3.6.0-alpha.0"), Some(Version(3, 6, 0)));
        assert_eq!(Version::parse("3.5.21"), Some(Version(3, 5, 21)));
        assert_eq!(Version::parse(""), None);
    }
}
