//! `summary.json`: a run for programs, stable and documented in `docs/reports.md`.

use std::iter::once;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::details::{RunDetails, UnitDetails, message};
use super::text;
use super::workers::{WorkerLine, workers};
use crate::model::{
    Attempt, Commit, EnvironmentVersion, Outcome, Record, Repetition, RunId, RunSummary, StoredOutput,
    TestCaseId, UnitResult, Verdict, WorkerId,
};

/// The document. Times are RFC 3339 in UTC, durations seconds to the microsecond.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SummaryReport {
    /// Grows when a field changes its meaning or goes away; fields may be added at any time.
    pub schema: u64,
    /// The run.
    pub run: RunId,
    /// What was typed.
    pub command: Vec<String>,
    /// Who typed it: `user@host`.
    pub author: String,
    /// The code it ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<Commit>,
    /// What it ran against.
    pub environments: Vec<EnvironmentVersion>,
    /// The seed of its order, if that was left to chance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shuffle: Option<u64>,
    /// When the run was created.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Timestamp,
    /// From the one to the other.
    pub duration: f64,
    /// How many units of each kind.
    pub counts: Counts,
    /// Who executed them, the one that did most first.
    #[serde(default)]
    pub workers: Vec<WorkerSummary>,
    /// The units in the order of the plan.
    pub units: Vec<UnitSummary>,
}

impl Record for SummaryReport {
    const SCHEMA: u64 = 1;
}

/// How many units of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// All.
    pub units: u32,
    /// Passed at the first attempt.
    pub passed: u32,
    /// Passed after a failed attempt.
    pub flaky: u32,
    /// Failed with a panic or an error.
    pub failed: u32,
    /// Took too long.
    pub timed_out: u32,
    /// Their process died.
    pub crashed: u32,
    /// Not run on purpose.
    pub skipped: u32,
    /// Without a result.
    pub not_run: u32,
}

/// One worker of the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerSummary {
    /// Its id.
    pub worker: WorkerId,
    /// Its machine.
    pub host: String,
    /// How many lanes it used.
    pub lanes: u32,
    /// How many units it executed.
    pub units: u32,
    /// How long its lanes were at work altogether.
    pub busy: f64,
    /// From when it began until its last attempt ended.
    pub duration: f64,
}

/// One unit of the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UnitSummary {
    /// The test case.
    pub id: String,
    /// The environment's name.
    pub environment: String,
    /// Which repetition it is, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repetition: Option<Repetition>,
    /// How its last attempt ended; `None` where it has no result.
    pub outcome: Option<Outcome>,
    /// What it comes to; `None` where it has no result.
    pub verdict: Option<Verdict>,
    /// How long its last attempt took.
    pub duration: f64,
    /// Why it did not pass or was not run, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Who executed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerId>,
    /// Every try, in order.
    pub attempts: Vec<AttemptSummary>,
}

/// One try at a unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttemptSummary {
    /// Its number, from 1.
    pub number: u32,
    /// How it ended.
    pub outcome: Outcome,
    /// When it began.
    pub started: Timestamp,
    /// How long it took.
    pub duration: f64,
    /// What it said, whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// `file:line:column` of the panic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// The machine that it ran on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The lane of its worker, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<u32>,
    /// How long its worker had been at work when it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<f64>,
    /// The exit code of its process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The signal that ended its process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// It left processes behind, which were ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaky: bool,
    /// The steps it went through.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepSummary>,
    /// What of its output is stored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub output: Vec<StoredOutput>,
}

/// A step of an attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepSummary {
    /// Its name.
    pub name: String,
    /// Whether it succeeded; `None` where the attempt ended inside it.
    pub ok: Option<bool>,
    /// How long it took.
    pub duration: f64,
}

/// A run as `summary.json`; indented, so that people can read and compare it as well. The
/// document comes in pieces, of a unit each: there may be a hundred thousand.
pub fn summary(details: &RunDetails) -> impl Iterator<Item = Vec<u8>> + Send {
    let mut whole = pretty(&SummaryReport::with(details, Vec::new()));
    // The units stand at its end, between the last two brackets.
    whole.truncate(whole.len() - "]\n}".len());
    let units = details.units.iter().enumerate().map(|(place, unit)| {
        let comma = if place == 0 { "" } else { "," };
        let unit = pretty(&UnitSummary::from(unit)).replace('\n', "\n    ");
        format!("{comma}\n    {unit}").into_bytes()
    });
    let end = if details.units.is_empty() { "]\n}\n" } else { "\n  ]\n}\n" };
    once(whole.into_bytes()).chain(units).chain(once(end.into()))
}

fn pretty(document: &impl Serialize) -> String {
    serde_json::to_string_pretty(document).expect("the document is maps with text keys")
}

