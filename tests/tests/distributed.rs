//! Runs that are begun by one process and executed by others.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "these are tests")]

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use cargo_etcdtest::execution::{Claimed, Claims, Hand, Membership, Pace};
use cargo_etcdtest::model::{Outcome, Run, RunId, UnitResult, Worker, WorkerId};
use cargo_etcdtest::store::local::LocalStore;
use cargo_etcdtest::store::{KeyRange, SharedStore, decode_block, get_record, keys, list};
use rustix::process::Signal;
use serde_json::Value;
use tokio::runtime::Runtime;
use whole_program::commit_all;
use whole_program::etcd::Etcd;
use whole_program::processes::eventually;
use whole_program::subject::{Ran, Running, Subject};

/// Some tests of the module `gate` need a worker with the label `gpu`.
const NEEDS_GPU: &str = "[[profile.default.overrides]]\nfilter = 'test(gate::late)'\nneeds = [\"gpu\"]\n";

/// A project in a repository of its own, with everything committed.
fn committed(subject: Subject) -> Subject {
    // Cargo writes the lock file of what it builds.
    assert_eq!(subject.etcdtest(&["list"]).code, Some(0));
    commit_all(subject.path());
    subject
}

/// What the store has of a run.
fn shown(subject: &Subject, run: &str) -> Value {
    let shown = subject.etcdtest(&["runs", "show", run, "--format", "json"]);
    assert_eq!(shown.code, Some(0), "{shown:?}");
    serde_json::from_str(&shown.stdout).unwrap()
}

/// The workers that gave results to the units whose ids have this in them.
fn workers<'a>(run: &'a Value, part: &str) -> BTreeSet<&'a str> {
    let units = run["units"].as_array().unwrap().iter();
    let units = units.filter(|unit| unit["id"].as_str().unwrap().contains(part));
    units.map(|unit| unit["worker"].as_str().unwrap()).collect()
}

fn finished(ran: &Ran) -> usize {
    ran.events().iter().filter(|event| event["event"] == "unit-finished").count()
}

#[test]
fn a_queued_run_is_executed_by_workers_and_by_its_own_rules() {
    let subject = Subject::new();
    let tests = ["gate::early", "retried::never", "--no-fail-fast"];
    let how = ["--queue", "--run-id", "queued", "--retries", "2", "--format", "json"];
    let mut queue = subject.start(&[&["run"], &tests[..], &how].concat());
    let queued: Value = serde_json::from_str(&queue.line_with("run-queued").unwrap()).unwrap();
    assert_eq!(queued["run"], "queued");
    let waiting = subject.etcdtest(&["runs", "show", "queued"]).stdout;
    assert!(waiting.contains("Run queued queued") && waiting.contains("worker --run queued"), "{waiting}");
    let worker = subject.etcdtest(&["worker", "--run", "queue", "-j2", "--format", "json"]);
    let queue = queue.end();
    assert_eq!((worker.code, queue.code), (Some(100), Some(100)), "{worker:?} {queue:?}");
    assert_eq!((finished(&worker), finished(&queue)), (11, 11));
    let events = queue.events();
    let failed =
        events.iter().find(|event| event["event"] == "unit-finished" && event["outcome"] == "failed");
    let attempts = failed.unwrap()["attempts"].as_array().unwrap().clone();
    assert_eq!(attempts.len(), 3, "the retries are those of the run");
    assert!(attempts.iter().all(|attempt| (1..=2).contains(&attempt["lane"].as_u64().unwrap())));

    let run = shown(&subject, "queued");
    assert_eq!(run["workers"].as_array().unwrap().len(), 1);
    assert_eq!(run["workers"][0]["units"], 11);
    let text = subject.etcdtest(&["runs", "show", "queued"]).stdout;
    assert!(text.contains("\nWorkers\n") && text.contains("11 units on "), "{text}");
    // Who comes late hears of it at once, before anything is built.
    let late = subject.etcdtest(&["worker", "--run", "queued"]);
    assert_eq!((late.code, &*late.stderr), (Some(100), ""), "{late:?}");
    let told: Vec<&str> = late.stdout.lines().collect();
    assert!(told[0].contains("the run queued is over: it was finished before"), "{late:?}");
    assert!(told[2].contains("11 tests run: 10 passed, 1 failed"), "{late:?}");
}

