//! What `run` prints, for people and for programs.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "these are tests")]

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;
use whole_program::root;
use whole_program::subject::{Ran, Subject};

/// What differs from run to run becomes a word.
fn redacted(text: &str, run: &str) -> String {
    let text = text.replace(run, "RUN");
    let mut lines = Vec::new();
    for line in text.lines() {
        // `[   0.012s]`
        let line = match (line.find('['), line.find("s]")) {
            (Some(from), Some(to)) if line[from + 1..to].trim().parse::<f64>().is_ok() => {
                format!("{}[TIME]{}", &line[..from], &line[to + 2..])
            }
            _ => line.to_owned(),
        };
        // `thread 'name' (1234) panicked`
        let line = match (line.find("' ("), line.find(") panicked")) {
            (Some(from), Some(to)) => format!("{}' (ID{}", &line[..from], &line[to..]),
            _ => line,
        };
        // `ok (0.012s)`
        let line = match (line.rfind(" ("), line.strip_suffix("s)")) {
            (Some(from), Some(rest)) if rest[from + 2..].parse::<f64>().is_ok() => {
                format!("{} (TIME)", &line[..from])
            }
            _ => line,
        };
        lines.push(line);
    }
    lines.join("\n")
}

#[test]
fn without_a_terminal_a_run_is_told_in_plain_lines() {
    let subject = Subject::new();
    let tests = ["retried::", "subject::annotated::outcomes::panics", "outcomes::skips", "outcomes::aborts"];
    let arguments = ["--no-fail-fast", "--test-threads", "1", "--run-id", "the-run", "outcomes::ignored"];
    let ran = subject.etcdtest(&[&tests[..], &arguments].concat());
    assert_eq!(ran.code, Some(100), "{ran:?}");
    insta::assert_snapshot!(redacted(&ran.stdout, "the-run"));
}

#[test]
fn the_first_failure_is_said_to_end_the_run() {
    let subject = Subject::new();
    let ran = subject.etcdtest(&["retried::never", "tagged", "--test-threads", "1", "--run-id", "the-run"]);
    assert_eq!(ran.code, Some(100), "{ran:?}");
    insta::assert_snapshot!(redacted(&ran.stdout, "the-run"));
}

#[test]
fn colours_are_shown_where_they_are_asked_for() {
    let subject = Subject::new();
    let ran = |arguments: &[&str], variables: &[(&str, &str)]| -> Ran {
        let mut command = subject.command(&[&["tagged::one"], arguments].concat());
        command.env_remove("NO_COLOR").env_remove("CARGO_TERM_COLOR").envs(variables.iter().copied());
        Ran::of(&mut command)
    };
    let coloured = |ran: &Ran| ran.stdout.contains("\u{1b}[");
    assert!(!coloured(&ran(&[], &[])), "stdout is no terminal");
    assert!(coloured(&ran(&["--color", "always"], &[])));
    assert!(coloured(&ran(&["--color", "always"], &[("NO_COLOR", "1")])), "what was typed counts");
    assert!(coloured(&ran(&[], &[("CARGO_TERM_COLOR", "always")])));
    assert!(!coloured(&ran(&[], &[("CARGO_TERM_COLOR", "never")])));
    assert!(!coloured(&ran(&[], &[("NO_COLOR", "1")])));
}

/// The lines about tests before the summary and after it, as `PASS outcomes::passes`.
fn lines_about_tests(ran: &Ran) -> [BTreeSet<String>; 2] {
    let (before, after) = ran.stdout.split_once("Summary [").unwrap_or_else(|| panic!("{ran:?}"));
    [before, after].map(|text| {
        let lines = text.lines().filter_map(|line| {
            let (label, rest) = line.split_once(" [")?;
            let (_, name) = rest.split_once("subject::annotated ")?;
            Some(format!("{} {}", label.trim(), name.split(": ").next()?))
        });
        lines.collect()
    })
}

