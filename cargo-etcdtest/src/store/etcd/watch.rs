//! A watch that goes on: over broken connections, other members, expired tokens and
//! compactions.

use std::sync::Arc;

use etcd_client::proto::PbWatchResponse;
use etcd_client::{WatchOptions, WatchStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status};

use super::cluster::{Cluster, pauses};
use super::engine::revision;
use super::failure::{Failure, Subject};
use super::namespace::Namespace;
use crate::store::{Change, KeyRange, Notice, Result, Revision, Watch};

/// How many notices wait for the reader before the watch does.
const WAITING: usize = 64;

/// etcd's number for a deletion.
const DELETED: i32 = 1;

/// The task behind a watch.
pub(super) struct Watcher {
    cluster: Arc<Cluster>,
    namespace: Namespace,
    range: KeyRange,
    subject: Subject,
    notices: mpsc::Sender<Result<Notice>>,
    /// A member watches: it has accepted the token, whether or not there is anything to tell.
    accepted: bool,
    /// The first revision not delivered yet.
    next: Revision,
    /// What has come of a revision whose end has not.
    pending: Vec<Change>,
    pending_revision: Revision,
}

/// Why following a stream ended.
enum End {
    /// Nobody listens any more.
    Unwatched,
    /// The history from `next` on is gone.
    Compacted,
    /// The member does not accept the token, or not any more; which it was.
    Token(Failure, u64),
    /// Anything else.
    Failed(Failure),
}

impl Watcher {
    /// Watches a range from a revision on.
    pub(super) fn start(
        cluster: Arc<Cluster>,
        namespace: Namespace,
        range: KeyRange,
        next: Revision,
    ) -> Watch {
        let (notices, receiver) = mpsc::channel(WAITING);
        let subject = Subject::new(format!("watching {}", range.start));
        let watcher = Self {
            cluster,
            namespace,
            range,
            subject,
            notices,
            accepted: false,
            next,
            pending: Vec::new(),
            pending_revision: Revision(0),
        };
        tokio::spawn(watcher.run());
        Watch::new(receiver)
    }

    async fn run(mut self) {
        let notices = self.notices.clone();
        let error = tokio::select! {
            () = notices.closed() => return,
            error = self.deliver() => error,
        };
        if let Some(error) = error {
            let _ = notices.send(Err(error)).await;
        }
    }

    /// Follows stream after stream; returns the error that no further stream can mend.
    async fn deliver(&mut self) -> Option<crate::store::StoreError> {
        let mut pause = pauses();
        // With the member that is asked now, and since when no member accepts a token.
        let (mut authenticated, mut refused) = (false, None);
        loop {
            let member = self.cluster.current();
            let before = self.next;
            self.accepted = false;
            let end = self.follow(member).await;
            self.pending.clear();
            if self.accepted {
                (authenticated, refused) = (false, None);
            }
            if self.next > before {
                pause = pauses();
            }
            match end {
                End::Unwatched => return None,
                End::Compacted => match revision(&self.cluster, &self.namespace, &self.range).await {
                    Ok(now) => {
                        self.next = Revision(now.0 + 1);
                        self.notices.send(Ok(Notice::Compacted { revision: now })).await.ok()?;
                        continue;
                    }
                    Err(error) if error.is_transient() => {}
                    Err(error) => return Some(error),
                },
                End::Token(failure, _) if !self.cluster.members()[member].watches.has_credentials() => {
                    return Some(failure.into_error());
                }
                End::Token(_, token) if !std::mem::replace(&mut authenticated, true) => {
                    refused.get_or_insert_with(Instant::now);
                    let connection = &self.cluster.members()[member].watches;
                    match connection.new_token(token).await {
                        Ok(_) => continue,
                        Err(error) => {
                            let failure = self.subject.failure(&self.cluster.members()[member].url, error);
                            if let Failure::Refused(error) = failure {
                                return Some(error);
                            }
                        }
                    }
                }
                // That one was too old as well when it came, or the member has not heard of it yet.
                End::Token(Failure::Token(_), _)
                    if refused.is_none_or(|since| since.elapsed() < self.cluster.request_timeout()) => {}
                End::Token(failure, _) | End::Failed(failure @ Failure::Refused(_)) => {
                    return Some(failure.into_error());
                }
                End::Failed(_) => refused = None,
            }
            self.cluster.leave(member);
            authenticated = false;
            sleep(pause.next().unwrap_or_default()).await;
        }
    }

