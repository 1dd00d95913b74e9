//! Tests that do everything a test should not do, and exactly what comes of it.
//!
//! `HOSTILE_ROUNDS` says how often all of them are run, `HOSTILE_FLOOD` how
//! many MiB the one prints that prints much.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "these are tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use whole_program::leftovers::Leftovers;
use whole_program::subject::{Running, Subject};
use whole_program::{Project, started_by};

/// What is to come of each test: as an annotated one, as a plain one or as both; the outcome;
/// how its process ended, unless it passed; whether it is leaky; what nextest makes of it
/// where that differs: it passes, or there is nothing to compare (it runs no such test, or is
/// itself what the test attacks, or waits for it for ever); the message, and the file of the
/// panic.
#[rustfmt::skip]
const TABLE: &str = r"
passes                   | both      | passed    |           |       |      |
panics                   | both      | failed    | exit 101  |       |      | the order\nis lost @ tests/deeds/mod.rs
panics_in_colour         | both      | failed    | exit 101  |       |      | red @ tests/deeds/mod.rs
panics_with_a_number     | annotated | failed    | exit 101  |       |      | a panic without a text @ tests/deeds/mod.rs
panics_with_a_number     | plain     | failed    | exit 101  |       |      | Box<dyn Any> @ tests/deeds/mod.rs
panics_in_a_thread       | both      | passed    |           |       |      |
panics_twice             | both      | crashed   | signal 6  |       |      | its process was killed by SIGABRT: it panicked where a panic cannot be handled, such as during another panic
errs                     | annotated | failed    | exit 101  |       |      | the order is not paid\n  caused by: the card was declined
errs                     | plain     | failed    | exit 101  |       |      | Error: NotPaid(Declined)
skips                    | annotated | skipped   |           |       | pass | no printer here
is_ignored               | annotated | skipped   |           |       | none | ignored: not yet
is_ignored               | plain     | skipped   |           |       | none | ignored
is_slow                  | both      | passed    |           |       |      |
exits_with_0             | both      | crashed   | exit 0    |       | pass | its process exited with code 0 before the test was over
exits_with_3             | both      | crashed   | exit 3    |       |      | its process exited with code 3 before the test was over
exits_below              | both      | crashed   | exit 0    |       | pass | its process exited with code 0 before the test was over
aborts                   | both      | crashed   | signal 6  |       |      | its process was killed by SIGABRT
segfaults                | both      | crashed   | signal 11 |       |      | its process was killed by SIGSEGV
overflows                | both      | crashed   | signal 6  |       |      | its process was killed by SIGABRT: its stack overflowed
kills_itself             | both      | crashed   | signal 9  |       |      | its process was killed by SIGKILL: this runner did not send it, perhaps the system ran out of memory
kills_its_group          | both      | crashed   | signal 9  |       |      | its process was killed by SIGKILL: this runner did not send it, perhaps the system ran out of memory
kills_its_parent         | both      | passed    |           |       | none |
kills_its_grandparent    | annotated | passed    |           |       | none |
stops_its_parent         | both      | passed    |           |       | none |
closes_its_output        | annotated | passed    |           |       |      |
closes_its_output        | plain     | crashed   | exit 0    |       | pass | its process exited with code 0 before the test was over
closes_everything        | annotated | passed    |           |       |      |
closes_everything        | plain     | crashed   | exit 0    |       | pass | its process exited with code 0 before the test was over
closes_its_sockets       | both      | passed    |           |       |      |
writes_to_its_sockets    | both      | passed    |           |       |      |
leaves_a_child           | both      | passed    |           | leaky |      |
leaves_a_quiet_child     | both      | passed    |           | leaky |      |
leaves_a_daemon          | both      | passed    |           | leaky |      |
leaves_a_quiet_daemon    | both      | passed    |           | leaky |      |
leaves_many_children     | both      | passed    |           | leaky |      |
prints_no_text           | both      | passed    |           |       |      |
prints_no_newline        | both      | passed    |           |       |      |
prints_a_long_line       | both      | passed    |           |       |      |
prints_a_flood           | both      | passed    |           |       |      |
prints_at_exit           | annotated | passed    |           |       |      |
prints_at_exit           | plain     | passed    |           |       |      |
claims_to_pass_and_aborts| both      | crashed   | signal 6  |       |      | its process was killed by SIGABRT
claims_to_pass_and_exits | both      | crashed   | exit 3    |       |      | its process exited with code 3 before the test was over
goes_on_in_a_thread      | both      | passed    |           |       |      |
returns_twice            | both      | passed    |           |       |      |
takes_another_group      | both      | passed    |           |       |      |
changes_all_it_can       | both      | passed    |           |       |      |
finds_nothing_changed    | both      | passed    |           |       |      |
ignores_its_children     | both      | passed    |           |       |      |
may_open_nothing         | both      | passed    |           |       |      |
may_write_nothing        | both      | passed    |           |       |      |
may_take_no_time         | both      | crashed   | signal 24 |       |      | its process was killed by SIGXCPU
may_take_no_memory       | both      | crashed   | signal 6  |       |      | its process was killed by SIGABRT: the system gave it no more memory
waits_for_anybody        | both      | passed    |           |       |      |
late_and_polite          | both      | timed_out | signal 15 |       |      | timed out after 1s
late_and_deaf            | both      | timed_out | signal 9  |       |      | timed out after 1s
late_and_stopped         | both      | timed_out | signal 9  |       |      | timed out after 1s
late_in_a_stopped_group  | both      | timed_out | signal 9  |       |      | timed out after 1s
late_in_another_group    | both      | timed_out | signal 15 |       | none | timed out after 1s
";

