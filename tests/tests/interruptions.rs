//! Runs that are interrupted at random moments, and what is left of them.
//!
//! `HOSTILE_INTERRUPTIONS` says how often, `HOSTILE_SEED` which moments.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "these are tests")]

use std::collections::BTreeMap;
use std::time::Instant;

use rustix::process::Signal;
use serde_json::{Value, json};
use whole_program::etcd::Etcd;
use whole_program::leftovers::Leftovers;
use whole_program::subject::{Ran, Running, Subject};

const SIGNALS: [Signal; 3] = [Signal::INT, Signal::TERM, Signal::KILL];

/// The outcomes of units by their numbers.
type Outcomes = BTreeMap<u64, String>;

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |number| number.parse().unwrap())
}

/// What was announced. A killed program may have torn its last line.
fn announced(ran: &Ran, killed: bool) -> Outcomes {
    let mut lines: Vec<&str> = ran.stdout.lines().collect();
    if killed && !ran.stdout.ends_with('\n') {
        lines.pop();
    }
    let events = lines.into_iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let finished = events.filter(|event| event["event"] == "unit-finished");
    let outcome = |event: &Value| event["outcome"].as_str().unwrap().to_owned();
    finished.map(|event| (event["unit"].as_u64().unwrap(), outcome(&event))).collect()
}

/// Interrupts runs, each in its own way and moment, and looks at what the store has of each.
fn interrupted(store: &[&str]) {
    let seed = number("HOSTILE_SEED", fastrand::u64(..1_000_000));
    let times = number("HOSTILE_INTERRUPTIONS", 4);
    eprintln!("HOSTILE_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let subject = Subject::new();
    let start = |id: &str, leftovers: &Leftovers| {
        let arguments = ["run", "tagged::", "outcomes::passes", "--stress", "8", "--format", "json"];
        let more = ["--test-threads", "2", "--no-fail-fast", "--run-id", id];
        let mut command = subject.command(&[&arguments[..], &more, store].concat());
        let mut run = Running::start(leftovers.mark(&mut command));
        run.line_with("run-started").unwrap();
        run
    };
    let leftovers = Leftovers::new();
    let whole = start("whole", &leftovers);
    let began = Instant::now();
    assert_eq!(whole.end().code, Some(0));
    let length = began.elapsed();
    let mut cut = 0;
    for time in 0..times {
        let leftovers = Leftovers::new();
        let signal = SIGNALS[random.usize(..SIGNALS.len())];
        let moment = length.mul_f64(random.f64());
        let id = format!("cut-{time}");
        let context = format!("HOSTILE_SEED={seed}, {id}: {signal:?} after {moment:?}");
        let run = start(&id, &leftovers);
        std::thread::sleep(moment);
        run.signal(signal);
        let ran = run.end();
        leftovers.assert_none_stay();
        let announced = announced(&ran, signal == Signal::KILL);

        let shown = subject.etcdtest(&[&["runs", "show", &id, "--format", "json"], store].concat());
        assert_eq!(shown.code, Some(0), "{context}: {shown:?}");
        let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
        let stored: Outcomes = (0..)
            .zip(shown["units"].as_array().unwrap())
            .filter_map(|(number, unit)| Some((number, unit["outcome"].as_str()?.to_owned())))
            .collect();
        for (unit, outcome) in &announced {
            assert_eq!(stored.get(unit), Some(outcome), "{context}: unit {unit}");
        }
        let state = shown["state"].as_str().unwrap();
        let whole = stored.len() == shown["units"].as_array().unwrap().len();
        if signal == Signal::KILL {
            let states = ["running", "stalled", "finishing", "finished"];
            assert!(states.contains(&state) && (state != "finished" || whole), "{context}: {state}");
        } else {
            assert_eq!(state, if whole { "finished" } else { "cancelled" }, "{context}: {ran:?}");
            assert_eq!((ran.code, announced), (Some(if whole { 0 } else { 130 }), stored), "{context}");
        }
        cut += u64::from(!whole);
        let listed = subject.etcdtest(&[&["runs", "list"], store].concat());
        assert!(listed.code == Some(0) && listed.stdout.contains(&id), "{context}: {listed:?}");
    }
    eprintln!("{cut} of {times} runs were cut, each within {length:?}");
    let (after, events) = subject.events(&[&["tagged::"], store].concat());
    assert_eq!(after.code, Some(0), "{after:?}");
    assert_eq!(events.last().unwrap()["counts"]["passed"], json!(3));
}

#[test]
fn an_interrupted_run_loses_nothing_that_it_announced_and_leaves_nothing() {
    interrupted(&[]);
}

#[test]
fn an_interrupted_run_loses_nothing_that_it_announced_and_leaves_nothing_on_etcd() {
    let etcd = Etcd::start();
    interrupted(&["--endpoints", &etcd.endpoint()]);
}