#[test]
fn a_cancelled_run_is_resumed_by_its_id_and_runs_what_has_no_result() {
    let subject = Subject::new();
    let cancelled =
        subject.etcdtest(&["run", "gate::early", "retried::never", "tagged::", "-j1", "--run-id", "broken"]);
    assert_eq!(cancelled.code, Some(100), "{cancelled:?}");
    let left = shown(&subject, "broken")["counts"]["not_run"].as_u64().unwrap();
    let how = ["runs", "resume", "broken", "-j2", "--format", "json"];
    let resumed = subject.etcdtest(&how);
    assert_eq!(resumed.code, Some(100), "one has failed: {resumed:?}");
    assert!(left > 0 && finished(&resumed) as u64 == left, "{left} were left: {resumed:?}");
    let run = shown(&subject, "broken");
    assert_eq!((&run["counts"]["not_run"], &run["counts"]["failed"]), (&Value::from(0), &Value::from(1)));
    subject.etcdtest(&how).refuses(2, &["runs show broken"]);
}

#[test]
fn a_daemon_takes_the_runs_of_its_commit_one_after_the_other() {
    let subject = committed(Subject::new());
    let daemon = subject.start(&["worker", "--daemon", "--format", "json"]);
    for run in ["first", "second"] {
        let ran = subject.etcdtest(&["run", "gate::early", "--queue", "--run-id", run, "--format", "json"]);
        assert_eq!((ran.code, finished(&ran)), (Some(0), 10), "{ran:?}");
    }
    daemon.signal(Signal::TERM);
    let daemon = daemon.end();
    assert_eq!((daemon.code, finished(&daemon)), (Some(0), 20), "{daemon:?}");
    assert!(daemon.stderr.contains("Waiting for runs of commit"), "{daemon:?}");
}

#[test]
fn a_test_that_needs_a_label_is_only_dealt_to_a_worker_that_has_it() {
    let subject = Subject::new();
    subject.write(".config/etcdtest.toml", NEEDS_GPU);
    fs::write(subject.meeting("go"), "").unwrap();
    let alone = subject.etcdtest(&["run", "gate::"]);
    alone.refuses(2, &["9 more need a worker with `gpu`", "--labels gpu"]);
    let labelled = subject.etcdtest(&["run", "gate::", "--labels", "fast,gpu"]);
    assert_eq!(labelled.code, Some(0), "{labelled:?}");

    let mut without = subject.start(&["run", "gate::", "--run-id", "shared", "--format", "json"]);
    let notice = without.line_with("notice").unwrap();
    assert!(notice.contains("worker --run shared --labels gpu"), "{notice}");
    let with = subject.etcdtest(&["worker", "--run", "shared", "--labels", "gpu", "--format", "json"]);
    let without = without.end();
    assert_eq!((with.code, without.code), (Some(0), Some(0)), "{with:?} {without:?}");
    let run = shown(&subject, "shared");
    let (early, late) = (workers(&run, "early"), workers(&run, "late"));
    assert_eq!((early.len(), late.len()), (1, 1), "{run}");
    assert!(early.is_disjoint(&late), "{run}");
}

#[test]
fn a_worker_of_other_tests_is_refused_and_the_run_goes_on() {
    let subject = Subject::new();
    let mut queue =
        subject.start(&["run", "gate::early", "--queue", "--run-id", "queued", "--format", "json"]);
    queue.line_with("run-started").unwrap();
    // A file of its own: what is built of the others is that of all copies of the project.
    subject.write("tests/another.rs", "#[test]\nfn another() {}\n");
    let refused = subject.etcdtest(&["worker", "--run", "queued"]);
    refused.refuses(2, &["the list of all tests"]);
    let flags = ["run", "gate::early", "--run-id", "queued", "--test", "another", "--test", "annotated"];
    let built = ["what is built: `--test another --test annotated` here, no flags in the run"];
    subject.etcdtest(&flags).refuses(2, &built);
    queue.signal(Signal::INT);
    let queue = queue.end();
    queue.refuses(130, &["runs cancel queued"]);
}