/// What each test's output has, beside all else.
const OUTPUT: &[(&str, &str)] = &[
    ("::panics_in_a_thread", "beside the test"),
    ("::panics_in_colour", "\\u001b[31mred\\u001b[0m"),
    ("::late_and_polite", "printed before it was late"),
    ("::closes_its_output", "printed before"),
    ("::prints_no_text", "caf\u{fffd} \u{fffd}\u{fffd}\\n"),
    ("::prints_no_newline", "without an end"),
    ("::prints_no_newline", "neither here"),
    ("::prints_at_exit", "printed at the exit"),
    ("::prints_a_long_line", " bytes left out …]"),
    ("::prints_a_flood", "the first line"),
    ("::prints_a_flood", "the last line"),
    ("::prints_a_flood", " bytes left out …]"),
    ("::may_write_nothing", "into the pipe all the same"),
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

/// The program, marked.
fn command(subject: &Subject, leftovers: &Leftovers, arguments: &[&str]) -> Command {
    let mut command = subject.command(arguments);
    leftovers.mark(&mut command);
    command
}

fn rounds() -> u32 {
    std::env::var("HOSTILE_ROUNDS").map_or(1, |rounds| rounds.parse().unwrap())
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
        let slow = events.iter().filter(|event| event["event"] == "attempt-slow");
        let slow: BTreeSet<_> = slow.map(|event| event["id"].as_str().unwrap()).collect();
        assert_eq!(slow, ["hostile::annotated::is_slow", "hostile::plain::is_slow"].into());

        // What is stored is what was announced.
        let shown = subject.etcdtest(&["runs", "show", "--format", "json"]);
        let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
        assert_eq!(
            (&shown["state"], shown["units"].as_array().unwrap().len()),
            (&json!("finished"), found.len())
        );
        for unit in shown["units"].as_array().unwrap() {
            let event = finished.iter().find(|event| event["id"] == unit["id"]).unwrap();
            assert_eq!(
                (&unit["outcome"], &unit["message"], bare(&unit["attempts"])),
                (&event["outcome"], &event["message"], bare(&event["attempts"]))
            );
        }
    }
}

#[test]
fn what_a_test_leaves_behind_is_found_whoever_kills_the_keeper_meanwhile() {
    assert_leftovers_are_found(&["env"]);
}

#[test]
fn and_where_session_and_group_of_the_runner_have_no_number() {
    // As in a container whose first process is the runner.
    let entered = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"];
    if Command::new(entered[0]).args(&entered[1..]).arg("true").status().is_ok_and(|made| made.success()) {
        assert_leftovers_are_found(&entered);
    } else {
        eprintln!("here nobody may make namespaces");
    }
}

#[track_caller]
fn assert_leftovers_are_found(starter: &[&str]) {
    let (subject, leftovers) = (Subject::hostile(), Leftovers::new());
    let wanted = expected();
    let repetitions = (10 * rounds()).to_string();
    let tests = "test(~leaves_a) | test(=passes) | test(=exits_with_3) | test(=kills_its_parent) | \
                 binary(annotated) & test(=kills_its_grandparent)";
    let arguments = ["run", "-E", tests, "--stress", &repetitions, "--no-fail-fast", "--test-threads", "4"];
    let program =
        command(&subject, &leftovers, &[&arguments[..], &["--format", "json", "--shuffle"]].concat());
    let ran = Running::start(&mut started_by(starter.iter().copied(), &program)).end();
    let mut different = Vec::new();
    for event in ran.events().iter().filter(|event| event["event"] == "unit-finished") {
        let (name, found) = line(event);
        let wanted = &wanted[&name];
        if found[..3] != wanted[..3] {
            different.push(format!("{name:?}: {found:?}, not {wanted:?}"));
        }
    }
    assert!(different.is_empty(), "{}\n{}", different.join("\n"), ran.stderr);
    assert_eq!(ran.code, Some(100), "{}", ran.stderr);
    leftovers.assert_none();
}

