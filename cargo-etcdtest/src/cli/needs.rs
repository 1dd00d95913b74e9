//! Whether there can be workers for what tests need.

use std::collections::BTreeMap;

use super::Failure;
use crate::execution::{Policy, Selected};
use crate::model::{Labels, TestCaseId};

/// How many different sets of labels the tests of a run may need: each is dealt by itself.
const MOST: usize = 30;

/// Refuses tests for which there are no workers: where a run is not `shared`, its only one is
/// this process, with these labels.
///
/// # Errors
/// A test needs what this machine does not have, or they need too many different things.
pub(super) fn check_needs(
    tests: &[Selected],
    policy: &Policy,
    labels: &Labels,
    shared: bool,
) -> Result<(), Failure> {
    let mut needs = BTreeMap::<Labels, (&TestCaseId, usize)>::new();
    for selected in tests {
        let rules = policy.of(&selected.test);
        needs.entry(rules.needs).or_insert((&selected.test.id, 0)).1 += 1;
    }
    if needs.len() > MOST {
        return Err(Failure::usage(miette::miette!(
            help = "use fewer labels, or run some of the tests by themselves",
            "the tests need {} different sets of labels, of which a run takes at most {MOST}",
            needs.len()
        )));
    }
    let lacking = needs.iter().find(|(needs, _)| !shared && !labels.satisfy(needs));
    let Some((needs, (test, count))) = lacking else { return Ok(()) };
    let who =
        if *count > 1 { format!("{test} and {} more need", count - 1) } else { format!("{test} needs") };
    Err(Failure::usage(miette::miette!(
        help = format!(
            "if this machine has it, say so with `--labels {needs}`; with `--run-id` or `--queue`, \
             workers elsewhere can run such tests; or select others"
        ),
        "{who} a worker with `{needs}`"
    )))
}
