//! From references to values.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use etcdtest::protocol::{Malformed, Piece, Reference, pieces};
use serde_json::{Map, Value};

use super::fault::Fault;
use super::file::DEEPEST;
use super::path::below;
use crate::model::{Definition, Probe, ProbeBy, Ready, ReadyBy, Scope, Service};
use crate::nearest::{nearest, suggestion};

/// How much references may make of an environment, in bytes.
const LARGEST: usize = 16 * 1024 * 1024;

/// What a value, or a reference that is followed, counts as at least.
const LEAST: usize = 64;

/// How many faults are told at most.
const MOST: usize = 100;

/// What references to something outside the definition stand for.
#[derive(Clone, Default)]
pub struct Bindings {
    /// The environment's name.
    pub environment: String,
    /// The port of each service, by its name.
    pub ports: BTreeMap<String, u16>,
    /// The secrets by name.
    pub secrets: BTreeMap<String, String>,
}

impl Bindings {
    /// Something for everything: what a definition becomes with it is right in form and
    /// worth nothing else. It is for checks, and for what is not there yet.
    pub fn placeholders(environment: &str, definition: &Definition) -> Self {
        Self {
            environment: environment.to_owned(),
            ports: definition.services.keys().map(|name| (name.clone(), 1)).collect(),
            secrets: definition.secrets.keys().map(|name| (name.clone(), String::new())).collect(),
        }
    }
}

/// Names only: the values are secret.
impl fmt::Debug for Bindings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bindings")
            .field("environment", &self.environment)
            .field("ports", &self.ports)
            .field("secrets", &self.secrets.keys())
            .finish()
    }
}

/// The definition with what its references stand for in their place, `$${` as `${`, and in
/// the texts of a service its port for `{port}`. A text of the config that is one reference
/// and nothing else becomes what it refers to, with its type. The result holds secrets.
///
/// # Errors
/// The first reference to nothing or to itself, or to a service or secret that the bindings
/// lack.
pub fn bind(definition: &Definition, bindings: &Bindings) -> Result<Definition, Fault> {
    let mut binder = Binder::new(definition, bindings);
    let bound = binder.whole();
    binder.faults.into_iter().next().map_or(Ok(bound), Err)
}

/// All references for which [`bind`] would refuse the definition.
pub(super) fn faults_of(definition: &Definition, bindings: &Bindings) -> Vec<Fault> {
    let mut binder = Binder::new(definition, bindings);
    binder.whole();
    binder.faults
}

/// The result of binding something.
type Bound<T> = Result<T, Told>;

/// What is wrong has been told to the binder.
struct Told;

struct Binder<'a> {
    definition: &'a Definition,
    bindings: &'a Bindings,
    /// How much more it may become; nothing once it was told that this is too much.
    left: Option<usize>,
    /// What is being looked up, each because of the one before it.
    trail: Vec<String>,
    /// What is bound, if that is needed before the first test starts.
    early: Option<String>,
    faults: Vec<Fault>,
    /// What refers to itself in the end, as far as that was told.
    circular: BTreeSet<String>,
}

/// Where a text stands.
#[derive(Clone, Copy)]
struct Spot<'s> {
    path: &'s str,
    /// How deep that is, in values and in references that led there.
    depth: usize,
    /// What `{port}` is there.
    port: Option<u16>,
}

impl<'a> Binder<'a> {
    fn new(definition: &'a Definition, bindings: &'a Bindings) -> Self {
        Self {
            definition,
            bindings,
            left: Some(LARGEST),
            trail: vec![],
            early: None,
            faults: vec![],
            circular: BTreeSet::new(),
        }
    }

    /// The definition as far as nothing in it is wrong.
    fn whole(&mut self) -> Definition {
        let definition = self.definition;
        let config = self.table("config", &definition.config, 1).unwrap_or_default();
        let mut bound = Definition { config, ..definition.clone() };
        for (name, service) in &mut bound.services {
            let path = below("services", name);
            self.early = (service.scope == Scope::Run).then(|| path.clone());
            self.service(name, &path, service);
        }
        for (index, probe) in bound.probes.iter_mut().enumerate() {
            let path = below("probes", &index.to_string());
            self.early = Some(path.clone());
            self.probe(&path, probe);
        }
        bound
    }