#[test]
fn the_failures_of_all_workers_count_together_and_anew_where_the_run_is_resumed() {
    let subject = Subject::new();
    let gpu = "[[profile.default.overrides]]\nfilter = 'test(=outcomes::errs)'\nneeds = [\"gpu\"]\n";
    subject.write(".config/etcdtest.toml", gpu);
    // What failed lately comes first, and what passed comes last.
    fs::write(subject.meeting("go"), "").unwrap();
    let before =
        subject.etcdtest(&["run", "--test=annotated", "outcomes::panics", "gate::late", "--no-fail-fast"]);
    assert_eq!(before.code, Some(100), "{before:?}");
    fs::remove_file(subject.meeting("go")).unwrap();
    let tests = [
        "run",
        "--test=annotated",
        "-E",
        "test(=outcomes::panics) | test(=outcomes::errs) | test(gate::late)",
    ];
    let how = ["--run-id", "both", "--max-fail", "2", "-j1", "--format", "json"];
    let mut first = subject.start(&[&tests[..], &how].concat());
    first.line_with("unit-finished").unwrap();
    let second = ["worker", "--run", "both", "--labels", "gpu", "-j1", "--format", "json"];
    let mut second = subject.start(&second);
    let Some(cancelled) = second.line_with("run-cancelled") else { panic!("{:?}", second.end()) };
    assert!(cancelled.contains("\"2 tests failed\""), "{cancelled}");
    // Until it hears of that it begins one after the other.
    first.line_with("run-cancelled").unwrap();
    fs::write(subject.meeting("go"), "").unwrap();
    assert_eq!((first.end().code, second.end().code), (Some(100), Some(100)));
    let counts = &shown(&subject, "both")["counts"];
    assert!(counts["failed"] == 2 && counts["not_run"].as_u64().unwrap() > 5, "{counts}");
    let resumed = subject.etcdtest(&["runs", "resume", "both", "--labels", "gpu", "-j1"]);
    assert!(resumed.code == Some(100) && !resumed.stdout.contains("Cancelling"), "{resumed:?}");
    assert_eq!(shown(&subject, "both")["counts"]["not_run"], 0);
}

/// The store of a project, and something to speak with it.
fn opened(subject: &Subject) -> (SharedStore, Runtime) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let entered = runtime.enter();
    let store = LocalStore::open(&subject.path().join(".etcdtest")).unwrap();
    drop(entered);
    (std::sync::Arc::new(store), runtime)
}

/// Waits until workers have come to this run and left it, with so many results.
fn wait_until_left(store: &SharedStore, runtime: &Runtime, run: &str, results: usize) {
    let id = RunId::new(run);
    let left = || {
        let blocks = KeyRange::prefix(keys::blocks(&id));
        let blocks = runtime.block_on(list(store.as_ref(), blocks)).unwrap().pairs;
        let stored: usize = blocks.iter().map(|pair| decode_block(pair).unwrap().results.len()).sum();
        let workers = runtime.block_on(list(store.as_ref(), KeyRange::prefix(keys::WORKERS))).unwrap();
        (stored == results && workers.pairs.is_empty()).then_some(())
    };
    eventually(left, "the end of all workers");
}

#[test]
fn a_daemon_comes_back_to_a_run_whose_last_worker_died_before_its_end() {
    let subject = Subject::new();
    subject.write(".config/etcdtest.toml", NEEDS_GPU);
    let subject = committed(subject);
    let (store, runtime) = opened(&subject);
    let mut queue = subject.start(&["run", "gate::", "--queue", "--run-id", "left", "--format", "json"]);
    queue.line_with("run-queued").unwrap();
    let daemon = subject.start(&["worker", "--daemon", "--format", "json"]);
    wait_until_left(&store, &runtime, "left", 10);
    // One that has what the rest needs executes all of that, and dies before it can finish the run.
    runtime.block_on(async {
        let (run, _) =
            get_record::<Run>(store.as_ref(), keys::run(&RunId::new("left"))).await.unwrap().unwrap();
        let worker = Worker::new(WorkerId::new("other-1"), "other", run.id.clone());
        let worker = Worker { lanes: 1, labels: "gpu".parse().unwrap(), ..worker };
        let joined = Membership::join(store.clone(), worker, run, Duration::from_mins(1)).await;
        let (membership, plan) = joined.unwrap();
        let mut claims = Claims::new(membership).await.unwrap();
        let hand = Hand { idle: 100, empty: true };
        let claimed = claims.claim(&plan, &Pace::new(&plan), hand, &[]).await.unwrap();
        let Claimed::Units(units, token) = claimed else { panic!("{claimed:?}") };
        assert_eq!(units.len(), 10);
        let result = |unit| UnitResult {
            unit,
            outcome: Outcome::Passed,
            reason: None,
            attempts: vec![],
            worker: WorkerId::new("other-1"),
            token,
        };
        claims.flush(units.into_iter().map(result).collect(), &[]).await.unwrap();
        claims.into_membership().leave().await;
    });
    let queue = queue.end();
    assert_eq!(queue.code, Some(0), "{queue:?}");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.end().code, Some(0));
    let counts = &shown(&subject, "left")["counts"];
    assert_eq!((&counts["passed"], &counts["not_run"]), (&Value::from(20), &Value::from(0)));
}

