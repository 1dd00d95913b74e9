//! Which tests are run, in which environments, in which order.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "these are tests")]

use std::fs;

use serde_json::{Value, json};
use whole_program::subject::Subject;

/// The tests that were run to a result, by name.
fn ran(events: &[Value]) -> Vec<&str> {
    let finished = events.iter().filter(|event| event["event"] == "unit-finished");
    let mut names: Vec<_> = finished.map(|event| event["id"].as_str().unwrap()).collect();
    names.sort_unstable();
    names
}

#[test]
fn filters_select_as_those_of_cargo_and_nextest() {
    let subject = Subject::new();
    let (one, two, more) = (
        "subject::annotated::tagged::one",
        "subject::annotated::tagged::two",
        "subject::annotated::tagged::two_and_more",
    );
    for (arguments, expected) in [
        (&["tagged"][..], &[one, two, more][..]),
        (&["tagged::two"], &[two, more]),
        (&["tagged::two", "--exact"], &[two]),
        (&["tagged", "--skip", "two"], &[one]),
        (&["-E", "test(tagged) & (owner(orders) | tag(slow))"], &[one, more]),
        (&["--tag", "smoke"], &[one, two]),
        (&["--owner", "payments"], &[two, more]),
        (&["--tag", "smoke", "--owner", "payments"], &[two]),
    ] {
        let (run, events) = subject.events(arguments);
        assert_eq!((run.code, ran(&events)), (Some(0), expected.to_vec()), "{arguments:?}\n{}", run.stderr);
    }
}

