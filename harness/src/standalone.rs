//! The environment of tests that run without the runner.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::{env, fs, io};

use serde_json::{Map, Value};

use crate::environment::{Environment, Origin};
use crate::protocol::{
    ENVIRONMENT_VARIABLE, EnvironmentData, SECRET_VARIABLES, Secrets, secret_placeholder, texts_by_name,
};
#[cfg(feature = "toml")]
use crate::references::Known;
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
    let (mut data, absent) = if extension == "json" {
        (json(&path, text)?, BTreeMap::new())
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
    Ok(Environment::new(data, Origin::File(path)).without(absent))
}

/// What the runner hands to tests that it does not speak with.
fn secrets() -> Secrets {
    let ours = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        let name = name.into_string().ok()?.strip_prefix(SECRET_VARIABLES)?.to_owned();
        Some((name, value.into_string().ok()?))
    };
    let mut secrets = Secrets::default();
    for (name, secret) in env::vars_os().filter_map(ours) {
        secrets.0.insert(name, secret);
    }
    secrets
}

fn json(path: &Path, text: &str) -> Result<EnvironmentData, String> {
    let mut value: Value = serde_json::from_str(text).map_err(|error| {
        // The error says where by itself, and never shows what it read.
        format!("{}:{}:{}: not JSON", path.display(), error.line(), error.column())
    })?;
    let secrets = secrets();
    for (name, secret) in &secrets.0 {
        replace(&mut value, &secret_placeholder(name), secret);
    }
    Ok(EnvironmentData {
        name: value["name"].as_str().unwrap_or_default().to_owned(),
        version: value["version"].as_u64().unwrap_or_default(),
        revision: value["revision"].as_i64().unwrap_or_default(),
        config: value.get_mut("config").map(Value::take).unwrap_or_default(),
        secrets,
        data: texts_by_name(value.get_mut("data").map(Value::take)).unwrap_or_default(),
    })
}

/// Puts something in the place of something else in all texts of a value.
fn replace(value: &mut Value, from: &str, to: &str) {
    match value {
        Value::String(text) => *text = text.replace(from, to),
        Value::Array(values) => values.iter_mut().for_each(|value| replace(value, from, to)),
        Value::Object(values) => values.values_mut().for_each(|value| replace(value, from, to)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// What a file says, and why secrets and values are left out that are.
type Parsed = (EnvironmentData, BTreeMap<String, String>);

#[cfg(feature = "toml")]
fn toml(path: &Path, text: &str) -> Result<Parsed, String> {
    let mut table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let before = &text[..error.span().map_or(0, |span| span.start.min(text.len()))];
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
        format!("{}:{line}:{column}: {}", path.display(), error.message())
    })?;
    let mut config = table.remove("config").map(to_json).unwrap_or_default();
    let (mut secrets, mut absent) = (secrets(), BTreeMap::new());
    if let Some(toml::Value::Table(sources)) = table.remove("secrets") {
        for (name, source) in sources {
            if secrets.0.contains_key(&name) {
                continue;
            }
            match secret(path, &source) {
                Ok(value) => drop(secrets.0.insert(name, value)),
                Err(reason) => drop(absent.insert(format!("secrets.{name}"), reason)),
            }
        }
    }
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    if let Value::Object(written) = &config {
        let known = Known { environment: &name, config: written, secrets: &secrets.0 };
        config = known.replaced(&mut absent).into();
    }
    let data = table.remove("data").map(|sets| data(path, sets)).unwrap_or_default();
    Ok((EnvironmentData { config, secrets, data, ..Default::default() }, absent))
}

#[cfg(not(feature = "toml"))]
fn toml(path: &Path, _: &str) -> Result<Parsed, String> {
    Err(format!("{}: reading it needs the feature `toml` of the crate `etcdtest`", path.display()))
}

/// The value of a secret of the file at `path`, or why there is none.
#[cfg(feature = "toml")]
fn secret(path: &Path, source: &toml::Value) -> Result<String, String> {
    if let Some(variable) = source.get("env").and_then(toml::Value::as_str) {
        return env::var(variable).map_err(|_| format!("the variable {variable} is not set to a text"));
    }
    let Some(file) = source.get("file").and_then(toml::Value::as_str) else {
        return Err("without `cargo etcdtest` it can only come from `{ env = … }` or `{ file = … }`".into());
    };
    let file = path.parent().unwrap_or(Path::new("")).join(file);
    let text =
        fs::read_to_string(&file).map_err(|error| format!("failed to read {}: {error}", file.display()))?;
    let line = text.strip_suffix('\n').map(|text| text.strip_suffix('\r').unwrap_or(text));
    Ok(line.map_or_else(|| text.clone(), str::to_owned))
}

/// The files of the data sets that the file at `path` names; others are only in the store.
#[cfg(feature = "toml")]
fn data(path: &Path, sets: toml::Value) -> BTreeMap<String, String> {
    let toml::Value::Table(sets) = sets else { return BTreeMap::new() };
    let folder = path.parent().unwrap_or(Path::new(""));
    let file = |file: &str| folder.join(file).to_string_lossy().into_owned();
    sets.iter().filter_map(|(name, set)| Some((name.clone(), file(set.as_str()?)))).collect()
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

#[cfg(all(test, feature = "toml"))]
mod tests {
    use super::*;

    #[test]
    fn a_secret_comes_from_a_variable_or_a_file_and_fails_only_who_asks_for_it() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("token"), "hunter2\n\n").unwrap();
        let text = "[secrets]\nfolder = { env = \"CARGO_MANIFEST_DIR\" }\ntoken = { file = \"token\" }\n\
            unset = { env = \"NO_SUCH_VARIABLE\" }\ngone = { file = \"gone\" }\n\
            told = { prompt = true }\nwritten = \"hunter3\"\n";
        let environment = parse(folder.path().join("local.toml"), text).unwrap();
        assert_eq!(environment.secret("folder").unwrap().expose(), env!("CARGO_MANIFEST_DIR"));
        let token = environment.secret("token").unwrap();
        assert_eq!((token.name(), token.expose()), ("token", "hunter2\n"));
        assert_eq!(format!("{token:?}"), "[secret token]");
        for (name, reason) in [
            ("unset", "the variable NO_SUCH_VARIABLE is not set"),
            ("gone", "failed to read"),
            ("told", "without `cargo etcdtest` it can only come from"),
            ("written", "without `cargo etcdtest` it can only come from"),
            ("other", "environment `local` has no secret `other` (it was read from"),
        ] {
            let error = environment.secret(name).unwrap_err().to_string();
            assert!(error.contains(reason) && !error.contains("hunter"), "{error}");
        }
        assert!(!format!("{environment:?}").contains("hunter"));
    }
}
