//! What can go wrong with secrets.

use std::path::PathBuf;

use miette::Diagnostic;

use crate::store::{Key, StoreError};

/// Why an operation on secrets failed. None of these shows a value or an identity.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum SecretError {
    /// A file without identities.
    #[error("the identity file {} cannot be used: {reason}", .path.display())]
    #[diagnostic(help("it holds lines AGE-SECRET-KEY-1…, as `age-keygen -o FILE` writes it"))]
    IdentityFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A variable that should hold an identity.
    #[error("what ETCDTEST_AGE_KEY holds is no age identity")]
    #[diagnostic(help("it is a text AGE-SECRET-KEY-1…, as `age-keygen` prints it"))]
    IdentityVariable,
    /// Nobody gave an identity.
    #[error("the secret `{name}` of `{environment}` is encrypted, and there is no identity to decrypt it")]
    #[diagnostic(help(
        "name a file with the identity by --identity or ETCDTEST_IDENTITY, or put the identity into ETCDTEST_AGE_KEY"
    ))]
    NoIdentity {
        /// The environment.
        environment: String,
        /// The secret.
        name: String,
    },
    /// The identity that was given belongs to none of the recipients.
    #[error(
        "the secret `{name}` of `{environment}` is encrypted for others than the identity that was given"
    )]
    #[diagnostic(help(
        "use the identity of one of its recipients, or have one of them add yours to `recipients` in the environment's file and apply it"
    ))]
    OtherIdentity {
        /// The environment.
        environment: String,
        /// The secret.
        name: String,
    },
    /// A record that is damaged, was written for another key, or is not encrypted although it
    /// should be.
    #[error("the record {key} is not what was stored there: {reason}")]
    #[diagnostic(help("somebody changed the store by hand; apply the environment's file to write it anew"))]
    Forged {
        /// The key.
        key: Key,
        /// How that is known.
        reason: &'static str,
    },
    /// The store has no such version.
    #[error("the store has no version {version} of the secret `{name}` of `{environment}`")]
    #[diagnostic(help("apply the environment's file to write it anew"))]
    Missing {
        /// The environment.
        environment: String,
        /// The secret.
        name: String,
        /// The version.
        version: u64,
    },
    /// A value could not be encrypted.
    #[error("failed to encrypt the secret `{name}` of `{environment}`: {reason}")]
    Encrypt {
        /// The environment.
        environment: String,
        /// The secret.
        name: String,
        /// What age said.
        reason: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl SecretError {
    /// Whether the environment cannot be used as it stands in the store, by whoever asks.
    pub fn is_of_environment(&self) -> bool {
        !matches!(self, Self::Encrypt { .. } | Self::Store(_))
    }
}
