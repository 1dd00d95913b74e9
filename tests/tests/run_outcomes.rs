//! How tests end, and what is told of it.
#![cfg(unix)]

use std::sync::LazyLock;

use serde_json::{Value, json};
use whole_program::processes::has_ended;
use whole_program::subject::{Ran, Subject};

/// One run of all tests of the modules `outcomes` and `retried`.
static OUTCOMES: LazyLock<(Ran, Vec<Value>)> = LazyLock::new(|| {
    Subject::new().events(&["--no-fail-fast", "outcomes::", "retried::", "--test-threads", "2"])
});

#[track_caller]
fn finished<'a>(events: &'a [Value], id: &str) -> &'a Value {
    let mut found = events
        .iter()
        .filter(|event| event["event"] == "unit-finished" && event["id"] == format!("subject::{id}"));
    let event = found.next().unwrap_or_else(|| panic!("{id} has no result in {events:#?}"));
    assert_eq!(found.next(), None, "{id} has one result");
    event
}

#[track_caller]
fn outcome(id: &str, outcome: &str, message: Option<&str>) -> &'static Value {
    let event = finished(&OUTCOMES.1, id);
    assert_eq!((&event["outcome"], event["message"].as_str()), (&json!(outcome), message), "{event:#}");
    event
}

#[test]
fn a_test_that_returns_has_passed() {
    outcome("annotated::outcomes::passes", "passed", None);
    outcome("plain::outcomes::passes", "passed", None);
    outcome("annotated::outcomes::panics_as_it_should", "passed", None);
    outcome("plain::outcomes::panics_as_it_should", "passed", None);
}

#[test]
fn a_panic_is_a_failure_with_message_location_steps_and_output() {
    let event = outcome("annotated::outcomes::panics", "failed", Some("the order"));
    let attempt = &event["attempts"][0];
    assert_eq!(attempt["message"], "the order\nis lost");
    let location = attempt["location"].as_str().unwrap();
    assert!(location.starts_with("tests/annotated.rs:"), "{location}");
    let steps: Vec<_> =
        attempt["steps"].as_array().unwrap().iter().map(|step| (&step["name"], &step["ok"])).collect();
    assert_eq!(steps, [(&json!("pay the order"), &json!(true)), (&json!("see it listed"), &json!(false))]);
    assert!(event["output"].as_str().unwrap().starts_with("on stdout\non stderr\n"), "{event:#}");

    let event = outcome("plain::outcomes::panics", "failed", Some("the order"));
    assert_eq!(event["attempts"][0]["message"], "the order\nis lost");
    let location = event["attempts"][0]["location"].as_str().unwrap();
    assert!(location.starts_with("tests/plain.rs:"), "{location}");
    assert!(event["output"].as_str().unwrap().contains("on stdout\n"));
}

#[test]
fn an_error_that_a_test_returns_is_a_failure_with_its_text() {
    outcome("annotated::outcomes::errs", "failed", Some("\"the shop is closed\""));
    outcome("plain::outcomes::errs", "failed", Some("Error: \"the shop is closed\""));
}

#[test]
fn what_is_skipped_says_why() {
    let event = outcome("annotated::outcomes::skips", "skipped", Some("no printer here"));
    assert_eq!(event["attempts"].as_array().unwrap().len(), 1);
    // libtest does not tell the reason.
    for (id, why) in
        [("annotated::outcomes::ignored", "ignored: not yet"), ("plain::outcomes::ignored", "ignored")]
    {
        let event = outcome(id, "skipped", Some(why));
        assert_eq!(event["attempts"], json!([]));
    }
    outcome("annotated::outcomes::only_in_staging", "skipped", Some("runs only in staging-*"));
}

#[test]
fn an_exit_with_0_in_the_middle_of_a_test_is_no_pass() {
    for id in ["annotated::outcomes::exits_with_zero", "plain::outcomes::exits_with_zero"] {
        let event = outcome(id, "crashed", Some("its process exited with code 0 before the test was over"));
        assert_eq!(event["attempts"][0]["exit_code"], 0);
    }
}

#[test]
fn a_signal_is_a_crash_that_names_it() {
    let message = "its process was killed by SIGABRT";
    outcome("annotated::outcomes::aborts", "crashed", Some(message));
    outcome("plain::outcomes::aborts", "crashed", Some(message));
    let message = "its process was killed by SIGSEGV";
    let event = outcome("annotated::outcomes::segfaults", "crashed", Some(message));
    assert_eq!(event["attempts"][0]["signal"], 11);
}

#[test]
fn a_test_that_takes_too_long_is_ended() {
    let event = outcome("annotated::outcomes::times_out", "timed_out", Some("timed out after 300ms"));
    assert_eq!(event["output"], "still here\n");
    assert_eq!(event["attempts"][0]["signal"], 15);
}

