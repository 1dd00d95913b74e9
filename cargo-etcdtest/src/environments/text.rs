//! Environments written as files.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value, json};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::EnvironmentError;
use super::path::below;
use crate::model::{
    DataSet, Definition, Environment, EnvironmentVersion, Probe, ProbeBy, Ready, ReadyBy, Restart, Scope,
    SecretVersion, Service,
};

/// A whole file, in the order in which it is written.
struct FileText<'a> {
    top: TopText<'a>,
    stored: StoredText<'a>,
    tables: TablesText<'a>,
}

/// What stands above all tables.
#[derive(Serialize)]
struct TopText<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    description: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    extends: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    capacity: Option<u32>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    recipients: &'a [String],
}

/// What is told by where it is stored: each a line of its own. Without the header such a
/// line would belong to what stands above, where it is always a mistake.
#[derive(Serialize)]
struct StoredText<'a> {
    secrets: &'a BTreeMap<String, SecretVersion>,
    data: &'a BTreeMap<String, DataSet>,
}

#[derive(Serialize)]
struct TablesText<'a> {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: &'a BTreeMap<String, String>,
    config: &'a Map<String, Value>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    services: BTreeMap<&'a str, ServiceText<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    probes: Vec<ProbeText<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct ServiceText<'a> {
    command: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    args: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    cwd: Option<&'a str>,
    url: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    needs: &'a [String],
    restart: Restart,
    stop_grace: String,
    scope: Scope,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    env: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ready: Option<ReadyText<'a>>,
}

#[derive(Serialize)]
struct ReadyText<'a> {
    #[serde(flatten)]
    by: &'a ReadyBy,
    timeout: String,
}

#[derive(Serialize)]
struct ProbeText<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tcp: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dns: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<&'a [String]>,
    timeout: String,
}

impl<'a> From<&'a Definition> for FileText<'a> {
    fn from(definition: &'a Definition) -> Self {
        let services = definition.services.iter();
        Self {
            top: TopText {
                description: &definition.description,
                extends: definition.extends.as_deref(),
                capacity: definition.capacity.map(Into::into),
                recipients: &definition.recipients,
            },
            stored: StoredText { secrets: &definition.secrets, data: &definition.data },
            tables: TablesText {
                labels: &definition.labels,
                config: &definition.config,
                services: services.map(|(name, service)| (name.as_str(), service.into())).collect(),
                probes: definition.probes.iter().map(Into::into).collect(),
            },
        }
    }
}

impl FileText<'_> {
    fn to_toml(&self) -> Result<String, toml::ser::Error> {
        let parts = [
            toml::to_string_pretty(&self.top)?,
            section("secrets", self.stored.secrets)?,
            section("data", self.stored.data)?,
            toml::to_string_pretty(&self.tables)?,
        ];
        Ok(parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n"))
    }
}

/// A table with each of its values in one line; nothing where it has none.
fn section<T: Serialize>(name: &str, values: &BTreeMap<String, T>) -> Result<String, toml::ser::Error> {
    let mut lines = vec![format!("[{name}]\n")];
    for (key, value) in values {
        lines.push(format!("{} = {}\n", below("", key), toml::Value::try_from(value)?));
    }
    Ok(if values.is_empty() { String::new() } else { lines.concat() })
}

impl<'a> From<&'a Service> for ServiceText<'a> {
    fn from(service: &'a Service) -> Self {
        Self {
            command: &service.command,
            args: &service.args,
            cwd: service.cwd.as_deref(),
            url: &service.url,
            needs: &service.needs,
            restart: service.restart,
            stop_grace: humantime::format_duration(service.stop_grace).to_string(),
            scope: service.scope,
            env: &service.env,
            ready: service.ready.as_ref().map(|Ready { by, timeout }| ReadyText {
                by,
                timeout: humantime::format_duration(*timeout).to_string(),
            }),
        }
    }
}

