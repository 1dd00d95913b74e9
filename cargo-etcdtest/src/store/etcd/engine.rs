//! A store on an etcd cluster.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{Error, GetOptions, StatusResponse};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::timeout;

use super::cluster::{Cluster, Member, Repeat};
use super::failure::{Failure, Subject};
use super::namespace::{self, Namespace};
use super::options::EtcdOptions;
use super::status;
use super::watch::Watcher;
use crate::store::{
    KeyRange, Lease, LeaseId, Op, Page, Read, Result, Revision, Store, StoreError, StoreStatus, Txn,
    TxnOutcome, Watch,
};

/// How often a member that breaks the connection is asked before it counts as unwilling.
const GREETINGS: usize = 3;

/// A store on an etcd cluster of version 3.4 or newer.
#[derive(Clone, Debug)]
pub struct EtcdStore {
    cluster: Arc<Cluster>,
    namespace: Namespace,
    /// The cluster's own id, if it may be known.
    id: Option<u64>,
}

impl EtcdStore {
    /// Connects to whichever member answers first, authenticates, and checks that the
    /// server can keep what a store has to keep.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where no member answers within the connect timeout,
    /// [`StoreError::Unauthenticated`] for user, password or certificates, and
    /// [`StoreError::Unsupported`] for a server that is too old or no etcd.
    pub async fn connect(options: EtcdOptions) -> Result<Self> {
        let cluster = Cluster::new(&options).await?;
        let mut asked: FuturesUnordered<_> = (0..cluster.members().len())
            .map(|index| {
                let cluster = &cluster;
                async move {
                    let member = &cluster.members()[index];
                    let answer = timeout(options.connect_timeout, greet(member)).await;
                    let silent = || Failure::silent(&member.url, "no answer in time").into_error();
                    (index, answer.unwrap_or_else(|_| Err(silent())))
                }
            })
            .collect();
        let mut failures = Vec::new();
        while let Some((index, answer)) = asked.next().await {
            match answer {
                Ok(answer) => {
                    status::check(&cluster.members()[index].url, answer.as_ref())?;
                    cluster.prefer(index);
                    drop(asked);
                    let namespace = Namespace::new(&options.namespace);
                    let id = answer.as_ref().and_then(|answer| Some(answer.header()?.cluster_id()));
                    return Ok(Self { cluster: Arc::new(cluster), namespace, id });
                }
                Err(error) => failures.push(error),
            }
        }
        // Whoever answered at all tells more than those who did not.
        failures.sort_by_key(StoreError::is_transient);
        Err(match failures.into_iter().next() {
            Some(StoreError::Unavailable { location, reason }) if cluster.members().len() > 1 => {
                StoreError::Unavailable {
                    location: cluster.location().into(),
                    reason: format!("none of the endpoints answers; {location}: {reason}"),
                }
            }
            Some(error) => error,
            None => unreachable!("a cluster has a member"),
        })
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn read(&self, read: Read) -> Result<Page> {
        let (key, options) = self.namespace.read(&read);
        let subject = Subject::new(format!("reading {}", read.range.start)).at(read.at.unwrap_or_default());
        let answer = self
            .cluster
            .call(Repeat::Freely, &subject, |connection| {
                let (key, options) = (key.clone(), options.clone());
                async move { connection.kv().get(key, Some(options)).await }
            })
            .await?;
        Ok(self.namespace.page(answer.0, read.limit))
    }

    async fn count(&self, range: KeyRange) -> Result<u64> {
        let (key, options) = self.namespace.read(&range.clone().into());
        let subject = Subject::new(format!("counting {}", range.start));
        let answer = self
            .cluster
            .call(Repeat::Freely, &subject, |connection| {
                let (key, options) = (key.clone(), options.clone().with_count_only());
                async move { connection.kv().get(key, Some(options)).await }
            })
            .await?;
        Ok(answer.0.count.unsigned_abs())
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome> {
        let repeat = if txn.only_reads() { Repeat::Freely } else { Repeat::OnlyIfNotApplied };
        let request = self.namespace.txn(&txn);
        let answer = self
            .cluster
            .call(repeat, &about(&txn), |connection| {
                let request = request.clone();
                async move { connection.kv().txn(request).await }
            })
            .await;
        match answer {
            Ok(answer) => Ok(self.namespace.outcome(answer.0, &txn)),
            Err(StoreError::DuplicateKey(unnamed)) => {
                Err(StoreError::DuplicateKey(namespace::duplicate(&txn).unwrap_or(unnamed)))
            }
            Err(error) => Err(error),
        }
    }

    async fn watch(&self, range: KeyRange, from: Revision) -> Result<Watch> {
        // Asked for by a read, "now" is the newest revision, also of a member that lags.
        let next = if from.0 > 0 { from } else { Revision(self.revision(&range).await?.0 + 1) };
        Ok(Watcher::start(self.cluster.clone(), self.namespace.clone(), range, next))
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease> {
        let seconds = i64::try_from(ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0)).unwrap_or(i64::MAX);
        // A lease that was granted unheard has no keys and ends by itself.
        let answer = self
            .cluster
            .call(Repeat::Freely, &Subject::new("granting a lease"), |connection| async move {
                connection.lease().grant(seconds, None).await
            })
            .await?;
        Ok(Lease { id: LeaseId(answer.id()), ttl: seconds_of(answer.ttl()) })
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration> {
        self.cluster
            .call(Repeat::Freely, &Subject::new("keeping a lease alive"), |connection| async move {
                // etcd-client keeps the first answer of a stream to itself, so ask twice.
                let (mut requests, mut answers) = connection.lease().keep_alive(lease.0).await?;
                requests.keep_alive().await?;
                match answers.message().await? {
                    Some(answer) if answer.ttl() > 0 => Ok(seconds_of(answer.ttl())),
                    Some(_) => Err(Error::LeaseKeepAliveError("lease not found".into())),
                    None => Err(Error::LeaseKeepAliveError("the stream ended".into())),
                }
            })
            .await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.cluster
            .call(Repeat::Freely, &Subject::new("ending a lease"), |connection| async move {
                connection.lease().revoke(lease.0).await
            })
            .await?;
        Ok(())
    }

    async fn compact(&self, upto: Revision) -> Result<()> {
        self.cluster
            .call(Repeat::Freely, &Subject::new("compacting").at(upto), |connection| async move {
                connection.kv().compact(upto.0, None).await
            })
            .await?;
        Ok(())
    }

    async fn status(&self) -> Result<StoreStatus> {
        status::status(&self.cluster, self.revision(&KeyRange::key("/"))).await
    }

    fn cluster_id(&self) -> Option<u64> {
        self.id
    }
}

impl EtcdStore {
    /// The cluster's revision, as one who may read this range gets to know it.
    async fn revision(&self, range: &KeyRange) -> Result<Revision> {
        revision(&self.cluster, &self.namespace, range).await
    }
}

/// Asks a member for the first time. One that breaks each connection rather than answer has
/// a reason, which the end of a connection often outruns.
async fn greet(member: &Member) -> Result<Option<StatusResponse>> {
    let mut greetings = 1;
    let error = loop {
        match status::ask(member).await {
            Ok(answer) => return Ok(answer),
            Err(Failure::Broken(_)) if greetings < GREETINGS => greetings += 1,
            Err(Failure::Broken(error)) => break error,
            Err(failure) => return Err(failure.into_error()),
        }
    };
    let StoreError::Unavailable { location, reason } = error else { return Err(error) };
    if location.starts_with("https://") {
        let reason = format!(
            "it ends the connection, as without a client certificate that it trusts, see --cert and --key \
             ({reason})"
        );
        return Err(StoreError::Unauthenticated { location, reason });
    }
    let reason = format!("{reason}; where it uses TLS, write https:// and give --cacert");
    Err(StoreError::Unavailable { location, reason })
}

/// The cluster's revision, as one who may read this range gets to know it.
pub(super) async fn revision(cluster: &Cluster, namespace: &Namespace, range: &KeyRange) -> Result<Revision> {
    let namespace::EtcdRange { start, end } = namespace.range(range);
    let mut options = GetOptions::new().with_keys_only().with_limit(1);
    if let Some(end) = end {
        options = options.with_range(end);
    }
    let subject = Subject::new(format!("reading {}", range.start));
    let answer = cluster
        .call(Repeat::Freely, &subject, |connection| {
            let (start, options) = (start.clone(), options.clone());
            async move { connection.kv().get(start, Some(options)).await }
        })
        .await?;
    Ok(namespace::revision(answer.0.header.as_ref()))
}

/// What a transaction is about: the first key that it names, and the revision it reads at.
fn about(txn: &Txn) -> Subject {
    let operations = || txn.then.iter().chain(&txn.otherwise);
    let key = operations().map(|op| match op {
        Op::Get(read) => &read.range.start,
        Op::Put { key, .. } => key,
        Op::Delete(range) => &range.start,
    });
    let first = txn.compares.iter().map(|compare| &compare.range.start).chain(key).next();
    let at = operations().find_map(|op| if let Op::Get(read) = op { read.at } else { None });
    let what = first.map_or_else(String::new, |key| format!(" on {key}"));
    Subject::new(format!("a transaction{what}")).at(at.unwrap_or_default())
}

fn seconds_of(ttl: i64) -> Duration {
    Duration::from_secs(u64::try_from(ttl).unwrap_or_default())
}