#[test]
fn a_daemon_leaves_what_needs_other_labels_to_others_and_takes_the_next_run() {
    let subject = Subject::new();
    subject.write(".config/etcdtest.toml", NEEDS_GPU);
    let subject = committed(subject);
    fs::write(subject.meeting("go"), "").unwrap();
    let daemon = subject.start(&["worker", "--daemon", "--format", "json"]);
    let mut queue = subject.start(&["run", "gate::", "--queue", "--run-id", "picky", "--format", "json"]);
    let waiting =
        "10 tests wait for a worker with the label `gpu`: `cargo etcdtest worker --run picky --labels gpu`";
    assert!(queue.line_with("notice").unwrap().contains(waiting));
    let shown = subject.etcdtest(&["runs", "show", "picky"]).stdout;
    assert!(shown.contains(waiting), "{shown}");
    let next = subject.etcdtest(&["run", "gate::early", "--queue", "--run-id", "next", "--format", "json"]);
    assert_eq!((next.code, finished(&next)), (Some(0), 10), "{next:?}");
    let with = subject.etcdtest(&["worker", "--run", "picky", "--labels", "gpu", "--format", "json"]);
    let queue = queue.end();
    assert_eq!((with.code, queue.code), (Some(0), Some(0)), "{with:?} {queue:?}");
    daemon.signal(Signal::TERM);
    let daemon = daemon.end();
    assert_eq!(daemon.code, Some(0), "{daemon:?}");
    assert!(daemon.stderr.contains("has left the run `picky`"), "{daemon:?}");
}

#[test]
fn a_daemon_waits_for_its_store_sends_what_it_has_and_works_for_the_same_run_again() {
    let subject = committed(Subject::new());
    let mut etcd = Etcd::start();
    let endpoint = etcd.endpoint();
    let store = ["--format", "json", "--endpoints", &endpoint];
    let daemon = ["worker", "--daemon", "-j1", "--store-timeout", "1s"];
    let mut daemon = subject.start(&[&daemon[..], &store].concat());
    let queue = ["run", "gate::late", "--queue", "--run-id", "away"];
    let mut queue = subject.start(&[&queue[..], &store].concat());
    daemon.line_with("attempt-started").unwrap();
    queue.line_with("run-started").unwrap();
    queue.signal(Signal::INT);
    queue.end().refuses(130, &["goes on without being followed"]);
    etcd.kill();
    fs::write(subject.meeting("go"), "").unwrap();
    daemon.error_with("Waiting for the store").unwrap();
    etcd.restart();
    etcd.wait_until_healthy();
    let watched = subject.etcdtest(&[&["watch", "away"], &store[..]].concat());
    assert_eq!(watched.code, Some(0), "{watched:?}");
    // It says what it has sent once that is stored, perhaps after others have seen it.
    daemon.error_with("Stored ").unwrap();
    daemon.signal(Signal::TERM);
    let daemon = daemon.end();
    assert_eq!(daemon.code, Some(0), "{daemon:?}");
    let [ended, sent] =
        ["ended before its results were stored", "Stored "].map(|text| daemon.stderr.find(text));
    assert!(ended.is_some() && ended < sent, "{daemon:?}");
    // What was sent is not executed again.
    let begun = daemon.events().into_iter().filter(|event| event["event"] == "attempt-started");
    let begun: Vec<_> = begun.map(|event| event["unit"].as_u64().unwrap()).collect();
    assert_eq!(begun.len(), 10, "{begun:?}");
    assert_eq!(begun.into_iter().collect::<BTreeSet<_>>().len(), 10);
}

#[test]
fn a_daemon_ends_by_a_signal_whatever_it_is_about() {
    let subject = committed(Subject::new());
    // A git that takes for ever, where it is told to.
    let folder = subject.meeting("bin");
    fs::create_dir(&folder).unwrap();
    let (asked, slow) = (subject.meeting("asked"), subject.meeting("slow"));
    let script = format!(
        "#!/bin/sh\n[ -e {slow} ] && touch {asked} && while [ -e {slow} ]; do sleep 0.1; done\n",
        slow = slow.display(),
        asked = asked.display(),
    );
    fs::write(folder.join("git"), script).unwrap();
    fs::set_permissions(folder.join("git"), Permissions::from_mode(0o755)).unwrap();
    fs::write(&slow, "").unwrap();
    let mut command = subject.command(&["worker", "--daemon"]);
    let path = std::env::var("PATH").unwrap();
    let daemon = Running::start(command.env("PATH", format!("{}:{path}", folder.display())));
    eventually(|| asked.exists().then_some(()), "a daemon that asks git");
    daemon.signal(Signal::TERM);
    let daemon = daemon.end();
    fs::remove_file(slow).unwrap();
    assert_eq!(daemon.code, Some(0), "{daemon:?}");
}
