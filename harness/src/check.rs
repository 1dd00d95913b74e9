//! Whether environments have what the parameters of tests are read from.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use crate::config::Wrong;
use crate::environment::{Environment, Origin};
use crate::extract::{Check as CheckParameter, Declared};
use crate::protocol::{Check, Checked, Lack};
use crate::{panics, registry};

/// Answers the question that stands on standard input.
///
/// # Errors
/// It is no question, or it names a test that this binary does not have.
pub(crate) fn main() -> Result<ExitCode, String> {
    let question = std::io::read_to_string(std::io::stdin())
        .map_err(|error| format!("failed to read what is to be checked: {error}"))?;
    let question = Check::from_json(&question)
        .ok_or("the runner asked for a check that this version does not understand")?;
    println!("{}", answer(question)?.to_line());
    Ok(ExitCode::SUCCESS)
}

fn answer(question: Check) -> Result<Checked, String> {
    let mut lacks = Vec::new();
    for (told, tests) in question.environments {
        let environment = Environment::new(told, Origin::Runner);
        for test in tests {
            let entry = registry::find(&test).map_err(|wrong| wrong.to_string())?;
            let (_, entry) = entry.ok_or_else(|| format!("there is no test `{test}` in this binary"))?;
            for Declared { parameter, check, .. } in entry.parameters {
                let Some(check) = check else { continue };
                let wrong = all_wrong(*check, &environment, parameter.name);
                lacks.extend(wrong.into_iter().map(|(key, reason)| Lack {
                    environment: environment.name().to_owned(),
                    test: test.clone(),
                    parameter: format!("{}: {}", parameter.name, parameter.ty),
                    key,
                    reason,
                }));
            }
        }
    }
    Ok(Checked { lacks })
}

/// The keys that are wrong, and why. A type's own code may panic while it is read.
fn all_wrong(check: CheckParameter, environment: &Environment, name: &str) -> Vec<(String, Option<String>)> {
    let said = |wrong: Wrong| (wrong.key(), wrong.reason().map(str::to_owned));
    match catch_unwind(AssertUnwindSafe(|| check(environment, name))) {
        Ok(wrong) => wrong.into_iter().map(said).collect(),
        Err(payload) => {
            vec![(name.to_owned(), Some(format!("reading it panicked: {}", panics::message(&*payload))))]
        }
    }
}
