//! One run of several processes: joined, left, killed, frozen, cancelled.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "these are tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use cargo_etcdtest::model::{Run, RunId, UnitResult};
use cargo_etcdtest::store::local::LocalStore;
use cargo_etcdtest::store::{KeyRange, Op, SharedStore, Txn, decode, decode_block, get, keys, list};
use rustix::process::Signal;
use serde_json::{Value, json};
use whole_program::etcd::Etcd;
use whole_program::processes::eventually;
use whole_program::subject::{Running, Subject};

/// All results of a run that are stored, by unit.
fn stored(store: &SharedStore, run: &str) -> BTreeMap<u32, Vec<UnitResult>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let blocks = KeyRange::prefix(keys::blocks(&RunId::new(run)));
    let blocks = runtime.block_on(list(store.as_ref(), blocks)).unwrap();
    let mut stored = BTreeMap::<u32, Vec<UnitResult>>::new();
    for result in blocks.pairs.iter().flat_map(|pair| decode_block(pair).unwrap().results) {
        stored.entry(result.unit.0).or_default().push(result);
    }
    stored
}

fn local(subject: &Subject) -> SharedStore {
    std::sync::Arc::new(LocalStore::open(&subject.path().join(".etcdtest")).unwrap())
}

/// Fails unless each of so many units has exactly one result, and says who made them.
#[track_caller]
fn once_each(stored: &BTreeMap<u32, Vec<UnitResult>>, units: u32) -> BTreeMap<String, u32> {
    assert_eq!(stored.keys().copied().collect::<Vec<_>>(), (0..units).collect::<Vec<_>>());
    let mut workers = BTreeMap::new();
    for results in stored.values() {
        assert_eq!(results.len(), 1, "{results:?}");
        *workers.entry(results[0].worker.to_string()).or_default() += 1;
    }
    workers
}

fn show(subject: &Subject, run: &str) -> Value {
    let shown = subject.etcdtest(&["runs", "show", run, "--format", "json"]);
    serde_json::from_str(&shown.stdout).unwrap_or_else(|_| panic!("{shown:?}"))
}

/// A worker of the run whose tests wait behind a gate, that has begun.
fn worker(subject: &Subject, run: &str, more: &[&str]) -> Running {
    let arguments = ["gate::", "--run-id", run, "--test-threads", "2", "--format", "json"];
    let mut worker = subject.start(&[&arguments[..], more].concat());
    worker.line_with("run-started").unwrap();
    worker
}

#[test]
fn the_same_command_with_the_same_id_takes_part_in_the_same_run() {
    let subject = Subject::new();
    let mut first = worker(&subject, "shared", &[]);
    first.line_with("gate::late").unwrap();
    let mut second = worker(&subject, "shared", &[]);
    second.line_with("attempt-started").unwrap();
    fs::write(subject.meeting("go"), "").unwrap();
    for ran in [first.end(), second.end()] {
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let events = ran.events();
        let end = events.last().unwrap();
        assert_eq!((&end["event"], &end["counts"]["passed"]), (&json!("run-ended"), &json!(20)));
    }
    assert_eq!(once_each(&stored(&local(&subject), "shared"), 20).len(), 2, "both had some");

    let late = subject.etcdtest(&["gate::", "--run-id", "shared", "--format", "json"]);
    assert_eq!(late.code, Some(0), "{late:?}");
    let events: Vec<_> = late.events().iter().map(|event| event["event"].clone()).collect();
    assert_eq!(events, ["notice", "run-ended"], "it is told, and not run again");
    let other = subject.etcdtest(&["tagged::", "gate::early", "--run-id", "shared"]);
    let differences = [
        "the run `shared` is of other tests",
        "only here, in `local`:",
        "tagged::one",
        "only in the run, in `local`: subject::annotated::gate::late::c10",
    ];
    other.refuses(2, &differences);
    let elsewhere = subject.etcdtest(&["gate::", "--run-id", "shared", "--env", "nowhere"]);
    assert_eq!(elsewhere.code, Some(102), "{elsewhere:?}");
    subject.environment("lab", "url = 'x'", &[]);
    let elsewhere = subject.etcdtest(&["gate::", "--run-id", "shared", "--env", "lab"]);
    elsewhere
        .refuses(2, &["the environment `lab` is only here", "the environment `local` is only in the run"]);
}