    /// Takes note of a fault, once, however many values lead to it.
    fn tell(&mut self, fault: Fault) -> Told {
        if self.faults.len() < MOST && !self.faults.contains(&fault) {
            self.faults.push(fault);
        }
        Told
    }

    fn refuse(
        &mut self,
        spot: Spot<'_>,
        reference: &Reference<'_>,
        label: impl Into<String>,
        help: Option<String>,
    ) -> Told {
        self.tell(Fault {
            path: spot.path.to_owned(),
            part: reference.to_string(),
            message: format!("a reference in `{}` cannot be replaced", spot.path),
            label: label.into(),
            help,
        })
    }

    fn pieces<'t>(&mut self, spot: Spot<'_>, text: &'t str) -> Bound<Vec<Piece<'t>>> {
        pieces(text).map_err(|malformed| self.tell(malformed_fault(spot.path, &malformed)))
    }

    /// All values of a table; each is looked at, even if another is wrong.
    fn table(&mut self, path: &str, table: &Map<String, Value>, depth: usize) -> Bound<Map<String, Value>> {
        let entries = table.iter();
        let entries =
            entries.map(|(key, value)| Ok((key.clone(), self.value(&below(path, key), value, depth)?)));
        entries.collect::<Vec<_>>().into_iter().collect()
    }

    fn value(&mut self, path: &str, value: &Value, depth: usize) -> Bound<Value> {
        let spot = Spot { path, depth, port: None };
        self.spend(spot, LEAST)?;
        match value {
            Value::String(text) => {
                let parts = self.pieces(spot, text)?;
                match &parts[..] {
                    [Piece::Reference(reference)] => self.look_up(spot, reference),
                    _ => Ok(self.join(spot, parts)?.into()),
                }
            }
            Value::Array(values) => {
                let values = values.iter().enumerate();
                let values = values
                    .map(|(index, value)| self.value(&below(path, &index.to_string()), value, depth + 1));
                values.collect::<Vec<_>>().into_iter().collect()
            }
            Value::Object(table) => Ok(self.table(path, table, depth + 1)?.into()),
            other => Ok(other.clone()),
        }
    }

    fn service(&mut self, name: &str, path: &str, service: &mut Service) {
        let Ok(port) = self.port(Spot { path, depth: 1, port: None }, name, &Reference::Port(name)) else {
            return;
        };
        let port = Some(port);
        self.replace(&below(path, "command"), &mut service.command, port);
        for (index, argument) in service.args.iter_mut().enumerate() {
            self.replace(&below(&below(path, "args"), &index.to_string()), argument, port);
        }
        for (variable, value) in &mut service.env {
            self.replace(&below(&below(path, "env"), variable), value, port);
        }
        if let Some(folder) = &mut service.cwd {
            self.replace(&below(path, "cwd"), folder, port);
        }
        self.replace(&below(path, "url"), &mut service.url, port);
        if let Some(Ready { by, .. }) = &mut service.ready {
            let path = below(path, "ready");
            match by {
                ReadyBy::Http(text) => self.replace(&below(&path, "http"), text, port),
                ReadyBy::Tcp(text) => self.replace(&below(&path, "tcp"), text, port),
                ReadyBy::Log(text) => self.replace(&below(&path, "log"), text, port),
            }
        }
    }

    fn probe(&mut self, path: &str, probe: &mut Probe) {
        match &mut probe.by {
            ProbeBy::Http { url, body, .. } => {
                self.replace(&below(path, "http"), url, None);
                if let Some(body) = body {
                    self.replace(&below(path, "body"), body, None);
                }
            }
            ProbeBy::Tcp(text) => self.replace(&below(path, "tcp"), text, None),
            ProbeBy::Dns(text) => self.replace(&below(path, "dns"), text, None),
            ProbeBy::Command(words) => {
                let path = below(path, "command");
                for (index, word) in words.iter_mut().enumerate() {
                    self.replace(&below(&path, &index.to_string()), word, None);
                }
            }
        }
    }

