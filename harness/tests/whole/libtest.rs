//! The harness where libtest is expected.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use crate::project::{PROJECT, finish};

/// Outcomes by name, from the lines `test name ... outcome` that a binary printed.
fn outcomes(output: &str) -> BTreeMap<String, String> {
    let line = |line: &str| {
        let (name, outcome) = line.strip_prefix("test ")?.split_once(" ... ")?;
        let name = name.trim().trim_end_matches(" - should panic");
        let outcome = outcome.split([',', ' ']).next()?;
        Some((name.to_owned(), outcome.to_owned()))
    };
    output.lines().filter_map(line).collect()
}

fn expected(test: &str, outcome: &str) -> bool {
    match outcome {
        "ok" => test.starts_with("passes::") || ["documented", "talks_on", "needs::identity"].contains(&test),
        "FAILED" => test.starts_with("fails::") || test.starts_with("needs::") && test != "needs::identity",
        "ignored" => test.starts_with("ignored::") || test == "skips",
        _ => false,
    }
}

#[test]
fn each_test_ends_as_it_should_and_where_harness_false_was_forgotten_too() {
    let own = finish(&mut PROJECT.test("own"));
    assert_eq!(own.code, Some(101));
    let own = outcomes(&own.stdout);
    assert_eq!(own.len(), 26, "{own:?}");
    for (test, outcome) in &own {
        assert!(expected(test, outcome), "{test}: {outcome}");
    }

    let forgotten = finish(&mut PROJECT.test("forgotten"));
    assert_eq!(forgotten.code, Some(101));
    let mut forgotten = outcomes(&forgotten.stdout);
    // libtest knows no skip at run time.
    assert_eq!(forgotten.insert("skips".into(), "ignored".into()).as_deref(), Some("ok"));
    assert_eq!(own, forgotten);
}

#[test]
fn a_failure_says_why_in_either_kind_of_binary() {
    for target in ["own", "forgotten"] {
        let failed = finish(PROJECT.test(target).args(["--exact", "fails::by_error"]));
        assert_eq!(failed.code, Some(101));
        let cause = "the order was refused\n  caused by: invalid digit found in string";
        assert!(failed.stdout.contains(cause), "{target}: {}", failed.stdout);

        let failed = finish(PROJECT.test(target).args(["--exact", "fails::by_panic"]));
        assert!(failed.stdout.contains("no money"), "{target}: {}", failed.stdout);
        let place = format!("panicked at tests/{target}.rs:");
        assert!(failed.stdout.contains(&place), "{target}: {}", failed.stdout);
    }
}

#[test]
fn a_library_runs_its_annotated_tests() {
    let library = finish(&mut PROJECT.test("whole"));
    assert_eq!(library.code, Some(0), "{}", library.stdout);
    assert_eq!(outcomes(&library.stdout).len(), 3);
}

#[test]
fn tests_are_chosen_as_libtest_chooses_them() {
    for (arguments, counts) in [
        (&["documented", "--exact"][..], "1 passed; 0 failed; 0 ignored"),
        (&["--exact", "passes::cases::small", "--nocapture"], "1 passed; 0 failed; 0 ignored"),
        (&["passes", "--no-capture"], "5 passed; 0 failed; 0 ignored"),
        (&["passes", "--skip", "cases"], "3 passed; 0 failed; 0 ignored"),
        (&["ignored"], "0 passed; 0 failed; 2 ignored"),
        (&["ignored", "--ignored"], "1 passed; 1 failed; 0 ignored"),
        (&["ignored::without", "--include-ignored"], "1 passed; 0 failed; 0 ignored"),
        (&["passes", "--test-threads", "1"], "5 passed; 0 failed; 0 ignored"),
        (&["no such test"], "0 passed; 0 failed; 0 ignored"),
    ] {
        for target in ["own", "forgotten"] {
            let run = finish(PROJECT.test(target).args(arguments));
            assert!(run.stdout.contains(counts), "{target} {arguments:?}: {}", run.stdout);
            let code = if counts.contains("; 0 failed") { 0 } else { 101 };
            assert_eq!(run.code, Some(code), "{target} {arguments:?}");
        }
    }
}

#[test]
fn an_exact_name_that_no_test_has_is_an_error() {
    let run = finish(PROJECT.test("own").args(["--exact", "document"]));
    assert_eq!((run.code, run.stdout.as_str()), (Some(101), ""));
    assert_eq!(run.stderr, "error: there is no test `document` in this binary, and `--exact` asks for it\n");
}

#[test]
fn cargo_test_runs_every_target() {
    let arguments = ["test", "--no-fail-fast", "--lib", "--test", "own", "--test", "forgotten", "--"];
    let run = finish(PROJECT.cargo().args(arguments).args(["--skip", "fails", "--skip", "needs"]));
    assert_eq!(run.code, Some(0), "{}{}", run.stdout, run.stderr);
    let summaries: Vec<&str> =
        run.stdout.lines().filter(|line| line.starts_with("test result: ok")).collect();
    let counts = summaries.iter().map(|line| line.split(';').next().unwrap().trim_end_matches(" passed"));
    assert_eq!(
        counts.collect::<Vec<_>>(),
        ["test result: ok. 3", "test result: ok. 8", "test result: ok. 7"],
        "library, forgotten, own"
    );
}

/// nextest is a peer that a machine may lack; `ETCDTEST_REQUIRE_NEXTEST` makes that an error.
#[test]
fn nextest_runs_the_same_tests_with_the_same_outcomes() {
    let here = Command::new(env!("CARGO")).args(["nextest", "--version"]).stdout(Stdio::null()).status();
    if !here.is_ok_and(|status| status.success()) {
        let required = std::env::var_os("ETCDTEST_REQUIRE_NEXTEST").is_some();
        assert!(!required, "`cargo nextest` is not installed");
        println!("not compared with nextest: `cargo nextest` is not installed");
        return;
    }
    let run = |target: &str| {
        let mut nextest = PROJECT.cargo();
        nextest.args(["nextest", "run", "--no-fail-fast", "--color", "never", "--test", target]);
        let run = finish(&mut nextest);
        assert_eq!(run.code, Some(100), "{}", run.stderr);
        // `        PASS [   0.004s] ( 1/19) whole::own documented`
        let line = |line: &str| {
            let (outcome, test) = (line.split_whitespace().next()?, line.split_whitespace().last()?);
            let outcome = ["PASS", "FAIL"].into_iter().find(|known| *known == outcome)?;
            line.contains(&format!("whole::{target} ")).then(|| (test.to_owned(), outcome))
        };
        run.stderr.lines().filter_map(line).collect::<BTreeMap<_, _>>()
    };
    let own = run("own");
    assert_eq!(own.len(), 24, "{own:?}");
    for (test, outcome) in &own {
        let libtest = if *outcome == "PASS" { "ok" } else { "FAILED" };
        assert!(expected(test, libtest) || test == "skips" && *outcome == "PASS", "{test}: {outcome}");
    }
    assert_eq!(own, run("forgotten"));
}
