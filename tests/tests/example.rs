//! The example's tests under each runner.

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::process::Command;

use whole_program::FreshCopy;
use whole_program::subject::{Ran, Running};

/// The names of tests by how they ended.
#[derive(Debug, Default, PartialEq)]
struct Outcomes {
    passed: BTreeSet<String>,
    others: BTreeSet<String>,
}

impl Outcomes {
    /// Runs the command, and reads each line of its output; `read` gives a test's name and
    /// whether it passed.
    fn of(command: &mut Command, read: impl Fn(&str) -> Option<(&str, bool)>) -> Self {
        let output = Running::start(command).output();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        assert!(output.status.success(), "{command:?}:\n{text}");
        let mut outcomes = Self::default();
        for (name, passed) in text.lines().filter_map(read) {
            let names = if passed { &mut outcomes.passed } else { &mut outcomes.others };
            assert!(names.insert(name.to_owned()), "{name} ended twice:\n{text}");
        }
        outcomes
    }
}

/// Stores the environments of the example.
fn apply(copy: &FreshCopy) {
    let mut apply = copy.command("cargo");
    let applied = Ran::of(apply.args(["etcdtest", "env", "apply", "examples/shop/environments"]));
    assert_eq!(applied.code, Some(0), "{applied:?}");
}

#[test]
fn the_examples_tests_end_alike_under_cargo_test_and_nextest_and_the_runner() {
    let copy = FreshCopy::new("example");
    apply(&copy);
    let ours =
        Outcomes::of(copy.command("cargo").args(["etcdtest", "run", "--package", "shop"]), |line| match line
            .split_once(']')
        {
            Some((verdict, test)) if verdict.trim_start().starts_with("PASS [") => {
                Some((test.split(' ').nth(2)?, true))
            }
            Some((verdict, test)) if verdict.trim_start().starts_with("SKIP [") => {
                Some((test.split(' ').nth(2)?.trim_end_matches(':'), false))
            }
            _ => None,
        });
    assert_eq!(ours.passed.len(), 25, "{ours:?}");
    assert_eq!(ours.others.iter().collect::<Vec<_>>(), ["orders::the_public_address_leads_to_the_shop"]);

    let libtest = Outcomes::of(copy.command("cargo").args(["test", "--package", "shop"]), |line| {
        let (name, outcome) = line.strip_prefix("test ")?.split_once(" ... ")?;
        Some((name.trim(), outcome == "ok"))
    });
    assert_eq!(libtest.passed, ours.passed);

    let mut nextest = copy.command("cargo");
    if !nextest.args(["nextest", "--version"]).output().is_ok_and(|output| output.status.success()) {
        eprintln!("not compared with nextest: `cargo nextest` is not installed");
        return;
    }
    let nextest = Outcomes::of(copy.command("cargo").args(["nextest", "run", "--package", "shop"]), |line| {
        let (verdict, test) = line.split_once(") shop")?;
        Some((test.split(' ').nth(1)?, verdict.trim_start().starts_with("PASS")))
    });
    // It knows no test that skips itself: such a test passes there.
    assert_eq!(nextest.passed, &ours.passed | &ours.others);
    assert!(nextest.others.is_empty(), "{nextest:?}");
}

#[test]
fn the_runner_starts_the_shop_and_leaves_nothing_of_it() {
    let copy = FreshCopy::new("example_services");
    apply(&copy);
    let mut run = copy.command("cargo");
    run.args([
        "etcdtest",
        "run",
        "--package",
        "shop",
        "--env",
        "local",
        "--env",
        "staging",
        "--format",
        "json",
    ]);
    let ran = Ran::of(&mut run);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let events = ran.events();
    let ready = |environment: &str| {
        let ready =
            events.iter().filter(|event| event["event"] == "ready" && event["environment"] == environment);
        let names = ready.map(|event| event["service"].as_str().unwrap_or("a probe"));
        names.collect::<Vec<_>>()
    };
    for environment in ["local", "staging"] {
        let ready = ready(environment);
        assert_eq!(ready[2..], ["orders", "a probe"], "{ready:?}");
    }
    // The order of the tests in staging does not matter: one of them finds the warehouse cold.
    let flaky = events.iter().filter(|event| event["verdict"] == "flaky").collect::<Vec<_>>();
    assert_eq!(flaky.len(), 1, "{flaky:?}");
    for url in events.iter().filter_map(|event| event["url"].as_str()) {
        let address = url.strip_prefix("http://").unwrap();
        assert!(TcpStream::connect(address).is_err(), "{address} still answers");
    }
}
