//! Attempts that the runner starts.

use std::collections::BTreeSet;
use std::process::Stdio;

use etcdtest::protocol::{Event, Outcome};
use serde_json::json;

use crate::project::PROJECT;
use crate::runner::{EXIT_CODE, attempt, attempt_of, config, spawn, start};

#[test]
fn steps_and_attachments_come_in_order_before_the_pass() {
    let attempt = attempt(&start("documented", config()));
    let events: Vec<String> = attempt.events.iter().map(summary).collect();
    assert_eq!(events, ["1 create", "1 ok", "2 pay", "2 ok", "order.json {\"order\":7}", "Finished(Passed)"]);
    assert_eq!(attempt.code, Some(EXIT_CODE));
    assert_eq!(attempt.stderr, "");
}

#[test]
fn a_step_that_panics_or_returns_an_error_failed() {
    for test in ["fails::by_panic", "fails::by_error"] {
        let events: Vec<String> = attempt(&start(test, config())).events.iter().map(summary).collect();
        assert_eq!(events[..2], ["1 pay", "1 failed"], "{test}");
    }
}

fn summary(event: &Event) -> String {
    match event {
        Event::StepStarted { step, name } => format!("{step} {name}"),
        Event::StepFinished { step, ok, .. } => format!("{step} {}", if *ok { "ok" } else { "failed" }),
        Event::Attachment { name, bytes } => format!("{name} {}", String::from_utf8_lossy(bytes)),
        other @ Event::Finished(_) => format!("{other:?}"),
    }
}

#[test]
fn a_panic_is_told_with_its_place_and_printed_under_the_tests_name() {
    let attempt = attempt(&start("fails::by_panic", config()));
    let (message, location) = attempt.failure();
    assert_eq!(message, "no money");
    let location = location.unwrap();
    assert!(location.starts_with("tests/own.rs:"), "{location}");
    assert!(attempt.stderr.contains("thread 'fails::by_panic'"), "{}", attempt.stderr);
    assert!(attempt.stderr.contains(location), "{}", attempt.stderr);
}

#[test]
fn a_panic_handed_on_from_another_thread_keeps_its_message() {
    let attempt = attempt(&start("fails::by_a_panic_handed_on", config()));
    assert_eq!(attempt.failure(), ("elsewhere", None));
}

#[test]
fn an_error_is_told_with_all_its_causes_and_printed() {
    let chain = "the order was refused\n  caused by: invalid digit found in string";
    for (test, expected) in [
        ("fails::by_error", chain),
        ("fails::by_boxed_error", chain),
        ("fails::by_a_type_of_its_own", "(7, \"no\")"),
    ] {
        let attempt = attempt(&start(test, config()));
        assert_eq!(attempt.failure(), (expected, None), "{test}");
        assert_eq!(attempt.stderr, format!("{expected}\n"), "{test}");
    }
    let attempt = attempt(&start("fails::by_anyhow", config()));
    let (message, _) = attempt.failure();
    let parts: Vec<_> =
        ["paying", "the order was refused", "invalid digit"].map(|part| message.find(part).unwrap()).into();
    assert!(parts.is_sorted(), "{message}");
}

#[test]
fn a_test_that_should_panic_passes_by_that_panic_alone() {
    let passed = attempt(&start("passes::panics", config()));
    assert_eq!((passed.outcome(), passed.code), (&Outcome::Passed, Some(EXIT_CODE)));

    let (message, location) = ("the test did not panic, as it should", None);
    assert_eq!(attempt(&start("fails::by_not_panicking", config())).failure(), (message, location));

    let message = "the test did not panic, as it should, but returned: \"no money\"";
    assert_eq!(attempt(&start("fails::by_an_error_instead", config())).failure(), (message, None));

    let otherwise = attempt(&start("fails::by_panicking_otherwise", config()));
    let (message, location) = otherwise.failure();
    assert!(message.contains("another") && message.contains("no money"), "{message}");
    assert!(location.unwrap().starts_with("tests/own.rs:"));
    assert!(otherwise.stderr.contains(message), "{}", otherwise.stderr);
}

#[test]
fn a_message_too_long_for_the_runner_is_cut() {
    let attempt = attempt(&start("fails::at_great_length", json!({ "large": true })));
    let (message, location) = attempt.failure();
    assert!(message.len() < 2 << 20 && message.starts_with("éé"), "{}", message.len());
    assert!(message.ends_with("\n… 1048576 more bytes, which are in the output"));
    assert!(location.is_some());
    assert!(attempt.stderr.len() > 2 << 20, "the whole message is in the output");
}

#[test]
fn the_outcome_is_the_last_event_whatever_other_threads_do() {
    for _ in 0..5 {
        let attempt = attempt(&start("talks_on", config()));
        assert_eq!(attempt.outcome(), &Outcome::Passed);
    }
}

