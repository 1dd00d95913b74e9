//! Test cases as people read them.

use std::fmt::{self, Write};

use anstyle::{AnsiColor, Style};
use jiff::Timestamp;

use super::style::{FAINT, Label, STRONG, ago, painted, seconds};
use super::table::Table;
use crate::model::{LatestResult, TestCaseState, TestKind};
use crate::testcases::{StoredTestCase, SyncCounts};

const GREEN: Style = AnsiColor::Green.on_default();
const CYAN: Style = AnsiColor::Cyan.on_default();
const YELLOW: Style = AnsiColor::Yellow.on_default();

fn state(state: TestCaseState) -> (&'static str, Style) {
    match state {
        TestCaseState::Implemented => ("implemented", GREEN),
        TestCaseState::Written => ("written", CYAN),
        TestCaseState::Vanished => ("vanished", YELLOW),
    }
}

/// A table of the test cases that were selected of `all`.
pub(super) fn list_text(cases: &[StoredTestCase], all: usize) -> String {
    match (cases, all) {
        ([], 0) => {
            return "no test cases yet: `cargo etcdtest testcase sync` registers what the code has\n".into();
        }
        ([], all) => return format!("no test case is selected, of {all}\n"),
        _ => {}
    }
    let mut table = Table::new(&["STATE", "TEST CASE", "OWNER", "TAGS"]);
    for stored in cases {
        let (word, style) = state(stored.case.state());
        let description = stored.case.description();
        table.row([
            (word.into(), style),
            (stored.case.id.to_string(), Style::new()),
            (description.owner.unwrap_or_default(), FAINT),
            (description.tags.join(", "), FAINT),
        ]);
    }
    table.to_string()
}

/// Everything about one test case.
pub(super) fn details_text(stored: &StoredTestCase, latest: &[LatestResult], now: Timestamp) -> String {
    let mut text = String::new();
    write_details(&mut text, stored, latest, now).expect("a text takes everything");
    text
}

fn write_details(
    out: &mut String,
    stored: &StoredTestCase,
    latest: &[LatestResult],
    now: Timestamp,
) -> fmt::Result {
    let case = &stored.case;
    let (word, style) = state(case.state());
    writeln!(out, "{}", painted(STRONG, &case.id))?;
    let since = case.vanished.map(|time| format!(" ({})", ago(time, now))).unwrap_or_default();
    field(out, "state", &format!("{}{since}", painted(style, word)))?;
    let description = case.description();
    field(out, "description", &description.description)?;
    for (number, step) in (1..).zip(&description.steps) {
        field(out, if number == 1 { "steps" } else { "" }, &format!("{number}. {step}"))?;
    }
    field(out, "expected", &description.expected)?;
    field(out, "tags", &description.tags.join(", "))?;
    field(out, "owner", description.owner.as_deref().unwrap_or_default())?;
    if let Some(code) = &case.code {
        let line = code.line.map(|line| format!(":{line}")).unwrap_or_default();
        field(out, "source", &code.file.as_ref().map(|file| format!("{file}{line}")).unwrap_or_default())?;
        let kind = match code.kind {
            TestKind::Annotated => "annotated",
            TestKind::Plain => "plain #[test]",
        };
        field(out, "kind", kind)?;
        let timeout = code.timeout.map(|timeout| humantime::format_duration(timeout).to_string());
        field(out, "timeout", &timeout.unwrap_or_default())?;
        field(out, "retries", &code.retries.map(|retries| retries.to_string()).unwrap_or_default())?;
        field(out, "environments", &code.environments.join(", "))?;
        field(out, "exclusive", code.exclusive.as_deref().unwrap_or_default())?;
        field(out, "needs", &code.needs.to_string())?;
        match code.ignore.as_deref() {
            Some("") => field(out, "ignored", "yes")?,
            why => field(out, "ignored", why.unwrap_or_default())?,
        }
    }
    field(out, "revision", &stored.revision.to_string())?;
    for (number, result) in (1..).zip(latest) {
        let label = Label::of_result(&result.result).painted(0);
        let took = seconds(result.result.duration());
        let (environment, run) = (&result.environment.name, &result.run);
        let when = ago(result.created, now);
        let name = if number == 1 { "results" } else { "" };
        field(out, name, &format!("{label} in {environment}, {took}, run {run} ({when})"))?;
    }
    Ok(())
}

/// A named value, left out where it is empty; further lines are set below the first.
fn field(out: &mut String, name: &str, value: &str) -> fmt::Result {
    let mut lines = value.lines();
    let Some(first) = lines.next() else { return Ok(()) };
    writeln!(out, "  {} {first}", painted(FAINT, format_args!("{name:<12}")))?;
    lines.try_for_each(|line| writeln!(out, "  {:<12} {line}", ""))
}

/// What a sync did, in a line.
pub(super) fn counts_text(counts: &SyncCounts) -> String {
    let parts = [
        (counts.added, "added"),
        (counts.changed, "changed"),
        (counts.adopted, "adopted"),
        (counts.returned, "returned"),
        (counts.vanished, "vanished"),
        (counts.unchanged, "unchanged"),
    ];
    let parts: Vec<_> = parts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    format!("test cases: {}\n", if parts.is_empty() { "none".into() } else { parts.join(", ") })
}
