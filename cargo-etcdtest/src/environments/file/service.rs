//! `[services.NAME]`: the programs that a run starts.

use std::time::Duration;

use toml::de::DeValue;

use super::reader::{Node, Read, Reader};
use super::secret::is_variable;
use crate::model::{Ready, ReadyBy, Restart, Scope, Service};

const KEYS: [&str; 10] =
    ["command", "args", "env", "cwd", "url", "needs", "ready", "restart", "stop-grace", "scope"];

/// The URL of a service that does not say one.
pub(in super::super) const DEFAULT_URL: &str = "http://127.0.0.1:{port}";

/// How long something is waited for if nothing is said.
pub(super) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a service has to stop if nothing is said.
const DEFAULT_GRACE: Duration = Duration::from_secs(5);

pub(super) fn read(reader: &mut Reader<'_>, node: Node<'_>) -> Read<Service> {
    let mut fields = reader.fields(node, "a service", &KEYS)?;
    let restart =
        [("never", Restart::Never), ("on-failure", Restart::OnFailure), ("always", Restart::Always)];
    let scope = [("run", Scope::Run), ("test", Scope::Test)];
    let url = fields.optional(reader, "url", url).unwrap_or_else(|| DEFAULT_URL.to_owned());
    Ok(Service {
        args: fields.optional(reader, "args", Reader::texts).unwrap_or_default(),
        env: fields.optional(reader, "env", variables).unwrap_or_default(),
        cwd: fields.optional(reader, "cwd", Reader::filled),
        needs: fields.optional(reader, "needs", Reader::texts).unwrap_or_default(),
        ready: fields.optional(reader, "ready", |reader, node| ready(reader, node, &url)),
        restart: fields
            .optional(reader, "restart", |reader, node| reader.choice(node, &restart))
            .unwrap_or_default(),
        stop_grace: fields.optional(reader, "stop-grace", Reader::duration).unwrap_or(DEFAULT_GRACE),
        scope: fields
            .optional(reader, "scope", |reader, node| reader.choice(node, &scope))
            .unwrap_or_default(),
        command: fields.required(reader, "command", Reader::filled)?,
        url,
    })
}

/// A URL of any scheme.
fn url(reader: &mut Reader<'_>, node: Node<'_>) -> Read<String> {
    reader.formed(node, "a URL with its scheme, such as `http://127.0.0.1:{port}`", |text| {
        let letter = |letter: char| letter.is_ascii_alphanumeric() || "+-.".contains(letter);
        text.split_once("://").is_some_and(|(scheme, rest)| {
            scheme.starts_with(|first: char| first.is_ascii_alphabetic())
                && scheme.chars().all(letter)
                && !rest.is_empty()
        })
    })
}

fn variables(reader: &mut Reader<'_>, node: Node<'_>) -> Read<std::collections::BTreeMap<String, String>> {
    if let DeValue::Table(table) = node.1.get_ref() {
        for (key, _) in table.iter().filter(|(key, _)| !is_variable(key.get_ref())) {
            reader.wrong(&node.0, key.span(), "this is no name of a variable");
        }
    }
    reader.each(node, "a table of variables", Reader::text)
}

fn ready(reader: &mut Reader<'_>, node: Node<'_>, url: &str) -> Read<Ready> {
    let mut fields = reader.fields(node, "`ready`", &["http", "tcp", "log", "timeout"])?;
    let timeout = fields.optional(reader, "timeout", Reader::duration).unwrap_or(DEFAULT_TIMEOUT);
    let (kind, node) = fields.take_one(reader, &["http", "tcp", "log"], None)?;
    let by = match kind.as_str() {
        "http" => ReadyBy::Http(page(reader, node, url)?),
        "tcp" => ReadyBy::Tcp(reader.socket(node)?),
        _ => ReadyBy::Log(reader.pattern(node)?),
    };
    Ok(Ready { by, timeout })
}

/// What is asked for by HTTP: a URL, or a path below that of the service.
fn page(reader: &mut Reader<'_>, node: Node<'_>, url: &str) -> Read<String> {
    if !matches!(node.1.get_ref(), DeValue::String(text) if text.starts_with('/')) {
        return reader.url(node);
    }
    if url.starts_with("http://") || url.starts_with("https://") || url.starts_with("${") {
        return reader.filled(node);
    }
    let help = "give the service a URL of HTTP, or use `tcp` or `log`".to_owned();
    Err(reader.wrong_as(&node.0, node.1.span(), "the URL of this service is not one of HTTP", Some(help)))
}
