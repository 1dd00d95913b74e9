//! A run as people read it.

use std::cmp::Reverse;
use std::fmt::Write as _;

use anstyle::Style;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::runs::state_word;
use super::style::{FAINT, Label, STRONG, WARNING, ago, local_time, painted, seconds};
use super::worker_text::workers_text;
use crate::model::{Attempt, Commit, Environment, EnvironmentVersion, Run, RunState, RunSummary, Verdict};
use crate::reports::history::Life;
use crate::reports::{RunDetails, UnitDetails, Unserved, stalled_text, story, text, unserved_text};
use crate::store::StoreError;

/// How many of the slowest units are shown.
const SLOWEST: usize = 5;

/// How far what belongs to a unit is set to the right.
const INDENT: usize = 10;

/// How much of a run is told, and by which clock.
#[derive(Debug)]
pub(crate) struct Detail<'a> {
    /// List every unit.
    pub(crate) all: bool,
    /// Whether somebody works for the run right now.
    pub(crate) life: Life,
    /// What its tests wait for.
    pub(crate) unserved: &'a Unserved,
    /// The time it is.
    pub(crate) now: Timestamp,
    /// Where it is that.
    pub(crate) zone: &'a TimeZone,
}

/// A whole run: header, environments, what failed or was flaky, and what was slow.
pub(crate) fn run_text(details: &RunDetails, detail: &Detail<'_>) -> String {
    let mut text = header(details, detail);
    for environment in &details.run.environments {
        text.push('\n');
        text += &environment_text(environment, details.environment(&environment.name));
    }
    let failed = details.units.iter().filter(|unit| verdict(unit) == Some(Verdict::Failed));
    let flaky = details.units.iter().filter(|unit| verdict(unit) == Some(Verdict::Flaky));
    for unit in flaky.chain(failed) {
        text.push('\n');
        text += &unit_story(details, unit);
    }
    text += &workers_text(details, detail.all);
    if detail.all {
        section(&mut text, "Units", details, &details.units.iter().collect::<Vec<_>>());
    } else {
        let mut slowest: Vec<&UnitDetails> = details.units.iter().filter(|unit| took(unit) > 0).collect();
        slowest.sort_by_key(|unit| Reverse(took(unit)));
        slowest.truncate(SLOWEST);
        section(&mut text, "Slowest", details, &slowest);
    }
    text
}

fn header(details: &RunDetails, detail: &Detail<'_>) -> String {
    let Run { id, state, created, finished, command, author, commit, .. } = &details.run;
    let summary = details.summary();
    let state = painted(state_style(state, detail.life), state_word(state, detail.life));
    let mut when = format!("{} ({})", local_time(*created, detail.zone), ago(*created, detail.now));
    if finished.is_some() {
        let _ = write!(when, ", took {}", seconds(summary.duration));
    }
    let mut lines = vec![
        format!("{} {state}", painted(STRONG, format!("Run {id}"))),
        format!("  created  {when}"),
        format!("  command  {}", one_line(&command.join(" "))),
        format!("  author   {author}"),
    ];
    if let Some(commit) = commit {
        let branch = commit.branch.as_deref().map(|branch| format!(" on {branch}")).unwrap_or_default();
        let dirty = if commit.dirty { ", with changes that are not committed" } else { "" };
        lines.push(format!("  commit   {}{branch}{dirty}", commit.id));
    }
    if let Some(cancelled) = &details.run.cancelled {
        lines.push(format!("  reason   {}", one_line(&cancelled.reason)));
    }
    let reason = match detail.life {
        _ if details.run.is_over() => None,
        Life::Live => None,
        Life::Awaited => Some(format!("it waits for workers: `cargo etcdtest worker --run {id}`")),
        Life::Stalled => Some(stalled_text(&details.run)),
    };
    lines.extend(reason.map(|reason| format!("  reason   {reason}")));
    let waiting = detail.unserved.iter().map(|(needs, units)| unserved_text(id, needs, *units));
    lines.extend(waiting.map(|waiting| format!("  waiting  {waiting}")));
    let counts = painted(summary_style(&summary), counts(&summary));
    lines.push(format!("  results  {}: {counts}", units(details.run.units)));
    lines.join("\n") + "\n"
}

fn environment_text(version: &EnvironmentVersion, snapshot: Option<&Environment>) -> String {
    let mut text = painted(STRONG, format!("Environment {}", version.name));
    match version.version {
        0 => text += ", not stored",
        number => {
            let _ = write!(text, ", version {number} of revision {}", version.revision);
        }
    }
    let Some(snapshot) = snapshot else { return text + "\n" };
    if !snapshot.bases.is_empty() {
        let bases: Vec<_> = snapshot.bases.iter().map(ToString::to_string).collect();
        let _ = write!(text, ", on {}", bases.join(", "));
    }
    text.push('\n');
    text + &indented(&snapshot_text(snapshot), 2)
}

/// A snapshot as TOML, the form in which it was written; as JSON where TOML cannot say it.
fn snapshot_text(snapshot: &Environment) -> String {
    let json = || serde_json::to_string_pretty(&snapshot.definition).unwrap_or_default();
    snapshot.to_toml().unwrap_or_else(|_| json())
}

