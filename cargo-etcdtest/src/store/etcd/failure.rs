//! What an error of etcd-client means: whether the request may be tried again, and what
//! is said of it.

use std::error::Error as _;

use etcd_client::Error;
use tonic::{Code, ConnectError, Status};

use crate::store::{Key, Revision, StoreError};

/// What a request is about, for the errors it may end in.
#[derive(Clone, Debug, Default)]
pub(super) struct Subject {
    /// What is done, such as "reading /runs/".
    pub(super) what: String,
    /// The revision that was asked for.
    pub(super) revision: Revision,
}

/// What the failure of one try means for the request.
#[derive(Debug)]
pub(super) enum Failure {
    /// Surely nothing was changed, and another member or a later try may do better.
    NotApplied(StoreError),
    /// It may or may not have been applied; why nobody knows.
    Unknown(StoreError),
    /// The same, because the connection broke.
    Broken(StoreError),
    /// The token is missing, expired or older than the users and roles.
    Token(StoreError),
    /// The store's own answer, the same for every try.
    Refused(StoreError),
}

impl Failure {
    /// No answer came from the member at `url`.
    pub(super) fn silent(url: &str, reason: impl Into<String>) -> Self {
        Self::Unknown(StoreError::Unavailable { location: url.into(), reason: reason.into() })
    }

    /// What to say of it.
    pub(super) fn into_error(self) -> StoreError {
        match self {
            Self::NotApplied(error)
            | Self::Unknown(error)
            | Self::Broken(error)
            | Self::Token(error)
            | Self::Refused(error) => error,
        }
    }

    /// The same, for a request that depends on another that failed and so was not sent itself.
    pub(super) fn not_sent(self) -> Self {
        match self {
            Self::Unknown(error) | Self::Broken(error) => Self::NotApplied(error),
            other => other,
        }
    }
}

impl Subject {
    /// A request that does this.
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), revision: Revision(0) }
    }

    /// A request that asks for this revision.
    pub(super) fn at(self, revision: Revision) -> Self {
        Self { revision, ..self }
    }

    /// What an error from the member at `url` means.
    pub(super) fn failure(&self, url: &str, error: Error) -> Failure {
        match error {
            Error::GRpcStatus(status) if status.source().is_some() => transport(url, &status),
            Error::GRpcStatus(status) => self.answer(url, &status),
            Error::LeaseKeepAliveError(reason) if reason == "lease not found" => {
                Failure::Refused(StoreError::LeaseNotFound)
            }
            Error::WatchError(reason) | Error::LeaseKeepAliveError(reason) => Failure::silent(url, reason),
            other => Failure::Refused(StoreError::Failed { location: url.into(), reason: other.to_string() }),
        }
    }

    /// What an answer of etcd means. The texts are those of its `rpctypes` package, the same
    /// from 3.4 on; the codes alone do not tell them apart.
    pub(super) fn answer(&self, url: &str, status: &Status) -> Failure {
        let location = || url.to_owned();
        let reason = || status.message().trim_start_matches("etcdserver: ").to_owned();
        let says = |text: &str| status.message().contains(text);
        let unauthenticated = |reason| StoreError::Unauthenticated { location: location(), reason };
        match status.code() {
            Code::Unauthenticated => Failure::Token(unauthenticated(reason())),
            _ if says("invalid auth token") || says("revision of auth store is old") => {
                Failure::Token(unauthenticated(reason()))
            }
            _ if says("user name is empty") => {
                Failure::Token(unauthenticated("it asks for a user, and none was given".into()))
            }
            _ if says("authentication failed") => Failure::Refused(unauthenticated(reason())),
            Code::PermissionDenied => {
                Failure::Refused(StoreError::Denied { what: self.what.clone(), reason: reason() })
            }
            _ if says("lease not found") => Failure::Refused(StoreError::LeaseNotFound),
            _ if says("has been compacted") => Failure::Refused(StoreError::Compacted(self.revision)),
            _ if says("is a future revision") => Failure::Refused(StoreError::FutureRevision(self.revision)),
            _ if says("space exceeded") => {
                Failure::Refused(StoreError::NoSpace { location: location(), reason: reason() })
            }
            _ if says("request is too large")
                || says("too many operations")
                || says("message larger than max")
                || says("message length too large") =>
            {
                Failure::Refused(StoreError::TooLarge { reason: reason() })
            }
            _ if says("duplicate key") => Failure::Refused(StoreError::DuplicateKey(Key::from(""))),
            // Both are said before anything is proposed to the cluster.
            _ if says("no leader") || says("too many requests") => {
                Failure::NotApplied(StoreError::Unavailable { location: location(), reason: reason() })
            }
            Code::Unimplemented => Failure::Refused(StoreError::Unsupported {
                location: location(),
                reason: format!("it does not know how to do {}: {}", self.what, reason()),
            }),
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::DataLoss => {
                Failure::Refused(StoreError::Failed { location: location(), reason: reason() })
            }
            _ => Failure::silent(url, reason()),
        }
    }
}

