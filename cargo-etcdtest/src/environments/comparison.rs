//! Secrets of two environments compared, without being shown.

use std::collections::BTreeMap;

use super::secret_error::SecretError;
use super::secrets::Secrets;
use crate::model::{Definition, SecretVersion};
use crate::store::StoreError;

/// What two environments have as the secret of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compared {
    /// The same value.
    Same,
    /// Two values.
    Different,
    /// Two places in the store, of which one cannot be read here: why.
    Unknown(String),
}

impl Secrets {
    /// Compares the secrets that both definitions, which are resolved, have stored in
    /// different places. Values are read for that, and forgotten.
    ///
    /// # Errors
    /// Where the store cannot be reached.
    pub async fn compare(
        &self,
        from: &Definition,
        to: &Definition,
    ) -> Result<BTreeMap<String, Compared>, StoreError> {
        let mut compared = BTreeMap::new();
        for (name, one) in &from.secrets {
            if let Some(other) = to.secrets.get(name).filter(|other| *other != one) {
                compared.insert(name.clone(), self.compare_one(name, one, other).await?);
            }
        }
        Ok(compared)
    }

    async fn compare_one(
        &self,
        name: &str,
        one: &SecretVersion,
        other: &SecretVersion,
    ) -> Result<Compared, StoreError> {
        let (one, other) = match (self.get(name, one).await, self.get(name, other).await) {
            (Ok(one), Ok(other)) => (one, other),
            (Err(SecretError::Store(error)), _) | (_, Err(SecretError::Store(error)))
                if error.is_transient() =>
            {
                return Err(error);
            }
            // Not everybody may read secrets.
            (Err(error), _) | (_, Err(error)) => return Ok(Compared::Unknown(error.to_string())),
        };
        Ok(if one == other { Compared::Same } else { Compared::Different })
    }
}