#[test]
fn a_skip_ends_the_test_from_any_depth_and_prints_no_panic() {
    let attempt = attempt(&start("skips", config()));
    assert_eq!(attempt.outcome(), &Outcome::Skipped("no broker here".into()));
    assert_eq!((attempt.code, attempt.stderr.as_str()), (Some(EXIT_CODE), ""));
}

#[test]
fn an_ignored_test_runs_when_the_runner_starts_it() {
    assert_eq!(attempt(&start("ignored::with_a_reason", config())).failure().0, "ran");
}

#[test]
fn a_test_knows_its_environment_run_worker_attempt_and_token() {
    let attempt = attempt(&start("needs::identity", config()));
    assert_eq!(attempt.attachment("identity"), "staging 3@44 run-1 worker-2 2 55 needs::identity");
}

#[cfg(target_os = "linux")]
#[test]
fn neither_the_test_nor_its_children_see_the_runners_socket() {
    let attempt = attempt(&start("passes::no_socket_in_sight", config()));
    assert_eq!(attempt.outcome(), &Outcome::Passed);
}

#[test]
fn unique_names_differ_between_threads_attempts_and_processes() {
    let attempts = std::thread::scope(|scope| {
        let runs = [(); 6].map(|()| scope.spawn(|| attempt(&start("passes::unique_names", config()))));
        runs.map(|run| run.join().unwrap().attachment("names"))
    });
    let names: Vec<&str> = attempts.iter().flat_map(|names| names.lines()).collect();
    assert_eq!(names.len(), 6 * 60);
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "two are the same: {names:?}");
    for name in names {
        let readable = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        assert!(name.starts_with("user-") && name.len() <= 24 && name.chars().all(readable), "{name}");
    }
}

#[test]
fn a_test_that_is_not_there_fails_by_name() {
    let missing = attempt(&start("documente", config()));
    assert_eq!(missing.failure(), ("there is no test `documente` in this binary", None));
}

#[test]
fn of_two_tests_of_one_name_none_runs() {
    let twice = attempt_of("twice", &start("orders::paid", config()));
    let (message, _) = twice.failure();
    assert_eq!(message, "two tests are named `orders::paid`: tests/twice.rs:5 and tests/twice.rs:8");
}

#[test]
fn the_test_ends_well_when_the_runner_is_gone() {
    let (child, mut socket) = spawn(&mut PROJECT.test("own"));
    start("documented", config()).to_frame().write(&mut socket).unwrap();
    drop(socket);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(EXIT_CODE));
}

#[test]
fn without_a_runner_there_is_no_attempt() {
    let argument = etcdtest::protocol::ATTEMPT_ARGUMENT;
    let output = PROJECT.test("own").arg(argument).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(101));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(stderr, "error: failed to take an attempt from the runner: standard input is no socket\n");

    let (child, socket) = spawn(&mut PROJECT.test("own"));
    drop(socket);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(101));
    assert!(String::from_utf8(output.stderr).unwrap().contains("the runner said nothing"));
}

#[test]
fn what_the_environment_lacks_is_named_and_no_value_is_shown() {
    let failure = |test, config| attempt(&start(test, config)).failure().0.to_owned();
    assert_eq!(
        failure("needs::text", json!({})),
        "environment `staging` has no `region`, which the parameter `region: String` needs"
    );
    assert_eq!(
        failure("needs::text", json!({ "region": 7_001 })),
        "environment `staging`: `region`, which the parameter `region: String` needs, is wrong: \
         expected a string, found an integer"
    );
    assert_eq!(
        failure("needs::text", json!({ "region": "eu", "weekday": ["hidden"] })),
        "environment `staging`: `weekday`, which the parameter `weekday: Option<String>` needs, is wrong: \
         expected a string, found an array"
    );
    assert_eq!(
        failure("needs::tables", json!({})),
        "environment `staging` has no `orders`, which the parameter `shop: Shop` needs"
    );
    assert_eq!(
        failure("needs::tables", json!({ "orders": { "url": "hidden" } })),
        "environment `staging` has no `orders.port`, which the parameter `shop: Shop` needs"
    );
    assert_eq!(
        failure("needs::tables", json!({ "orders": { "url": "", "port": "hidden" } })),
        "environment `staging`: `orders.port`, which the parameter `shop: Shop` needs, is wrong: \
         expected u16, found a string"
    );
    assert_eq!(
        failure("needs::tables", json!({ "shop": { "orders": { "url": "", "port": 80_000 } } })),
        "environment `staging`: `shop.orders.port`, which the parameter `shop: Shop` needs, is wrong: \
         expected u16, found an integer that does not fit"
    );
    assert_eq!(
        failure("needs::dotted", json!({ "orders": { "port": 80 } })),
        "environment `staging` has no `orders.hosts`, read as `alloc::vec::Vec<alloc::string::String>`"
    );
    for test in ["needs::text", "needs::tables", "needs::dotted"] {
        assert_eq!(attempt(&start(test, config())).outcome(), &Outcome::Passed, "{test}");
    }
}
