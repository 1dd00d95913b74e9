//! The environment of tests that run without the runner.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::{env, fs, io};

use serde_json::{Map, Value};

use crate::environment::{Environment, Origin};
use crate::protocol::{ENVIRONMENT_VARIABLE, EnvironmentData};
use crate::registry::Entry;
use crate::{Context, result::Failure};

/// The context of a test that runs alone.
///
/// # Errors
/// The file of the environment cannot be read; the failure says where and why.
pub(crate) fn context(entry: &Entry) -> Result<Context, Failure> {
    static ENVIRONMENT: OnceLock<Result<Arc<Environment>, String>> = OnceLock::new();
    // All tests of a binary are of one package, so the first one to come reads for all.
    let environment = ENVIRONMENT.get_or_init(|| environment(entry).map(Arc::new)).clone();
    environment.map(|environment| Context::alone(entry.name(), environment)).map_err(Failure)
}

fn environment(entry: &Entry) -> Result<Environment, String> {
    match env::var_os(ENVIRONMENT_VARIABLE).filter(|path| !path.is_empty()) {
        Some(path) => {
            let path = std::path::absolute(&path).unwrap_or_else(|_| path.into());
            let text = fs::read_to_string(&path).map_err(|error| {
                format!("failed to read {}, which {ENVIRONMENT_VARIABLE} names: {error}", path.display())
            })?;
            parse(path, &text)
        }
        None => default_environment(entry),
    }
}

fn default_environment(entry: &Entry) -> Result<Environment, String> {
    // Where cargo or nextest run the tests today may be elsewhere than where they were built.
    let package = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let package = package.or_else(|| entry.package.map(PathBuf::from)).unwrap_or_default();
    let path = package.join("environments").join("local.toml");
    match fs::read_to_string(&path) {
        Ok(text) => parse(path, &text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let data = EnvironmentData {
                name: "local".into(),
                config: Value::Object(Map::new()),
                ..Default::default()
            };
            Ok(Environment::new(data, Origin::Nowhere(path)))
        }
        Err(error) => Err(format!("failed to read {}: {error}", path.display())),
    }
}

fn parse(path: PathBuf, text: &str) -> Result<Environment, String> {
    let extension = path.extension().unwrap_or_default();
    let mut data = if extension == "json" {
        json(&path, text)?
    } else if extension == "toml" {
        toml(&path, text)?
    } else {
        return Err(format!("{} is neither a .toml nor a .json file", path.display()));
    };
    if data.name.is_empty() {
        data.name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    }
    if data.config.is_null() {
        data.config = Value::Object(Map::new());
    }
    if !data.config.is_object() {
        return Err(format!("{}: `config` is not a table", path.display()));
    }
    Ok(Environment::new(data, Origin::File(path)))
}

fn json(path: &Path, text: &str) -> Result<EnvironmentData, String> {
    let mut value: Value = serde_json::from_str(text).map_err(|error| {
        // The error says where by itself, and never shows what it read.
        format!("{}:{}:{}: not JSON", path.display(), error.line(), error.column())
    })?;
    Ok(EnvironmentData {
        name: value["name"].as_str().unwrap_or_default().to_owned(),
        version: value["version"].as_u64().unwrap_or_default(),
        revision: value["revision"].as_i64().unwrap_or_default(),
        config: value.get_mut("config").map(Value::take).unwrap_or_default(),
    })
}

#[cfg(feature = "toml")]
fn toml(path: &Path, text: &str) -> Result<EnvironmentData, String> {
    let mut table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let before = &text[..error.span().map_or(0, |span| span.start.min(text.len()))];
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
        format!("{}:{line}:{column}: {}", path.display(), error.message())
    })?;
    let config = table.remove("config").map(to_json).unwrap_or_default();
    Ok(EnvironmentData { config, ..Default::default() })
}

#[cfg(not(feature = "toml"))]
fn toml(path: &Path, _: &str) -> Result<EnvironmentData, String> {
    Err(format!("{}: reading it needs the feature `toml` of the crate `etcdtest`", path.display()))
}

/// JSON has no dates, they become texts.
#[cfg(feature = "toml")]
fn to_json(value: toml::Value) -> Value {
    match value {
        toml::Value::String(value) => value.into(),
        toml::Value::Integer(value) => value.into(),
        toml::Value::Float(value) => value.into(),
        toml::Value::Boolean(value) => value.into(),
        toml::Value::Datetime(value) => value.to_string().into(),
        toml::Value::Array(values) => values.into_iter().map(to_json).collect(),
        toml::Value::Table(values) => {
            values.into_iter().map(|(key, value)| (key, to_json(value))).collect::<Map<_, _>>().into()
        }
    }
}