/// A unit that did not just pass: each attempt that did not, with its output.
fn unit_story(details: &RunDetails, unit: &UnitDetails) -> String {
    let mut text = unit_line(details, unit);
    let Some(result) = &unit.result else { return text };
    let place = result.attempts.last().and_then(|last| last.place.as_ref());
    let place = place.map(|place| format!(" on {}, lane {}", one_line(&place.host), place.lane));
    let by = format!("by {}{}", result.worker, place.unwrap_or_default());
    text += &indented(&painted(FAINT, by), INDENT - 2);
    for attempt in result.attempts.iter().filter(|attempt| attempt.outcome.is_failure()) {
        if result.attempts.len() > 1 {
            let label = Label::from(attempt).painted(0);
            let line = format!("attempt {}: {label} {}", attempt.number, seconds(attempt.duration));
            text += &indented(&line, INDENT - 2);
        }
        text += &indented(&story::whole(attempt), INDENT);
        text += &output_text(unit, attempt);
    }
    if let (true, Some(reason)) = (result.attempts.is_empty(), &result.reason) {
        text += &indented(&text::plain(reason), INDENT);
    }
    text
}

fn output_text(unit: &UnitDetails, attempt: &Attempt) -> String {
    let mut text = String::new();
    for stored in &attempt.output {
        let name = one_line(&stored.name);
        let title = match stored.left_out {
            0 => format!("{name} ({} bytes)", stored.size),
            left_out => format!("{name} ({} bytes, {left_out} of them not stored)", stored.size),
        };
        text += &indented(&painted(FAINT, title), INDENT);
        if let Some(output) = unit.output(attempt.number, &stored.name) {
            text += &indented(output, INDENT + 2);
        }
    }
    text
}

fn section(text: &mut String, title: &str, details: &RunDetails, units: &[&UnitDetails]) {
    if units.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{}", painted(STRONG, title));
    for unit in units {
        text.push_str(&unit_line(details, unit));
    }
}

/// A unit on one line: label, duration, test, and the environment where there are several.
fn unit_line(details: &RunDetails, unit: &UnitDetails) -> String {
    let label = unit.result.as_ref().map_or(Label::NotRun, Label::of_result);
    let duration = unit.result.as_ref().map(|result| seconds(result.duration())).unwrap_or_default();
    let test = one_line(&unit.planned.test.to_string());
    let mut line = format!("{} {duration:>9}  {test}", label.painted(7));
    if details.run.environments.len() > 1 {
        let _ = write!(line, " {}", painted(FAINT, format!("@{}", unit.planned.environment)));
    }
    if let Some(repetition) = unit.planned.repetition {
        let _ = write!(line, " {}", painted(FAINT, format!("[{repetition}]")));
    }
    if let (Label::Skip, Some(reason)) = (label, unit.message()) {
        let _ = write!(line, " {}", painted(FAINT, format!("({reason})")));
    }
    line + "\n"
}

/// A line for each record that could not be read.
pub(crate) fn warnings(broken: &[StoreError]) -> String {
    let mut text = String::new();
    for error in broken {
        let _ = writeln!(text, "{} {error}", painted(WARNING, "warning:"));
    }
    text
}

/// How many of each verdict, those that there are: `12 passed, 1 flaky, 2 failed`.
pub(crate) fn counts(summary: &RunSummary) -> String {
    let counted = Label::counts(summary).into_iter().filter(|(count, _)| *count > 0);
    let counted: Vec<String> =
        counted.map(|(count, label)| format!("{count} {}", label.participle())).collect();
    if counted.is_empty() { "nothing ran".into() } else { counted.join(", ") }
}

/// `1 unit`, `2 units`.
pub(crate) fn units(count: u32) -> String {
    if count == 1 { "1 unit".into() } else { format!("{count} units") }
}

/// The colour of a run's counts: that of the worst among them.
pub(crate) fn summary_style(summary: &RunSummary) -> Style {
    if summary.failed + summary.timed_out + summary.crashed > 0 {
        Label::Fail.style()
    } else if summary.flaky + summary.not_run > 0 {
        Label::Flaky.style()
    } else {
        Label::Pass.style()
    }
}

/// The colour of how far a run is.
pub(crate) fn state_style(state: &RunState, life: Life) -> Style {
    match state {
        RunState::Finished { cancelled: false } => Style::new(),
        RunState::Finished { cancelled: true } => WARNING,
        _ if life == Life::Stalled => WARNING,
        _ => Label::Skip.style(),
    }
}

/// An environment with its version: `staging@3`.
pub(crate) fn environment(version: &EnvironmentVersion) -> String {
    match version.version {
        0 => version.name.clone(),
        number => format!("{}@{number}", version.name),
    }
}

/// The beginning of a commit id, with a `+` where there were changes beside it.
pub(crate) fn short_commit(commit: &Commit) -> String {
    let id: String = commit.id.chars().take(10).collect();
    if commit.dirty { id + "+" } else { id }
}

fn verdict(unit: &UnitDetails) -> Option<Verdict> {
    unit.result.as_ref().map(crate::model::UnitResult::verdict)
}

fn took(unit: &UnitDetails) -> u128 {
    unit.result.as_ref().map_or(0, |result| result.duration().as_nanos())
}

fn one_line(text: &str) -> String {
    text::one_line(text, usize::MAX)
}

/// Each line of a text, set to the right; empty lines stay empty.
fn indented(text: &str, by: usize) -> String {
    let mut set = String::with_capacity(text.len() + by);
    for line in text.lines() {
        let by = if line.is_empty() { 0 } else { by };
        let _ = writeln!(set, "{:by$}{line}", "");
    }
    set
}
