//! Whether the environments of a run have what its tests read of them, before any is run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use etcdtest::protocol::{Check, EnvironmentData, Lack};
use serde_json::Value;

use super::order::Selected;
use super::services::expected_config;
use crate::environments::SecretValues;
use crate::model::{Environment, TestCaseId};
use crate::testcases::{Binary, Question, ask_what_lacks};

/// What an environment lacks for a test.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unmet {
    /// The environment's name.
    pub environment: String,
    /// The test.
    pub test: TestCaseId,
    /// The parameter of the test, as `name: Type`.
    pub parameter: String,
    /// The key in the environment's config.
    pub key: String,
    /// What is wrong with the value there; `None` where there is none.
    pub reason: Option<String>,
}

/// What came of looking.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requirements {
    /// What is lacking, in order; nothing where all tests can run.
    pub unmet: Vec<Unmet>,
    /// The binaries that could not be asked, and why.
    pub warnings: Vec<String>,
}

/// Asks the binaries of these tests what the environments in which they would run lack, each
/// binary once and for so long. A binary whose tests read nothing is not asked.
pub async fn requirements(
    tests: &[Selected],
    environments: &[Environment],
    secrets: &SecretValues,
    timeout: Duration,
) -> Requirements {
    let questions = questions(tests, environments, secrets);
    if questions.is_empty() {
        return Requirements::default();
    }
    let redactor = secrets.redactor();
    let mut found = Requirements::default();
    for (binary, answer) in ask_what_lacks(questions, timeout).await {
        match answer {
            Ok(lacks) => found.unmet.extend(lacks.into_iter().map(|lack| {
                let Lack { environment, test, parameter, key, reason } = lack;
                let test = TestCaseId::new(&binary.package, &binary.name, test);
                let reason = reason.map(|reason| redactor.text(reason));
                Unmet { environment, test, parameter, key: redactor.text(key), reason }
            })),
            Err(fault) => found.warnings.push(format!(
                "{binary} was not asked what its tests need of the environments: {}",
                redactor.text(fault.to_string())
            )),
        }
    }
    found.unmet.sort();
    found
}

fn questions(tests: &[Selected], environments: &[Environment], secrets: &SecretValues) -> Vec<Question> {
    let typed: Vec<_> = tests.iter().filter(|selected| selected.test.typed).collect();
    if typed.is_empty() {
        return Vec::new();
    }
    let mut questions = BTreeMap::<String, Question>::new();
    for environment in environments {
        let runs = |selected: &&&Selected| !selected.skipped.contains_key(&environment.name);
        let mut by_binary = BTreeMap::<String, (&Arc<Binary>, Vec<String>)>::new();
        for selected in typed.iter().filter(runs) {
            let binary = &selected.test.binary;
            let (_, names) = by_binary.entry(binary.to_string()).or_insert_with(|| (binary, Vec::new()));
            names.push(selected.test.id.test.clone());
        }
        // One that does not hold together is told by whoever starts its services.
        let Some(config) = (!by_binary.is_empty()).then(|| expected_config(environment, secrets)).flatten()
        else {
            continue;
        };
        let told = EnvironmentData {
            name: environment.name.clone(),
            version: environment.version,
            revision: environment.revision,
            config: Value::Object(config),
            ..EnvironmentData::default()
        };
        for (name, (binary, tests)) in by_binary {
            let question = questions
                .entry(name)
                .or_insert_with(|| Question { binary: Arc::clone(binary), check: Check::default() });
            question.check.environments.push((told.clone(), tests));
        }
    }
    questions.into_values().collect()
}
