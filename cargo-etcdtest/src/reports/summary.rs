//! `summary.json`: a run for programs, stable and documented in `docs/reports.md`.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::details::{RunDetails, UnitDetails};
use super::text;
use crate::model::{Commit, EnvironmentVersion, Outcome, RunId, RunSummary, Verdict, WorkerId};

/// The number that grows when a field changes its meaning or goes away.
const SCHEMA: u64 = 1;

#[derive(Serialize)]
struct Summary<'a> {
    schema: u64,
    run: &'a RunId,
    command: &'a [String],
    author: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    commit: Option<&'a Commit>,
    environments: &'a [EnvironmentVersion],
    started: Timestamp,
    finished: Timestamp,
    /// In seconds, as all durations of the document.
    duration: f64,
    counts: Counts,
    units: Vec<Unit<'a>>,
}

/// How many units of each kind.
#[derive(Serialize)]
pub(crate) struct Counts {
    units: u32,
    passed: u32,
    flaky: u32,
    failed: u32,
    timed_out: u32,
    crashed: u32,
    skipped: u32,
    not_run: u32,
}

#[derive(Serialize)]
struct Unit<'a> {
    id: String,
    environment: &'a str,
    /// `null` where the run ended before it came to the unit.
    outcome: Option<Outcome>,
    verdict: Option<Verdict>,
    duration: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<&'a WorkerId>,
    attempts: Vec<Attempt>,
}

#[derive(Serialize)]
struct Attempt {
    number: u32,
    outcome: Outcome,
    started: Timestamp,
    duration: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<String>,
}

/// A run as `summary.json`, units in the order of the plan; indented, so that it can
/// be read and compared by people as well.
pub fn summary(details: &RunDetails) -> Vec<u8> {
    let run = &details.run;
    let summary = details.summary();
    let document = Summary {
        schema: SCHEMA,
        run: &run.id,
        command: &run.command,
        author: &run.author,
        commit: run.commit.as_ref(),
        environments: &run.environments,
        started: run.created,
        finished: details.ended(),
        duration: seconds(summary.duration),
        counts: summary.into(),
        units: details.units.iter().map(Unit::from).collect(),
    };
    let mut bytes = serde_json::to_vec_pretty(&document).expect("the document is maps with text keys");
    bytes.push(b'\n');
    bytes
}

impl From<RunSummary> for Counts {
    fn from(summary: RunSummary) -> Self {
        let RunSummary { passed, flaky, failed, timed_out, crashed, skipped, not_run, duration: _ } = summary;
        let units = passed + flaky + failed + timed_out + crashed + skipped + not_run;
        Self { units, passed, flaky, failed, timed_out, crashed, skipped, not_run }
    }
}

impl<'a> From<&'a UnitDetails> for Unit<'a> {
    fn from(unit: &'a UnitDetails) -> Self {
        let result = unit.result.as_ref();
        Self {
            id: unit.planned.test.to_string(),
            environment: &unit.planned.environment,
            outcome: result.map(|result| result.outcome),
            verdict: result.map(crate::model::UnitResult::verdict),
            duration: result.map_or(0.0, |result| seconds(result.duration())),
            message: unit.message(),
            worker: result.map(|result| &result.worker),
            attempts: result.into_iter().flat_map(|result| &result.attempts).map(Attempt::from).collect(),
        }
    }
}

impl From<&crate::model::Attempt> for Attempt {
    fn from(attempt: &crate::model::Attempt) -> Self {
        Self {
            number: attempt.number,
            outcome: attempt.outcome,
            started: attempt.started,
            duration: seconds(attempt.duration),
            message: attempt.message.as_deref().map(text::plain),
            location: attempt.location.clone(),
        }
    }
}

/// Seconds to the microsecond.
fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reports::sample::every_kind;

    #[test]
    fn the_summary_says_everything_in_a_stable_form() {
        insta::assert_snapshot!(String::from_utf8(summary(&every_kind())).unwrap());
    }

    #[test]
    fn units_whose_plan_was_lost_count_as_not_run() {
        let mut details = every_kind();
        details.units.truncate(2);
        assert_eq!(details.summary().not_run, 6);
        assert_eq!(details.summary().passed + details.summary().flaky, 2);
    }
}
