//! An environment's definition with the ports that its services were given.

use hyper::Uri;
use serde_json::{Map, Value, json};

use super::not_ready::{NotReady, Part};
use crate::environments::{Bindings, SecretValues, bind};
use crate::model::{Definition, Environment, Ready, ReadyBy, Service};

/// Bindings in which no service has a port yet.
pub(super) fn unbound(environment: &Environment, secrets: &SecretValues) -> Bindings {
    let secrets = secrets.of(&environment.name);
    Bindings {
        environment: environment.name.clone(),
        ports: environment.definition.services.keys().map(|name| (name.clone(), 0)).collect(),
        secrets: secrets.map(|(name, value)| (name.to_owned(), value.expose().to_owned())).collect(),
    }
}

/// The definition with what its references stand for.
///
/// # Errors
/// [`NotReady`] where one stands for nothing.
pub(super) fn bound(environment: &Environment, bindings: &Bindings) -> Result<Definition, NotReady> {
    bind(&environment.definition, bindings).map_err(|fault| NotReady {
        environment: environment.name.clone(),
        part: Part::Definition,
        reason: fault.of(&environment.name).to_string(),
        lines: Vec::new(),
    })
}

/// What tests read: the configuration, and under `services` each service's `url` and `port`.
pub(super) fn config(bound: &Definition, bindings: &Bindings) -> Map<String, Value> {
    let mut config = bound.config.clone();
    if bound.services.is_empty() {
        return config;
    }
    let services = config.entry("services").or_insert_with(|| json!({}));
    for (name, service) in &bound.services {
        if let Value::Object(services) = &mut *services {
            let port = bindings.ports.get(name);
            services.insert(name.clone(), json!({ "url": service.url, "port": port }));
        }
    }
    config
}

/// What tests will read, with placeholders for the ports that are not known yet; `None` where
/// a reference stands for nothing.
pub(in crate::execution) fn expected_config(
    environment: &Environment,
    secrets: &SecretValues,
) -> Option<Map<String, Value>> {
    let placeholders = Bindings::placeholders(&environment.name, &environment.definition);
    let bindings = Bindings { ports: placeholders.ports, ..unbound(environment, secrets) };
    Some(config(&bound(environment, &bindings).ok()?, &bindings))
}

/// Whether it is started on a port that is chosen for it.
pub(super) fn wants_port(service: &Service) -> bool {
    texts(service).any(|text| text.contains("{port}"))
}

/// The port of a URL; 0 where it is none.
pub(super) fn port_of(url: &str) -> u16 {
    let url = url.parse::<Uri>().unwrap_or_default();
    let usual = match url.scheme_str() {
        Some("http") => 80,
        Some("https") => 443,
        _ => 0,
    };
    url.port_u16().unwrap_or(usual)
}

/// Whether a service says where another is.
pub(super) fn refers(service: &Service, other: &str) -> bool {
    let reference = format!("${{services.{other}.");
    texts(service).any(|text| text.contains(&reference))
}

/// The texts of a service that may refer to something.
fn texts(service: &Service) -> impl Iterator<Item = &String> {
    let ready = service.ready.as_ref().map(|Ready { by, .. }| match by {
        ReadyBy::Http(text) | ReadyBy::Tcp(text) | ReadyBy::Log(text) => text,
    });
    let Service { command, args, env, cwd, url, .. } = service;
    [command, url].into_iter().chain(args).chain(env.values()).chain(cwd).chain(ready)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_of_a_url_is_what_it_says_or_the_usual_one() {
        for (url, port) in [
            ("http://127.0.0.1:81/x", 81),
            ("http://a", 80),
            ("https://[::1]", 443),
            ("postgres://u:p@h:5432/db", 5432),
            ("redis://h", 0),
        ] {
            assert_eq!(port_of(url), port, "{url}");
        }
    }
}
