//! What a test binary says of environments that its tests would run in.

use std::io::Write;
use std::process::Stdio;

use etcdtest::protocol::{CHECK_ARGUMENT, Check, Checked, EnvironmentData};
use serde_json::{Value, json};

use crate::project::{Finished, PROJECT};

const FINE: &str = "staging";

fn environment(name: &str, config: Value, tests: &[&str]) -> (EnvironmentData, Vec<String>) {
    let data = EnvironmentData { name: name.to_owned(), config, ..EnvironmentData::default() };
    (data, tests.iter().map(|&test| test.to_owned()).collect())
}

fn ask(question: &str) -> Finished {
    let mut binary = PROJECT.test("own");
    binary.arg(CHECK_ARGUMENT).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = binary.spawn().unwrap();
    child.stdin.take().unwrap().write_all(question.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Finished { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// What the environments lack, a line each.
fn lacks(environments: Vec<(EnvironmentData, Vec<String>)>) -> Vec<String> {
    let answer = ask(&Check { environments }.to_json());
    assert_eq!((answer.code, answer.stderr.as_str()), (Some(0), ""));
    let checked = Checked::from_line(&answer.stdout).unwrap();
    let line = |lack: etcdtest::protocol::Lack| {
        let etcdtest::protocol::Lack { environment, test, parameter, key, reason } = lack;
        format!("{environment} {test} ({parameter}) {key}: {}", reason.as_deref().unwrap_or("missing"))
    };
    checked.lacks.into_iter().map(line).collect()
}

#[test]
fn all_that_tests_lack_in_all_environments_is_said_at_once_and_nothing_runs() {
    let fine = json!({ "region": "eu", "orders": { "url": "u", "port": 80 } });
    let poor = json!({ "region": 7, "orders": { "port": "hidden" } });
    let typed = ["needs::tables", "needs::text", "needs::more_than_the_case_gives::one", "needs::identity"];
    assert_eq!(
        lacks(vec![
            environment(FINE, fine, &typed),
            environment("poor", poor, &typed),
            environment("empty", json!({}), &["needs::tables", "needs::text", "fails::at_great_length"]),
        ]),
        [
            "poor needs::tables (shop: Shop) orders.port: expected u16, found a string",
            "poor needs::tables (shop: Shop) orders.url: missing",
            "poor needs::text (region: String) region: expected a string, found an integer",
            "poor needs::more_than_the_case_gives::one (shop: Shop) orders.port: expected u16, found a string",
            "poor needs::more_than_the_case_gives::one (shop: Shop) orders.url: missing",
            "empty needs::tables (shop: Shop) orders: missing",
            "empty needs::text (region: String) region: missing",
        ]
    );
}

#[test]
fn a_question_that_makes_no_sense_is_an_error() {
    let unknown = Check { environments: vec![environment(FINE, json!({}), &["no::such"])] };
    for (question, message) in [
        ("", "error: the runner asked for a check that this version does not understand\n"),
        ("{\"etcdtest\":2}", "error: the runner asked for a check that this version does not understand\n"),
        (&unknown.to_json(), "error: there is no test `no::such` in this binary\n"),
    ] {
        let answer = ask(question);
        assert_eq!((answer.code, answer.stdout.as_str(), answer.stderr.as_str()), (Some(101), "", message));
    }
}
