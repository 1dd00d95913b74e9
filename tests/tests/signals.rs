//! What each further signal makes of a run that is being ended.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "these are tests")]

use std::fs;

use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use whole_program::etcd::Etcd;
use whole_program::processes::{eventually, has_ended};
use whole_program::subject::{Running, Subject};

/// So that only a kill ends a test that does not end when it is asked to.
const LONG_GRACE: &str = "[profile.default]\nslow-timeout = { period = '1h', grace-period = '1h' }\n";

fn shown(subject: &Subject, store: &[&str]) -> Value {
    let shown = subject.etcdtest(&[&["runs", "show", "cut", "--format", "json"], store].concat());
    serde_json::from_str(&shown.stdout).unwrap_or_else(|_| panic!("{shown:?}"))
}

/// Sends it this signal, and waits until its stubborn test has been asked to end.
fn asks_to_end(subject: &Subject, run: &Running, signal: Signal) -> Pid {
    let process = subject.process("stubborn");
    let there = |name: &str| eventually(|| subject.meeting(name).exists().then_some(()), name);
    there("deaf");
    run.signal(signal);
    there("asked");
    assert!(!has_ended(process), "it has its grace");
    process
}

#[test]
fn a_second_signal_kills_the_tests_and_what_was_before_stays_stored() {
    for (first, second) in
        [(Signal::INT, Signal::INT), (Signal::TERM, Signal::HUP), (Signal::HUP, Signal::TERM)]
    {
        let subject = Subject::new();
        subject.write(".config/etcdtest.toml", LONG_GRACE);
        let tests = ["endless::a_quick_one", "stubborn::goes_on", "--test-threads", "2"];
        let mut run = subject.start(&[&tests[..], &["--run-id", "cut", "--format", "json"]].concat());
        run.line_with("unit-finished").unwrap();
        let process = asks_to_end(&subject, &run, first);
        run.signal(second);
        let ran = run.end();
        assert_eq!(ran.code, Some(130), "{second:?} after {first:?}: {ran:?}");
        assert!(has_ended(process));
        let shown = shown(&subject, &[]);
        let counts = (&shown["counts"]["passed"], &shown["counts"]["not_run"]);
        assert_eq!((&shown["state"], counts), (&json!("cancelled"), (&json!(1), &json!(1))));
    }
}

/// A run on an etcd that went when its tests were under way: one that ends when `right` is
/// written, and this one, which writes a file when it has begun. The first has ended since, and the run waits for the store.
fn cut_off(subject: &Subject, etcd: &mut Etcd, (other, begun): (&str, &str)) -> Running {
    subject.write(".config/etcdtest.toml", LONG_GRACE);
    let endpoint = etcd.endpoint();
    let how = ["--test-threads", "2", "--run-id", "cut", "--endpoints", &endpoint];
    let mut run = subject.start(&[&["pair::left", other], &how[..]].concat());
    for name in ["left", begun] {
        eventually(|| subject.meeting(name).exists().then_some(()), name);
    }
    etcd.kill();
    fs::write(subject.meeting("right"), "").unwrap();
    run.line_with("PASS").unwrap();
    run.line_with("Waiting for the store").unwrap();
    run
}

#[test]
fn while_results_are_being_stored_the_first_signal_waits_and_the_second_gives_up() {
    for patient in [true, false] {
        let (subject, mut etcd) = (Subject::new(), Etcd::start());
        let mut run = cut_off(&subject, &mut etcd, ("gate::late::c10", "late"));
        fs::write(subject.meeting("go"), "").unwrap();
        run.line_with("PASS").unwrap();
        run.signal(Signal::INT);
        if patient {
            etcd.restart();
            let ran = run.end();
            assert_eq!(ran.code, Some(0), "{ran:?}");
            let shown = shown(&subject, &["--endpoints", &etcd.endpoint()]);
            assert_eq!(shown["counts"]["passed"], 2, "{shown}");
        } else {
            run.signal(Signal::TERM);
            run.end().refuses(130, &["2 results are only in", "cargo etcdtest store sync"]);
        }
    }
}

#[test]
fn once_tests_were_killed_results_are_stored_until_a_third_signal_ends_all() {
    for patient in [true, false] {
        let (subject, mut etcd) = (Subject::new(), Etcd::start());
        let run = cut_off(&subject, &mut etcd, ("stubborn::goes_on", "deaf"));
        let process = asks_to_end(&subject, &run, Signal::INT);
        run.signal(Signal::TERM);
        eventually(|| has_ended(process).then_some(()), "the kill");
        if patient {
            etcd.restart();
            let ran = run.end();
            assert_eq!(ran.code, Some(130), "{ran:?}");
            let shown = shown(&subject, &["--endpoints", &etcd.endpoint()]);
            assert_eq!((&shown["counts"]["passed"], &shown["state"]), (&json!(1), &json!("cancelled")));
        } else {
            run.signal(Signal::HUP);
            run.end().refuses(130, &["1 result is only in", "cargo etcdtest store sync"]);
        }
    }
}
