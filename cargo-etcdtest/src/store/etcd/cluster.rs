//! The members of a cluster: which one is asked, and when the next one is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use etcd_client::Error;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::connection::{Connection, Credentials};
use super::failure::{Failure, Subject};
use super::options::EtcdOptions;
use super::tls::tls;
use crate::store::{Result, StoreError};

/// Whether a request may be sent again when nobody knows what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// It changes nothing, or nothing more the second time.
    Freely,
    /// It may have been applied, and a second time would be one too many.
    OnlyIfNotApplied,
}

/// One member. Watches have a connection of their own: one that is read slowly fills the
/// connection's window, and requests beside it would wait.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) url: String,
    pub(super) requests: Arc<Connection>,
    pub(super) watches: Arc<Connection>,
}

/// The members, and how long they may take.
#[derive(Debug)]
pub(super) struct Cluster {
    members: Vec<Member>,
    current: AtomicUsize,
    location: String,
    request_timeout: Duration,
}

impl Cluster {
    /// The cluster that the options mean; sends nothing yet.
    pub(super) async fn new(options: &EtcdOptions) -> Result<Self> {
        let urls = options.urls();
        let location = urls.join(",");
        let failed =
            |location: &str, reason: String| StoreError::Failed { location: location.into(), reason };
        if urls.is_empty() {
            return Err(failed("etcd", "no endpoint is given".into()));
        }
        let tls = tls(options, &urls)?;
        let credentials = match (&options.user, &options.password) {
            (Some(user), Some(password)) => {
                Some(Credentials { user: user.clone(), password: password.clone() })
            }
            (Some(user), None) => {
                let reason = format!("the user {user} was given without a password");
                return Err(StoreError::Unauthenticated { location, reason });
            }
            (None, _) => None,
        };
        let mut members = Vec::new();
        for url in urls {
            if !url.starts_with("http://") && !url.starts_with("https://") {
                return Err(failed(
                    &url,
                    "it is no endpoint, such as 127.0.0.1:2379 or https://etcd:2379".into(),
                ));
            }
            if url.starts_with("http://") && options.wants_tls() {
                return Err(failed(&url, "certificates are given, but the endpoint is http://".into()));
            }
            let connection =
                || Connection::new(&url, tls.clone(), options.connect_timeout, credentials.clone());
            let wrong = |error: Error| failed(&url, wrong_endpoint(&error));
            let requests = Arc::new(connection().await.map_err(wrong)?);
            let watches = Arc::new(connection().await.map_err(wrong)?);
            members.push(Member { url, requests, watches });
        }
        Ok(Self { members, current: AtomicUsize::new(0), location, request_timeout: options.request_timeout })
    }

    /// The endpoints.
    pub(super) fn location(&self) -> &str {
        &self.location
    }

    /// All members that are known.
    pub(super) fn members(&self) -> &[Member] {
        &self.members
    }

    /// How long a request may take, all tries together.
    pub(super) fn request_timeout(&self) -> Duration {
        self.request_timeout
    }

    /// Which member is asked now.
    pub(super) fn current(&self) -> usize {
        self.current.load(Ordering::Relaxed)
    }

    /// Asks this member from now on.
    pub(super) fn prefer(&self, member: usize) {
        self.current.store(member, Ordering::Relaxed);
    }

    /// Asks the next member from now on, unless that was already decided.
    pub(super) fn leave(&self, member: usize) {
        let next = (member + 1) % self.members.len();
        let _ = self.current.compare_exchange(member, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Sends a request until a member answers it, the request timeout is over, or it must
    /// not be sent again.
    pub(super) async fn call<T, R, F>(&self, repeat: Repeat, subject: &Subject, request: R) -> Result<T>
    where
        R: Fn(Arc<Connection>) -> F,
        F: Future<Output = std::result::Result<T, Error>>,
    {
        let deadline = Instant::now() + self.request_timeout;
        let mut pauses = pauses();
        // With the member that is asked now, for this request.
        let mut authenticated = false;
        loop {
            let index = self.current();
            let member = &self.members[index];
            let failure = match self.attempt(member, deadline, subject, &request).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let last = match failure {
                Failure::Refused(error) => return Err(error),
                Failure::Token(error) if !member.requests.has_credentials() => return Err(error),
                // A new token is at hand, and the member is well.
                Failure::Token(_) if !std::mem::replace(&mut authenticated, true) => continue,
                Failure::Unknown(error) | Failure::Broken(error) if repeat == Repeat::OnlyIfNotApplied => {
                    self.leave(index);
                    return Err(StoreError::UnknownOutcome { reason: error.to_string() });
                }
                // A new token may have been too old as well when it came, or unknown to the member yet.
                Failure::Unknown(error)
                | Failure::Broken(error)
                | Failure::NotApplied(error)
                | Failure::Token(error) => error,
            };
            self.leave(index);
            authenticated = false;
            let resume = Instant::now() + pauses.next().unwrap_or_default();
            if resume >= deadline {
                return Err(last);
            }
            sleep_until(resume).await;
        }
    }

    /// One try at one member.
    async fn attempt<T, R, F>(
        &self,
        member: &Member,
        deadline: Instant,
        subject: &Subject,
        request: &R,
    ) -> std::result::Result<T, Failure>
    where
        R: Fn(Arc<Connection>) -> F,
        F: Future<Output = std::result::Result<T, Error>>,
    {
        // Half of the time at most is spent on one member where there are others to ask.
        let patience = if self.members.len() > 1 { self.request_timeout / 2 } else { self.request_timeout };
        let until = deadline.min(Instant::now() + patience);
        let silent = || Failure::silent(&member.url, "no answer in time");
        let connection = &member.requests;
        let token = match timeout_at(until, connection.token()).await {
            Ok(token) => token.map_err(|error| subject.failure(&member.url, error).not_sent())?,
            Err(_) => return Err(silent().not_sent()),
        };
        let failure = match timeout_at(until, request(connection.clone())).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => subject.failure(&member.url, error),
            Err(_) => silent(),
        };
        if let Failure::Token(_) = failure {
            match timeout_at(deadline, connection.new_token(token)).await {
                Ok(token) => {
                    token.map_err(|error| subject.failure(&member.url, error).not_sent())?;
                }
                Err(_) => return Err(silent().not_sent()),
            }
        }
        Err(failure)
    }
}

/// The pauses between the tries of a request: growing, and never in step with others'.
pub(super) fn pauses() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_jitter()
        .with_min_delay(Duration::from_millis(20))
        .with_max_delay(Duration::from_millis(500))
        .without_max_times()
        .build()
}

fn wrong_endpoint(error: &Error) -> String {
    match error {
        Error::InvalidUri(error) => format!("it is no endpoint, such as 127.0.0.1:2379: {error}"),
        // Nothing was sent yet: it is the certificates that cannot be used.
        Error::TransportError(error) => match root_cause(error) {
            cause if cause.contains("KeyMismatch") => "the --key is not that of --cert".into(),
            cause => format!("the certificates cannot be used: {cause}"),
        },
        other => other.to_string(),
    }
}

/// The innermost cause: those around it just say that something failed.
fn root_cause(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.last().map(ToString::to_string).unwrap_or_default()
}
