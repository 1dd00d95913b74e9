//! What sets an order apart from a run that is there under its id: pure, without a store.

use std::collections::{BTreeMap, BTreeSet};

use super::error::{Result, RunError};
use super::order::Order;
use crate::model::{Build, Environment, PlannedUnit, Repetition, Run, RunId, TestCaseId};

/// How many tests an error names that are here and not there, or the other way round.
const SHOWN: usize = 10;

/// In what an order differs from a run, one paragraph each.
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
            let mut only = BTreeMap::<&str, Vec<String>>::new();
            for (test, environment, repetition) in more.difference(less) {
                let repetition = repetition.map(|number| format!(" [{number}]")).unwrap_or_default();
                only.entry(environment).or_default().push(format!("\n{test}{repetition}"));
            }
            for (environment, mut tests) in only {
                let left_out = tests.len().saturating_sub(SHOWN);
                tests.truncate(SHOWN);
                let more = if left_out > 0 { format!("\nand {left_out} more") } else { String::new() };
                self.0.push(format!("only {place}, in `{environment}`:{}{more}", tests.concat()));
            }
        }
    }

    /// Tests that are described otherwise, selected or not, and where that may come from.
    pub(super) fn of_code(&mut self, order: &Order, run: &Run) {
        if order.tests_digest == run.tests_digest {
            return;
        }
        if self.0.is_empty() {
            let text = "the list of all tests, or what the code says of one, is another here than in the run";
            self.0.push(text.into());
        }
        if order.build.flags != run.build.flags {
            let flags = |build: &Build| match &*build.flags.join(" ") {
                "" => "no flags".into(),
                flags => format!("`{flags}`"),
            };
            let (here, there) = (flags(&order.build), flags(&run.build));
            self.0.push(format!("what is built: {here} here, {there} in the run"));
        }
        match (&order.commit, &run.commit) {
            (Some(here), Some(there)) if here.id != there.id => {
                self.0.push(format!("the code: commit {} here, {} in the run", here.id, there.id));
            }
            (Some(here), Some(there)) if here.dirty || there.dirty => {
                let place = match (here.dirty, there.dirty) {
                    (true, true) => "here and in the run",
                    (true, false) => "here",
                    (false, _) => "in the run",
                };
                self.0.push(format!("the code: there are changes that are not committed {place}"));
            }
            _ => {}
        }
    }

    /// Refuses what differs.
    ///
    /// # Errors
    /// [`RunError::Differs`].
    pub(super) fn check(self, run: &RunId) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        Err(RunError::Differs { run: run.clone(), differences: self.0.join("\n- ") })
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