#[test]
fn each_exits_with_the_outcome_of_the_run_or_of_its_own_part() {
    let subject = Subject::new();
    // The other binary has a test of that name that fails, too.
    let tests = ["--test=annotated", "gate::", "outcomes::panics", "--no-fail-fast"];
    let how = ["--format", "json", "--run-id", "mixed", "--test-threads", "1", "--store-output", "none"];
    let arguments = [&tests[..], &how].concat();
    let mut first = subject.start(&arguments);
    // The longest and the failed come first, and of equals the first by name: all of the gate's.
    first.line_with("run-started").unwrap();
    let second = subject.start(&[&arguments[..], &["--own-results"]].concat());
    fs::write(subject.meeting("go"), "").unwrap();
    let (first, second) = (first.end(), second.end());
    assert_eq!(first.code, Some(100), "{first:?}");
    let failed_here = |ran: &whole_program::subject::Ran| {
        ran.events().iter().any(|event| event["event"] == "unit-finished" && event["outcome"] != "passed")
    };
    assert_ne!(failed_here(&first), failed_here(&second), "one of them ran it");
    assert_eq!(second.code, Some(if failed_here(&second) { 100 } else { 0 }), "{second:?}");
}

#[test]
fn of_four_workers_three_are_killed_at_any_moment_and_the_fourth_finishes_alone() {
    let etcd = Etcd::start();
    let store = ["--endpoints", &etcd.endpoint()];
    let subject = Subject::swarm();
    let arguments = ["run", "--run-id", "plug", "--test-threads", "2", "--format", "json"];
    let workers = [(); 4].map(|()| subject.start(&[&arguments[..], &store].concat()));
    let [killed @ .., survivor] = workers;
    let mut moments = [(); 3].map(|()| fastrand::usize(1..60));
    moments.sort_unstable();
    for (worker, moment) in killed.iter().zip(moments) {
        let noted = || fs::read_to_string(subject.meeting("executions")).unwrap_or_default();
        let reached = || (noted().matches("done ").count() >= moment).then_some(());
        eventually(reached, &format!("the execution of {moment} tests"));
        worker.signal(Signal::KILL);
    }
    let ran = survivor.end();
    assert_eq!(ran.code, Some(0), "killed after {moments:?}: {ran:?}");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let shared: SharedStore = std::sync::Arc::new(runtime.block_on(etcd.connect()));
    once_each(&stored(&shared, "plug"), 60);
    let report = ["report", "export", "plug", "--format", "junit"];
    let report = subject.etcdtest(&[&report[..], &store].concat()).stdout;
    let tests = report.split("<testcase ").skip(1).map(|test| test.split(" time=").next().unwrap());
    let tests: Vec<&str> = tests.collect();
    let different: BTreeSet<_> = tests.iter().collect();
    assert_eq!((tests.len(), different.len()), (60, 60), "{report}");
}

/// Deletes what is under a prefix, as when a lease has ended.
fn expire(subject: &Subject, prefix: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let txn = Txn { then: vec![Op::Delete(KeyRange::prefix(prefix))], ..Txn::default() };
    runtime.block_on(local(subject).txn(txn)).unwrap();
}

#[test]
fn a_test_that_loses_three_workers_is_recorded_as_crashed_with_the_story() {
    let subject = Subject::new();
    let arguments = ["gate::late::c10", "--run-id", "doomed", "--format", "json"];
    for taken_over in [false, true, true] {
        let mut worker = subject.start(&arguments);
        if taken_over {
            worker.line_with("unit-taken-over").unwrap();
        }
        worker.line_with("attempt-started").unwrap();
        worker.signal(Signal::KILL);
        worker.end();
        expire(&subject, keys::WORKERS);
    }
    let last = subject.etcdtest(&arguments);
    assert_eq!(last.code, Some(100), "{last:?}");
    let events = last.events();
    assert!(events.iter().all(|event| event["event"] != "attempt-started"), "{events:#?}");
    let unit = &show(&subject, "doomed")["units"][0];
    let attempts = unit["attempts"].as_array().unwrap();
    let outcomes: Vec<_> = attempts.iter().map(|attempt| &attempt["outcome"]).collect();
    assert_eq!(outcomes, ["crashed"; 3]);
    let story = attempts[2]["message"].as_str().unwrap();
    assert!(story.starts_with("3 workers were lost while they held this test"), "{story}");
    for attempt in &attempts[..2] {
        let message = attempt["message"].as_str().unwrap();
        let worker = message.split(' ').find(|word| word.matches('-').count() > 1).unwrap();
        assert!(story.contains(worker), "{worker} is not in: {story}");
    }
    let shown = subject.etcdtest(&["runs", "show", "doomed"]).stdout;
    assert!(shown.contains("3 workers were lost while they held this test"), "{shown}");
}

