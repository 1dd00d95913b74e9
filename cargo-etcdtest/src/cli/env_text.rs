//! Environments as people and programs read them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::print::json_line;
use super::reservation_text::{queue_json, queue_lines, queue_text};
use super::style::{FAINT, STRONG, WARNING, ago, local_time, painted};
use super::table::Table;
use crate::config::Format;
use crate::environments::{Applied, Chain, Compared, EnvironmentError, Queue, values};
use crate::model::{Environment, EnvironmentVersion};
use crate::reports::text::one_line;

/// What became of applying something.
pub(super) fn applied_text(applied: &Applied, format: Format) -> String {
    let (environment, changed) = match applied {
        Applied::Unchanged(environment) => (environment, false),
        Applied::Written(environment) => (environment, true),
    };
    let Environment { name, version, revision, .. } = environment;
    match format {
        Format::Json => {
            json_line(&json!({ "name": name, "version": version, "revision": revision, "changed": changed }))
        }
        Format::Human => {
            let what = if changed { "applied" } else { "unchanged" };
            format!("{} {what}, version {version}\n", painted(STRONG, name))
        }
    }
}

/// All environments, one a line.
pub(super) fn list_text(
    environments: &[Environment],
    queues: &BTreeMap<String, Queue>,
    now: Timestamp,
) -> String {
    if environments.is_empty() {
        return "no environments yet: write environments/NAME.toml and `cargo etcdtest env apply` it\n"
            .into();
    }
    let mut table = Table::new(&["NAME", "VERSION", "APPLIED", "BY", "RESERVED", "DESCRIPTION"]);
    for environment in environments {
        table.row([
            (environment.name.clone(), STRONG),
            (environment.version.to_string(), Style::new()),
            (ago(environment.applied, now), FAINT),
            (one_line(&environment.author, 40), FAINT),
            (queues.get(&environment.name).map(|queue| queue_text(queue, now)).unwrap_or_default(), WARNING),
            (one_line(&environment.definition.description, 80), Style::new()),
        ]);
    }
    table.to_string()
}

/// The versions of an environment, the newest first.
pub(super) fn history_text(history: &[Environment], now: Timestamp, zone: &TimeZone) -> String {
    let mut table = Table::new(&["VERSION", "APPLIED", "", "BY", "MESSAGE"]);
    for environment in history.iter().rev() {
        table.row([
            (environment.version.to_string(), STRONG),
            (local_time(environment.applied, zone), Style::new()),
            (ago(environment.applied, now), FAINT),
            (one_line(&environment.author, 40), FAINT),
            (one_line(&environment.message, 80), Style::new()),
        ]);
    }
    table.to_string()
}

/// An environment to be shown.
pub(super) struct Shown {
    environment: Environment,
    /// Where each value comes from, if it inherits any.
    origins: BTreeMap<String, EnvironmentVersion>,
    /// Who reserves it.
    queue: Queue,
}

impl Shown {
    /// With all it inherits, and who reserves it by these queues.
    pub(super) fn resolved(chain: &Chain, queues: &BTreeMap<String, Queue>) -> Self {
        let origins = if chain.bases().is_empty() { BTreeMap::new() } else { chain.origins() };
        Self { origins, ..Self::own(chain.resolve(), queues) }
    }

    /// By itself, and who reserves it by these queues.
    pub(super) fn own(environment: Environment, queues: &BTreeMap<String, Queue>) -> Self {
        let queue = queues.get(&environment.name).cloned().unwrap_or_default();
        Self { environment, origins: BTreeMap::new(), queue }
    }

    /// As a file, with what else is known of it as comments.
    pub(super) fn text(&self, now: Timestamp, zone: &TimeZone) -> Result<String, EnvironmentError> {
        let Environment { name, version, revision, applied, author, message, bases, .. } = &self.environment;
        let author = one_line(author, 80);
        let mut lines = vec![
            format!("{name}, version {version} (revision {revision})"),
            format!("applied {} ({}) by {author}", local_time(*applied, zone), ago(*applied, now)),
        ];
        if !message.is_empty() {
            lines.push(one_line(message, 200));
        }
        if !bases.is_empty() {
            let bases: Vec<_> = bases.iter().map(ToString::to_string).collect();
            lines.push(format!("with what it inherits from {}", bases.join(", ")));
        }
        lines.extend(queue_lines(&self.queue, now));
        let lines = lines.into_iter().map(|line| painted(FAINT, format_args!("# {line}")) + "\n");
        Ok(lines.collect::<String>() + &self.environment.to_toml_with(&self.origins)?)
    }

    /// Its record, with where each value comes from.
    pub(super) fn json(&self) -> String {
        let mut record = json!(self.environment);
        record["reserved"] = queue_json(&self.queue);
        if !self.origins.is_empty() {
            let origins = self.origins.iter().map(|(path, from)| json!({ "path": path, "from": from }));
            record["origins"] = origins.collect();
        }
        json_line(&record)
    }
}

/// What is different between two environments, value by value; of secrets, what became of
/// comparing them.
pub(super) fn diff(
    from: &Environment,
    to: &Environment,
    secrets: &BTreeMap<String, Compared>,
    format: Format,
) -> String {
    let (old, new) = (values(&from.definition), values(&to.definition));
    let paths: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let compared = |path: &str| secrets.get(path.strip_prefix("secrets.")?);
    let changed = paths.into_iter().filter(|path| {
        compared(path) != Some(&Compared::Same) && !is_same(path, old.get(*path), new.get(*path))
    });
    match format {
        Format::Json => changed
            .map(|path| {
                let mut line = json!({ "path": path, "from": old.get(path), "to": new.get(path) });
                if let Some(compared) = compared(path) {
                    line["compared"] = json!(*compared == Compared::Different);
                }
                json_line(&line)
            })
            .collect(),
        Format::Human => {
            let title = format!("{} → {}", from.identity(), to.identity());
            let mut text = painted(STRONG, &title) + "\n";
            let before = text.len();
            for path in changed {
                let note = match compared(path) {
                    Some(Compared::Different) => "  # another value".to_owned(),
                    Some(Compared::Unknown(why)) => {
                        format!("  # values not compared: {}", one_line(why, 120))
                    }
                    Some(Compared::Same) | None => String::new(),
                };
                for (sign, value, note, color) in [
                    ('-', old.get(path), "", AnsiColor::Red),
                    ('+', new.get(path), note.as_str(), AnsiColor::Green),
                ] {
                    if let Some(value) = value {
                        let line = format!("{sign} {path} = {}{note}", toml_value(value));
                        let _ = writeln!(text, "{}", painted(color.on_default(), line));
                    }
                }
            }
            if text.len() == before {
                text += "no difference\n";
            }
            text
        }
    }
}

/// Data sets are the same where their content is, whichever environment they belong to.
fn is_same(path: &str, old: Option<&Value>, new: Option<&Value>) -> bool {
    let digest = |value: Option<&Value>| value.and_then(|value| value.get("digest").cloned());
    old == new || path.starts_with("data.") && digest(old).is_some() && digest(old) == digest(new)
}

/// A value as TOML in one line; as JSON where TOML cannot say it.
fn toml_value(value: &Value) -> String {
    toml::Value::try_from(value)
        .map_or_else(|_| value.to_string(), |value| value.to_string().replace('\n', "\\n"))
}
