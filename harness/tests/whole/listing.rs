//! What a test binary says of its tests.

use std::time::Duration;

use etcdtest::protocol::{ENVIRONMENT_VARIABLE, LIST_VARIABLE, Listed, Listing};

use crate::project::{PROJECT, finish};

const TERSE: [&str; 3] = ["--list", "--format", "terse"];

/// A file that would be an error if it were read.
const NO_ENVIRONMENT: (&str, &str) = (ENVIRONMENT_VARIABLE, "/nowhere/at/all.toml");

#[test]
fn the_runner_gets_everything_that_the_author_said() {
    let (name, value) = NO_ENVIRONMENT;
    let mut own = PROJECT.test("own");
    let listed = finish(own.args(TERSE).env(LIST_VARIABLE, "1").env(name, value));
    assert_eq!((listed.code, listed.stderr.as_str()), (Some(0), ""));
    assert_eq!(listed.stdout.lines().count(), 1);
    let Listing { tests } = Listing::from_line(&listed.stdout).unwrap().unwrap();

    assert!(tests.is_sorted_by(|a, b| a.name < b.name));
    let test = |name: &str| tests.iter().find(|test| test.name == name).unwrap().clone();
    let source = include_str!("fixture/own.rs");
    let line_of = |text: &str| {
        let before = source.lines().position(|line| line.contains(text)).unwrap();
        u32::try_from(before + 1).unwrap()
    };
    assert_eq!(
        test("documented"),
        Listed {
            name: "documented".into(),
            description: "A paid order is listed as paid.".into(),
            steps: vec!["Create an order.".into(), "Pay it by card.".into()],
            expected: "The order list shows it as `paid`.".into(),
            tags: vec!["smoke".into(), "orders".into()],
            owner: Some("payments".into()),
            timeout: Some(Duration::from_secs(90)),
            retries: Some(2),
            environments: vec!["staging-*".into()],
            exclusive: Some("printer".into()),
            needs: vec!["gpu".into()],
            ignore: None,
            should_panic: false,
            typed: false,
            file: "tests/own.rs".into(),
            line: line_of("async fn documented"),
        }
    );
    assert_eq!(test("passes::cases::large").line, line_of("cases(small(1"));
    assert!(test("passes::panics").should_panic);
    for (name, typed) in
        [("needs::text", true), ("needs::more_than_the_case_gives::one", true), ("needs::dotted", false)]
    {
        assert_eq!(test(name).typed, typed, "{name}");
    }
    assert_eq!(test("ignored::with_a_reason").ignore.as_deref(), Some("slow"));
    assert_eq!(test("ignored::without_a_reason").ignore.as_deref(), Some(""));
    assert_eq!(
        test("skips"),
        Listed {
            name: "skips".into(),
            file: "tests/own.rs".into(),
            line: line_of("fn skips"),
            ..Listed::default()
        }
    );
}

#[test]
fn the_example_of_the_front_page_says_what_it_shows() {
    let listed = finish(PROJECT.test("front_page").args(TERSE).env(LIST_VARIABLE, "1"));
    let Listing { tests } = Listing::from_line(&listed.stdout).unwrap().unwrap();
    assert_eq!(tests.len(), 1);
    assert_eq!(tests[0].name, "paid_order_is_listed");
    assert_eq!(tests[0].description, "A paid order is listed as paid.");
    assert_eq!(tests[0].steps, ["Create an order.", "Pay it."]);
    assert_eq!(tests[0].expected, "The order list shows it as `paid`.");
}

#[test]
fn libtest_and_the_harness_list_the_same_names() {
    let (name, value) = NO_ENVIRONMENT;
    for more in [&[][..], &["--ignored"], &["passes"], &["--skip", "fails"], &["skips", "--exact"]] {
        let list = |target| {
            let listed = finish(PROJECT.test(target).args(TERSE).args(more).env(name, value));
            assert_eq!(listed.code, Some(0), "{}", listed.stderr);
            let mut lines: Vec<String> = listed.stdout.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(list("own"), list("forgotten"), "{more:?}");
        assert!(!list("own").is_empty(), "{more:?}");
    }
}

#[test]
fn a_plain_binary_prints_its_plain_list_to_the_runner_too() {
    let listed = finish(PROJECT.test("whole").args(TERSE).env(LIST_VARIABLE, "1"));
    assert_eq!(Listing::from_line(&listed.stdout), None);
    let mut lines: Vec<&str> = listed.stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        ["tests::deeper::sized::large: test", "tests::deeper::sized::small: test", "tests::plain: test"]
    );
}

#[test]
fn two_tests_of_one_name_are_an_error() {
    let message = "error: two tests are named `orders::paid`: tests/twice.rs:5 and tests/twice.rs:8\n";
    for runner in [None, Some("1")] {
        let mut twice = PROJECT.test("twice");
        twice.args(TERSE).envs(runner.map(|version| (LIST_VARIABLE, version)));
        let listed = finish(&mut twice);
        assert_eq!((listed.code, listed.stdout.as_str(), listed.stderr.as_str()), (Some(101), "", message));
    }
}
