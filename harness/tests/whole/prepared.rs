//! What is prepared once for all tests of a binary.

use std::collections::BTreeSet;

use etcdtest::protocol::{LIST_VARIABLE, Outcome, ZygoteEvent};
use serde_json::json;

use crate::forked::Zygote;
use crate::project::{FORKED, finish};
use crate::runner::{Attempt, attempt_in, start};

const TWO: &str = "two functions prepare a `u8`: tests/two_providers.rs:4 and tests/two_providers.rs:9";
const NONE: &str = "the test `takes` (tests/no_provider.rs:4) takes a `&Prepared<u8>`, but no function of \
                    this binary prepares one: put `#[etcdtest::prepare]` on a function that returns a `u8`";

fn failure(outcome: Option<&Outcome>) -> &str {
    match outcome {
        Some(Outcome::Failed { message, .. }) => message,
        other => panic!("{other:?} is no failure"),
    }
}

#[test]
fn all_attempts_of_a_zygote_share_one_value() {
    let (mut zygote, _) = Zygote::start(&mut FORKED.test("zygote"));
    let prepared_in = zygote.process.id().to_string();
    let (mut addresses, mut processes) = (BTreeSet::new(), BTreeSet::new());
    for test in ["takes::catalog::one", "takes::catalog::two", "takes::catalog::one"] {
        let (ended, _) = zygote.run(&start(test, json!({})));
        assert_eq!(ended.outcome(), Some(&Outcome::Passed), "{}", ended.stderr);
        let said = ended.attachment("catalog");
        let [by, address, process] = said.split(' ').collect::<Vec<_>>()[..] else { panic!("{said}") };
        assert_eq!(by, prepared_in);
        addresses.insert(address.to_owned());
        processes.insert(process.to_owned());
    }
    assert_eq!((addresses.len(), processes.len()), (1, 3));
}

#[test]
fn an_attempt_that_is_started_alone_prepares_what_it_takes() {
    let own = attempt_in(&FORKED, "zygote", &start("takes::catalog::one", json!({})));
    assert_eq!(own.outcome(), &Outcome::Passed);
    assert!(own.attachment("catalog").starts_with(own.attachment("catalog").rsplit(' ').next().unwrap()));
    // Threads are no trouble there.
    let Attempt { events, .. } = attempt_in(&FORKED, "left_threads", &start("passes", json!({})));
    assert_eq!(events.len(), 1);
}

#[test]
fn what_cannot_be_prepared_fails_the_tests_that_take_it_with_the_cause() {
    let (mut zygote, _) = Zygote::start(&mut FORKED.test("zygote"));
    let mut outcome = |test| zygote.run(&start(test, json!({}))).0.outcome().cloned();
    let broken = outcome("takes::broken");
    assert_eq!(failure(broken.as_ref()), "prepare `broken` failed: invalid digit found in string");
    let panicked = outcome("takes::what_panics");
    let panicked = failure(panicked.as_ref());
    let (place, message) = panicked.rsplit_once(": ").unwrap();
    assert!(place.starts_with("prepare `panics` failed: panicked at tests/zygote.rs:"), "{panicked}");
    assert_eq!(message, "no disk");
    assert_eq!(outcome("takes::what_skips"), Some(Outcome::Skipped("no broker here".into())));
    assert_eq!(outcome("takes::catalog::two"), Some(Outcome::Passed));
}

#[test]
fn it_runs_once_in_a_process_of_cargo_test_too() {
    for target in ["zygote", "forgotten"] {
        let ended = finish(FORKED.test(target).args(["takes::", "--test-threads", "4"]));
        assert_eq!(ended.code, Some(101));
        let said = |test: &str, outcome: &str| {
            let line = |line: &str| line.contains(&format!("test {test} ")) && line.ends_with(outcome);
            ended.stdout.lines().any(line)
        };
        for test in ["takes::catalog::one", "takes::catalog::two"] {
            assert!(said(test, "ok"), "{target} {test}: {}", ended.stdout);
        }
        for test in ["takes::broken", "takes::what_panics"] {
            assert!(said(test, "FAILED"), "{target} {test}: {}", ended.stdout);
        }
        assert!(ended.stdout.contains("prepare `broken` failed: invalid digit"), "{}", ended.stdout);
    }
}

#[test]
fn large_data_is_a_notice_that_says_what_a_fork_costs() {
    let (mut zygote, first) = Zygote::start(&mut FORKED.test("large"));
    let ZygoteEvent::Ready { memory_kib, notices } = first else { panic!("{first:?}") };
    assert!(memory_kib >= 60 << 10, "{memory_kib}");
    assert_eq!(notices.len(), 1);
    assert!(notices[0].starts_with("what is prepared takes 60 MB of memory"), "{notices:?}");
    let (ended, _) = zygote.run(&start("passes", json!({})));
    assert_eq!(ended.outcome(), Some(&Outcome::Passed));
}

#[test]
fn two_functions_for_a_type_or_none_are_errors_at_listing() {
    for (target, message) in [("two_providers", TWO), ("no_provider", NONE)] {
        for (variable, arguments) in
            [(None, &["--list"][..]), (Some("1"), &["--list", "--format", "terse"]), (None, &[])]
        {
            let mut command = FORKED.test(target);
            let listed = finish(command.args(arguments).envs(variable.map(|value| (LIST_VARIABLE, value))));
            assert_eq!((listed.code, listed.stderr), (Some(101), format!("error: {message}\n")));
        }
        let (mut zygote, _) = Zygote::start(&mut FORKED.test(target));
        let (ended, _) = zygote.run(&start("takes", json!({})));
        assert_eq!(failure(ended.outcome()), message);
    }
}