#[test]
fn ignored_tests_run_where_they_are_asked_for() {
    let subject = Subject::new();
    let (run, events) = subject.events(&["outcomes::ignored", "--run-ignored", "only"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(ran(&events), ["subject::annotated::outcomes::ignored", "subject::plain::outcomes::ignored"]);
    assert_eq!(events.last().unwrap()["counts"]["passed"], 2);
    let (_, events) = subject.events(&["outcomes::ignored", "outcomes::passes", "--run-ignored", "all"]);
    assert_eq!(events.last().unwrap()["counts"]["passed"], 4);
}

#[test]
fn a_filter_that_selects_nothing_is_said_and_exits_with_4() {
    let subject = Subject::new();
    let none = subject.etcdtest(&["no_such_test"]);
    none.refuses(4, &["no test was selected", "`cargo etcdtest list` shows all tests"]);
    assert_eq!(subject.etcdtest(&["runs", "list", "--format", "json"]).stdout, "", "no run is made");
}

#[test]
fn several_environments_make_a_matrix_and_each_test_sees_its_own() {
    let subject = Subject::new();
    subject.environment("local", "url = \"http://one\"", &[]);
    subject.environment("staging-eu", "url = \"http://two\"", &[]);
    let (run, events) = subject.events(&[
        "config::is_read",
        "only_in_staging",
        "--env",
        "local",
        "--env",
        "staging-eu",
        "--store-output",
        "all",
    ]);
    assert_eq!(run.code, Some(0), "{run:?}");
    let started = &events[0];
    assert_eq!((&started["units"], &started["tests"]), (&json!(6), &json!(3)));
    assert_eq!(started["environments"][1]["version"], 1);
    let of = |id: &str, environment: &str| {
        let found = events.iter().find(|event| {
            event["event"] == "unit-finished" && event["id"] == id && event["environment"] == environment
        });
        found.unwrap().clone()
    };
    for (environment, url) in [("local", "http://one"), ("staging-eu", "http://two")] {
        let event = of("subject::annotated::config::is_read", environment);
        assert_eq!(event["output"], format!("{environment}@1 has {url}\n"));
        let event = of("subject::plain::config::is_read", environment);
        let output = event["output"].as_str().unwrap();
        let file = output.lines().find(|line| line.starts_with('{')).unwrap();
        let file: Value = serde_json::from_str(file).unwrap();
        assert_eq!((&file["name"], &file["config"]), (&json!(environment), &json!({ "url": url })));
        assert_eq!(file["version"], 1);
    }
    let staging = "subject::annotated::outcomes::only_in_staging";
    assert_eq!(of(staging, "staging-eu")["outcome"], "passed");
    assert_eq!(of(staging, "local")["message"], "runs only in staging-*");
}

#[test]
fn what_an_environment_lacks_is_a_failure_that_names_it() {
    let (run, events) = Subject::new().events(&["subject::annotated::config::is_asked_for"]);
    assert_eq!(run.code, Some(100));
    let finished = events.iter().find(|event| event["event"] == "unit-finished").unwrap();
    let message = "environment `local` has no `url`, read as `alloc::string::String`";
    assert_eq!(finished["message"], message);
}

#[test]
fn an_unknown_environment_is_refused_with_the_nearest_and_exits_with_102() {
    let subject = Subject::new();
    subject.environment("staging-eu", "url = \"x\"", &[]);
    subject.etcdtest(&["passes", "--env", "staging-ue"]).refuses(102, &["staging-ue", "staging-eu"]);
}

#[test]
fn with_one_thread_one_test_runs_after_the_other_and_what_failed_comes_first() {
    let subject = Subject::new();
    let (run, _) = subject.events(&["order::", "--test-threads", "1"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    let order = fs::read_to_string(subject.meeting("order")).unwrap();
    let expected: String = ["a", "b", "c", "d"].map(|name| format!("{name} begins\n{name} ends\n")).concat();
    assert_eq!(order, expected);

    let failing = ["retried::never_passes", "tagged", "--test-threads", "1", "--no-fail-fast"];
    for time in ["first", "second"] {
        let (_, events) = subject.events(&failing);
        let started = events.iter().find(|event| event["event"] == "attempt-started").unwrap();
        assert_eq!(started["id"], "subject::annotated::retried::never_passes", "the {time} time");
    }
}

#[test]
fn a_test_that_failed_last_time_is_run_first() {
    let subject = Subject::new();
    subject.environment("local", "", &[]);
    let arguments = ["config::is_asked_for", "gate::early", "--test-threads", "1", "--no-fail-fast"];
    let first = |events: &[Value]| {
        events.iter().find(|event| event["event"] == "attempt-started").unwrap()["id"].clone()
    };
    // All others pass.
    subject.events(&arguments);
    let (_, events) = subject.events(&arguments);
    assert_eq!(first(&events), "subject::annotated::config::is_asked_for");
}

#[test]
fn with_two_threads_two_tests_run_at_once() {
    let (run, events) = Subject::new().events(&["pair::", "--test-threads", "2"]);
    assert_eq!((run.code, &events.last().unwrap()["counts"]["passed"]), (Some(0), &json!(2)), "{run:?}");
}

#[test]
fn the_first_failure_ends_the_run_and_the_rest_is_told_as_not_run() {
    let subject = Subject::new();
    let (run, events) = subject.events(&["retried::never_passes", "tagged", "--test-threads", "1"]);
    assert_eq!(run.code, Some(100));
    assert_eq!(ran(&events), ["subject::annotated::retried::never_passes"]);
    let cancelled = events.iter().filter(|event| event["event"] == "run-cancelled").collect::<Vec<_>>();
    assert_eq!(cancelled, [&json!({ "event": "run-cancelled", "reason": "a test failed" })]);
    let ended = events.last().unwrap();
    assert_eq!((&ended["cancelled"], &ended["counts"]["not_run"]), (&json!(true), &json!(3)));
    let shown = subject.etcdtest(&["runs", "show", "--format", "json"]);
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!((&shown["state"], &shown["counts"]["not_run"]), (&json!("cancelled"), &json!(3)));

    let (run, events) = subject.events(&["retried::never_passes", "tagged", "--no-fail-fast"]);
    assert_eq!((run.code, &events.last().unwrap()["counts"]["passed"]), (Some(100), &json!(3)));
}

#[test]
fn a_failure_with_nothing_left_to_run_cancels_nothing() {
    let (run, events) = Subject::new().events(&["subject::annotated::outcomes::errs"]);
    assert_eq!(run.code, Some(100));
    assert_eq!(ran(&events).len(), 1);
    assert!(events.iter().all(|event| event["event"] != "run-cancelled"), "{events:#?}");
    assert_eq!(events.last().unwrap()["cancelled"], false);
}

#[test]
fn no_capture_shows_output_as_it_comes_one_test_at_a_time() {
    let subject = Subject::new();
    let run = subject.etcdtest(&[
        "--no-capture",
        "subject::annotated::outcomes::panics",
        "order::",
        "--test-threads",
        "8",
    ]);
    assert_eq!(run.stdout.matches("on stdout\non stderr\n").count(), 1, "{}", run.stdout);

    // Among events it would be no event.
    let (_, events) = subject.events(&["--no-capture", "subject::annotated::outcomes::passes"]);
    assert_eq!(ran(&events), ["subject::annotated::outcomes::passes"]);
}
