//! Tests that do everything a test should not do, and exactly what comes of it.
//!
//! `ETCDTEST_HOSTILE_ROUNDS` says how often all of them are run, `ETCDTEST_HOSTILE_FLOOD` how
//! many MiB the one prints that prints much.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "these are tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use whole_program::leftovers::Leftovers;
use whole_program::subject::{Ran, Running, Subject};
use whole_program::Project;

/// What is to come of each test: as an annotated one, as a plain one or as both; the outcome;
/// how its process ended, unless it passed; whether it is leaky; what nextest says of it,
/// nothing where that cannot be asked; the message, and the file of the panic.
const TABLE: &str = "
";

/// What each test's output has, beside all else.
const OUTPUT: &[(&str, &str)] = &[
];

/// A line of the table: test and kind, and the rest.
type Table = BTreeMap<(String, String), [String; 5]>;

fn expected() -> Table {
    let mut table = Table::new();
    for line in TABLE.lines().filter(|line| !line.is_empty()) {
        let cells: Vec<String> = line.split('|').map(|cell| cell.trim().to_owned()).collect();
        let [test, kind, rest @ ..] = &*cells else { panic!("{line}") };
        let rest: [String; 5] = rest.to_vec().try_into().unwrap_or_else(|_| panic!("{line}"));
        let kinds = if kind == "both" { &["annotated", "plain"][..] } else { &[&**kind][..] };
        for kind in kinds {
            let before = table.insert((test.clone(), (*kind).to_owned()), rest.clone());
            assert_eq!(before, None, "{line}");
        }
    }
    table
}

/// The line of a result.
fn line(event: &Value) -> ((String, String), [String; 5]) {
    let id = event["id"].as_str().unwrap();
    let (binary, test) = id.strip_prefix("hostile::").unwrap().split_once("::").unwrap();
    let attempts = event["attempts"].as_array().unwrap();
    assert!(attempts.len() < 2, "{event:#}");
    let attempt = attempts.first().unwrap_or(&Value::Null);
    let outcome = event["outcome"].as_str().unwrap();
    let ended = match (&attempt["signal"], &attempt["exit_code"]) {
        // A test that passed or skipped exits with what was agreed for this attempt alone.
        _ if ["passed", "skipped"].contains(&outcome) => String::new(),
        (Value::Null, Value::Null) => String::new(),
        (Value::Null, code) => format!("exit {code}"),
        (signal, _) => format!("signal {signal}"),
    };
    let leaky = if attempt["leaky"] == true { "leaky" } else { "" };
    let message = attempt["message"].as_str().or(event["message"].as_str()).unwrap_or_default();
    // Whether cores are dumped is up to the machine.
    let message = message.replace(" (core dumped)", "").escape_debug().to_string();
    let place = attempt["location"].as_str().map(|place| format!(" @ {}", place.split(':').next().unwrap()));
    let told = message + &place.unwrap_or_default();
    ((test.into(), binary.into()), [outcome.into(), ended, leaky.into(), String::new(), told])
}

fn written(table: &Table) -> BTreeSet<String> {
    let line = |((test, kind), cells): (&(String, String), &[String; 5])| {
        let [outcome, ended, leaky, nextest, told] = cells;
        format!("{test} | {kind} | {outcome} | {ended} | {leaky} | {nextest} | {told}")
    };
    table.iter().map(line).collect()
}

#[track_caller]
fn assert_same(found: &Table, wanted: &Table, context: &str) {
    let (found, wanted) = (written(found), written(wanted));
    let more: Vec<_> = found.difference(&wanted).map(String::as_str).collect();
    let less: Vec<_> = wanted.difference(&found).map(String::as_str).collect();
    assert!(found == wanted, "found\n{}\nwanted\n{}\n{context}", more.join("\n"), less.join("\n"));
}

/// The program, which writes no cores, marked.
fn command(subject: &Subject, leftovers: &Leftovers, arguments: &[&str]) -> Command {
    let mut command = subject.command(arguments);
    leftovers.mark(&mut command);
    command
}

fn rounds() -> u32 {
    std::env::var("ETCDTEST_HOSTILE_ROUNDS").map_or(1, |rounds| rounds.parse().unwrap())
}

/// Attempts without what is known of them elsewhere.
fn bare(attempts: &Value) -> Value {
    let mut attempts = attempts.clone();
    for attempt in attempts.as_array_mut().unwrap() {
        attempt.as_object_mut().unwrap().remove("output");
    }
    attempts
}

#[test]
fn whatever_a_test_does_it_gets_its_own_result_and_leaves_nothing() {
    let mut wanted = expected();
    for cells in wanted.values_mut() {
        cells[3].clear();
    }
    for round in 0..rounds() {
        let (subject, leftovers) = (Subject::hostile(), Leftovers::new());
        let arguments = ["run", "--format", "json", "--no-fail-fast", "--test-threads", "4"];
        let mut command = command(&subject, &leftovers, &[&arguments[..], &["--shuffle"]].concat());
        let ran = Running::start(&mut command).end();
        leftovers.assert_none();
        assert_eq!(ran.code, Some(100), "{}", ran.stderr);
        let events = ran.events();
        let finished: Vec<_> = events.iter().filter(|event| event["event"] == "unit-finished").collect();
        let found: Table = finished.iter().map(|event| line(event)).collect();
        assert_eq!(found.len(), finished.len(), "one result each");
        assert_same(&found, &wanted, &format!("round {round}, {}: {}", events[0], ran.stderr));
        for (test, text) in OUTPUT {
            for event in finished.iter().filter(|event| event["id"].as_str().unwrap().ends_with(test)) {
                let output = event["output"].to_string();
                assert!(output.contains(text), "no {text:?} of {} in {output:.2000}", event["id"]);
            }
        }
        let slow: BTreeSet<_> = events.iter().filter(|event| event["event"] == "attempt-slow").collect::<Vec<_>>()
            .into_iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect();
        assert_eq!(slow, ["annotated", "plain"].map(|kind| format!("hostile::{kind}::is_slow")).into());

        // What is stored is what was announced.
        let shown = subject.etcdtest(&["runs", "show", "--format", "json"]);
        let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
        assert_eq!((&shown["state"], shown["units"].as_array().unwrap().len()), (&json!("finished"), found.len()));
        for unit in shown["units"].as_array().unwrap() {
            let event = finished.iter().find(|event| event["id"] == unit["id"]).unwrap();
            assert_eq!(
                (&unit["outcome"], &unit["message"], bare(&unit["attempts"])),
                (&event["outcome"], &event["message"], bare(&event["attempts"]))
            );
        }
    }
}
