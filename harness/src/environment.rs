//! What a test runs against.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::OnceLock;

use serde_core::de::DeserializeOwned;
use serde_json::Value;

use crate::config::{self, Wrong};
use crate::protocol::EnvironmentData;
use crate::{Data, Secret};

/// The environment of an attempt: a name, a version and its configuration.
///
/// ```
/// # fn orders(environment: &etcdtest::Environment) -> Result<(), etcdtest::ConfigError> {
/// let url: String = environment.get("orders.url")?;
/// # Ok(())
/// # }
/// ```
pub struct Environment {
    /// What the runner sent, until somebody looks.
    sent: String,
    data: OnceLock<EnvironmentData>,
    origin: Origin,
    /// Why those secrets and values are missing that its file names all the same, by their
    /// paths: `secrets.token`, `config.orders.url`.
    absent: BTreeMap<String, String>,
}

/// Where an environment was read.
pub(crate) enum Origin {
    /// The runner sent it.
    Runner,
    /// A file.
    File(PathBuf),
    /// Nowhere: this file, which would have been read, is not there.
    Nowhere(PathBuf),
}

impl Environment {
    pub(crate) fn new(data: EnvironmentData, origin: Origin) -> Self {
        Self { sent: String::new(), data: data.into(), origin, absent: BTreeMap::new() }
    }

    /// The environment that the runner sent as JSON.
    pub(crate) fn sent(json: String) -> Self {
        Self { sent: json, data: OnceLock::new(), origin: Origin::Runner, absent: BTreeMap::new() }
    }

    fn told(&self) -> &EnvironmentData {
        self.data.get_or_init(|| EnvironmentData::from_json(&self.sent).unwrap_or_default())
    }

    /// The same without what its file names, each with the reason.
    pub(crate) fn without(self, absent: BTreeMap<String, String>) -> Self {
        Self { absent, ..self }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.told().name
    }

    /// Its version, from 1; 0 when it does not come from a store.
    pub fn version(&self) -> u64 {
        self.told().version
    }

    /// The store revision at which it was written; 0 when it does not come from a store.
    pub fn revision(&self) -> i64 {
        self.told().revision
    }

    /// The whole configuration, a JSON object.
    pub fn config(&self) -> &Value {
        &self.told().config
    }

    /// Reads the value at a key; the dots of `key` lead into tables: `orders.url`.
    ///
    /// # Errors
    /// There is no such key, or its value is of another type.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<T, ConfigError> {
        let found = key.split('.').try_fold(self.config(), |value, part| value.get(part));
        let read = found.map_or_else(|| Err(Wrong::missing()), config::read);
        read.map_err(|wrong| self.error(&wrong.below(key), std::any::type_name::<T>(), None))
    }

    /// A secret by its name.
    ///
    /// # Errors
    /// There is no such secret, or, without the runner, its value is not where the file says.
    pub fn secret(&self, name: &str) -> Result<Secret, ConfigError> {
        if let Some(value) = self.told().secrets.0.get(name) {
            return Ok(Secret::new(name, value));
        }
        let (environment, origin) = (self.name(), self.origin());
        Err(ConfigError(match self.absent.get(&format!("secrets.{name}")) {
            None => format!("environment `{environment}` has no secret `{name}`{origin}"),
            Some(reason) => {
                format!("environment `{environment}`: the secret `{name}` has no value: {reason}{origin}")
            }
        }))
    }

    /// The content of a data set, read anew each time.
    ///
    /// # Errors
    /// There is no such data set, or its file cannot be read.
    pub fn data(&self, name: &str) -> Result<Data, ConfigError> {
        let (environment, origin, sets) = (self.name(), self.origin(), &self.told().data);
        let Some(file) = sets.get(name) else {
            let there_is = match sets.len() {
                0 => "it has none".to_owned(),
                _ => format!("there is: {}", sets.keys().map(String::as_str).collect::<Vec<_>>().join(", ")),
            };
            return Err(ConfigError(format!(
                "environment `{environment}` has no data set `{name}`, {there_is}{origin}"
            )));
        };
        std::fs::read(file).map(|bytes| Data::new(name, bytes)).map_err(|error| {
            ConfigError(format!(
                "environment `{environment}`: the data set `{name}` cannot be read from {file}: {error}{origin}"
            ))
        })
    }

    /// Reads a parameter of a test: the value of its own name, otherwise the whole
    /// configuration. `ty` is the type as the author wrote it.
    pub(crate) fn parameter<T: DeserializeOwned>(&self, name: &str, ty: &str) -> Result<T, ConfigError> {
        self.read_parameter(name).map_err(|wrong| self.error(&wrong, ty, Some(name)))
    }

    /// All that keeps such a parameter from being read.
    pub(crate) fn check_parameter<T: DeserializeOwned>(&self, name: &str) -> Vec<Wrong> {
        let Err(first) = self.read_parameter::<T>(name) else { return Vec::new() };
        let wrong = |value: &Value| config::read::<T>(value).err();
        match self.config().get(name) {
            Some(value) => {
                config::all_wrong(value, &wrong).into_iter().map(|wrong| wrong.below(name)).collect()
            }
            // It takes no table.
            None if wrong(self.config()).is_none_or(|wrong| wrong.at_root()) => vec![first],
            None => config::all_wrong(self.config(), &wrong),
        }
    }

    fn read_parameter<T: DeserializeOwned>(&self, name: &str) -> Result<T, Wrong> {
        match self.config().get(name) {
            Some(value) => config::read(value).map_err(|wrong| wrong.below(name)),
            None => config::read(self.config()).or_else(|wrong| {
                if wrong.at_root() {
                    // It takes no table: what lacks is the value of its own name, which
                    // an `Option` can do without.
                    config::read(&Value::Null).map_err(|_| Wrong::missing().below(name))
                } else {
                    Err(wrong)
                }
            }),
        }
    }

    fn error(&self, wrong: &Wrong, ty: &str, parameter: Option<&str>) -> ConfigError {
        let environment = self.name();
        let needed = parameter.map_or_else(
            || format!("read as `{ty}`"),
            |name| format!("which the parameter `{name}: {ty}` needs"),
        );
        let (key, origin) = (wrong.key(), self.origin());
        ConfigError(match wrong.reason().or(self.absent.get(&format!("config.{key}")).map(String::as_str)) {
            None => format!("environment `{environment}` has no `{key}`, {needed}{origin}"),
            Some(reason) => {
                format!("environment `{environment}`: `{key}`, {needed}, is wrong: {reason}{origin}")
            }
        })
    }
}

impl Environment {
    /// Where it came from, for the end of a message.
    fn origin(&self) -> String {
        match &self.origin {
            Origin::Runner => String::new(),
            Origin::File(path) => format!(" (it was read from {})", path.display()),
            Origin::Nowhere(path) => {
                format!(" (it is empty: no runner gave one, and there is no {})", path.display())
            }
        }
    }
}

/// The configuration may hold what must not be printed.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Environment")
            .field("name", &self.name())
            .field("version", &self.version())
            .finish_non_exhaustive()
    }
}

/// The environment lacks what a test needs of it, or holds something else there. It names
/// the environment, the key and the type, and never a value.
pub struct ConfigError(pub(crate) String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// As `Display`: an `unwrap` shows it to people.
impl fmt::Debug for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}