#[test]
fn a_worker_that_is_frozen_for_longer_than_its_lease_records_nothing_that_others_took_over() {
    // One that is frozen in the middle of a write to a file would have everybody wait for it.
    let (subject, etcd) = (Subject::new(), Etcd::start());
    let endpoint = etcd.endpoint();
    let mut frozen = worker(&subject, "frozen", &["--endpoints", &endpoint]);
    frozen.line_with("gate::late").unwrap();
    let mut other = worker(&subject, "frozen", &["--endpoints", &endpoint]);
    other.line_with("gate::late").unwrap();
    frozen.signal(Signal::STOP);
    fs::write(subject.meeting("go"), "").unwrap();
    let taken_over = other.line_with("unit-taken-over");
    let taken_over: Value = serde_json::from_str(&taken_over.expect("others take over")).unwrap();
    assert!(taken_over["worker"].as_str().unwrap().contains('-'), "{taken_over}");
    let other = other.end();
    assert_eq!(other.code, Some(0), "{other:?}");
    frozen.signal(Signal::CONT);
    let thawed = frozen.end();
    assert_eq!(thawed.code, Some(0), "{thawed:?}");
    assert!(thawed.events().iter().any(|event| event["event"] == "units-superseded"), "{thawed:?}");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let shared: SharedStore = std::sync::Arc::new(runtime.block_on(etcd.connect()));
    once_each(&stored(&shared, "frozen"), 20);
}

#[test]
fn who_is_interrupted_leaves_its_units_to_the_others() {
    let subject = Subject::new();
    let mut leaving = worker(&subject, "left", &[]);
    leaving.line_with("gate::late").unwrap();
    let mut staying = worker(&subject, "left", &[]);
    staying.line_with("gate::late").unwrap();
    leaving.signal(Signal::INT);
    let left = leaving.end();
    left.refuses(130, &["has left the run `left`", "runs cancel left"]);
    assert!(left.stdout.contains("worker-leaving"), "{left:?}");
    fs::write(subject.meeting("go"), "").unwrap();
    let ran = staying.end();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(!ran.stdout.contains("unit-taken-over"), "what was given up was not lost: {ran:?}");
    once_each(&stored(&local(&subject), "left"), 20);
}

#[test]
fn a_run_that_is_cancelled_ends_on_every_machine_and_says_why() {
    let subject = Subject::new();
    let mut workers: Vec<_> = (0..2).map(|_| worker(&subject, "stopped", &[])).collect();
    for worker in &mut workers {
        worker.line_with("gate::late").unwrap();
    }
    let cancelled = subject.etcdtest(&["runs", "cancel", "stopped", "--why", "the lab is on fire"]);
    assert_eq!(cancelled.code, Some(0), "{cancelled:?}");
    for worker in workers {
        let ran = worker.end();
        assert_eq!(ran.code, Some(100), "{ran:?}");
        let event = ran.events().into_iter().find(|event| event["event"] == "run-cancelled").unwrap();
        assert!(event["reason"].as_str().unwrap().ends_with("cancelled it: the lab is on fire"), "{event}");
    }
    let shown = show(&subject, "stopped");
    assert_eq!(shown["state"], "cancelled");
    assert!(shown["reason"].as_str().unwrap().contains("on fire"), "{shown}");
    let again = subject.etcdtest(&["runs", "cancel", "stopped"]);
    again.refuses(2, &["the run `stopped` is over", "runs show stopped"]);
}

#[test]
fn a_run_without_workers_is_stalled_and_can_be_cancelled_all_the_same() {
    let subject = Subject::new();
    let mut dying = worker(&subject, "stalled", &[]);
    dying.line_with("gate::late").unwrap();
    dying.signal(Signal::KILL);
    dying.end();
    let mut watch = subject.start(&["watch", "stalled", "--format", "json"]);
    watch.line_with("run-stalled").unwrap();
    let shown = subject.etcdtest(&["runs", "show", "stalled"]);
    assert!(shown.stdout.contains("stalled") && shown.stdout.contains("runs resume"), "{shown:?}");
    let cancelled = subject.etcdtest(&["runs", "cancel", "stalled"]);
    assert_eq!(cancelled.stdout, "run stalled is cancelled\n", "{cancelled:?}");
    assert_eq!(watch.end().code, Some(100));
    let store = local(&subject);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let pair = runtime.block_on(get(store.as_ref(), keys::run(&RunId::new("stalled")))).unwrap().unwrap();
    let run: Run = decode(&pair).unwrap();
    assert!(run.summary.unwrap().not_run > 0, "{run:?}");
}

