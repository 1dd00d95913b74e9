//! Following a run from another process, and interrupting it.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "these are tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use whole_program::etcd::Etcd;
use whole_program::processes::{eventually, has_ended};
use whole_program::subject::Subject;

/// How often each unit has a result.
fn results(events: &[Value]) -> BTreeMap<u64, usize> {
    let mut results = BTreeMap::new();
    for event in events.iter().filter(|event| event["event"] == "unit-finished") {
        *results.entry(event["unit"].as_u64().unwrap()).or_default() += 1;
    }
    results
}

fn watch_from_the_middle(store: &[&str]) {
    let subject = Subject::new();
    let arguments =
        ["gate::", "retried::never", "--run-id", "watched", "--test-threads", "2", "--format", "json"];
    let mut run = subject.start(&[&arguments[..], &["--no-fail-fast"], store].concat());
    run.line_with("unit-finished").unwrap();
    let mut watches = [(); 2].map(|()| subject.start(&[&["watch", "--format", "json"], store].concat()));
    for watch in &mut watches {
        // What was before, and then nothing more until the tests may go on.
        watch.line_with("unit-finished").unwrap();
    }
    fs::write(subject.meeting("go"), "").unwrap();
    let ran = run.end();
    assert_eq!(ran.code, Some(100), "{ran:?}");
    let told = ran.events();
    let expected: BTreeMap<u64, usize> = (0..21).map(|unit| (unit, 1)).collect();
    assert_eq!(results(&told), expected);
    for watch in watches {
        let seen = watch.end();
        assert_eq!(seen.code, ran.code, "{seen:?}");
        let events = seen.events();
        assert_eq!(results(&events), expected);
        assert_eq!(events[0], told[0]);
        assert_eq!(events.last(), told.last());
        let verdict = |events: &[Value], unit: u64| {
            events.iter().find(|event| event["event"] == "unit-finished" && event["unit"] == unit).unwrap()["verdict"]
                .clone()
        };
        assert!((0..21).all(|unit| verdict(&events, unit) == verdict(&told, unit)));
    }
    // What is over is told as well.
    let after = subject.etcdtest(&[&["watch", "watched", "--format", "json"], store].concat());
    assert_eq!((after.code, results(&after.events())), (Some(100), expected));
    let text = subject.etcdtest(&[&["watch", "watched"], store].concat()).stdout;
    assert!(text.contains("21 tests run: 20 passed, 1 failed"), "{text}");
}

#[test]
fn a_watch_from_the_middle_tells_each_result_once_and_ends_with_the_run() {
    watch_from_the_middle(&[]);
}

#[test]
fn a_watch_from_the_middle_tells_each_result_once_and_ends_with_the_run_on_etcd() {
    let etcd = Etcd::start();
    watch_from_the_middle(&["--endpoints", &etcd.endpoint()]);
}

#[test]
fn a_run_that_nobody_works_for_is_said_to_be_stalled() {
    let subject = Subject::new();
    let mut run = subject.start(&["endless::", "--skip", "too", "--run-id", "left", "--format", "json"]);
    run.line_with("unit-finished").unwrap();
    let mut watch = subject.start(&["watch", "left", "--format", "json"]);
    watch.line_with("run-started").unwrap();
    let pids = waiting(&subject);
    run.signal(Signal::KILL);
    run.end();
    for pid in pids {
        eventually(|| has_ended(pid).then_some(()), "the end of a process");
    }
    let stalled = watch.line_with("run-stalled").expect("it is told when the worker's lease has ended");
    let stalled: Value = serde_json::from_str(&stalled).unwrap();
    assert_eq!(stalled["run"], "left");
    let reason = stalled["reason"].as_str().unwrap();
    assert!(reason.contains("`cargo etcdtest runs resume left`"), "{reason}");
    assert!(subject.etcdtest(&["runs", "list"]).stdout.contains("stalled"));
    let mut watch = subject.start(&["watch", "left"]);
    let line = watch.line_with("Stalled").unwrap();
    assert!(line.contains(&format!("run left: {reason}")), "{line}");
}

#[test]
fn an_unknown_run_cannot_be_watched() {
    let subject = Subject::new();
    subject
        .etcdtest(&["watch"])
        .refuses(2, &["there is no run in this store yet", "`cargo etcdtest run` makes one"]);
    subject.etcdtest(&["tagged::one", "--run-id", "nightly"]);
    subject.etcdtest(&["watch", "nightyl"]).refuses(2, &["there is no run `nightyl`", "`nightly`"]);
}

/// The test that waits for ever and its child, once they run.
fn waiting(subject: &Subject) -> Vec<Pid> {
    let ids = eventually(|| fs::read_to_string(subject.meeting("waits")).ok(), "the test");
    ids.split(' ').map(|id| Pid::from_raw(id.parse().unwrap()).unwrap()).collect()
}

fn interrupted_by(signal: Signal) {
    let subject = Subject::new();
    let temporary = tempfile::tempdir().unwrap();
    let mut command = subject.command(&["endless::", "--run-id", "cut", "--test-threads", "2"]);
    command.args(["--format", "json"]).env("TMPDIR", temporary.path());
    let mut run = whole_program::subject::Running::start(&mut command);
    run.line_with("unit-finished").unwrap();
    let pids = waiting(&subject);
    run.signal(signal);
    let ran = run.end();
    assert_eq!(ran.code, Some(130), "{ran:?}");
    let events = ran.events();
    let cancelled = events.iter().find(|event| event["event"] == "run-cancelled").unwrap();
    assert_eq!(cancelled["reason"], "it was interrupted");
    let last = events.last().unwrap();
    assert_eq!((&last["event"], &last["cancelled"]), (&json!("run-ended"), &json!(true)));
    assert_eq!((&last["counts"]["passed"], &last["counts"]["not_run"]), (&json!(1), &json!(2)));

    let shown = subject.etcdtest(&["runs", "show", "cut", "--format", "json"]);
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!((&shown["state"], &shown["counts"]), (&json!("cancelled"), &last["counts"]));
    for pid in pids {
        assert!(has_ended(pid), "{pid:?} is still there");
    }
    assert_eq!(left(temporary.path()), Vec::<String>::new(), "temporary files are left");
}

fn left(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn an_interrupted_run_keeps_its_results_and_leaves_nothing_running() {
    interrupted_by(Signal::INT);
}

#[test]
fn a_run_that_is_asked_to_end_does_as_one_that_is_interrupted() {
    interrupted_by(Signal::TERM);
}
