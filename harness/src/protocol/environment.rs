//! What tests are told of their environment.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value, json};

use super::text as text_of;

/// The environment that an attempt runs against.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EnvironmentData {
    /// Its name.
    pub name: String,
    /// Its version, from 1; 0 when it does not come from a store.
    pub version: u64,
    /// The store revision at which it was written; 0 when it does not come from a store.
    pub revision: i64,
    /// Its `[config]` as a JSON object.
    pub config: Value,
    /// Its secrets.
    pub secrets: Secrets,
    /// The files of its data sets, by their names.
    pub data: BTreeMap<String, String>,
}

/// Secrets by name, which do not print.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets(pub BTreeMap<String, String>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl EnvironmentData {
    /// As JSON.
    pub fn to_json(&self) -> String {
        let Self { name, version, revision, config, secrets, data } = self;
        let whole = json!({
            "name": name, "version": version, "revision": revision, "config": config, "secrets": secrets.0,
            "data": data,
        });
        whole.to_string()
    }

    /// Reads it back; `None` where it is something else.
    pub fn from_json(text: &str) -> Option<Self> {
        let Ok(Value::Object(mut environment)) = serde_json::from_str(text) else { return None };
        Some(Self {
            name: text_of(&environment, "name")?,
            version: environment.get("version")?.as_u64()?,
            revision: environment.get("revision")?.as_i64()?,
            config: environment.remove("config")?,
            secrets: Secrets(texts_by_name(environment.remove("secrets"))?),
            data: texts_by_name(environment.remove("data"))?,
        })
    }
}

/// An object of texts; empty where there is none.
pub(crate) fn texts_by_name(value: Option<Value>) -> Option<BTreeMap<String, String>> {
    let mut by_name = BTreeMap::new();
    if let Some(Value::Object(texts)) = value {
        for (name, value) in texts {
            let Value::String(text) = value else { return None };
            by_name.insert(name, text);
        }
    }
    Some(by_name)
}