#[test]
fn a_failure_ends_the_run_where_another_worker_holds_all_that_is_not_begun() {
    let subject = Subject::new();
    let rules = "[[profile.default.overrides]]\nfilter = 'test(gate::late)'\nneeds = [\"slow\"]\n\
                 threads-required = 2\n\
                 [[profile.default.overrides]]\nfilter = 'test(outcomes::panics)'\nneeds = [\"broken\"]\n";
    subject.write(".config/etcdtest.toml", rules);
    let tests = "test(gate::late::c10) | test(gate::late::c11) | binary(annotated) & test(=outcomes::panics)";
    let first = ["run", "-E", tests, "--run-id", "failing", "-j2", "--labels", "slow", "--format", "json"];
    let mut first = subject.start(&first);
    // Two lanes are idle, so it takes both at once, and can begin but one.
    first.line_with("attempt-started").unwrap();
    let second = ["worker", "--run", "failing", "--labels", "broken", "--format", "json"];
    let mut second = subject.start(&second);
    for worker in [&mut second, &mut first] {
        let Some(cancelled) = worker.line_with("run-cancelled") else { panic!("{worker}") };
        assert!(cancelled.contains("a test failed"), "{cancelled}");
    }
    fs::write(subject.meeting("go"), "").unwrap();
    assert_eq!((first.end().code, second.end().code), (Some(100), Some(100)));
    let counts = &show(&subject, "failing")["counts"];
    assert_eq!((&counts["passed"], &counts["failed"], &counts["not_run"]), (&json!(1), &json!(1), &json!(1)));
}

#[test]
fn a_worker_whose_run_is_deleted_ends_and_is_gone_with_it() {
    let subject = Subject::new();
    let mut run = worker(&subject, "deleted", &[]);
    run.line_with("gate::late").unwrap();
    expire(&subject, "/runs/deleted");
    let ran = run.end();
    ran.refuses(2, &["the run `deleted` was deleted from the store while it was running"]);
    let store = local(&subject);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let workers = runtime.block_on(list(store.as_ref(), KeyRange::prefix(keys::WORKERS))).unwrap();
    assert_eq!(workers.pairs, []);
}

#[test]
fn what_tests_have_for_themselves_no_other_run_uses_meanwhile() {
    let subject = Subject::new();
    let rules = "[[profile.default.overrides]]\nfilter = 'all()'\nexclusive = 'printer'\n";
    subject.write(".config/etcdtest.toml", rules);
    let run = |id| {
        let arguments = ["outcomes::", "--test=annotated", "-j4", "--no-fail-fast", "--run-id", id];
        subject.start(&arguments)
    };
    let (one, other) = (run("one"), run("other"));
    assert_eq!((one.end().code, other.end().code), (Some(100), Some(100)));
    let mut attempts = Vec::new();
    for id in ["one", "other"] {
        for unit in show(&subject, id)["units"].as_array().unwrap() {
            for attempt in unit["attempts"].as_array().unwrap() {
                let began: jiff::Timestamp = attempt["started"].as_str().unwrap().parse().unwrap();
                let took = jiff::SignedDuration::from_secs_f64(attempt["duration"].as_f64().unwrap());
                attempts.push((began, began + took, id, unit["id"].clone()));
            }
        }
    }
    attempts.sort_by_key(|(began, ..)| *began);
    assert!(attempts.len() > 12, "{attempts:?}");
    assert!(attempts.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{attempts:?}");
    assert!(attempts.windows(2).any(|pair| pair[0].2 != pair[1].2), "they take turns: {attempts:?}");
}

#[test]
fn a_test_whose_resource_is_lost_on_the_way_is_ended_and_executed_again_when_it_is_had() {
    let subject = Subject::new();
    let rules = "[[profile.default.overrides]]\nfilter = 'all()'\nexclusive = 'printer'\n";
    subject.write(".config/etcdtest.toml", rules);
    let mut run = subject.start(&["gate::late::c10", "--run-id", "robbed", "--format", "json"]);
    run.line_with("attempt-started").unwrap();
    expire(&subject, "/locks/resources/");
    run.line_with("attempt-started").unwrap();
    fs::write(subject.meeting("go"), "").unwrap();
    let ran = run.end();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let unit = &show(&subject, "robbed")["units"][0];
    assert_eq!(unit["outcome"], "passed");
    assert_eq!(unit["attempts"].as_array().unwrap().len(), 1, "the first says nothing: {unit}");
}
