//! What sets an order apart from a run that is there under its id: pure, without a store.

use std::collections::{BTreeMap, BTreeSet};

use super::error::{Result, RunError};
use super::order::Order;
use crate::model::{Environment, PlannedUnit, Repetition, Run, RunId, TestCaseId};

/// How many differences an error shows.
const SHOWN: usize = 10;

/// In what an order differs from a run, one line each.
#[derive(Debug, Default)]
pub(super) struct Differences(Vec<String>);

impl Differences {
    /// Other environments, or others of their names.
    pub(super) fn of_environments(&mut self, here: &[Environment], there: &[Environment]) {
        let [here, there] = [here, there].map(|environments| {
            environments
                .iter()
                .map(|environment| (&*environment.name, environment))
                .collect::<BTreeMap<_, _>>()
        });
        for (name, own) in &here {
            match there.get(name) {
                None => self.0.push(format!("the environment `{name}` is only here")),
                Some(other) if own.version != other.version => self.0.push(format!(
                    "the environment `{name}` is {} here and {} in the run",
                    version(own),
                    version(other)
                )),
                Some(other) if own.definition != other.definition => {
                    let bases = |environment: &Environment| match &environment.bases[..] {
                        [] => String::new(),
                        bases => {
                            let names: Vec<_> = bases.iter().map(ToString::to_string).collect();
                            format!(" (on {})", names.join(", "))
                        }
                    };
                    self.0.push(format!(
                        "the environment `{name}` has other values here{} than in the run{}",
                        bases(own),
                        bases(other)
                    ));
                }
                Some(_) => {}
            }
        }
        for name in there.keys().filter(|name| !here.contains_key(*name)) {
            self.0.push(format!("the environment `{name}` is only in the run"));
        }
    }

    /// Other tests, in other environments or more often.
    pub(super) fn of_units<'a>(
        &mut self,
        here: &[PlannedUnit],
        there: impl IntoIterator<Item = &'a PlannedUnit>,
    ) {
        let here: BTreeSet<_> = here.iter().map(key).collect();
        let there: BTreeSet<_> = there.into_iter().map(key).collect();
        for (more, less, place) in [(&here, &there, "here"), (&there, &here, "in the run")] {
            for (test, environment, repetition) in more.difference(less) {
                let repetition = repetition.map(|number| format!(" [{number}]")).unwrap_or_default();
                self.0.push(format!("{test}{repetition} in `{environment}` is only {place}"));
            }
        }
    }

    /// Tests that are described otherwise, selected or not.
    pub(super) fn of_digests(&mut self, order: &Order, run: &Run) {
        if order.tests_digest == run.tests_digest || !self.0.is_empty() {
            return;
        }
        let commits = match (&order.commit, &run.commit) {
            (Some(here), Some(there)) if here.id != there.id => {
                format!(": the code is of commit {} here and {} in the run", here.id, there.id)
            }
            _ => String::new(),
        };
        self.0.push(format!(
            "the list of all tests, or what the code says of one, is another here than in the run{commits}"
        ));
    }

    /// Refuses what differs.
    ///
    /// # Errors
    /// [`RunError::Differs`].
    pub(super) fn check(self, run: &RunId) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let mut lines = self.0;
        let more = lines.len().saturating_sub(SHOWN);
        lines.truncate(SHOWN);
        if more > 0 {
            lines.push(format!("and {more} more"));
        }
        Err(RunError::Differs { run: run.clone(), differences: lines.join("\n- ") })
    }
}

/// What a unit is of.
fn key(unit: &PlannedUnit) -> (&TestCaseId, &str, Option<Repetition>) {
    (&unit.test, &unit.environment, unit.repetition)
}

fn version(environment: &Environment) -> String {
    match environment.version {
        0 => "not stored".into(),
        number => format!("version {number}"),
    }
}