impl<'a> From<&'a Probe> for ProbeText<'a> {
    fn from(probe: &'a Probe) -> Self {
        let mut text = Self {
            http: None,
            status: None,
            body: None,
            tcp: None,
            dns: None,
            command: None,
            timeout: humantime::format_duration(probe.timeout).to_string(),
        };
        match &probe.by {
            ProbeBy::Http { url, status, body } => {
                (text.http, text.status, text.body) = (Some(url.as_str()), *status, body.as_deref());
            }
            ProbeBy::Tcp(address) => text.tcp = Some(address),
            ProbeBy::Dns(host) => text.dns = Some(host),
            ProbeBy::Command(command) => text.command = Some(command),
        }
        text
    }
}

impl Environment {
    /// As a file says it. Secrets and data sets are told by where they are stored.
    ///
    /// # Errors
    /// [`EnvironmentError::NotWritable`].
    pub fn to_toml(&self) -> Result<String, EnvironmentError> {
        FileText::from(&self.definition).to_toml().map_err(|error| EnvironmentError::NotWritable {
            name: self.name.clone(),
            reason: error.to_string(),
        })
    }

    /// The same, each value with a comment that says where it comes from.
    ///
    /// # Errors
    /// As [`Environment::to_toml`].
    pub fn to_toml_with(
        &self,
        origins: &BTreeMap<String, EnvironmentVersion>,
    ) -> Result<String, EnvironmentError> {
        let mut text = self.to_toml()?;
        let Ok(table) = DeTable::parse(&text) else { return Ok(text) };
        let mut comments = Vec::new();
        for (key, value) in table.into_inner() {
            comment(&below("", key.get_ref()), value, None, origins, &mut comments);
        }
        // From the end on, so that the places before stay right.
        comments.sort();
        for (end, comment) in comments.into_iter().rev() {
            let end = text[end..].find('\n').map_or(text.len(), |line| end + line);
            text.insert_str(end, &comment);
        }
        Ok(text)
    }
}

fn comment(
    path: &str,
    value: Spanned<DeValue<'_>>,
    above: Option<&EnvironmentVersion>,
    origins: &BTreeMap<String, EnvironmentVersion>,
    comments: &mut Vec<(usize, String)>,
) {
    let origin = origins.get(path).or(above);
    let end = value.span().end;
    let stored = path.starts_with("secrets.") || path.starts_with("data.");
    let children: Vec<_> = match value.into_inner() {
        DeValue::Table(table) if !stored => {
            table.into_iter().map(|(key, value)| (key.into_inner().into_owned(), value)).collect()
        }
        DeValue::Array(array) if path == "probes" => {
            array.into_iter().enumerate().map(|(index, value)| (index.to_string(), value)).collect()
        }
        _ => return comments.extend(origin.map(|origin| (end, format!("  # from {origin}")))),
    };
    for (key, value) in children {
        comment(&below(path, &key), value, origin, origins, comments);
    }
}

/// The values of a definition by their paths, as a file says them: lists as a whole, and
/// secrets and data sets by where they are stored.
pub fn values(definition: &Definition) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    let FileText { top, stored, tables } = definition.into();
    for (part, named) in [(json!(top), false), (json!(stored), true), (json!(tables), false)] {
        for (key, value) in part.as_object().into_iter().flatten() {
            match value {
                // Of these there are none where the file says nothing.
                Value::Object(table) if named && table.is_empty() => {}
                value => collect(&below("", key), value, named, &mut found),
            }
        }
    }
    found
}

fn collect(path: &str, value: &Value, named: bool, found: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(table) if !table.is_empty() => {
            for (key, value) in table {
                let path = below(path, key);
                if named {
                    found.insert(path, value.clone());
                } else {
                    collect(&path, value, false, found);
                }
            }
        }
        Value::Array(probes) if path == "probes" => {
            for (index, probe) in probes.iter().enumerate() {
                collect(&below(path, &index.to_string()), probe, false, found);
            }
        }
        other => drop(found.insert(path.to_owned(), other.clone())),
    }
}
