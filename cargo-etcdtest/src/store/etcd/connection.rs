//! One connection to one member, with the token of its user.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use etcd_client::{
    Client, ConnectOptions, Error, KvClient, LeaseClient, MaintenanceClient, TlsOptions, WatchClient,
};
use tokio::sync::Mutex;

use crate::store::Secret;

/// How long a connection with a request under way may be silent before the member is
/// asked for a sign of life. Members take more than one question in 5 s as an attack.
const SILENCE: Duration = Duration::from_millis(5500);

/// How long the sign of life may take before the connection is given up.
const SIGN_OF_LIFE: Duration = Duration::from_secs(3);

/// The largest answer that is taken: as large as a member can send.
const LARGEST_ANSWER: usize = i32::MAX as usize;

/// Who asks.
#[derive(Clone, Debug)]
pub(super) struct Credentials {
    /// The user's name.
    pub(super) user: String,
    /// The user's password.
    pub(super) password: Secret,
}

/// A connection to one member, which comes about with its first request and again after
/// it broke.
pub(super) struct Connection {
    client: Client,
    kv: KvClient,
    watch: WatchClient,
    credentials: Option<Credentials>,
    /// How many tokens there were: a request that failed for its token says which it had.
    tokens: AtomicU64,
    authenticating: Mutex<()>,
}

impl Connection {
    /// A connection to the member at `url`; sends nothing yet.
    pub(super) async fn new(
        url: &str,
        tls: Option<TlsOptions>,
        connect_timeout: Duration,
        credentials: Option<Credentials>,
    ) -> Result<Self, Error> {
        // Pings without a request under way would be answered with the end of the connection.
        let mut options = ConnectOptions::new()
            .with_connect_timeout(connect_timeout)
            .with_keep_alive(SILENCE, SIGN_OF_LIFE)
            .with_keep_alive_while_idle(false)
            .with_require_leader(true);
        if let Some(tls) = tls.filter(|_| url.starts_with("https://")) {
            options = options.with_tls(tls);
        }
        let client = Client::connect([url], Some(options)).await?;
        Ok(Self {
            kv: client.kv_client().max_decoding_message_size(LARGEST_ANSWER),
            watch: client.watch_client().max_decoding_message_size(LARGEST_ANSWER),
            client,
            credentials,
            tokens: AtomicU64::new(0),
            authenticating: Mutex::new(()),
        })
    }

    /// For reads and transactions.
    pub(super) fn kv(&self) -> KvClient {
        self.kv.clone()
    }

    /// For watches.
    pub(super) fn watch(&self) -> WatchClient {
        self.watch.clone()
    }

    /// For leases.
    pub(super) fn lease(&self) -> LeaseClient {
        self.client.lease_client()
    }

    /// For the member's state.
    pub(super) fn maintenance(&self) -> MaintenanceClient {
        self.client.maintenance_client()
    }

    /// Which token is in use, having authenticated if there was none yet.
    pub(super) async fn token(&self) -> Result<u64, Error> {
        match self.tokens.load(Ordering::Acquire) {
            0 if self.credentials.is_some() => self.new_token(0).await,
            token => Ok(token),
        }
    }

    /// Authenticates, unless that was done since `old` was in use; says which token is in
    /// use now.
    pub(super) async fn new_token(&self, old: u64) -> Result<u64, Error> {
        let Some(Credentials { user, password }) = &self.credentials else { return Ok(old) };
        let _one_at_a_time = self.authenticating.lock().await;
        let current = self.tokens.load(Ordering::Acquire);
        if current != old {
            return Ok(current);
        }
        let credentials = (user.clone(), password.expose().to_owned());
        match self.client.clone().update_user(Some(credentials)).await {
            // Like etcdctl: a user is no harm where the cluster does not ask for one.
            Err(Error::GRpcStatus(status)) if status.message().contains("authentication is not enabled") => {}
            other => other?,
        }
        self.tokens.store(old + 1, Ordering::Release);
        Ok(old + 1)
    }

    /// Whether requests are sent on behalf of a user with a password.
    pub(super) fn has_credentials(&self) -> bool {
        self.credentials.is_some()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("credentials", &self.credentials).finish_non_exhaustive()
    }
}
