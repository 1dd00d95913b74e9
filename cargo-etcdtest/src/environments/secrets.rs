//! Secrets in the store: written in versions that stay, read with an identity.

use std::collections::BTreeMap;
use std::time::Duration;

use super::sealing::{Closed, Identities, Recipients};
use super::secret_error::SecretError;
use crate::model::{Definition, Environment, SecretContent, SecretVersion, StoredSecret};
use crate::redact::Redactor;
use crate::store::{
    self, Commit, Compare, Key, KeyRange, Op, Revision, Secret, SharedStore, StoreError, Txn, decode, encode,
    keys,
};

/// How long a write stays with a store that does not answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The secrets of one store.
#[derive(Clone, Debug)]
pub struct Secrets {
    store: SharedStore,
    identities: Identities,
}

/// The values of environments' secrets: by environment, then by name.
#[derive(Clone, Debug, Default)]
pub struct SecretValues(BTreeMap<String, BTreeMap<String, Secret>>);

impl Secrets {
    /// The secrets of this store, as far as these identities can read them.
    pub fn new(store: SharedStore, identities: Identities) -> Self {
        Self { store, identities }
    }

    /// Stores a value for these recipients, and says as which version. That is the newest
    /// where it is known to hold the same for the same recipients, else a new one.
    ///
    /// # Errors
    /// [`SecretError::Encrypt`], or as the store fails.
    pub async fn put(
        &self,
        environment: &str,
        name: &str,
        value: &Secret,
        recipients: &Recipients,
    ) -> Result<SecretVersion, SecretError> {
        loop {
            let newest = self.newest(environment, name).await?;
            if let Some((version, stored)) = &newest
                && recipients.are_those_of(&stored.content)
                && self.identities.open(&keys::secret(environment, name, *version), &stored.content).as_ref()
                    == Ok(value)
            {
                let encrypted = !recipients.is_empty();
                return Ok(SecretVersion {
                    environment: environment.to_owned(),
                    version: *version,
                    encrypted,
                });
            }
            let version = newest.map_or(0, |(version, _)| version) + 1;
            let key = keys::secret(environment, name, version);
            let content = recipients.seal(&key, value).map_err(|reason| SecretError::Encrypt {
                environment: environment.to_owned(),
                name: name.to_owned(),
                reason,
            })?;
            let txn = Txn {
                compares: vec![Compare::created(key.clone(), Revision(0))],
                then: vec![Op::put(key.clone(), encode(&StoredSecret { content }))],
                otherwise: vec![],
            };
            // Refused is who was overtaken: the newest is another one now.
            if let Commit::Applied(_) = store::commit(&*self.store, &txn, &key, PATIENCE).await? {
                let encrypted = !recipients.is_empty();
                return Ok(SecretVersion { environment: environment.to_owned(), version, encrypted });
            }
        }
    }

    /// Keeps the value of a version, for these recipients: encrypted anew where it was for
    /// others.
    ///
    /// # Errors
    /// As [`Secrets::get`] and [`Secrets::put`].
    pub async fn keep(
        &self,
        name: &str,
        at: &SecretVersion,
        recipients: &Recipients,
    ) -> Result<SecretVersion, SecretError> {
        let (_, stored) = self.stored(name, at).await?;
        if recipients.are_those_of(&stored.content) {
            return Ok(SecretVersion { encrypted: !recipients.is_empty(), ..at.clone() });
        }
        self.put(&at.environment, name, &self.get(name, at).await?, recipients).await
    }

    /// The value of a version.
    ///
    /// # Errors
    /// Where it is not there, or cannot be decrypted, or as the store fails.
    pub async fn get(&self, name: &str, at: &SecretVersion) -> Result<Secret, SecretError> {
        let (key, stored) = self.stored(name, at).await?;
        self.identities.open(&key, &stored.content).map_err(|closed| {
            let (environment, name) = (at.environment.clone(), name.to_owned());
            match closed {
                Closed::NoIdentity => SecretError::NoIdentity { environment, name },
                Closed::OtherIdentity => SecretError::OtherIdentity { environment, name },
                Closed::Forged(reason) => SecretError::Forged { key, reason },
            }
        })
    }

    /// The values of all secrets of these environments, which are resolved.
    ///
    /// # Errors
    /// As [`Secrets::get`], at the first that cannot be read.
    pub async fn of(&self, environments: &[Environment]) -> Result<SecretValues, SecretError> {
        let mut values = SecretValues::default();
        for environment in environments {
            for (name, at) in &environment.definition.secrets {
                values.insert(&environment.name, name, self.get(name, at).await?);
            }
        }
        Ok(values)
    }

    /// The values of those secrets of an environment that can be read here, by name.
    ///
    /// # Errors
    /// As the store fails, unless it says that the user may not read them.
    pub async fn readable(&self, of: &Definition) -> Result<Vec<(String, Secret)>, SecretError> {
        let mut values = Vec::new();
        for (name, at) in &of.secrets {
            match self.get(name, at).await {
                Ok(value) => values.push((name.clone(), value)),
                Err(SecretError::Store(StoreError::Denied { .. })) => {}
                Err(error @ SecretError::Store(_)) => return Err(error),
                Err(_) => {}
            }
        }
        Ok(values)
    }

    async fn stored(&self, name: &str, at: &SecretVersion) -> Result<(Key, StoredSecret), SecretError> {
        let key = keys::secret(&at.environment, name, at.version);
        match store::get_record(&*self.store, key.clone()).await? {
            // Whoever may write there could otherwise have everybody use a value of theirs.
            Some((StoredSecret { content: SecretContent::Value(_) }, _)) if at.encrypted => {
                Err(SecretError::Forged { key, reason: "it is not encrypted" })
            }
            Some((stored, _)) => Ok((key, stored)),
            None => Err(SecretError::Missing {
                environment: at.environment.clone(),
                name: name.to_owned(),
                version: at.version,
            }),
        }
    }

    async fn newest(
        &self,
        environment: &str,
        name: &str,
    ) -> Result<Option<(u64, StoredSecret)>, SecretError> {
        let versions = keys::secret_versions(environment, name);
        let page = store::list_chunks(&*self.store, KeyRange::prefix(versions.clone())).await?;
        let Some(pair) = page.pairs.last() else { return Ok(None) };
        let number = pair.key.as_bytes().strip_prefix(versions.as_bytes());
        let number = number.and_then(|number| std::str::from_utf8(number).ok()?.parse().ok());
        let number = number.ok_or_else(|| StoreError::Record {
            key: pair.key.clone(),
            reason: "its key does not end in a version number".into(),
        })?;
        Ok(Some((number, decode(pair)?)))
    }
}

impl SecretValues {
    /// Adds a value.
    pub fn insert(&mut self, environment: &str, name: &str, value: Secret) {
        self.0.entry(environment.to_owned()).or_default().insert(name.to_owned(), value);
    }

    /// The secrets of one environment, by name.
    pub fn of(&self, environment: &str) -> impl Iterator<Item = (&str, &Secret)> {
        self.0.get(environment).into_iter().flatten().map(|(name, value)| (name.as_str(), value))
    }

    /// What replaces all of them, whichever environment they belong to.
    pub fn redactor(&self) -> Redactor {
        let all = self.0.values().flatten();
        Redactor::new(all.map(|(name, value)| (name.as_str(), value.expose())))
    }
}

#[cfg(test)]
mod tests;
