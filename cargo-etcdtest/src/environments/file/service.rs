//! `[services.NAME]`: the programs that a run starts.

use std::time::Duration;

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
    let command = fields.require(reader, "command")?;
    Ok(Service {
        command: reader.filled(command)?,
        args: fields.take("args").map(|node| reader.texts(node)).transpose()?.unwrap_or_default(),
        env: fields.take("env").map(|node| variables(reader, node)).transpose()?.unwrap_or_default(),
        cwd: fields.take("cwd").map(|node| reader.filled(node)).transpose()?,
        url: match fields.take("url") {
            Some(node) => reader.filled(node)?,
            None => DEFAULT_URL.to_owned(),
        },
        needs: fields.take("needs").map(|node| reader.texts(node)).transpose()?.unwrap_or_default(),
        ready: fields.take("ready").map(|node| ready(reader, node)).transpose()?,
        restart: match fields.take("restart") {
            Some(node) => reader.choice(
                node,
                &[("never", Restart::Never), ("on-failure", Restart::OnFailure), ("always", Restart::Always)],
            )?,
            None => Restart::default(),
        },
        stop_grace: match fields.take("stop-grace") {
            Some(node) => reader.duration(node)?,
            None => DEFAULT_GRACE,
        },
        scope: match fields.take("scope") {
            Some(node) => reader.choice(node, &[("run", Scope::Run), ("test", Scope::Test)])?,
            None => Scope::default(),
        },
    })
}

fn variables(reader: &mut Reader<'_>, node: Node<'_>) -> Read<std::collections::BTreeMap<String, String>> {
    if let toml::de::DeValue::Table(table) = node.1.get_ref()
        && let Some((key, _)) = table.iter().find(|(key, _)| !is_variable(key.get_ref()))
    {
        return Err(reader.wrong(&node.0, key.span(), "this is no name of a variable"));
    }
    reader.each(node, "a table of variables", Reader::text)
}

fn ready(reader: &mut Reader<'_>, node: Node<'_>) -> Read<Ready> {
    let mut fields = reader.fields(node, "`ready`", &["http", "tcp", "log", "timeout"])?;
    let (kind, node) = fields.take_one(reader, &["http", "tcp", "log"])?;
    let text = match kind.as_str() {
        "http" if matches!(node.1.get_ref(), toml::de::DeValue::String(text) if text.starts_with('/')) => {
            reader.filled(node)?
        }
        "http" => reader.url(node)?,
        "tcp" => reader.socket(node)?,
        _ => reader.pattern(node)?,
    };
    let timeout = fields.take("timeout").map(|node| reader.duration(node)).transpose()?;
    Ok(Ready {
        by: match kind.as_str() {
            "http" => ReadyBy::Http(text),
            "tcp" => ReadyBy::Tcp(text),
            _ => ReadyBy::Log(text),
        },
        timeout: timeout.unwrap_or(DEFAULT_TIMEOUT),
    })
}
