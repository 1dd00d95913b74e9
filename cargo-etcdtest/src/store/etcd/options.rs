//! How to reach an etcd cluster.

use std::path::PathBuf;
use std::time::Duration;

use crate::store::Secret;

/// How to reach an etcd cluster, and as whom.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    /// Where its members listen: `host:port`, or with `http://` or `https://` before it.
    /// Without a scheme it is https where any of the certificate files is given.
    pub endpoints: Vec<String>,
    /// The user to authenticate as.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<Secret>,
    /// The certificate authority to trust, PEM; without it those of the system.
    pub cacert: Option<PathBuf>,
    /// The client certificate, PEM.
    pub cert: Option<PathBuf>,
    /// The key of the client certificate, PEM.
    pub key: Option<PathBuf>,
    /// What stands before every key; may be empty.
    pub namespace: String,
    /// How long a connection may take to come about.
    pub connect_timeout: Duration,
    /// How long a request may take, all tries together.
    pub request_timeout: Duration,
}

impl Default for EtcdOptions {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            user: None,
            password: None,
            cacert: None,
            cert: None,
            key: None,
            namespace: String::new(),
            connect_timeout: Duration::from_secs(3),
            request_timeout: Duration::from_secs(10),
        }
    }
}

/// Whether an endpoint has a user, and perhaps a password, before its host: nothing reads them
/// there, and endpoints are shown.
pub fn has_user(endpoint: &str) -> bool {
    endpoint.contains('@')
}

impl EtcdOptions {
    /// Whether any of the certificate files is given.
    pub(super) fn wants_tls(&self) -> bool {
        self.cacert.is_some() || self.cert.is_some() || self.key.is_some()
    }

    /// The endpoints with their schemes, without what is blank or a trailing slash.
    pub fn urls(&self) -> Vec<String> {
        let scheme = if self.wants_tls() { "https" } else { "http" };
        let given = self.endpoints.iter().map(|endpoint| endpoint.trim().trim_end_matches('/'));
        given
            .filter(|endpoint| !endpoint.is_empty())
            .map(
                |endpoint| {
                    if endpoint.contains("://") { endpoint.into() } else { format!("{scheme}://{endpoint}") }
                },
            )
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_without_a_scheme_is_https_where_a_certificate_is_given() {
        let plain =
            EtcdOptions { endpoints: vec!["a:1".into(), " https://b:2/ ".into()], ..EtcdOptions::default() };
        assert_eq!(plain.urls(), ["http://a:1", "https://b:2"]);
        let tls = EtcdOptions { cacert: Some("ca.pem".into()), ..plain };
        assert_eq!(tls.urls(), ["https://a:1", "https://b:2"]);
    }
}
