//! What stands in an environment's texts in place of its services' addresses.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::model::{Definition, Probe, ProbeBy, Ready, ReadyBy, Service};

/// Where the services of an environment are, by name.
#[derive(Clone, Debug, Default)]
pub(super) struct Bindings(pub(super) BTreeMap<String, Address>);

/// Where a service is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// Its URL.
    pub(super) url: String,
    /// Its port.
    pub(super) port: u16,
}

impl Bindings {
    fn text(&self, text: &mut String) {
        for (name, address) in &self.0 {
            if text.contains("${") {
                *text = text
                    .replace(&format!("${{services.{name}.url}}"), &address.url)
                    .replace(&format!("${{services.{name}.port}}"), &address.port.to_string());
            }
        }
    }

    fn value(&self, value: &mut Value) {
        match value {
            Value::String(text) => self.text(text),
            Value::Array(values) => values.iter_mut().for_each(|value| self.value(value)),
            Value::Object(values) => values.values_mut().for_each(|value| self.value(value)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// A service with the addresses that it refers to.
    pub(super) fn service(&self, service: &Service) -> Service {
        let mut bound = service.clone();
        each_text(&mut bound, |text| self.text(text));
        bound
    }

    /// A probe with the addresses that it refers to.
    pub(super) fn probe(&self, probe: &Probe) -> Probe {
        let mut bound = probe.clone();
        match &mut bound.by {
            ProbeBy::Http { url, body, .. } => {
                self.text(url);
                if let Some(body) = body {
                    self.text(body);
                }
            }
            ProbeBy::Tcp(text) | ProbeBy::Dns(text) => self.text(text),
            ProbeBy::Command(texts) => texts.iter_mut().for_each(|text| self.text(text)),
        }
        bound
    }

    /// What tests read: the configuration, and under `services` each service's `url` and
    /// `port`.
    pub(super) fn config(&self, definition: &Definition) -> Map<String, Value> {
        let mut config = definition.config.clone();
        config.values_mut().for_each(|value| self.value(value));
        if !self.0.is_empty() {
            let services = config.entry("services").or_insert_with(|| json!({}));
            for (name, address) in &self.0 {
                if let Value::Object(services) = services {
                    services.insert(name.clone(), json!({ "url": address.url, "port": address.port }));
                }
            }
        }
        config
    }
}

/// Goes through the texts of a service that may refer to something.
pub(super) fn each_text(service: &mut Service, mut change: impl FnMut(&mut String)) {
    change(&mut service.command);
    service.args.iter_mut().for_each(&mut change);
    service.env.values_mut().for_each(&mut change);
    service.cwd.iter_mut().for_each(&mut change);
    change(&mut service.url);
    if let Some(Ready { by: ReadyBy::Http(text) | ReadyBy::Tcp(text) | ReadyBy::Log(text), .. }) =
        &mut service.ready
    {
        change(text);
    }
}