/// What it means that the connection did not come about, or broke.
fn transport(url: &str, status: &Status) -> Failure {
    let mut connecting = false;
    let mut cause = status.message().to_owned();
    let mut source = status.source();
    while let Some(error) = source {
        connecting |= error.is::<ConnectError>();
        cause = error.to_string();
        source = error.source();
    }
    let location = url.to_owned();
    if cause.contains("invalid peer certificate") {
        return Failure::NotApplied(StoreError::Unauthenticated {
            location,
            reason: format!("its certificate is not trusted, see --cacert ({cause})"),
        });
    }
    if cause.contains("fatal alert") {
        return Failure::NotApplied(StoreError::Unauthenticated {
            location,
            reason: format!("it did not accept the client certificate, see --cert and --key ({cause})"),
        });
    }
    if connecting {
        // What a server without TLS makes of a handshake: which of them is heard first varies.
        let signs = ["corrupt message", "tls handshake eof", "Connection reset by peer"];
        let reason = if url.starts_with("https://") && signs.iter().any(|sign| cause.contains(sign)) {
            format!("{cause}; where it does not use TLS, write http:// and give no certificates")
        } else {
            cause
        };
        return Failure::NotApplied(StoreError::Unavailable { location, reason });
    }
    Failure::Broken(StoreError::Unavailable { location, reason: cause })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(code: Code, message: &str) -> Failure {
        Subject::new("reading /a").answer("http://a:1", &Status::new(code, message))
    }

    #[test]
    fn only_what_is_said_before_a_proposal_counts_as_not_applied() {
        assert!(matches!(said(Code::Unavailable, "etcdserver: no leader"), Failure::NotApplied(_)));
        assert!(matches!(
            said(Code::ResourceExhausted, "etcdserver: too many requests"),
            Failure::NotApplied(_)
        ));
        for (code, message) in [
            (Code::Unavailable, "etcdserver: request timed out"),
            (Code::Unavailable, "etcdserver: request timed out, possibly due to previous leader failure"),
            (Code::Unavailable, "etcdserver: leader changed"),
            (Code::Unavailable, "etcdserver: server stopped"),
            (Code::Unavailable, "transport is closing"),
            (Code::Unknown, "context canceled"),
            (Code::Internal, "something"),
        ] {
            assert!(matches!(said(code, message), Failure::Unknown(_)), "{message}");
        }
    }

    #[test]
    fn what_etcd_refuses_is_told_apart() {
        let refused = |code, message: &str| match said(code, message) {
            Failure::Refused(error) => error,
            other => panic!("{message}: {other:?}"),
        };
        assert!(matches!(
            refused(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"),
            StoreError::NoSpace { .. }
        ));
        assert!(matches!(
            refused(Code::InvalidArgument, "etcdserver: request is too large"),
            StoreError::TooLarge { .. }
        ));
        assert!(matches!(
            refused(Code::InvalidArgument, "etcdserver: authentication failed, invalid user ID or password"),
            StoreError::Unauthenticated { .. }
        ));
        assert_eq!(
            refused(Code::PermissionDenied, "etcdserver: permission denied").to_string(),
            "the store denied reading /a: permission denied"
        );
    }
}
