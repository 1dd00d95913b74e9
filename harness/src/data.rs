//! A data set in the hands of a test.

use std::{fmt, str};

use serde_core::de::DeserializeOwned;

use crate::ConfigError;

/// The content of a data set of the environment, as [`Context::data`](crate::Context::data)
/// reads it.
///
/// ```
/// # struct User;
/// # impl<'de> serde::Deserialize<'de> for User {
/// #     fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> { Ok(Self) }
/// # }
/// # fn sign_in(cx: &etcdtest::Context) -> Result<(), etcdtest::ConfigError> {
/// let users: Vec<User> = cx.data("users")?.json()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Data {
    name: String,
    bytes: Vec<u8>,
}

impl Data {
    pub(crate) fn new(name: &str, bytes: Vec<u8>) -> Self {
        Self { name: name.to_owned(), bytes }
    }

    /// Its name in the environment.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// All its bytes, to keep.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// The whole as text.
    ///
    /// # Errors
    /// It is not UTF-8.
    pub fn text(&self) -> Result<&str, ConfigError> {
        str::from_utf8(&self.bytes).map_err(|error| self.error(&format!("is not UTF-8: {error}")))
    }

    /// The whole as a value that is written as JSON.
    ///
    /// # Errors
    /// It is no JSON, or a value of another type; the message says at which line and column.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        let ty = std::any::type_name::<T>();
        serde_json::from_slice(&self.bytes)
            .map_err(|error| self.error(&format!("cannot be read as `{ty}` from JSON: {error}")))
    }

    fn error(&self, what: &str) -> ConfigError {
        ConfigError(format!("the data set `{}` {what}", self.name))
    }
}

/// The content may be long.
impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Data").field("name", &self.name).field("size", &self.bytes.len()).finish()
    }
}