    /// Opens a stream at a member and delivers what comes, until it ends.
    async fn follow(&mut self, member: usize) -> End {
        let cluster = self.cluster.clone();
        let member = &cluster.members()[member];
        let connection = &member.watches;
        let patience = cluster.request_timeout();
        let silent = || End::Failed(Failure::silent(&member.url, "no answer in time"));
        let token = match timeout(patience, connection.token()).await {
            Ok(Ok(token)) => token,
            Ok(Err(error)) => return End::Failed(self.subject.failure(&member.url, error).not_sent()),
            Err(_) => return silent(),
        };
        let ended = |failure| match failure {
            Failure::Token(_) => End::Token(failure, token),
            other => End::Failed(other),
        };
        let mut watch = connection.watch();
        let (key, options) = self.options();
        let mut stream = match timeout(patience, watch.watch(key, Some(options))).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return ended(self.subject.failure(&member.url, error)),
            Err(_) => return silent(),
        };
        loop {
            let answer: PbWatchResponse = match next(&mut stream).await {
                Ok(Some(answer)) => answer,
                Ok(None) => return End::Failed(Failure::silent(&member.url, "the watch ended")),
                Err(error) => return ended(self.subject.failure(&member.url, error)),
            };
            if answer.compact_revision > 0 {
                return End::Compacted;
            }
            if answer.canceled {
                return self.cancelled(&member.url, &answer.cancel_reason, token);
            }
            self.accepted = true;
            if self.take(answer).await.is_none() {
                return End::Unwatched;
            }
        }
    }

    fn options(&self) -> (Vec<u8>, WatchOptions) {
        let range = self.namespace.range(&self.range);
        let mut options = WatchOptions::new().with_start_revision(self.next.0).with_fragment();
        if let Some(end) = range.end {
            options = options.with_range(end);
        }
        (range.start, options)
    }

    /// What it means that the member would not watch. An expired token is reported as a
    /// denied permission by some versions, so each of the two is taken for the other once.
    fn cancelled(&self, url: &str, reason: &str, token: u64) -> End {
        let code =
            if reason.contains("permission denied") { Code::PermissionDenied } else { Code::Unavailable };
        let text = reason.rsplit("desc = ").next().unwrap_or(reason);
        match self.subject.answer(url, &Status::new(code, text)) {
            failure @ (Failure::Token(_) | Failure::Refused(crate::store::StoreError::Denied { .. })) => {
                End::Token(failure, token)
            }
            other => End::Failed(other),
        }
    }

    /// Delivers the changes of an answer, one notice a revision; `None` where nobody listens.
    async fn take(&mut self, answer: PbWatchResponse) -> Option<()> {
        for event in answer.events {
            let Some(pair) = event.kv else { continue };
            let revision = Revision(pair.mod_revision);
            if revision != self.pending_revision {
                self.flush().await?;
                self.pending_revision = revision;
            }
            self.pending.push(if event.r#type == DELETED {
                Change::Deleted(self.namespace.strip(pair.key))
            } else {
                Change::Put(self.namespace.pair(pair))
            });
        }
        if answer.fragment { Some(()) } else { self.flush().await }
    }

    async fn flush(&mut self) -> Option<()> {
        if self.pending.is_empty() {
            return Some(());
        }
        let revision = self.pending_revision;
        let changes = std::mem::take(&mut self.pending);
        self.next = Revision(revision.0 + 1);
        self.notices.send(Ok(Notice::Changed { revision, changes })).await.ok()
    }
}

async fn next(stream: &mut WatchStream) -> std::result::Result<Option<PbWatchResponse>, etcd_client::Error> {
    Ok(stream.message().await?.map(|answer| answer.0))
}
