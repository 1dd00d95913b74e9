//! What is in the store after a run, and while it goes on.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "these are tests")]

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use whole_program::etcd::Etcd;
use whole_program::subject::{Ran, Subject};

fn shown(subject: &Subject, arguments: &[&str]) -> Value {
    let ran = subject.etcdtest(&[&["runs", "show", "--format", "json"], arguments].concat());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    serde_json::from_str(&ran.stdout).unwrap()
}

fn git(subject: &Subject, arguments: &[&str]) -> String {
    let mut git = Command::new("git");
    git.current_dir(subject.path()).args(["-c", "user.name=Ann", "-c", "user.email=ann@example.org"]);
    let output = git.args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_run_pins_its_tests_environments_code_author_and_command() {
    let subject = Subject::new();
    // Cargo writes the lock file of what it builds.
    assert_eq!(subject.etcdtest(&["list"]).code, Some(0));
    git(&subject, &["init", "--quiet", "--initial-branch", "trunk"]);
    git(&subject, &["add", "Cargo.toml", "Cargo.lock", "src", "tests"]);
    git(&subject, &["commit", "--quiet", "--message", "Start"]);
    subject.etcdtest(&["tagged::one", "--run-id", "clean"]);
    subject.environment("local", "url = \"x\"", &[]);
    subject.etcdtest(&["tagged::two", "--run-id", "dirty"]);

    let (clean, dirty) = (shown(&subject, &["clean"]), shown(&subject, &["dirty"]));
    let commit = git(&subject, &["rev-parse", "HEAD"]);
    assert_eq!(clean["commit"], json!({ "id": commit, "branch": "trunk", "dirty": false }));
    assert_eq!(dirty["commit"]["dirty"], true);
    assert_eq!(clean["environments"][0], json!({ "name": "local", "version": 0, "revision": 0 }));
    let pinned = &dirty["environments"][0];
    assert_eq!(pinned["version"], 1);
    assert!(pinned["revision"].as_i64().unwrap() > 0);
    assert_eq!(dirty["snapshots"][0]["config"], json!({ "url": "x" }));
    assert_eq!(dirty["snapshots"][0]["revision"], pinned["revision"]);
    let command: Vec<_> =
        dirty["command"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    assert_eq!(command, ["cargo", "etcdtest", "run", "tagged::two", "--run-id", "dirty"]);
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    assert!(dirty["author"].as_str().unwrap().ends_with(&format!("@{host}")), "{}", dirty["author"]);
}

#[tokio::test]
async fn the_test_list_digest_is_that_of_all_tests_and_a_password_stays_out_of_the_record() {
    let etcd = Etcd::with_users(&[]).await;
    let subject = Subject::new();
    let store = ["--endpoints", &etcd.endpoint(), "--user", "root:root"];
    for run in ["tagged::one", "tagged::two"] {
        let ran = subject.etcdtest(&[&[run, "--run-id", run], &store[..]].concat());
        assert_eq!(ran.code, Some(0), "{ran:?}");
    }
    let store =
        cargo_etcdtest::store::etcd::EtcdStore::connect(etcd.options_as("root", "root")).await.unwrap();
    let read = async |id: &str| {
        let key = cargo_etcdtest::store::keys::run(&cargo_etcdtest::model::RunId::new(id));
        let pair = cargo_etcdtest::store::get(&store, key).await.unwrap().unwrap();
        String::from_utf8(pair.value).unwrap()
    };
    let records = [read("tagged::one").await, read("tagged::two").await];
    let [one, two] = records.each_ref().map(|text| serde_json::from_str::<Value>(text).unwrap());
    assert_eq!(one["tests_digest"].as_str().unwrap().len(), 64);
    assert_eq!(one["tests_digest"], two["tests_digest"]);
    assert_ne!(one["plan_digest"], two["plan_digest"]);
    assert!(records[0].contains("root:***") && !records[0].contains("root:root"), "{}", records[0]);
}

#[test]
fn a_result_is_seen_by_other_processes_within_a_second_while_the_run_goes_on() {
    let subject = Subject::new();
    let mut run = subject.start(&["gate::", "--run-id", "live", "--test-threads", "2", "--format", "json"]);
    run.line_with("unit-finished").unwrap();
    let seen = Instant::now();
    let mut looks = 0;
    while shown(&subject, &["live"])["counts"]["passed"] == 0 {
        looks += 1;
        // A look takes as long as the machine is loaded; among so many there was a second.
        assert!(
            looks < 20 || seen.elapsed() < Duration::from_secs(1),
            "no result after {:?}",
            seen.elapsed()
        );
    }
    let document = shown(&subject, &["live"]);
    assert_eq!(document["state"], "running");
    fs::write(subject.meeting("go"), "").unwrap();
    assert_eq!(run.end().code, Some(0));
    assert_eq!(shown(&subject, &["live"])["counts"]["passed"], 20);
}

#[test]
fn every_run_is_kept_and_the_latest_result_knows_those_before_it() {
    let subject = Subject::new();
    // The environment decides how the test ends.
    for url in ["", "url = \"x\"", ""] {
        subject.environment("local", url, &[]);
        subject.etcdtest(&["subject::annotated::config::is_asked_for"]);
    }
    let list = subject.etcdtest(&["runs", "list", "--format", "json"]);
    let failed: Vec<_> = list
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["counts"]["failed"].clone())
        .collect();
    assert_eq!(failed, [1, 0, 1], "newest first");

    let store = cargo_etcdtest::store::local::LocalStore::open(&subject.path().join(".etcdtest")).unwrap();
    let id = cargo_etcdtest::model::TestCaseId::new("subject", "annotated", "config::is_asked_for");
    let key = cargo_etcdtest::store::keys::latest_result(&id, "local");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let pair = runtime.block_on(cargo_etcdtest::store::get(&store, key)).unwrap().unwrap();
    let latest: Value = serde_json::from_slice(&pair.value).unwrap();
    let verdicts: Vec<_> =
        latest["recent"].as_array().unwrap().iter().map(|recent| recent[2].clone()).collect();
    assert_eq!(verdicts, ["failed", "passed", "failed"]);
    assert_eq!(
        (&latest["result"]["outcome"], &latest["environment"]["version"]),
        (&json!("failed"), &json!(3))
    );
}

#[test]
fn output_is_stored_as_the_settings_say() {
    let subject = Subject::new();
    let tests =
        ["subject::annotated::outcomes::panics", "subject::annotated::outcomes::passes", "--no-fail-fast"];
    for (whose, of_failed, of_passed) in [("failed", 1, 0), ("all", 1, 1), ("none", 0, 0)] {
        subject.etcdtest(&[&tests[..], &["--store-output", whose]].concat());
        let document = shown(&subject, &[]);
        let streams = |test: &str| {
            let unit = document["units"].as_array().unwrap().iter().find(|unit| unit["id"] == test).unwrap();
            let output = unit["attempts"][0]["output"].as_array().cloned().unwrap_or_default();
            output
                .iter()
                .filter(|stream| !stream["name"].as_str().unwrap().starts_with("attachments/"))
                .count()
        };
        assert_eq!(streams("subject::annotated::outcomes::panics"), of_failed, "{whose}");
        let passed = streams("subject::annotated::outcomes::passes");
        assert_eq!(passed, of_passed, "{whose}");
    }
}

#[test]
fn reports_are_stored_exported_and_written_where_the_profile_says() {
    let subject = Subject::new();
    subject.write(".config/etcdtest.toml", "[profile.ci]\njunit = \"out/junit.xml\"\nmax-fail = \"all\"\n");
    // From a folder inside, the file is still where the settings say.
    let mut command = subject.command(&["--profile", "ci", "outcomes::panics"]);
    let ran = Ran::of(command.current_dir(subject.path().join("tests")));
    assert_eq!(ran.code, Some(100), "{ran:?}");
    let written = fs::read_to_string(subject.path().join("out/junit.xml")).unwrap();
    assert!(
        written.contains(r#"classname="subject::annotated""#) && written.contains("<failure"),
        "{written}"
    );
    let exported = subject.etcdtest(&["report", "export", "--format", "junit"]);
    assert_eq!(exported.stdout, written);
    let summary = subject.etcdtest(&["report", "export", "--format", "json"]);
    let summary: Value = serde_json::from_str(&summary.stdout).unwrap();
    assert_eq!(summary["counts"]["failed"], 2);
}

#[test]
fn a_report_that_cannot_be_written_is_told_and_stays_in_the_store() {
    let subject = Subject::new();
    subject.write(".config/etcdtest.toml", "[profile.default]\njunit = \"Cargo.toml/junit.xml\"\n");
    let ran = subject.etcdtest(&["tagged::one"]);
    ran.refuses(2, &["failed to write the JUnit report", "Cargo.toml/junit.xml", "report export"]);
    assert!(subject.etcdtest(&["report", "export"]).stdout.contains("<testsuites"));
}

#[test]
fn two_runs_at_once_on_the_local_store_both_complete() {
    two_at_once(&[]);
}

#[test]
fn two_runs_at_once_on_one_etcd_both_complete() {
    let etcd = Etcd::start();
    two_at_once(&["--endpoints", &etcd.endpoint()]);
}

fn two_at_once(store: &[&str]) {
    let subject = Subject::new();
    let arguments = [&["gate::", "--format", "json", "--test-threads", "2"], store].concat();
    let mut runs = [subject.start(&arguments), subject.start(&arguments)];
    // Both are under way before either can end.
    for run in &mut runs {
        run.line_with("unit-finished").unwrap();
    }
    fs::write(subject.meeting("go"), "").unwrap();
    let ended = runs.map(|run| {
        let ran = run.end();
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let events = ran.events();
        assert_eq!(events.iter().filter(|event| event["event"] == "unit-finished").count(), 20);
        events.last().unwrap()["run"].clone()
    });
    assert_ne!(ended[0], ended[1]);
    let list = subject.etcdtest(&[&["runs", "list"], store].concat());
    assert_eq!(list.stdout.matches("20 passed").count(), 2, "{}", list.stdout);
}

#[test]
fn the_id_of_another_run_is_refused() {
    let subject = Subject::new();
    assert_eq!(subject.etcdtest(&["tagged::one", "--run-id", "nightly"]).code, Some(0));
    let before = shown(&subject, &["nightly"]);
    let again = subject.etcdtest(&["tagged::two", "--run-id", "nightly"]);
    let texts =
        ["the run `nightly` is of other tests", "only here, in `local`: subject::annotated::tagged::two"];
    again.refuses(2, &texts);
    assert_eq!(shown(&subject, &["nightly"]), before);
    for wrong in ["", "latest"] {
        subject.etcdtest(&["tagged::two", "--run-id", wrong]).refuses(2, &["--run-id"]);
    }
}
