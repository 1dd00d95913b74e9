//! The rules by which tests are run: retries, limits, what is shown, order, resources.

#![cfg(unix)]

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use whole_program::subject::Subject;

fn with_settings(settings: &str) -> Subject {
    let subject = Subject::new();
    subject.write(".config/etcdtest.toml", settings);
    subject
}

/// The events of a kind.
fn of<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["event"] == kind).collect()
}

/// The tests in the order in which they began.
fn order(events: &[Value]) -> Vec<String> {
    of(events, "attempt-started").iter().map(|event| event["id"].to_string()).collect()
}

/// Whether any attempt began while another went on.
fn overlaps(events: &[Value]) -> bool {
    let finished = events.iter().filter(|event| event["event"] == "unit-finished");
    let attempts = finished.flat_map(|event| event["attempts"].as_array().unwrap());
    let mut times: Vec<(Timestamp, Timestamp)> = attempts
        .map(|attempt| {
            let started: Timestamp = attempt["started"].as_str().unwrap().parse().unwrap();
            (started, started + Duration::from_secs_f64(attempt["duration"].as_f64().unwrap()))
        })
        .collect();
    times.sort();
    times.windows(2).any(|pair| pair[1].0 < pair[0].1)
}

#[test]
fn a_retry_waits_as_its_override_says_and_a_flaky_test_may_count_as_failed() {
    let subject = with_settings(
        "[[profile.default.overrides]]\nfilter = 'test(retried::)'\n\
         retries = { backoff = 'exponential', count = 2, delay = '10ms' }\n\
         [[profile.strict.overrides]]\nfilter = 'test(at_the_third)'\nflaky-result = 'fail'\n",
    );
    let (ran, events) = subject.events(&["passes_at_the_third"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let waits: Vec<_> = of(&events, "attempt-failed").iter().map(|event| event["wait"].clone()).collect();
    assert_eq!(waits, [0.01, 0.02]);
    assert_eq!(of(&events, "unit-finished")[0]["verdict"], "flaky");

    let (ran, events) = subject.events(&["passes_at_the_third", "--profile", "strict"]);
    assert_eq!(ran.code, Some(100), "{ran:?}");
    let finished = of(&events, "unit-finished")[0];
    assert_eq!(finished["outcome"], "failed");
    assert_eq!(finished["message"], "it passed only at attempt 3, and flaky tests count as failed");

    let (ran, events) = subject.events(&["passes_at_the_third", "--retries", "0"]);
    assert_eq!((ran.code, of(&events, "attempt-started").len()), (Some(100), 1), "{ran:?}");
}

#[test]
fn no_more_tests_begin_after_so_many_failures() {
    let subject = Subject::new();
    let failing = ["panics", "errs", "aborts", "exits_with_zero"].map(|name| format!("outcomes::{name}"));
    let failing: Vec<_> =
        failing.iter().map(String::as_str).chain(["--exact", "-j1", "--test=annotated"]).collect();
    for (flags, begun) in [(&["--max-fail", "2"][..], 2), (&["--max-fail=2", "--fail-fast"], 1), (&[], 1)] {
        let (ran, events) = subject.events(&[&failing[..], flags].concat());
        assert_eq!(ran.code, Some(100), "{ran:?}");
        assert_eq!(of(&events, "attempt-started").len(), begun, "{ran:?}");
        let counts = &of(&events, "run-ended")[0]["counts"];
        assert_eq!(counts["not_run"], 4 - begun, "{counts}");
    }
    let (_, events) = subject.events(&[&failing[..], &["--no-fail-fast"]].concat());
    assert_eq!(of(&events, "attempt-started").len(), 4);
}

#[test]
fn the_next_plain_test_on_a_lane_begins_when_the_one_before_has_passed() {
    let subject = Subject::new();
    let tests = ["config::is_read", "outcomes::panics", "output::interleaves"];
    let often = [&tests[..], &["--exact", "-j1", "--test=plain", "--stress", "20"]].concat();
    let (ran, events) = subject.events(&often);
    assert_eq!(ran.code, Some(100), "{ran:?}");
    assert_eq!(of(&events, "attempt-started").len(), 2, "nothing begins after a failure: {ran:?}");
    let counts = &of(&events, "run-ended")[0]["counts"];
    assert_eq!(
        (&counts["passed"], &counts["failed"], &counts["not_run"]),
        (&1.into(), &1.into(), &58.into())
    );

    let (ran, events) = subject.events(&[&often[..], &["--no-fail-fast"]].concat());
    assert_eq!(order(&events).len(), 60, "{ran:?}");
    // One that waits for the end of another in vain may be overtaken by the next.
    let begun: Vec<_> =
        of(&events, "attempt-started").iter().filter_map(|event| event["unit"].as_u64()).collect();
    assert!((0..).zip(&begun).all(|(place, unit)| unit.abs_diff(place) <= 3), "{begun:?}");
    assert_eq!(begun.into_iter().collect::<BTreeSet<_>>().len(), 60);
    assert!(!overlaps(&events), "{ran:?}");
}

#[test]
fn the_time_of_a_run_and_of_a_slow_test_ends() {
    let subject = Subject::new();
    let (ran, events) = subject.events(&["times_out", "--timeout", "1h", "--global-timeout", "300ms"]);
    assert_eq!(ran.code, Some(100), "{ran:?}");
    assert_eq!(of(&events, "run-cancelled")[0]["reason"], "its time of 300ms is over");
    assert_eq!(of(&events, "run-ended")[0]["counts"]["not_run"], 1);

    let slow = "{ period = '100ms', terminate-after = 2, grace-period = '1s' }";
    let (ran, events) = subject.events(&["times_out", "--slow-timeout", slow]);
    assert_eq!(ran.code, Some(100), "{ran:?}");
    assert_eq!(of(&events, "unit-finished")[0]["message"], "timed out after 200ms");
    assert_eq!(of(&events, "attempt-slow").len(), 1);
}

#[test]
fn output_is_shown_when_it_was_asked_for() {
    let subject = Subject::new();
    let shown = |arguments: &[&str], text: &str| {
        subject.etcdtest(&[&["run"], arguments].concat()).stdout.matches(text).count()
    };
    let (passes, panics) =
        (["passes", "--test=plain"], ["outcomes::panics", "--skip=should", "--test=plain"]);
    let printed = "printed by a test that passes";
    assert_eq!(shown(&passes, printed), 0);
    for (when, expected) in [("immediate", 1), ("final", 1), ("immediate-final", 2), ("never", 0)] {
        assert_eq!(shown(&[&passes[..], &["--success-output", when]].concat(), printed), expected, "{when}");
        let failing = [&panics[..], &["--failure-output", when]].concat();
        assert_eq!(shown(&failing, "on stdout"), expected, "{when}");
        assert_eq!(shown(&failing, "FAIL ["), 2 + usize::from(when.ends_with("final")), "{when}");
    }
    assert_eq!(shown(&panics, "on stdout"), 2);
}

#[test]
fn the_same_seed_gives_the_same_order_and_a_new_one_is_told() {
    let subject = Subject::new();
    let shuffled = |seed: &str| {
        let (ran, events) = subject.events(&["outcomes::", "-j1", "--no-fail-fast", seed]);
        let told = of(&events, "run-started")[0]["shuffle"].as_u64();
        (told.unwrap_or_else(|| panic!("no seed: {ran:?}")), order(&events))
    };
    let first = shuffled("--shuffle=7");
    assert_eq!(first.0, 7);
    // Between them, the results of the past change the usual order.
    assert_eq!(shuffled("--shuffle=7"), first);
    assert_ne!(shuffled("--shuffle=8").1, first.1);
    let (seed, by_chance) = shuffled("--shuffle");
    assert_eq!(shuffled(&format!("--shuffle={seed}")).1, by_chance);
    let ran = subject.etcdtest(&["run", "outcomes::passes", "--shuffle=12345"]);
    assert!(ran.stdout.contains("shuffled with seed 12345"), "{ran:?}");
}

#[test]
fn each_repetition_is_a_unit_of_its_own() {
    let subject = Subject::new();
    let (ran, events) =
        subject.events(&["outcomes::passes", "skips", "--stress=3", "-j1", "--test=annotated"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let repetitions: Vec<_> =
        of(&events, "unit-finished").iter().map(|event| event["repetition"]["number"].as_u64()).collect();
    assert_eq!(repetitions, [1, 1, 2, 2, 3, 3].map(Some));
    let junit = subject.etcdtest(&["report", "export", "--format", "junit"]).stdout;
    assert!((1..=3).all(|number| junit.contains(&format!("passes ({number}/3)"))), "{junit}");
    let ran = subject.etcdtest(&["run", "outcomes::passes", "--stress=2", "--test=annotated"]);
    assert!(ran.stdout.contains("[2/2]") && ran.stdout.contains("2 tests run: 2 passed"), "{ran:?}");
}

#[test]
fn tests_that_share_a_resource_or_need_all_lanes_run_alone() {
    for (rule, resources) in [
        ("exclusive = 'printer'", ""),
        ("threads-required = 'num-test-threads'", ""),
        ("exclusive = 'printer'", "[resources]\nprinter = 1\n"),
    ] {
        let rules = format!("{resources}[[profile.default.overrides]]\nfilter = 'all()'\n{rule}\n");
        let subject = with_settings(&rules);
        let (ran, events) =
            subject.events(&["outcomes::", "retried::", "-j4", "--no-fail-fast", "--test=annotated"]);
        assert!(order(&events).len() > 8 && !overlaps(&events), "{rule}: {}", ran.stderr);
    }
}
