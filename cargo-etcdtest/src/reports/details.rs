//! A run with everything that is known of it, as plain data: what reports are made from.

use std::sync::Arc;

use jiff::Timestamp;

use super::{story, text};
use crate::model::{
    Description, Environment, Outcome, PlannedUnit, Run, RunSummary, TestCase, UnitIndex, UnitResult, Verdict,
};

/// A run, finished or not.
#[derive(Clone, Debug, PartialEq)]
pub struct RunDetails {
    /// Its record.
    pub run: Run,
    /// The environments as they were when the run began, by name.
    pub environments: Vec<Environment>,
    /// Its units in the order of the plan.
    pub units: Vec<UnitDetails>,
}

/// One unit of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct UnitDetails {
    /// Its place in the plan.
    pub index: UnitIndex,
    /// What the plan says of it.
    pub planned: PlannedUnit,
    /// Its test case as it is now; `None` where it was deleted since.
    pub case: Option<Arc<TestCase>>,
    /// What came of it; `None` while nothing has.
    pub result: Option<UnitResult>,
    /// The output that was loaded, see [`super::history::load_output`].
    pub output: Vec<AttemptOutput>,
}

/// A stream of an attempt, as text for people: bounded, and without control sequences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptOutput {
    /// The attempt's number.
    pub attempt: u32,
    /// `output` or `services/NAME`.
    pub name: String,
    /// What it says.
    pub text: String,
}

impl RunDetails {
    /// An environment's snapshot.
    pub fn environment(&self, name: &str) -> Option<&Environment> {
        self.environments.iter().find(|environment| environment.name == name)
    }

    /// When the run ended; while it goes on, when the last attempt that is known did.
    pub fn ended(&self) -> Timestamp {
        let results = self.units.iter().filter_map(|unit| unit.result.as_ref());
        let ends = results.flat_map(|result| &result.attempts).map(|attempt| {
            jiff::SignedDuration::try_from(attempt.duration)
                .ok()
                .and_then(|duration| attempt.started.checked_add(duration).ok())
                .unwrap_or(attempt.started)
        });
        self.run.finished.or_else(|| ends.max()).unwrap_or(self.run.created).max(self.run.created)
    }

    /// What came of it so far, counted from the results themselves.
    pub fn summary(&self) -> RunSummary {
        let mut summary = RunSummary {
            duration: self.ended().duration_since(self.run.created).try_into().unwrap_or_default(),
            // Units whose part of the plan could not be read have no result either.
            not_run: self.run.units.saturating_sub(u32::try_from(self.units.len()).unwrap_or(u32::MAX)),
            ..RunSummary::default()
        };
        for unit in &self.units {
            let count = match unit.result.as_ref().map(|result| (result.outcome, result.verdict())) {
                None => &mut summary.not_run,
                Some((Outcome::Passed, Verdict::Flaky)) => &mut summary.flaky,
                Some((Outcome::Passed, _)) => &mut summary.passed,
                Some((Outcome::Failed, _)) => &mut summary.failed,
                Some((Outcome::Skipped, _)) => &mut summary.skipped,
                Some((Outcome::TimedOut, _)) => &mut summary.timed_out,
                Some((Outcome::Crashed, _)) => &mut summary.crashed,
            };
            *count += 1;
        }
        summary
    }
}

impl UnitDetails {
    /// What people wrote about the test case.
    pub fn description(&self) -> Description {
        self.case.as_deref().map(TestCase::description).unwrap_or_default()
    }

    /// Why it did not pass or was not run, in one line; `None` where it passed or nothing is
    /// known.
    pub fn message(&self) -> Option<String> {
        self.result.as_ref().and_then(message)
    }

    /// The output that was loaded of an attempt's stream.
    pub fn output(&self, attempt: u32, name: &str) -> Option<&str> {
        let mut streams = self.output.iter();
        streams
            .find(|output| output.attempt == attempt && output.name == name)
            .map(|output| output.text.as_str())
    }
}

/// Why a unit did not pass, in one line.
pub(super) fn message(result: &UnitResult) -> Option<String> {
    let last = result.attempts.last();
    let said = result.reason.as_deref().or_else(|| last.and_then(|last| last.message.as_deref()));
    let said = text::one_line(said.unwrap_or_default(), text::MESSAGE);
    match result.outcome {
        Outcome::Passed => None,
        outcome if said.is_empty() => last.filter(|_| outcome.is_failure()).map(story::ending),
        _ => Some(said),
    }
}