    fn replace(&mut self, path: &str, text: &mut String, port: Option<u16>) {
        if let Ok(bound) = self.text(Spot { path, depth: 1, port }, text) {
            *text = bound;
        }
    }

    fn text(&mut self, spot: Spot<'_>, text: &str) -> Bound<String> {
        let parts = self.pieces(spot, text)?;
        self.join(spot, parts)
    }

    fn join(&mut self, spot: Spot<'_>, parts: Vec<Piece<'_>>) -> Bound<String> {
        let (mut whole, mut wrong) = (String::new(), None);
        for part in parts {
            let text = match (part, spot.port) {
                (Piece::Text(text), Some(port)) => Ok(text.replace("{port}", &port.to_string())),
                (Piece::Text(text), None) => Ok(text.to_owned()),
                (Piece::Reference(reference), _) => match self.look_up(spot, &reference) {
                    Ok(Value::String(text)) => Ok(text),
                    Ok(value @ (Value::Array(_) | Value::Object(_))) => {
                        let kind = if value.is_array() { "a list" } else { "a table" };
                        Err(self.refuse(spot, &reference, format!("{kind} has no place in a text"), None))
                    }
                    Ok(value) => Ok(value.to_string()),
                    Err(told) => Err(told),
                },
            };
            match text {
                Ok(text) => {
                    self.spend(spot, text.len())?;
                    whole += &text;
                }
                Err(told) => wrong = Some(told),
            }
        }
        wrong.map_or(Ok(whole), Err)
    }

    /// What a reference stands for.
    fn look_up(&mut self, spot: Spot<'_>, reference: &Reference<'_>) -> Bound<Value> {
        let written = reference.to_string();
        let target = written.trim_start_matches("${").trim_end_matches('}');
        if let Some(begin) = self.trail.iter().position(|earlier| earlier == target) {
            if self.circular.contains(target) {
                return Err(Told);
            }
            self.circular.extend(self.trail[begin..].iter().cloned());
            let chain = self.trail[begin..].iter().map(String::as_str).chain([target]);
            let chain = format!("each refers to the next: {}", chain.collect::<Vec<_>>().join(" → "));
            return Err(self.refuse(spot, reference, "in the end it refers to itself", Some(chain)));
        }
        self.spend(spot, LEAST)?;
        self.trail.push(target.to_owned());
        let value = self.target(spot, reference);
        self.trail.pop();
        value
    }

    fn target(&mut self, spot: Spot<'_>, reference: &Reference<'_>) -> Bound<Value> {
        let definition = self.definition;
        match reference {
            Reference::Config(names) => {
                let (path, value) = self.config(spot, reference, names)?;
                self.value(&path, value, spot.depth + 1)
            }
            Reference::Port(name) => self.port(spot, name, reference).map(Value::from),
            Reference::Url(name) => {
                let port = Some(self.port(spot, name, reference)?);
                let path = below(&below("services", name), "url");
                let url = definition.services.get(*name).map_or("", |service| &service.url);
                self.text(Spot { path: &path, depth: spot.depth + 1, port }, url).map(Value::from)
            }
            Reference::Secret(name) => {
                if !definition.secrets.contains_key(*name) {
                    let known = definition.secrets.keys().map(String::as_str);
                    let help = suggestion(name, known).unwrap_or_else(|| "there are no `[secrets]`".into());
                    return Err(self.refuse(
                        spot,
                        reference,
                        format!("there is no secret `{name}`"),
                        Some(help),
                    ));
                }
                let secret = self.bindings.secrets.get(*name).map(|secret| secret.as_str().into());
                secret.ok_or_else(|| {
                    self.refuse(spot, reference, format!("the secret `{name}` is not known here"), None)
                })
            }
            Reference::EnvironmentName => Ok(self.bindings.environment.as_str().into()),
        }
    }

