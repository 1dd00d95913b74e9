//! An environment together with those that it inherits from.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::path::below;
use super::text::values;
use crate::model::{Definition, Environment, EnvironmentVersion};

/// An environment and its bases, the nearest first.
#[derive(Clone, Debug, PartialEq)]
pub struct Chain {
    own: Environment,
    bases: Vec<Environment>,
}

impl Chain {
    /// An environment without bases.
    pub fn new(own: Environment) -> Self {
        Self { own, bases: vec![] }
    }

    /// The environment itself, without what it inherits.
    pub fn own(&self) -> &Environment {
        &self.own
    }

    /// What it inherits from, the nearest first.
    pub fn bases(&self) -> &[Environment] {
        &self.bases
    }

    /// What the last of it extends.
    pub(super) fn missing(&self) -> Option<&str> {
        self.bases.last().unwrap_or(&self.own).definition.extends.as_deref()
    }

    /// The names from the environment on, for errors.
    pub(super) fn names(&self) -> Vec<String> {
        self.members().map(|environment| environment.name.clone()).collect()
    }

    /// Adds what the last of it extends.
    pub fn push(&mut self, base: Environment) {
        self.bases.push(base);
    }

    fn members(&self) -> impl DoubleEndedIterator<Item = &Environment> {
        std::iter::once(&self.own).chain(&self.bases)
    }

    /// The environment with all that it inherits.
    pub fn resolve(&self) -> Environment {
        let mut definition = Definition::default();
        for environment in self.members().rev() {
            definition = inherit(definition, &environment.definition);
        }
        let bases = self.bases.iter().map(Environment::identity).collect();
        Environment { definition, bases, ..self.own.clone() }
    }

    /// For each value of the resolved environment by its path, which environment says it.
    pub fn origins(&self) -> BTreeMap<String, EnvironmentVersion> {
        let mut origins = BTreeMap::new();
        let mut probes = 0;
        // The farthest first, so that a nearer one that says it too has the last word.
        for environment in self.members().rev() {
            let identity = environment.identity();
            let mut said = environment.definition.clone();
            for _ in std::mem::take(&mut said.probes) {
                origins.insert(below("probes", &probes.to_string()), identity.clone());
                probes += 1;
            }
            origins.extend(values(&said).into_keys().map(|path| (path, identity.clone())));
        }
        let resolved = values(&self.resolve().definition);
        origins.retain(|path, _| path.starts_with("probes.") || resolved.contains_key(path));
        origins
    }
}

/// What an environment is on this base.
fn inherit(base: Definition, own: &Definition) -> Definition {
    let own = own.clone();
    let Definition { description, labels, extends, config, secrets, recipients, .. } = own;
    let Definition { services, probes, capacity, data, .. } = own;
    Definition {
        description,
        extends,
        labels: by_name(base.labels, labels),
        config: deeply(base.config, config),
        secrets: by_name(base.secrets, secrets),
        recipients: if recipients.is_empty() { base.recipients } else { recipients },
        services: by_name(base.services, services),
        probes: base.probes.into_iter().chain(probes).collect(),
        capacity: capacity.or(base.capacity),
        data: by_name(base.data, data),
    }
}

fn by_name<T>(mut base: BTreeMap<String, T>, own: BTreeMap<String, T>) -> BTreeMap<String, T> {
    base.extend(own);
    base
}

/// Tables within tables are merged; any other value replaces what was there.
fn deeply(mut base: Map<String, Value>, own: Map<String, Value>) -> Map<String, Value> {
    for (key, value) in own {
        let merged = match (base.remove(&key), value) {
            (Some(Value::Object(base)), Value::Object(own)) => Value::Object(deeply(base, own)),
            (_, value) => value,
        };
        base.insert(key, merged);
    }
    base
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::document::Document;
    use crate::environments::EnvironmentFile;

    fn environment(name: &str, version: u64, text: &str) -> Environment {
        let file = EnvironmentFile::parse(name, Document::new("x.toml", text)).unwrap();
        Environment { version, ..Environment::unstored(name, file.definition, "me@here") }
    }

    fn chain() -> Chain {
        let mut chain = Chain::new(environment(
            "eu",
            3,
            "description = \"eu\"\nextends = \"staging\"\nlabels = { team = \"eu\" }\n\
             [config]\nlist = [9]\nlimits = { b = 20, c = 30 }\n[config.scalar]\nnow = \"a table\"\n\
             [[probes]]\ntcp = \"eu:1\"\n[services.orders]\ncommand = \"orders-eu\"\n\
             [secrets]\ntoken = { environment = \"eu\", version = 2 }\n",
        ));
        chain.push(environment(
            "staging",
            2,
            "extends = \"base\"\ncapacity = 2\n[config]\nlimits.b = 2\n[[probes]]\ndns = \"staging\"\n",
        ));
        chain.push(environment(
            "base",
            1,
            "description = \"base\"\ncapacity = 1\nlabels = { team = \"all\", tier = \"1\" }\n\
             [config]\nurl = \"http://base\"\nlist = [1, 2]\nscalar = 5\nlimits = { a = 1, b = 1 }\n\
             [[probes]]\ntcp = \"base:1\"\n[[probes]]\ndns = \"base\"\n\
             [services.orders]\ncommand = \"orders\"\nargs = [\"-v\"]\n[services.stock]\ncommand = \"stock\"\n\
             [secrets]\ntoken = { environment = \"base\", version = 7 }\nkey = { environment = \"base\", version = 1 }\n",
        ));
        chain
    }

    #[test]
    fn what_is_nearer_replaces_what_is_farther() {
        let resolved = chain().resolve();
        let definition = &resolved.definition;
        assert_eq!(
            Value::Object(definition.config.clone()),
            json!({
                "url": "http://base", "list": [9], "scalar": { "now": "a table" },
                "limits": { "a": 1, "b": 20, "c": 30 },
            })
        );
        assert_eq!((definition.description.as_str(), definition.extends.as_deref()), ("eu", Some("staging")));
        assert_eq!(definition.capacity.map(u32::from), Some(2));
        assert_eq!(json!(definition.labels), json!({ "team": "eu", "tier": "1" }));
        assert!(definition.services["orders"].args.is_empty(), "a service is replaced as a whole");
        assert_eq!(definition.services["stock"].command, "stock");
        assert_eq!(definition.secrets["token"].environment, "eu");
        assert_eq!(definition.secrets["key"].environment, "base");
        let probes: Vec<_> = definition.probes.iter().map(|probe| json!(probe.by)).collect();
        assert_eq!(
            json!(probes),
            json!([{"tcp": "base:1"}, {"dns": "base"}, {"dns": "staging"}, {"tcp": "eu:1"}])
        );
        assert_eq!(resolved.version, 3);
        let bases: Vec<_> = resolved.bases.iter().map(ToString::to_string).collect();
        assert_eq!(bases, ["staging@2", "base@1"]);
    }

    #[test]
    fn each_value_is_shown_with_where_it_comes_from() {
        let chain = chain();
        let text = chain.resolve().to_toml_with(&chain.origins()).unwrap();
        insta::assert_snapshot!(text);
        let again = EnvironmentFile::parse("eu", Document::new("eu.toml", text)).unwrap();
        assert_eq!(again.definition, chain.resolve().definition);
    }
}
