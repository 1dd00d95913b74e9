//! Whether environments have what the parameters of tests are read from.

use serde_json::{Value, json};

use super::{EnvironmentData, VERSION, text, texts};

/// The only argument of a binary that is to check, and run nothing.
pub const CHECK_ARGUMENT: &str = "--etcdtest-check";

/// What the runner wants checked: environments, each with the names of the tests that would
/// run there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Check {
    /// The environments and the tests.
    pub environments: Vec<(EnvironmentData, Vec<String>)>,
}

/// What the environments lack, in the order in which they and the tests were named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Empty where all tests could run.
    pub lacks: Vec<Lack>,
}

/// A value that a test is to read and cannot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lack {
    /// The environment.
    pub environment: String,
    /// The test's name, as listed.
    pub test: String,
    /// The parameter, as `name: Type`.
    pub parameter: String,
    /// The key in the environment's config; its dots lead into tables.
    pub key: String,
    /// What is wrong with the value there; `None` where there is none.
    pub reason: Option<String>,
}

impl Check {
    /// The document that the binary reads.
    pub fn to_json(&self) -> String {
        let environments = self.environments.iter();
        let environments: Vec<_> = environments
            .map(|(environment, tests)| json!({ "environment": environment.to_json(), "tests": tests }))
            .collect();
        json!({ "etcdtest": VERSION, "environments": environments }).to_string()
    }

    /// Reads it back; `None` where it is something else, or of another protocol version.
    pub fn from_json(text: &str) -> Option<Self> {
        let whole: Value =
            serde_json::from_str(text).ok().filter(|whole: &Value| whole["etcdtest"] == VERSION)?;
        let environments = whole.get("environments")?.as_array()?.iter();
        let environment = |item: &Value| {
            let item = item.as_object()?;
            Some((EnvironmentData::from_json(&self::text(item, "environment")?)?, texts(item, "tests")?))
        };
        Some(Self { environments: environments.map(environment).collect::<Option<_>>()? })
    }
}

impl Checked {
    /// The line that the binary prints.
    pub fn to_line(&self) -> String {
        let lack = |lack: &Lack| {
            let Lack { environment, test, parameter, key, reason } = lack;
            json!({
                "environment": environment, "test": test, "parameter": parameter, "key": key, "reason": reason,
            })
        };
        let lacks: Vec<_> = self.lacks.iter().map(lack).collect();
        json!({ "etcdtest": VERSION, "lacks": lacks }).to_string()
    }

    /// Reads the line back; `None` where it is something else, or of another protocol version.
    pub fn from_line(line: &str) -> Option<Self> {
        let whole: Value =
            serde_json::from_str(line).ok().filter(|whole: &Value| whole["etcdtest"] == VERSION)?;
        let lack = |lack: &Value| {
            let lack = lack.as_object()?;
            Some(Lack {
                environment: text(lack, "environment")?,
                test: text(lack, "test")?,
                parameter: text(lack, "parameter")?,
                key: text(lack, "key")?,
                reason: text(lack, "reason"),
            })
        };
        let lacks = whole.get("lacks")?.as_array()?.iter();
        Some(Self { lacks: lacks.map(lack).collect::<Option<_>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn question_and_answer_read_back_as_written() {
        let environment = EnvironmentData {
            name: "staging".into(),
            config: json!({ "url": 1 }),
            ..EnvironmentData::default()
        };
        let check = Check { environments: vec![(environment, vec!["a".into(), "b::c".into()])] };
        assert_eq!(Check::from_json(&check.to_json()), Some(check));
        let lack = |reason: Option<&str>| Lack {
            environment: "staging".into(),
            test: "a".into(),
            parameter: "shop: Shop".into(),
            key: "orders.url".into(),
            reason: reason.map(str::to_owned),
        };
        let checked = Checked { lacks: vec![lack(None), lack(Some("no"))] };
        assert_eq!(Checked::from_line(&checked.to_line()), Some(checked));
        for other in ["", "{}", "[]", "{\"etcdtest\":9,\"lacks\":[]}"] {
            assert_eq!((Check::from_json(other), Checked::from_line(other)), (None, None));
        }
    }
}
