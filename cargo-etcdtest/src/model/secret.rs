//! Secrets as they are stored.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Record;

/// One version of a secret, under `/secrets/{environment}/{name}/{version}`; never rewritten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredSecret {
    /// What it is.
    #[serde(flatten)]
    pub content: SecretContent,
}

/// A secret's value, as it is or encrypted.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretContent {
    /// The value.
    Value(String),
    /// The value, readable for some only.
    Age {
        /// The public keys of those, sorted.
        recipients: Vec<String>,
        /// An age file in base64. In it is a JSON object with the `key` of this record and
        /// the `value`.
        ciphertext: String,
    },
}

impl Record for StoredSecret {
    const SCHEMA: u64 = 1;
}

/// The value is not shown.
impl fmt::Debug for SecretContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Value(_) => "Value(…)",
            Self::Age { .. } => "Age(…)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_secret_does_not_print() {
        let secret = StoredSecret { content: SecretContent::Value("hunter2".into()) };
        assert!(!format!("{secret:?}").contains("hunter2"));
    }
}
