//! The secrets of a file, on their way to the store.

use std::collections::BTreeMap;

use super::file::EnvironmentFile;
use super::sealing::Recipients;
use super::secret_error::SecretError;
use super::secrets::Secrets;
use crate::model::Definition;
use crate::store::Secret;

/// The values of a file's secrets, and for whom they are.
#[derive(Debug)]
pub struct GivenSecrets {
    recipients: Recipients,
    /// By name; a reason for those that are not at hand here.
    values: BTreeMap<String, Result<Secret, SecretError>>,
}

impl GivenSecrets {
    /// Takes the values from where the file says. Waits for commands and for a person.
    ///
    /// # Errors
    /// A value that cannot be read or used, and a text that is no recipient.
    pub fn read(file: &EnvironmentFile) -> Result<Self, SecretError> {
        let recipients = Recipients::parse(&file.recipients)?;
        let mut values = BTreeMap::new();
        for (name, input) in &file.secrets {
            let value = match input.read(&file.name, name) {
                Err(error) if !input.is_absent() => return Err(error),
                other => other,
            };
            values.insert(name.clone(), value);
        }
        Ok(Self { recipients, values })
    }

    /// The same, for those for whom the secrets of an environment are stored: an edited text
    /// does not name them.
    ///
    /// # Errors
    /// As [`Secrets::get`].
    pub async fn for_those_of(self, secrets: &Secrets, current: &Definition) -> Result<Self, SecretError> {
        if self.recipients != Recipients::default() {
            return Ok(self);
        }
        Ok(Self { recipients: secrets.recipients(current).await?, ..self })
    }

    /// The values that are at hand, by name.
    pub fn values(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_ref().ok()?.expose())))
    }

    /// Stores them, notes in the file's definition where, and says which were not at hand
    /// and stay as `current`, the environment as it is now, has them.
    ///
    /// # Errors
    /// Where a value is neither at hand nor stored; else as [`Secrets::put`] and
    /// [`Secrets::keep`].
    pub async fn store(
        self,
        secrets: &Secrets,
        file: &mut EnvironmentFile,
        current: Option<&Definition>,
    ) -> Result<Vec<String>, SecretError> {
        let Self { recipients, values } = self;
        // What the file names as stored stays as it is, unless it names recipients for it.
        if recipients != Recipients::default() {
            for (name, at) in &mut file.definition.secrets {
                if at.environment == file.name {
                    *at = secrets.keep(name, at, &recipients).await?;
                }
            }
        }
        let mut kept = Vec::new();
        for (name, value) in values {
            let stored = current.and_then(|current| current.secrets.get(&name));
            let at = match (value, stored) {
                (Ok(value), _) => secrets.put(&file.name, &name, &value, &recipients).await?,
                (Err(_), Some(stored)) if stored.environment == file.name => {
                    kept.push(name.clone());
                    secrets.keep(&name, stored, &recipients).await?
                }
                (Err(error), _) => return Err(error),
            };
            file.definition.secrets.insert(name, at);
        }
        Ok(kept)
    }
}