    /// The value of the config that these names lead to, with its path.
    fn config(
        &mut self,
        spot: Spot<'_>,
        reference: &Reference<'_>,
        names: &[&str],
    ) -> Bound<(String, &'a Value)> {
        let mut path = "config".to_owned();
        let definition: &'a Definition = self.definition;
        let mut table = Some(&definition.config);
        let mut found = None;
        for (place, name) in names.iter().enumerate() {
            let Some(inside) = table else {
                return Err(self.refuse(spot, reference, format!("`{path}` is no table"), None));
            };
            let Some(value) = inside.get(*name) else {
                let help = match nearest(name, inside.keys().map(String::as_str)) {
                    Some(near) => {
                        let mut meant = names.to_vec();
                        meant[place] = near;
                        format!("did you mean `{}`?", Reference::Config(meant))
                    }
                    None if inside.is_empty() => format!("`{path}` has no values"),
                    None => format!(
                        "`{path}` has: {}",
                        inside.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
                    ),
                };
                let missing = below(&path, name);
                return Err(self.refuse(spot, reference, format!("there is no `{missing}`"), Some(help)));
            };
            path = below(&path, name);
            table = value.as_object();
            found = Some(value);
        }
        let found = found.map(|value| (path, value));
        found.ok_or_else(|| self.refuse(spot, reference, "it names no value", None))
    }

    fn port(&mut self, spot: Spot<'_>, name: &str, reference: &Reference<'_>) -> Bound<u16> {
        let Some(service) = self.definition.services.get(name) else {
            let known = self.definition.services.keys().map(String::as_str);
            let help = suggestion(name, known).unwrap_or_else(|| "there are no `[services.NAME]`".into());
            return Err(self.refuse(spot, reference, format!("there is no service `{name}`"), Some(help)));
        };
        if let Some(early) = &self.early
            && service.scope == Scope::Test
        {
            let help = format!(
                "`{early}` is needed before that; give `{name}` the scope `run`, or refer to another"
            );
            let label = format!("`{name}` is started for each test, with a port of its own");
            return Err(self.refuse(spot, reference, label, Some(help)));
        }
        let port = self.bindings.ports.get(name).copied();
        port.ok_or_else(|| self.refuse(spot, reference, format!("the service `{name}` is not started"), None))
    }

    /// Takes note of a piece of the result, before it becomes too large or too deep.
    fn spend(&mut self, spot: Spot<'_>, size: usize) -> Bound<()> {
        let fault = |path: &str, label: String| Fault {
            path: path.to_owned(),
            part: String::new(),
            message: "a value becomes too large".into(),
            label,
            help: None,
        };
        if spot.depth > DEEPEST {
            let label = format!("values and references lead deeper than {DEEPEST} levels");
            return Err(self.tell(fault(spot.path, label)));
        }
        let left = self.left.ok_or(Told)?;
        self.left = left.checked_sub(size);
        if self.left.is_some() {
            return Ok(());
        }
        let label = format!("with all references replaced there is more than {LARGEST} bytes");
        Err(self.tell(fault(spot.path, label)))
    }
}

fn malformed_fault(path: &str, malformed: &Malformed<'_>) -> Fault {
    let escape = "where no reference is meant, write `$${` for `${`";
    Fault {
        path: path.to_owned(),
        part: malformed.written.to_owned(),
        message: "a reference cannot be read".into(),
        label: malformed.reason.to_owned(),
        help: Some(match meant(malformed.written) {
            Some(meant) => format!("did you mean `{meant}`? {escape}"),
            None => escape.into(),
        }),
    }
}

/// The reference that somebody probably meant who wrote this.
fn meant(written: &str) -> Option<String> {
    let inside = written.strip_prefix("${")?.strip_suffix('}')?;
    let mut parts: Vec<_> = inside.split('.').map(str::trim).collect();
    let first = parts.first_mut()?;
    *first = nearest(first, ["config", "services", "secrets", "environment"])?;
    let last: &[&str] = match &parts[..] {
        ["services", _, _] => &["url", "port"],
        ["environment", _] => &["name"],
        _ => &[],
    };
    if let Some(part) = parts.last_mut().filter(|_| !last.is_empty()) {
        *part = nearest(part, last.iter().copied())?;
    }
    let meant = format!("${{{}}}", parts.join("."));
    let alone = |pieces: Vec<Piece<'_>>| matches!(pieces[..], [Piece::Reference(_)]);
    pieces(&meant).is_ok_and(alone).then_some(meant)
}

#[cfg(test)]
mod tests;
