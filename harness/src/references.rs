//! What references in a file stand for where no runner replaces them.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::protocol::{Piece, Reference, pieces};

/// How many references may lead to each other.
const DEEPEST: usize = 64;

/// What references may refer to.
pub(crate) struct Known<'a> {
    /// The name of the environment.
    pub(crate) environment: &'a str,
    /// Its configuration, as it is written.
    pub(crate) config: &'a Map<String, Value>,
    /// Its secrets by name.
    pub(crate) secrets: &'a BTreeMap<String, String>,
}

impl Known<'_> {
    /// The configuration with what its references stand for in their place. What refers to
    /// something that is not there is left out, and noted with the reason under its path,
    /// such as `config.orders.url`.
    pub(crate) fn replaced(&self, absent: &mut BTreeMap<String, String>) -> Map<String, Value> {
        self.table(self.config, "config", absent)
    }

    fn table(
        &self,
        table: &Map<String, Value>,
        path: &str,
        absent: &mut BTreeMap<String, String>,
    ) -> Map<String, Value> {
        let mut replaced = Map::new();
        for (key, value) in table {
            let path = format!("{path}.{key}");
            let value = match value {
                Value::Object(inner) => Ok(self.table(inner, &path, absent).into()),
                value => self.value(value, &mut Vec::new()),
            };
            match value {
                Ok(value) => drop(replaced.insert(key.clone(), value)),
                Err(reason) => drop(absent.insert(path, reason)),
            }
        }
        replaced
    }

    /// A value with its references replaced; `trail` is what led to it.
    fn value(&self, value: &Value, trail: &mut Vec<String>) -> Result<Value, String> {
        match value {
            Value::String(text) => {
                let parts = pieces(text)
                    .map_err(|wrong| format!("`{}` is no reference: {}", wrong.written, wrong.reason))?;
                match &parts[..] {
                    [Piece::Reference(reference)] => self.look_up(reference, trail),
                    parts => self.join(parts, trail),
                }
            }
            Value::Array(values) => values.iter().map(|value| self.value(value, trail)).collect(),
            Value::Object(table) => {
                let entries = table.iter();
                let entries = entries.map(|(key, value)| Ok((key.clone(), self.value(value, trail)?)));
                entries.collect::<Result<Map<_, _>, String>>().map(Value::Object)
            }
            other => Ok(other.clone()),
        }
    }

    fn join(&self, parts: &[Piece<'_>], trail: &mut Vec<String>) -> Result<Value, String> {
        let mut whole = String::new();
        for part in parts {
            match part {
                Piece::Text(text) => whole += text,
                Piece::Reference(reference) => match self.look_up(reference, trail)? {
                    Value::String(text) => whole += &text,
                    Value::Array(_) | Value::Object(_) => {
                        return Err(format!("`{reference}` has no place in a text"));
                    }
                    other => whole += &other.to_string(),
                },
            }
        }
        Ok(whole.into())
    }

    fn look_up(&self, reference: &Reference<'_>, trail: &mut Vec<String>) -> Result<Value, String> {
        let written = reference.to_string();
        match reference {
            Reference::EnvironmentName => Ok(self.environment.into()),
            Reference::Secret(name) => match self.secrets.get(*name) {
                Some(value) => Ok(value.as_str().into()),
                None => Err(format!("it refers to `{written}`, which has no value here")),
            },
            Reference::Url(_) | Reference::Port(_) => {
                Err(format!("it refers to `{written}`, and only `cargo etcdtest` starts services"))
            }
            Reference::Config(names) => {
                let (first, inner) = names.split_first().unwrap_or((&"", &[]));
                let found =
                    inner.iter().try_fold(self.config.get(*first), |value, name| Some(value?.get(*name)));
                let found = found.flatten();
                let found = found.ok_or_else(|| format!("it refers to `{written}`, which is not there"))?;
                if trail.contains(&written) || trail.len() >= DEEPEST {
                    return Err(format!("it refers to `{written}`, which refers to itself in the end"));
                }
                trail.push(written);
                let value = self.value(found, trail);
                trail.pop();
                value
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn references_become_what_they_refer_to_and_what_has_nothing_is_left_out() {
        let Value::Object(config) = json!({
            "url": "http://${config.host.name}:${config.host.port}/${environment.name}",
            "port": "${config.host.port}",
            "host": { "name": "h", "port": 80, "list": ["${secrets.token}", "$${x}"] },
            "again": "${config.host}",
            "orders": "${services.orders.url}/v1",
            "nested": { "none": ["${config.nothing}"], "unknown": "${HOME}" },
            "circle": "${config.circle}",
            "table": "x ${config.host}",
            "secret": "${secrets.other}",
        }) else {
            panic!("it is an object")
        };
        let secrets = BTreeMap::from([("token".to_owned(), "hunter2".to_owned())]);
        let mut absent = BTreeMap::new();
        let known = Known { environment: "local", config: &config, secrets: &secrets };
        let replaced = known.replaced(&mut absent);
        let host = json!({ "name": "h", "port": 80, "list": ["hunter2", "${x}"] });
        assert_eq!(
            Value::Object(replaced),
            json!({ "url": "http://h:80/local", "port": 80, "host": host, "again": host, "nested": {} })
        );
        let reasons: Vec<_> = absent.iter().map(|(path, reason)| format!("{path}: {reason}")).collect();
        assert_eq!(
            reasons,
            [
                "config.circle: it refers to `${config.circle}`, which refers to itself in the end",
                "config.nested.none: it refers to `${config.nothing}`, which is not there",
                "config.nested.unknown: `${HOME}` is no reference: it begins with none of `config`, `services`, \
                 `secrets` and `environment`",
                "config.orders: it refers to `${services.orders.url}`, and only `cargo etcdtest` starts services",
                "config.secret: it refers to `${secrets.other}`, which has no value here",
                "config.table: `${config.host}` has no place in a text",
            ]
        );
    }
}
