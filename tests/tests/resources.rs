//! Resources that tests of several runs want for themselves at the same time.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "these are tests")]

use std::collections::BTreeSet;
use std::fs;

use cargo_etcdtest::store::{KeyRange, Op, Revision, SharedStore, Txn, list};
use jiff::{SignedDuration, Timestamp};
use rustix::process::Signal;
use serde_json::{Value, json};
use whole_program::etcd::Etcd;
use whole_program::processes::eventually;
use whole_program::root;
use whole_program::subject::{Running, Subject};

/// Tests that want the printer for themselves: one that waits behind a gate, some that end at once,
/// and one that is retried.
const RULES: &str = "[[profile.default.overrides]]\n\
    filter = 'test(late::c10) | test(/early::c0[0-4]/) | test(passes_at_the_third)'\n\
    exclusive = 'printer'\n";

/// Where they stand in its queue.
const QUEUE: &str = "/locks/resources/printer/";

/// Machines that share an etcd, one of which has the printer.
struct Shared {
    subject: Subject,
    etcd: Etcd,
    holder: Running,
}

impl Shared {
    fn new() -> Self {
        let (subject, etcd) = (Subject::new(), Etcd::start());
        subject.write(".config/etcdtest.toml", RULES);
        let arguments = ["gate::late::c10", "--run-id", "holder", "--format", "json"];
        let mut holder = subject.start(&[&arguments[..], &["--endpoints", &etcd.endpoint()]].concat());
        holder.line_with("attempt-started").unwrap();
        Self { subject, etcd, holder }
    }

    /// Starts another run with one lane.
    fn start(&self, arguments: &[&str]) -> Running {
        let store = ["--endpoints", &self.etcd.endpoint(), "--run-id", "waiting", "-j1"];
        self.subject.start(&[arguments, &store].concat())
    }

    /// How many have the printer or wait for it.
    fn places(&self) -> usize {
        self.with_store(async |store| {
            list(store.as_ref(), KeyRange::prefix(QUEUE)).await.unwrap().pairs.len()
        })
    }

    /// Deletes the place of whoever stands last in the queue, and says when that was taken.
    fn remove_last_place(&self) -> Revision {
        self.with_store(async |store| {
            let page = list(store.as_ref(), KeyRange::prefix(QUEUE)).await.unwrap();
            let last = page.pairs.into_iter().max_by_key(|place| place.created).unwrap();
            let then = vec![Op::Delete(KeyRange::key(last.key))];
            store.txn(Txn { then, ..Txn::default() }).await.unwrap();
            last.created
        })
    }

    fn with_store<T>(&self, work: impl AsyncFnOnce(SharedStore) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { work(std::sync::Arc::new(self.etcd.connect().await)).await })
    }

    /// Fails unless the printer still has its holder and nobody waits for it, then lets that end.
    #[track_caller]
    fn end(self) {
        assert_eq!(self.places(), 1, "who waits no longer has left the queue");
        fs::write(self.subject.meeting("go"), "").unwrap();
        let ran = self.holder.end();
        assert_eq!(ran.code, Some(0), "{ran:?}");
    }
}

fn of<'a>(events: &'a [Value], event: &str) -> Vec<&'a Value> {
    events.iter().filter(|line| line["event"] == event).collect()
}

/// When the attempts of a unit began and ended.
fn times(unit: &Value) -> Vec<(Timestamp, Timestamp)> {
    let time = |attempt: &Value| {
        let began: Timestamp = attempt["started"].as_str().unwrap().parse().unwrap();
        (began, began + SignedDuration::from_secs_f64(attempt["duration"].as_f64().unwrap()))
    };
    unit["attempts"].as_array().unwrap().iter().map(time).collect()
}