#[test]
fn a_failed_attempt_is_repeated_and_a_later_pass_is_flaky() {
    let event = outcome("annotated::retried::passes_at_the_third", "passed", None);
    assert_eq!(event["verdict"], "flaky");
    let outcomes: Vec<_> = event["attempts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|attempt| attempt["outcome"].as_str().unwrap())
        .collect();
    assert_eq!(outcomes, ["failed", "failed", "passed"]);
    let failed = OUTCOMES.1.iter().filter(|event| event["event"] == "attempt-failed");
    let failed: Vec<_> = failed
        .filter(|failed| failed["id"] == event["id"])
        .map(|failed| (&failed["attempt"]["number"], &failed["of"]))
        .collect();
    assert_eq!(failed, [(&json!(1), &json!(3)), (&json!(2), &json!(3))]);

    let event = outcome("annotated::retried::never_passes", "failed", Some("never"));
    assert_eq!((&event["verdict"], event["attempts"].as_array().unwrap().len()), (&json!("failed"), 2));
}

#[test]
fn a_run_with_failures_counts_them_and_exits_with_100() {
    let (ran, events) = &*OUTCOMES;
    assert_eq!(ran.code, Some(100), "{}", ran.stderr);
    let ended = events.last().unwrap();
    assert_eq!((&ended["event"], &ended["cancelled"]), (&json!("run-ended"), &json!(false)));
    assert_eq!(
        ended["counts"],
        json!({
            "units": 20, "passed": 4, "flaky": 1, "failed": 5, "timed_out": 1, "crashed": 5, "skipped": 4,
            "not_run": 0,
        })
    );
}

#[test]
fn retries_that_were_typed_go_over_those_of_the_test() {
    let (ran, events) = Subject::new().events(&["retried::", "--retries", "1", "--no-fail-fast"]);
    assert_eq!(ran.code, Some(100));
    let event = finished(&events, "annotated::retried::passes_at_the_third");
    assert_eq!((&event["outcome"], event["attempts"].as_array().unwrap().len()), (&json!("failed"), 2));
    let (ran, events) = Subject::new().events(&["passes_at_the_third", "--retries", "0"]);
    assert_eq!(ran.code, Some(100));
    assert_eq!(
        finished(&events, "annotated::retried::passes_at_the_third")["attempts"].as_array().unwrap().len(),
        1
    );
}

#[test]
fn whatever_a_test_prints_its_beginning_and_end_are_kept() {
    let subject = Subject::new();
    let (ran, events) = subject.events(&["floods"]);
    assert_eq!(ran.code, Some(100));
    let event = finished(&events, "annotated::output::floods");
    assert_eq!(event["message"], "after the flood");
    let output = event["output"].as_str().unwrap();
    assert!(output.len() < 1 << 20, "{} bytes", output.len());
    assert!(output.starts_with("the first line\nxxx") && output.contains("xxx\nthe last line\n"));
    assert!(output.contains(" bytes left out …]"));

    let shown = subject.etcdtest(&["runs", "show", "--format", "json"]);
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    let stored = &shown["units"][0]["attempts"][0]["output"][0];
    assert_eq!(stored["name"], "output");
    assert!(stored["size"].as_u64().unwrap() > 50_000_030, "{stored}");
}

#[test]
fn what_is_printed_on_both_streams_stays_in_its_order() {
    let subject = Subject::new();
    let (ran, events) = subject.events(&["interleaves"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for binary in ["annotated", "plain"] {
        let event = finished(&events, &format!("{binary}::output::interleaves"));
        let lines = event["output"].as_str().unwrap().lines();
        let numbers: Vec<u32> = lines.filter_map(|line| line.strip_prefix("line ")?.parse().ok()).collect();
        assert_eq!(numbers, (0..2000).collect::<Vec<_>>(), "{binary}");
    }
}

#[test]
fn a_child_that_holds_the_streams_is_ended_and_does_not_hang_the_run() {
    let subject = Subject::new();
    let (ran, events) = subject.events(&["children::holds_the_streams"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(finished(&events, "annotated::children::holds_the_streams")["outcome"], "passed");
    assert!(has_ended(subject.process("holds_the_streams")));
}

#[test]
fn a_daemon_that_holds_the_streams_changes_nothing_of_the_outcome_and_the_output() {
    let subject = Subject::new();
    let (_, events) = subject.events(&["daemon_holds_the_streams", "--no-fail-fast"]);
    // They have left their tests' groups, as daemons do, and are ended all the same.
    for daemon in ["daemon", "plain_daemon"] {
        assert!(has_ended(subject.process(daemon)));
    }
    let event = finished(&events, "annotated::children::daemon_holds_the_streams");
    assert_eq!((&event["outcome"], &event["message"]), (&json!("failed"), &json!("beside a daemon")));
    assert!(event["output"].as_str().unwrap().starts_with("printed before the failure\n"), "{event:#}");
    let event = finished(&events, "plain::children::daemon_holds_the_streams");
    assert_eq!(event["outcome"], "passed", "{event:#}");
}

#[test]
fn after_a_timeout_the_whole_group_is_ended_also_who_is_deaf_to_the_request() {
    let subject = Subject::new();
    let (ran, events) = subject.events(&["deaf", "--test-threads", "2", "--no-fail-fast"]);
    assert_eq!(ran.code, Some(100));
    let event = finished(&events, "annotated::children::is_deaf");
    assert_eq!((&event["outcome"], &event["attempts"][0]["signal"]), (&json!("timed_out"), &json!(9)));
    let event = finished(&events, "annotated::children::leaves_a_deaf_child");
    assert_eq!((&event["outcome"], &event["attempts"][0]["signal"]), (&json!("timed_out"), &json!(15)));
    assert!(has_ended(subject.process("leaves_a_deaf_child")));
}

#[test]
fn the_time_a_test_may_take_can_be_typed_for_those_that_do_not_say_it() {
    let (ran, events) = Subject::new().events(&["endless::waits_too", "--timeout", "200ms"]);
    assert_eq!(ran.code, Some(100));
    assert_eq!(finished(&events, "annotated::endless::waits_too")["message"], "timed out after 200ms");
}
