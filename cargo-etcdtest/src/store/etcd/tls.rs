//! The certificate files of the options, read.

use std::path::Path;

use etcd_client::{Certificate, Identity, TlsOptions};

use super::options::EtcdOptions;
use crate::store::{Result, StoreError};

/// What the certificate files of the options mean; `None` where neither a file nor an
/// `https` endpoint is given.
pub(super) fn tls(options: &EtcdOptions, urls: &[String]) -> Result<Option<TlsOptions>> {
    if !options.wants_tls() && !urls.iter().any(|url| url.starts_with("https://")) {
        return Ok(None);
    }
    let failed = |reason: String| StoreError::Failed { location: urls.join(","), reason };
    let mut tls = TlsOptions::new();
    tls = match &options.cacert {
        Some(file) => tls.ca_certificate(Certificate::from_pem(pem(file, "CERTIFICATE").map_err(failed)?)),
        None => tls.with_native_roots(),
    };
    match (&options.cert, &options.key) {
        (None, None) => {}
        (Some(cert), Some(key)) => {
            let cert = pem(cert, "CERTIFICATE").map_err(failed)?;
            let key = pem(key, "PRIVATE KEY").map_err(failed)?;
            tls = tls.identity(Identity::from_pem(cert, key));
        }
        (Some(cert), None) => {
            return Err(failed(format!("the client certificate {} needs its --key", cert.display())));
        }
        (None, Some(key)) => return Err(failed(format!("the key {} needs its --cert", key.display()))),
    }
    Ok(Some(tls))
}

fn pem(file: &Path, kind: &str) -> std::result::Result<Vec<u8>, String> {
    let text = std::fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let found = String::from_utf8_lossy(&text)
        .lines()
        .any(|line| line.starts_with("-----BEGIN ") && line.contains(kind));
    if found { Ok(text) } else { Err(format!("{} holds no {} in PEM", file.display(), kind.to_lowercase())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(options: &EtcdOptions) -> String {
        tls(options, &options.urls()).unwrap_err().to_string()
    }

    #[test]
    fn a_certificate_file_that_cannot_be_used_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("ca.pem");
        let options = EtcdOptions {
            endpoints: vec!["a:1".into()],
            cacert: Some(missing.clone()),
            ..EtcdOptions::default()
        };
        assert!(reason(&options).contains(&format!("cannot read {}", missing.display())));
        std::fs::write(&missing, "garbage").unwrap();
        assert!(reason(&options).contains("ca.pem holds no certificate in PEM"));
        let half = EtcdOptions { cacert: None, cert: Some(missing), ..options };
        assert!(reason(&half).contains("needs its --key"));
    }
}
