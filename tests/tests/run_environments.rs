//! Which environment a run uses: inherited, an old version, or just what another run used.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "these are tests")]

use serde_json::{Value, json};
use whole_program::subject::{Ran, Subject};

const TEST: &str = "subject::annotated::config::is_read";

fn apply(subject: &Subject, name: &str, text: &str) {
    let file = format!("environments/{name}.toml");
    subject.write(&file, text);
    let applied = subject.etcdtest(&["env", "apply", &file]);
    assert_eq!(applied.code, Some(0), "{applied:?}");
}

/// Runs the test under this id, and gives what it saw.
fn run(subject: &Subject, id: &str, environment: &[&str]) -> String {
    let (ran, events) = subject.events(&[&[TEST, "--run-id", id], environment].concat());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let finished = events.iter().find(|event| event["event"] == "unit-finished").unwrap();
    finished["output"].as_str().unwrap().to_owned()
}

fn shown(subject: &Subject, id: &str) -> Value {
    let ran: Ran = subject.etcdtest(&["runs", "show", id, "--format", "json"]);
    serde_json::from_str(&ran.stdout).unwrap()
}

#[test]
fn a_run_uses_what_is_inherited_an_old_version_or_what_another_run_used() {
    let subject = Subject::new();
    apply(&subject, "base", "[config]\nurl = \"http://one\"\n");
    apply(&subject, "staging", "extends = \"base\"\n");
    assert_eq!(run(&subject, "first", &["--env", "staging"]), "staging@1 has http://one\n");
    apply(&subject, "base", "[config]\nurl = \"http://two\"\n");
    assert_eq!(run(&subject, "now", &["--env", "staging"]), "staging@1 has http://two\n");
    apply(&subject, "staging", "extends = \"base\"\n[config]\nurl = \"http://three\"\n");

    assert_eq!(run(&subject, "old", &["--env", "staging@1"]), "staging@1 has http://one\n");
    assert_eq!(run(&subject, "newest", &["--env", "staging"]), "staging@2 has http://three\n");
    assert_eq!(run(&subject, "again", &["--env-from", "now"]), "staging@1 has http://two\n");

    let (now, again) = (shown(&subject, "now"), shown(&subject, "again"));
    assert_eq!(now["snapshots"], again["snapshots"]);
    assert_eq!(now["environments"], again["environments"]);
    assert_eq!(again["snapshots"][0]["bases"][0]["name"], "base");
    assert_eq!(again["snapshots"][0]["bases"][0]["version"], 2);
    let text = subject.etcdtest(&["runs", "show", "again"]).stdout;
    assert!(text.contains("Environment staging, version 1 of revision "), "{text}");
    assert!(text.contains(", on base@2\n") && text.contains("url = \"http://two\"\n"), "{text}");
    let junit = subject.etcdtest(&["report", "export", "again", "--format", "junit"]).stdout;
    for (name, value) in [("version", json!(1)), ("revision", now["environments"][0]["revision"].clone())] {
        let property = format!("<property name=\"environment.{name}\" value=\"{value}\"/>");
        assert!(junit.contains(&property), "no {property} in {junit}");
    }
}

#[test]
fn an_environment_that_cannot_be_chosen_is_refused_before_anything_is_built() {
    let subject = Subject::new();
    apply(&subject, "staging", "");
    let refused = |arguments: &[&str], code, texts: &[&str]| {
        subject.etcdtest(&[&["run"], arguments].concat()).refuses(code, texts);
    };
    refused(&["--env", "staging", "--env-from", "latest"], 2, &["--env-from <RUN>", "cannot be used with"]);
    refused(&["--env-from", "latest"], 2, &["there is no run in this store yet"]);
    refused(&["--env", "staging@7"], 102, &["no version 7", "its last is 1"]);
    refused(&["--env", "staging@x"], 2, &["the number of a version is expected"]);
    refused(&["--env", "staging", "--env", "staging@1"], 2, &["chosen in two versions"]);
    refused(&["--env", "stagin@1"], 102, &["there is no environment `stagin`", "did you mean `staging`?"]);
}