#[test]
fn each_level_adds_lines_about_tests_to_those_before_it() {
    let subject = Subject::new();
    let slow = "filter = 'test(notes)'\nslow-timeout = '1ms'\n";
    subject.write(".config/etcdtest.toml", &format!("[[profile.default.overrides]]\n{slow}"));
    let tests = [
        "outcomes::panics",
        "retried::passes_at_the_third",
        "order::notes::a",
        "hostile::leaves_a_quiet_child",
        "outcomes::passes",
        "outcomes::skips",
        "outcomes::ignored",
    ];
    let how = ["--exact", "--test", "annotated", "--no-fail-fast"];
    let ran = |flags: &[&str]| subject.etcdtest(&[&tests[..], &how, flags].concat());
    let told = |level: &str, last: &str| {
        let flags = ["--status-level", level, "--final-status-level", last, "--failure-output", "never"];
        lines_about_tests(&ran(&flags))
    };
    let (mut before, mut after) = (BTreeSet::new(), BTreeSet::new());
    let tried = "TRY 1/3 FAIL retried::passes_at_the_third, TRY 2/3 FAIL retried::passes_at_the_third";
    for (level, more, last, more_last) in [
        ("none", "", "none", ""),
        ("fail", "FAIL outcomes::panics", "fail", "FAIL outcomes::panics"),
        (
            "retry",
            &format!("{tried}, FLAKY retried::passes_at_the_third"),
            "flaky",
            "FLAKY retried::passes_at_the_third",
        ),
        ("slow", "SLOW order::notes::a", "slow", "PASS order::notes::a"),
        (
            "leak",
            "PASS hostile::leaves_a_quiet_child",
            "skip",
            "SKIP outcomes::skips, SKIP outcomes::ignored",
        ),
        (
            "pass",
            "PASS outcomes::passes, PASS order::notes::a, SKIP outcomes::skips",
            "pass",
            "PASS outcomes::passes, PASS hostile::leaves_a_quiet_child",
        ),
        ("skip", "SKIP outcomes::ignored", "all", ""),
        ("all", "", "all", ""),
    ] {
        let names = |text: &str| {
            text.split(", ").filter(|name| !name.is_empty()).map(str::to_owned).collect::<Vec<_>>()
        };
        before.extend(names(more));
        after.extend(names(more_last));
        assert_eq!(told(level, last), [before.clone(), after.clone()], "{level}, {last}");
    }

    let heading = ran(&["--status-level", "none", "--failure-output", "immediate"]);
    assert_eq!(
        heading.stdout.matches("FAIL [").count(),
        4,
        "what is shown has its test's line above it: {heading:?}"
    );
    subject.write(
        ".config/etcdtest.toml",
        "[profile.default]\nstatus-level = 'none'\nfinal-status-level = 'none'\n",
    );
    let quiet = ran(&["--failure-output", "never"]);
    assert_eq!(lines_about_tests(&quiet), [BTreeSet::new(), BTreeSet::new()], "{quiet:?}");
    let [before, after] = lines_about_tests(&subject.etcdtest(&["watch"]));
    assert_eq!((before, after), (["FAIL outcomes::panics".to_owned()].into(), BTreeSet::new()));
}

/// The names in the first column of the table of events.
fn documented() -> BTreeSet<String> {
    let text = fs::read_to_string(root().join("docs/machine-output.md")).unwrap();
    let events = text.split("\n## ").next().unwrap();
    let rows = events.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    rows.map(|(name, _)| name.to_owned()).collect()
}

#[test]
fn every_event_and_its_fields_are_documented() {
    let text = fs::read_to_string(root().join("docs/machine-output.md")).unwrap();
    let subject = Subject::new();
    // Of each event at least one: it is slow at once, fails, is tried again and is cancelled.
    subject.write(".config/etcdtest.toml", "[profile.default]\nslow-timeout = \"50ms\"\n");
    let arguments =
        ["endless::waits_too", "--timeout", "200ms", "--retries", "1", "--test-threads", "1", "tagged"];
    let (ran, events) = subject.events(&arguments);
    assert_eq!(ran.code, Some(100));
    let mut names = BTreeSet::new();
    for event in &events {
        let name = event["event"].as_str().unwrap();
        names.insert(name.to_owned());
        assert!(documented().contains(name), "{name} is not documented");
        for field in event.as_object().unwrap().keys() {
            assert!(text.contains(&format!("`{field}`")), "{field} of {name} is not documented");
        }
    }
    let rare = [
        "notice",
        "run-queued",
        "run-stalled",
        "store-away",
        "ready",
        "not-ready",
        "reservation-waiting",
        "reservation-held",
        "resource-waiting",
        "requirement-unmet",
        "unit-taken-over",
        "units-superseded",
        "worker-leaving",
    ]
    .map(String::from);
    let expected = documented();
    let expected: BTreeSet<String> = expected.into_iter().filter(|name| !rare.contains(name)).collect();
    assert_eq!(names, expected, "each is seen: {events:#?}");
}

#[test]
fn events_come_in_order_and_stdout_has_nothing_else() {
    let subject = Subject::new();
    let (ran, events) = subject.events(&["tagged", "retried::passes"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let of = |id: &str| -> Vec<&str> {
        let own = events.iter().filter(|event| event["id"] == id);
        own.map(|event| event["event"].as_str().unwrap()).collect()
    };
    assert_eq!(of("subject::annotated::tagged::one"), ["attempt-started", "unit-finished"]);
    assert_eq!(
        of("subject::annotated::retried::passes_at_the_third"),
        [
            "attempt-started",
            "attempt-failed",
            "attempt-started",
            "attempt-failed",
            "attempt-started",
            "unit-finished"
        ]
    );
    let name = |event: Option<&Value>| event.unwrap()["event"].as_str().unwrap().to_owned();
    assert_eq!((name(events.first()), name(events.last())), ("run-started".into(), "run-ended".into()));
    let summary = subject.etcdtest(&["report", "export", "--format", "json"]);
    let summary: Value = serde_json::from_str(&summary.stdout).unwrap();
    assert_eq!(events.last().unwrap()["counts"], summary["counts"]);
}

#[test]
fn a_reader_that_goes_away_does_not_end_the_run() {
    for (format, first) in [("human", "Starting"), ("json", "run-started")] {
        let subject = Subject::new();
        let arguments = ["gate::", "--run-id", "unread", "--test-threads", "2", "--format", format];
        let mut run = subject.start(&arguments);
        run.line_with(first).unwrap();
        run.close_stdout();
        fs::write(subject.meeting("go"), "").unwrap();
        let ran = run.end();
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(!ran.stderr.contains("panicked"), "{ran:?}");
        assert!(subject.etcdtest(&["runs", "show", "unread"]).stdout.contains("20 passed"));
    }
}
