//! Encryption of secrets with age: to several recipients, each ciphertext bound to the key
//! under which it is stored.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{BufReader, Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;

use age::{DecryptError, Decryptor, Encryptor, IdentityFile, x25519};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::secret_error::SecretError;
use crate::model::{Definition, SecretContent};
use crate::store::{Key, Secret};

/// Those who may read the secrets of an environment; without any, secrets are not encrypted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recipients(BTreeSet<String>);

/// What decrypts secrets. None by default.
#[derive(Clone, Default)]
pub struct Identities(Arc<Vec<Box<dyn age::Identity + Send + Sync>>>);

/// Why a secret stays closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closed {
    /// There is no identity.
    NoIdentity,
    /// The identities are others'.
    OtherIdentity,
    /// It is damaged, or was written for another key.
    Forged(&'static str),
}

/// What is encrypted.
#[derive(Serialize, Deserialize)]
struct Envelope {
    /// The key under which it is stored.
    key: String,
    value: String,
}

impl Recipients {
    /// Whether there is nobody.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether what is stored is for exactly these.
    pub(super) fn are_those_of(&self, content: &SecretContent) -> bool {
        match content {
            SecretContent::Value(_) => self.0.is_empty(),
            SecretContent::Age { recipients, .. } => self.0.iter().eq(recipients),
        }
    }

    /// The content of the record at `key`.
    ///
    /// # Errors
    /// What age said.
    pub(super) fn seal(&self, key: &Key, value: &Secret) -> Result<SecretContent, String> {
        if self.0.is_empty() {
            return Ok(SecretContent::Value(value.expose().to_owned()));
        }
        let envelope = Envelope { key: key.to_string(), value: value.expose().to_owned() };
        let envelope = serde_json::to_vec(&envelope).map_err(|error| error.to_string())?;
        let recipients: Vec<x25519::Recipient> =
            self.0.iter().map(|recipient| recipient.parse()).collect::<Result<_, _>>()?;
        let encryptor = Encryptor::with_recipients(recipients.iter().map(|recipient| recipient as _))
            .map_err(|error| error.to_string())?;
        let encrypt = || {
            let mut ciphertext = Vec::new();
            let mut writer = encryptor.wrap_output(&mut ciphertext)?;
            writer.write_all(&envelope)?;
            writer.finish()?;
            Ok(ciphertext)
        };
        let ciphertext = encrypt().map_err(|error: std::io::Error| error.to_string())?;
        let recipients = self.0.iter().cloned().collect();
        Ok(SecretContent::Age { recipients, ciphertext: STANDARD.encode(ciphertext) })
    }
}

/// Those for whom the secrets of an environment are encrypted, given all that it inherits.
impl From<&Definition> for Recipients {
    fn from(resolved: &Definition) -> Self {
        Self(resolved.recipients.iter().cloned().collect())
    }
}

/// One of age's X25519 public keys, `age1…`, as it is always written.
///
/// # Errors
/// What is wrong with the text, which may be a secret and is not in it.
pub(super) fn check_recipient(text: &str) -> Result<String, &'static str> {
    match text.trim().parse::<x25519::Recipient>() {
        Ok(recipient) => Ok(recipient.to_string()),
        // Somebody may have put the wrong half of a pair there.
        Err(_) if text.to_uppercase().contains("AGE-SECRET-KEY") => {
            Err("this is an identity, which belongs in no such file")
        }
        Err(reason) => Err(reason),
    }
}

impl Identities {
    /// Those of a file, and one given as text.
    ///
    /// # Errors
    /// [`SecretError::IdentityFile`] or [`SecretError::IdentityVariable`].
    pub fn load(file: Option<&Path>, text: Option<&Secret>) -> Result<Self, SecretError> {
        let mut identities = Vec::<Box<dyn age::Identity + Send + Sync>>::new();
        if let Some(path) = file {
            let failed = |reason: String| SecretError::IdentityFile { path: path.to_owned(), reason };
            let file = std::fs::File::open(path).map_err(|error| failed(error.to_string()))?;
            // age's own message names the line, and shows nothing of it.
            let file =
                IdentityFile::from_buffer(BufReader::new(file)).map_err(|error| failed(error.to_string()))?;
            identities = file.into_identities().map_err(|error| failed(error.to_string()))?;
            if identities.is_empty() {
                return Err(failed("there is no identity in it".into()));
            }
        }
        if let Some(text) = text {
            let identity = text.expose().trim().parse::<x25519::Identity>();
            identities.push(Box::new(identity.map_err(|_| SecretError::IdentityVariable)?));
        }
        Ok(Self(Arc::new(identities)))
    }