impl From<&RunDetails> for SummaryReport {
    fn from(details: &RunDetails) -> Self {
        Self::with(details, details.units.iter().map(UnitSummary::from).collect())
    }
}

impl SummaryReport {
    fn with(details: &RunDetails, units: Vec<UnitSummary>) -> Self {
        let (run, summary) = (details.run.clone(), details.summary());
        Self {
            schema: Self::SCHEMA,
            run: run.id,
            command: run.command,
            author: run.author,
            commit: run.commit,
            environments: run.environments,
            shuffle: run.shuffle,
            started: run.created,
            finished: details.ended(),
            duration: seconds(summary.duration),
            counts: summary.into(),
            workers: workers(details).iter().map(WorkerSummary::from).collect(),
            units,
        }
    }
}

impl From<RunSummary> for Counts {
    fn from(summary: RunSummary) -> Self {
        let RunSummary { passed, flaky, failed, timed_out, crashed, skipped, not_run, duration: _ } = summary;
        let units = passed + flaky + failed + timed_out + crashed + skipped + not_run;
        Self { units, passed, flaky, failed, timed_out, crashed, skipped, not_run }
    }
}

impl From<&UnitDetails> for UnitSummary {
    fn from(unit: &UnitDetails) -> Self {
        let planned = &unit.planned;
        let result = unit.result.as_ref();
        Self { repetition: planned.repetition, ..Self::new(&planned.test, &planned.environment, result) }
    }
}

impl From<&WorkerLine> for WorkerSummary {
    fn from(line: &WorkerLine) -> Self {
        Self {
            worker: line.worker.clone(),
            host: line.host.clone(),
            lanes: line.lanes(),
            units: line.units,
            busy: seconds(line.busy()),
            duration: seconds(line.end()),
        }
    }
}

impl UnitSummary {
    /// What there is to say of a test case in an environment.
    pub fn new(test: &TestCaseId, environment: &str, result: Option<&UnitResult>) -> Self {
        Self {
            id: test.to_string(),
            environment: environment.to_owned(),
            repetition: None,
            outcome: result.map(|result| result.outcome),
            verdict: result.map(UnitResult::verdict),
            duration: result.map_or(0.0, |result| seconds(result.duration())),
            message: result.and_then(message),
            worker: result.map(|result| result.worker.clone()),
            attempts: result.into_iter().flat_map(|result| &result.attempts).map(Into::into).collect(),
        }
    }
}

impl From<&Attempt> for AttemptSummary {
    fn from(attempt: &Attempt) -> Self {
        let steps = attempt.steps.iter().map(|step| StepSummary {
            name: step.name.clone(),
            ok: step.ok,
            duration: seconds(step.duration),
        });
        let place = attempt.place.as_ref();
        Self {
            number: attempt.number,
            outcome: attempt.outcome,
            started: attempt.started,
            duration: seconds(attempt.duration),
            message: attempt.message.as_deref().map(text::plain),
            location: attempt.location.clone(),
            host: place.map(|place| place.host.clone()),
            lane: place.map(|place| place.lane),
            offset: place.map(|place| seconds(place.offset)),
            exit_code: attempt.exit_code,
            signal: attempt.signal,
            leaky: attempt.leaky,
            steps: steps.collect(),
            output: attempt.output.clone(),
        }
    }
}

/// Seconds to the microsecond.
pub fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reports::sample::every_kind;
    use crate::store::decode_value;

    fn text_of(details: &RunDetails) -> String {
        String::from_utf8(summary(details).flatten().collect()).unwrap()
    }

    #[test]
    fn a_summary_in_pieces_is_the_whole_document() {
        let mut details = every_kind();
        for units in (0..=details.units.len()).rev() {
            details.units.truncate(units);
            assert_eq!(text_of(&details), pretty(&SummaryReport::from(&details)) + "\n");
        }
    }

    #[test]
    fn the_summary_says_everything_in_a_stable_form() {
        insta::assert_snapshot!(text_of(&every_kind()));
    }

    #[test]
    fn the_summary_reads_back_and_a_newer_schema_is_refused() {
        let details = every_kind();
        let text = text_of(&details);
        let read: SummaryReport = decode_value(&"/r".into(), text.as_bytes()).unwrap();
        assert_eq!(read, SummaryReport::from(&details));
        let newer = text.replace("\"schema\": 1", "\"schema\": 2");
        assert!(decode_value::<SummaryReport>(&"/r".into(), newer.as_bytes()).is_err());
    }

    #[test]
    fn units_whose_plan_was_lost_count_as_not_run() {
        let mut details = every_kind();
        details.units.truncate(2);
        assert_eq!(details.summary().not_run, 6);
        assert_eq!(details.summary().passed + details.summary().flaky, 2);
    }
}