#[test]
fn nextest_says_the_same_of_all_that_it_can_tell() {
    if Command::new("cargo")
        .args(["nextest", "--version"])
        .output()
        .is_ok_and(|known| !known.status.success())
    {
        eprintln!("there is no cargo-nextest to compare with");
        return;
    }
    let wanted = expected().into_iter().filter_map(|((test, kind), [outcome, _, _, nextest, _])| {
        let same = match &*outcome {
            "passed" | "skipped" => "pass",
            "timed_out" => "timeout",
            _ => "fail",
        };
        let said = if nextest.is_empty() { same.to_owned() } else { nextest };
        (said != "none").then_some(((kind, test), said))
    });
    let wanted: BTreeMap<_, _> = wanted.collect();
    let (subject, leftovers) = (Subject::hostile(), Leftovers::new());
    let names: Vec<_> =
        wanted.keys().map(|(kind, test)| format!("(binary(={kind}) & test(={test}))")).collect();
    let mut command = Command::new("cargo");
    Project::prepare_in(subject.path(), &mut command)
        .args(["nextest", "run", "--no-fail-fast", "--show-progress", "none", "--status-level", "all"])
        .args([
            "--final-status-level",
            "none",
            "--success-output",
            "never",
            "--failure-output",
            "never",
            "-E",
        ])
        .arg(names.join(" | "));
    let ran = Running::start(leftovers.mark(&mut command)).end();
    assert_eq!(ran.code, Some(100), "{}", ran.stderr);
    // It leaves who was quiet and who has a session of its own.
    for (process, _) in leftovers.processes() {
        let _ = kill_process(Pid::from_raw(process).unwrap(), Signal::KILL);
    }
    let mut found = BTreeMap::new();
    for line in ran.stderr.lines() {
        let Some((label, name)) = line.split_once(" [").zip(line.split_once("hostile::")) else { continue };
        let said = match label.0.trim() {
            "SLOW" | "TERMINATING" => continue,
            "PASS" | "LEAK" => "pass",
            "TIMEOUT" => "timeout",
            _ => "fail",
        };
        let (kind, test) = name.1.split_once(' ').unwrap();
        if wanted.contains_key(&(kind.to_owned(), test.to_owned())) {
            found.insert((kind.to_owned(), test.to_owned()), said.to_owned());
        }
    }
    let differs: Vec<_> = wanted.iter().filter(|(name, said)| found.get(*name) != Some(said)).collect();
    assert!(differs.is_empty(), "nextest does not say {differs:?}\n{}", ran.stderr);
}

/// The most memory that a process ever had, in KiB.
fn peak_of(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

#[test]
fn however_much_a_test_prints_it_costs_little_memory_and_disk() {
    let flood = std::env::var("HOSTILE_FLOOD").unwrap_or("64".into());
    let size: u64 = flood.parse::<u64>().unwrap() << 20;
    for kind in ["annotated", "plain"] {
        let subject = Subject::hostile();
        let tests = ["prints_a_flood", "late_and_polite"].map(|test| format!("hostile::{kind}::{test}"));
        let arguments = ["run", "--format", "json", "--store-output", "all", "--test-threads", "2"];
        let mut command = subject.command(&[&arguments[..], &[&tests[0], &tests[1]]].concat());
        let mut run = Running::start(command.env("HOSTILE_FLOOD", &flood));
        run.line_with("run-started").unwrap();
        let before = peak_of(run.id());
        // The other test keeps the runner there.
        let event: Value = loop {
            let line = run.line_with("unit-finished").unwrap();
            let event: Value = serde_json::from_str(&line).unwrap();
            if event["id"] == *tests[0] {
                break event;
            }
        };
        let more = peak_of(run.id()) - before;
        assert!(more < 32 << 10, "{more} KiB more");
        let output = event["output"].as_str().unwrap();
        assert!(
            output.len() < 1 << 20 && output.contains("the first line") && output.contains("the last line")
        );
        assert_eq!(run.end().code, Some(100));
        let shown = subject.etcdtest(&["runs", "show", "--format", "json"]);
        let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
        let units = shown["units"].as_array().unwrap().iter();
        let stored =
            units.filter(|unit| unit["id"] == *tests[0]).map(|unit| &unit["attempts"][0]["output"][0]);
        let stored: Vec<_> = stored.collect();
        assert!(stored[0]["size"].as_u64().unwrap() > size, "{stored:?}");
        assert!(stored[0]["left_out"].as_u64().unwrap() > size - (1 << 20), "{stored:?}");
        let files = fs::read_dir(subject.path().join(".etcdtest")).unwrap();
        let disk: u64 = files.map(|file| file.unwrap().metadata().unwrap().len()).sum();
        assert!(disk < 16 << 20, "{disk} bytes");
    }
}