    /// The value in the content of the record at `key`.
    pub(super) fn open(&self, key: &Key, content: &SecretContent) -> Result<Secret, Closed> {
        const DAMAGED: Closed = Closed::Forged("it is damaged");
        let ciphertext = match content {
            SecretContent::Value(value) => return Ok(Secret::new(value)),
            SecretContent::Age { .. } if self.0.is_empty() => return Err(Closed::NoIdentity),
            SecretContent::Age { ciphertext, .. } => STANDARD.decode(ciphertext).map_err(|_| DAMAGED)?,
        };
        let decryptor = Decryptor::new_buffered(&ciphertext[..]).map_err(|_| DAMAGED)?;
        let identities = self.0.iter().map(|identity| &**identity as &dyn age::Identity);
        let mut reader = decryptor.decrypt(identities).map_err(|error| match error {
            DecryptError::NoMatchingKeys => Closed::OtherIdentity,
            _ => DAMAGED,
        })?;
        let mut envelope = Vec::new();
        reader.read_to_end(&mut envelope).map_err(|_| DAMAGED)?;
        let envelope: Envelope = serde_json::from_slice(&envelope).map_err(|_| DAMAGED)?;
        if envelope.key != key.to_string() {
            return Err(Closed::Forged("it was encrypted for another one"));
        }
        Ok(Secret::new(envelope.value))
    }
}

/// They are not shown.
impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} identities", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use age::secrecy::ExposeSecret as _;

    use super::*;

    /// A new identity, as text, and its recipient.
    fn pair() -> (Secret, String) {
        let identity = x25519::Identity::generate();
        (Secret::new(identity.to_string().expose_secret()), identity.to_public().to_string())
    }

    fn identities(text: &Secret) -> Identities {
        Identities::load(None, Some(text)).unwrap()
    }

    #[test]
    fn each_recipient_opens_what_was_sealed_and_nobody_else() {
        let (first, second, other) = (pair(), pair(), pair());
        let recipients = Recipients([first.1, second.1].into());
        let key = Key::from("/secrets/staging/db/0000000001");
        let sealed = recipients.seal(&key, &Secret::new("hunter2")).unwrap();
        assert!(recipients.are_those_of(&sealed) && !Recipients::default().are_those_of(&sealed));
        for identity in [&first.0, &second.0] {
            assert_eq!(identities(identity).open(&key, &sealed), Ok(Secret::new("hunter2")));
        }
        assert_eq!(identities(&other.0).open(&key, &sealed), Err(Closed::OtherIdentity));
        assert_eq!(Identities::default().open(&key, &sealed), Err(Closed::NoIdentity));
    }

    #[test]
    fn a_ciphertext_is_good_for_its_own_key_only() {
        let (identity, recipient) = pair();
        let recipients = Recipients([recipient].into());
        let sealed = recipients.seal(&"/secrets/a/db/0000000001".into(), &Secret::new("hunter2")).unwrap();
        for other in ["/secrets/a/db/0000000002", "/secrets/b/db/0000000001"] {
            let opened = identities(&identity).open(&other.into(), &sealed);
            assert!(matches!(opened, Err(Closed::Forged(_))), "{opened:?}");
        }
        let SecretContent::Age { recipients, ciphertext } = sealed else { panic!("it is encrypted") };
        for damaged in [ciphertext[..ciphertext.len() - 8].to_owned(), "!".into(), String::new()] {
            let damaged = SecretContent::Age { recipients: recipients.clone(), ciphertext: damaged };
            let opened = identities(&identity).open(&"/secrets/a/db/0000000001".into(), &damaged);
            assert!(matches!(opened, Err(Closed::Forged(_))), "{opened:?}");
        }
    }

    #[test]
    fn an_identity_is_never_shown() {
        let (identity, _) = pair();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key.txt");
        std::fs::write(&file, format!("# mine\n{}X\n", identity.expose())).unwrap();
        let error = Identities::load(Some(&file), None).unwrap_err().to_string();
        assert!(error.contains("line 2") && !error.contains(identity.expose()), "{error}");
        let error = Identities::load(None, Some(&Secret::new(format!("{}X", identity.expose()))));
        assert!(!error.unwrap_err().to_string().contains(identity.expose()));
        std::fs::write(&file, format!("# mine\n{}\n", identity.expose())).unwrap();
        assert_eq!(format!("{:?}", Identities::load(Some(&file), None).unwrap()), "1 identities");
    }
}
