//! A certificate authority of its own for each test.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use tempfile::TempDir;

/// A certificate authority and what it signed, as PEM files in a folder that goes with it.
#[derive(Debug)]
pub struct Authority {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, as files.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Authority {
    /// A new authority that nobody trusts yet.
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("make a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("sign");
        let folder = tempfile::tempdir().expect("make a folder");
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).expect("write the certificate");
        Self { folder, issuer }
    }

    /// Its own certificate.
    pub fn cacert(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate for 127.0.0.1 with this common name.
    pub fn sign(&self, name: &str) -> Certificate {
        let mut params = CertificateParams::new(vec!["127.0.0.1".into()]).expect("an address");
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("make a key");
        let signed = params.signed_by(&key, &self.issuer).expect("sign");
        let file = |kind: &str, text: String| {
            let file = self.folder.path().join(format!("{name}-{kind}.pem"));
            std::fs::write(&file, text).expect("write a certificate");
            file
        };
        Certificate { cert: file("cert", signed.pem()), key: file("key", key.serialize_pem()) }
    }

    /// The flags with which etcd has this certificate and asks clients for one of this
    /// authority.
    pub fn etcd_flags(&self, server: &Certificate) -> Vec<String> {
        let flag = |name: &str, file: &Path| format!("--{name}={}", file.display());
        vec![
            flag("cert-file", &server.cert),
            flag("key-file", &server.key),
            flag("trusted-ca-file", &self.cacert()),
            "--client-cert-auth".into(),
        ]
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}
