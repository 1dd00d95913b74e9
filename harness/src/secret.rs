//! A secret in the hands of a test.

use std::fmt;

/// A secret of the environment. It does not print: `{:?}` shows its name, and there is no
/// `Display`.
///
/// ```
/// # fn sign_in(environment: &etcdtest::Environment) -> Result<(), etcdtest::ConfigError> {
/// let password = environment.secret("password")?;
/// connect("shop", password.expose());
/// # Ok(())
/// # }
/// # fn connect(_: &str, _: &str) {}
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    name: String,
    value: String,
}

impl Secret {
    pub(crate) fn new(name: &str, value: &str) -> Self {
        Self { name: name.to_owned(), value: value.to_owned() }
    }

    /// Its name in the environment.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The value, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.value
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "[secret {}]", self.name)
    }
}