#[test]
fn who_waits_for_a_resource_leaves_its_lane_to_others_and_says_what_it_waits_for() {
    let shared = Shared::new();
    let mut run = shared.start(&["gate::early", "retried::passes_at_the_third", "--format", "json"]);
    let (mut free, mut told) = (Vec::new(), false);
    while free.len() < 5 || !told {
        let event: Value = serde_json::from_str(&run.line_with("event").unwrap()).unwrap();
        told |= event["event"] == "resource-waiting";
        if event["event"] == "unit-finished" {
            free.push(event["id"].as_str().unwrap().to_owned());
        }
    }
    free.sort();
    let names: Vec<_> =
        (5..10).map(|number| format!("subject::annotated::gate::early::c0{number}")).collect();
    assert_eq!(free, names, "those that need no printer end while others have it");
    fs::write(shared.subject.meeting("go"), "").unwrap();
    let (ran, holder) = (run.end(), shared.holder.end());
    assert_eq!((ran.code, holder.code), (Some(0), Some(0)), "{ran:?}");

    let events = ran.events();
    let waiting = of(&events, "resource-waiting");
    let units: BTreeSet<_> = waiting.iter().map(|waiting| waiting["unit"].as_u64()).collect();
    assert_eq!(waiting.len(), units.len(), "each says it once: {waiting:?}");
    let waiting = waiting[0];
    assert_eq!((&waiting["resource"], &waiting["ahead"]), (&json!("printer"), &json!(0)));
    let holders = waiting["holders"].as_array().unwrap();
    assert_eq!(holders.len(), 1, "{waiting}");
    assert_eq!(holders[0]["why"], "subject::annotated::gate::late::c10 in run holder");
    let documented = fs::read_to_string(root().join("docs/machine-output.md")).unwrap();
    let row = documented.lines().find(|line| line.starts_with("| `resource-waiting` |")).unwrap();
    for field in ["resource", "holders", "ahead"] {
        assert!(waiting.get(field).is_some() && row.contains(&format!("`{field}`")), "{field}: {waiting}");
    }
    assert!(!names.contains(&waiting["id"].as_str().unwrap().to_owned()), "{waiting}");

    let (_, released) = times(of(&holder.events(), "unit-finished")[0])[0];
    let finished = of(&events, "unit-finished");
    let printing = finished.iter().filter(|unit| !names.contains(&unit["id"].as_str().unwrap().to_owned()));
    let mut printing: Vec<_> = printing.flat_map(|unit| times(unit)).collect();
    printing.sort();
    assert_eq!(printing.len(), 5 + 3, "the third attempt passed");
    assert!(released <= printing[0].0, "what it waited is no part of an attempt: {printing:?}");
    assert!(printing.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{printing:?}");
}

#[test]
fn who_is_interrupted_while_it_waits_ends_at_once_and_leaves_the_queue() {
    let shared = Shared::new();
    let mut run = shared.start(&["gate::early::c00"]);
    let told = run.line_with("for resource printer").unwrap();
    for text in ["Waiting subject::annotated gate::early::c00", "held by worker", "late::c10 in run holder"] {
        assert!(told.contains(text), "no {text:?} in {told}");
    }
    assert_eq!(shared.places(), 2);
    run.signal(Signal::INT);
    let ran = run.end();
    assert_eq!(ran.code, Some(130), "{ran:?}");
    shared.end();
}

#[test]
fn a_run_that_is_cancelled_while_its_tests_wait_ends() {
    let shared = Shared::new();
    let mut run = shared.start(&["gate::early::c00", "--format", "json"]);
    run.line_with("resource-waiting").unwrap();
    let cancel = ["runs", "cancel", "waiting", "--endpoints", &shared.etcd.endpoint()];
    let cancelled = shared.subject.etcdtest(&cancel);
    assert_eq!(cancelled.code, Some(0), "{cancelled:?}");
    let ran = run.end();
    assert_eq!(ran.code, Some(100), "{ran:?}");
    shared.end();
}

#[test]
fn a_run_whose_other_tests_fail_does_not_wait_for_a_resource() {
    let shared = Shared::new();
    let tests = ["gate::early::c00", "retried::never_passes", "--fail-fast", "--format", "json"];
    let ran = shared.start(&tests).end();
    assert_eq!(ran.code, Some(100), "{ran:?}");
    let events = ran.events();
    assert_eq!(of(&events, "run-cancelled").len(), 1, "{ran:?}");
    assert_eq!(of(&events, "unit-finished").len(), 1, "{ran:?}");
    shared.end();
}

#[test]
fn who_loses_its_place_in_the_queue_takes_a_new_one() {
    let shared = Shared::new();
    let mut run = shared.start(&["gate::early::c00", "--format", "json"]);
    run.line_with("resource-waiting").unwrap();
    let lost = shared.remove_last_place();
    eventually(|| (shared.places() == 2).then_some(()), "another place");
    assert_ne!(shared.remove_last_place(), lost, "it stands behind all others");
    fs::write(shared.subject.meeting("go"), "").unwrap();
    let (ran, holder) = (run.end(), shared.holder.end());
    assert_eq!((ran.code, holder.code), (Some(0), Some(0)), "{ran:?}");
}

#[test]
fn what_others_took_over_while_it_waited_is_not_waited_for_any_more() {
    let shared = Shared::new();
    let arguments = ["gate::early::c00", "--format", "json"];
    let mut frozen = shared.start(&arguments);
    frozen.line_with("resource-waiting").unwrap();
    let mut other = shared.start(&arguments);
    other.line_with("run-started").unwrap();
    frozen.signal(Signal::STOP);
    other.line_with("unit-taken-over").unwrap();
    other.line_with("resource-waiting").unwrap();
    frozen.signal(Signal::CONT);
    frozen.line_with("units-superseded").unwrap();
    eventually(|| (shared.places() == 2).then_some(()), "the end of its wait");
    fs::write(shared.subject.meeting("go"), "").unwrap();
    for (ran, began) in [(frozen.end(), 0), (other.end(), 1)] {
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert_eq!(of(&ran.events(), "attempt-started").len(), began, "{ran:?}");
    }
    assert_eq!(shared.holder.end().code, Some(0));
}

#[test]
fn a_run_that_has_nothing_to_do_but_to_wait_does_not_outwait_a_store_that_is_away() {
    let mut shared = Shared::new();
    let mut run = shared.start(&["gate::early::c00", "--store-timeout", "1s", "--format", "json"]);
    run.line_with("resource-waiting").unwrap();
    shared.etcd.kill();
    let ran = run.end();
    assert_eq!(ran.code, Some(103), "{ran:?}");
    assert!(ran.events().iter().all(|event| event["event"] != "attempt-started"), "{ran:?}");
}
