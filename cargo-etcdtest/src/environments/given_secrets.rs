//! The secrets of a file, on their way to the store.

use std::collections::BTreeMap;

use super::error::EnvironmentError;
use super::fault::Fault;
use super::file::EnvironmentFile;
use super::name::EnvironmentId;
use super::sealing::Recipients;
use super::secrets::Secrets;
use super::service::Environments;
use crate::model::{Definition, SecretVersion};
use crate::store::Secret;

/// The values of a file's secrets by name; a reason for those that are not at hand here.
#[derive(Debug)]
pub struct GivenSecrets(BTreeMap<String, Result<Secret, Fault>>);

impl GivenSecrets {
    /// Takes the values from where the file says. Waits for commands and for a person.
    ///
    /// # Errors
    /// All values that cannot be read or used, each at its place in the file.
    pub fn read(file: &EnvironmentFile) -> Result<Self, EnvironmentError> {
        let (mut values, mut errors) = (BTreeMap::new(), Vec::new());
        for (name, input) in &file.secrets {
            match input.read(&file.name, name) {
                Err(fault) if !input.is_absent() => errors.push(file.mistake(fault)),
                other => drop(values.insert(name.clone(), other)),
            }
        }
        EnvironmentError::all(errors).map(|()| Self(values))
    }

    /// Those of several files.
    ///
    /// # Errors
    /// Those of all.
    pub fn read_all(files: &[EnvironmentFile]) -> Result<Vec<Self>, EnvironmentError> {
        let mut errors = Vec::new();
        let read = files.iter().filter_map(|file| Self::read(file).map_err(|error| errors.push(error)).ok());
        let read = read.collect();
        EnvironmentError::all(errors).map(|()| read)
    }

    /// The values that are at hand, by name.
    pub fn values(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_ref().ok()?.expose())))
    }

    /// Checks that those that are not at hand are stored: `current` is the environment as it
    /// is now.
    ///
    /// # Errors
    /// All that are neither, each at its place in the file.
    pub fn check(
        &self,
        file: &EnvironmentFile,
        current: Option<&Definition>,
    ) -> Result<(), EnvironmentError> {
        let absent = self.0.iter().filter_map(|(name, value)| Some((name, value.as_ref().err()?)));
        let errors = absent.filter(|(name, _)| stored_in(current, &file.name, name).is_none());
        EnvironmentError::all(errors.map(|(_, fault)| file.mistake(fault.clone())).collect())
    }

    /// Stores them for the recipients that the file or what it extends names, notes in the
    /// file's definition where, and says which were not at hand and stay as `current`, the
    /// environment as it is now, has them.
    ///
    /// # Errors
    /// Where a value is neither at hand nor stored; else as [`Secrets::put`],
    /// [`Secrets::keep`] and [`Environments::chain`].
    pub async fn store(
        self,
        environments: &Environments,
        secrets: &Secrets,
        file: &mut EnvironmentFile,
        current: Option<&Definition>,
    ) -> Result<Vec<String>, EnvironmentError> {
        let mut recipients = Recipients::from(&file.definition);
        if recipients.is_empty()
            && let Some(base) = &file.definition.extends
        {
            let base = environments.chain(&EnvironmentId::current(base)).await?;
            recipients = Recipients::from(&base.resolve().definition);
        }
        // What the file names as stored stays as it is, unless it is for others now.
        if !recipients.is_empty() {
            for (name, at) in &mut file.definition.secrets {
                if at.environment == file.name {
                    *at = secrets.keep(name, at, &recipients).await?;
                }
            }
        }
        let mut kept = Vec::new();
        for (name, value) in self.0 {
            let at = match (value, stored_in(current, &file.name, &name)) {
                (Ok(value), _) => secrets.put(&file.name, &name, &value, &recipients).await?,
                (Err(_), Some(stored)) => {
                    kept.push(name.clone());
                    secrets.keep(&name, stored, &recipients).await?
                }
                (Err(fault), None) => return Err(file.mistake(fault)),
            };
            file.definition.secrets.insert(name, at);
        }
        Ok(kept)
    }
}

/// Where the environment of this name has this secret of its own.
fn stored_in<'d>(
    current: Option<&'d Definition>,
    environment: &str,
    secret: &str,
) -> Option<&'d SecretVersion> {
    current?.secrets.get(secret).filter(|stored| stored.environment == environment)
}
