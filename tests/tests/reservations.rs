//! Runs that share an environment of capacity 1: one at a time, by the log of the
//! application itself.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "these are tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use cargo_etcdtest::model::{Holder, RunId};
use cargo_etcdtest::store::local::LocalStore;
use cargo_etcdtest::store::{Change, Key, KeyRange, Notice, Read, Revision, SharedStore, keys};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use whole_program::etcd::Etcd;
use whole_program::processes::{PATIENCE, eventually, in_time};
use whole_program::subject::{Ran, Running};
use whole_program::{Project, program, root};

/// Each test notes in the application's log that it begins and ends; one that is gated waits
/// in between until somebody opens the gate of its run.
const TESTS: &str = r#"
use std::{env, fs, io::Write as _, path::PathBuf, thread, time::Duration};

fn folder() -> PathBuf {
    env::var_os("APPLICATION").unwrap().into()
}

fn say(what: &str, cx: &etcdtest::Context) {
    let mut log = fs::OpenOptions::new().append(true).create(true).open(folder().join("log")).unwrap();
    log.write_all(format!("{what} {} {}\n", cx.run(), cx.fencing_token()).as_bytes()).unwrap();
}

#[etcdtest::test]
fn early() {}

#[etcdtest::test]
fn uses_it(cx: &etcdtest::Context) {
    say("start", cx);
    let gate = folder().join(format!("gate-{}", cx.run()));
    while gate.exists() {
        thread::sleep(Duration::from_millis(5));
    }
    thread::sleep(Duration::from_millis(50));
    say("end", cx);
}

etcdtest::main!();
"#;

fn project() -> &'static Project {
    static PROJECT: OnceLock<Project> = OnceLock::new();
    PROJECT.get_or_init(|| {
        let manifest = format!(
            "[dev-dependencies]\netcdtest = {{ path = '{}', default-features = false }}\n\
             [[test]]\nname = \"uses\"\nharness = false\n",
            root().join("harness").display()
        );
        let project = Project::package("reservations", &manifest).with_lock();
        project.file("src/lib.rs", "").file("tests/uses.rs", TESTS)
    })
}

/// An application with a log, and a store with an environment of capacity 1 to test it in.
struct Application {
    folder: TempDir,
    store: SharedStore,
    /// The flags that name the store.
    flags: Vec<String>,
    environment: String,
}

impl Application {
    fn on(store: SharedStore, flags: &[&str], environment: &str) -> Self {
        let flags = flags.iter().map(ToString::to_string).collect();
        let folder = tempfile::tempdir().unwrap();
        let application = Self { folder, store, flags, environment: environment.to_owned() };
        let file = application.folder.path().join(format!("{environment}.toml"));
        fs::write(&file, "capacity = 1\n").unwrap();
        let applied = application.etcdtest(&["env", "apply", file.to_str().unwrap()]);
        assert_eq!(applied.code, Some(0), "{applied:?}");
        application
    }

    async fn on_etcd(etcd: &Etcd) -> Self {
        Self::on(Arc::new(etcd.connect().await), &["--endpoints", &etcd.endpoint()], "staging")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        project().prepare(&mut command).args(arguments).args(&self.flags);
        command.env("APPLICATION", self.folder.path()).env("ETCDTEST_RESERVE_TTL", "5s").env("USER", "ann");
        command
    }

    fn etcdtest(&self, arguments: &[&str]) -> Ran {
        Ran::of(&mut self.command(arguments))
    }

    fn start(&self, run: &str, more: &[&str]) -> Running {
        let arguments = ["run", "--env", &self.environment, "--run-id", run];
        Running::start(&mut self.command(&[&arguments[..], more].concat()))
    }

    fn gate(&self, run: &str) -> PathBuf {
        self.folder.path().join(format!("gate-{run}"))
    }

    fn close_gate(&self, run: &str) {
        fs::write(self.gate(run), "").unwrap();
    }

    fn open_gate(&self, run: &str) {
        fs::remove_file(self.gate(run)).unwrap();
    }

    /// The log: what, which run, and its fencing token.
    fn log(&self) -> Vec<(String, String, i64)> {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let line = |line: &str| {
            let words: Vec<_> = line.split(' ').map(str::to_owned).collect();
            (words[0].clone(), words[1].clone(), words[2].parse().unwrap())
        };
        log.lines().map(line).collect()
    }

    /// Waits until the log has this line.
    fn wait_for(&self, what: &str, run: &str) {
        let said = || self.log().iter().any(|(said, by, _)| said == what && by == run).then_some(());
        eventually(said, &format!("{what} of {run}"));
    }

    fn lock(&self, run: &str) -> Key {
        keys::lock(&self.environment, &Holder::Run(RunId::new(run)))
    }

    /// Whether any result of a run stands in the store, and how its record says that it is.
    async fn recorded(&self, run: &str) -> usize {
        let blocks = Read::from(KeyRange::prefix(keys::blocks(&RunId::new(run))));
        self.store.read(blocks).await.unwrap().pairs.len()
    }

    fn shown(&self, run: &str) -> Value {
        let ran = self.etcdtest(&["runs", "show", run, "--format", "json"]);
        serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{ran:?}"))
    }
}

/// How many runs are started at once: the full number is for a machine of its own.
fn runs() -> usize {
    std::env::var("RESERVATION_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(8)
}

/// Nobody began before the one before it had ended, and each had a greater token.
fn one_at_a_time(log: &[(String, String, i64)]) {
    for pair in log.chunks(2) {
        assert!(
            pair.len() == 2 && pair[0].0 == "start" && pair[1].0 == "end" && pair[0].1 == pair[1].1,
            "{log:?}"
        );
    }
    assert!(log.chunks(2).is_sorted_by(|one, next| one[0].2 < next[0].2), "{log:?}");
}

#[tokio::test]
async fn runs_started_at_once_use_the_environment_one_after_the_other() {
    let etcd = Etcd::start();
    let application = Application::on_etcd(&etcd).await;
    let runs: Vec<_> =
        (0..runs()).map(|number| application.start(&format!("r{number}"), &["uses_it"])).collect();
    let count = runs.len();
    for ran in runs.into_iter().map(Running::end) {
        assert_eq!(ran.code, Some(0), "{ran:?}");
    }
    let log = application.log();
    assert_eq!(log.len(), 2 * count);
    one_at_a_time(&log);
    let left = application.store.read(KeyRange::prefix("/locks/").into()).await.unwrap();
    assert!(left.pairs.is_empty(), "{left:?}");
}

#[tokio::test]
async fn the_embedded_store_keeps_runs_apart_as_well() {
    let store = Arc::new(LocalStore::open(&project().folder().join(".etcdtest")).unwrap());
    let application = Application::on(store, &[], "apart");
    let runs: Vec<_> = (0..3).map(|number| application.start(&format!("l{number}"), &["uses_it"])).collect();
    for ran in runs.into_iter().map(Running::end) {
        assert_eq!(ran.code, Some(0), "{ran:?}");
    }
    one_at_a_time(&application.log());
}

#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Spared,
    Killed,
    Frozen,
}

#[tokio::test(flavor = "multi_thread")]
async fn holders_that_are_killed_or_frozen_free_it_and_record_nothing_any_more() {
    let etcd = Etcd::start();
    let application = Application::on_etcd(&etcd).await;
    let fate = |number: usize| match number % 4 {
        1 => Fate::Killed,
        3 => Fate::Frozen,
        _ => Fate::Spared,
    };
    let names: BTreeMap<_, _> = (0..runs()).map(|number| (format!("r{number}"), fate(number))).collect();
    for (name, _) in names.iter().filter(|(_, fate)| **fate != Fate::Spared) {
        application.close_gate(name);
    }
    let mut waiting: BTreeMap<_, _> =
        names.keys().map(|name| (name.clone(), application.start(name, &["uses_it"]))).collect();
    let (mut met, mut idle) = (Vec::<String>::new(), Instant::now());
    while met.len() < names.len() {
        // The next of them that has the environment.
        let next = application.log().into_iter().find(|(what, run, _)| what == "start" && !met.contains(run));
        let Some((_, name, _)) = next else {
            assert!(idle.elapsed() < PATIENCE, "nobody goes on after {met:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        idle = Instant::now();
        met.push(name.clone());
        let run = waiting.remove(&name).unwrap();
        let mut changes =
            application.store.watch(KeyRange::key(application.lock(&name)), Revision(0)).await.unwrap();
        match names[&name] {
            Fate::Spared => {
                assert_eq!(run.end().code, Some(0), "{name}");
                assert_eq!(application.recorded(&name).await, 1, "{name}");
                continue;
            }
            Fate::Killed => run.signal(Signal::KILL),
            Fate::Frozen => run.signal(Signal::STOP),
        }
        let gone = async {
            while !matches!(changes.next().await, Some(Ok(Notice::Changed { changes, .. }))
                if changes.iter().any(|change| matches!(change, Change::Deleted(_))))
            {}
        };
        in_time("the end of the reservation", gone).await;
        application.open_gate(&name);
        if names[&name] == Fate::Frozen {
            // Its test passes, which nobody may hear of.
            application.wait_for("end", &name);
            run.signal(Signal::CONT);
            run.end().refuses(102, &["the reservation of `staging` was lost", "run the tests again"]);
            let shown = application.shown(&name);
            assert_eq!((&shown["state"], &shown["counts"]["not_run"]), (&json!("cancelled"), &json!(1)));
        }
        assert_eq!(application.recorded(&name).await, 0, "{name}");
    }
    let log = application.log();
    let starts: Vec<_> = log.iter().filter(|(what, ..)| what == "start").collect();
    assert_eq!(starts.len(), names.len());
    assert!(starts.is_sorted_by(|one, next| one.2 < next.2), "{log:?}");
    one_at_a_time(&log.into_iter().filter(|(_, run, _)| names[run] == Fate::Spared).collect::<Vec<_>>());
}

/// The events of this name.
fn events(ran: &Ran, name: &str) -> Vec<Value> {
    ran.events().into_iter().filter(|event| event["event"] == name).collect()
}

#[tokio::test]
async fn a_run_that_waits_says_for_whom_and_leaves_when_it_is_told_to() {
    let etcd = Etcd::start();
    let application = Application::on_etcd(&etcd).await;
    application.close_gate("holder");
    let holder = application.start("holder", &["uses_it"]);
    application.wait_for("start", "holder");

    let mut second = application.start("second", &["uses_it", "--format", "json"]);
    second.line_with("reservation-waiting").unwrap();
    let mut third = application.start("third", &["uses_it"]);
    let line = third.line_with("Waiting").unwrap();
    let author = cargo_etcdtest::author::host();
    assert!(
        line.contains(&format!("for environment staging: held by run holder of ann@{author} for ")),
        "{line}"
    );
    assert!(line.contains("1 before this in the queue"), "{line}");
    let listed = application.etcdtest(&["env", "list"]);
    assert!(
        listed.stdout.contains("run holder of ann@") && listed.stdout.contains("; 2 waiting"),
        "{listed:?}"
    );
    let shown = application.etcdtest(&["env", "show", "staging"]);
    assert!(shown.stdout.contains("# waited for by run third of ann@"), "{shown:?}");

    let impatient = application.etcdtest(&[
        "run",
        "--env",
        "staging",
        "--run-id",
        "impatient",
        "uses_it",
        "--reserve-timeout",
        "300ms",
    ]);
    impatient.refuses(102, &["`staging` was not free within 300ms: it is held by run holder of ann@"]);
    third.signal(Signal::INT);
    third
        .end()
        .refuses(130, &["interrupted while waiting for the environment `staging`", "held by run holder"]);
    let queue = application.etcdtest(&["env", "show", "staging", "--format", "json"]);
    let queue: Value = serde_json::from_str(&queue.stdout).unwrap();
    assert_eq!(queue["reserved"]["holders"][0]["run"], "holder");
    assert_eq!(queue["reserved"]["waiting"].as_array().unwrap().len(), 1, "those who left are gone at once");

    application.open_gate("holder");
    assert_eq!(holder.end().code, Some(0));
    let second = second.end();
    assert_eq!(second.code, Some(0), "{second:?}");
    let waiting = &events(&second, "reservation-waiting")[0];
    assert_eq!((&waiting["environment"], &waiting["ahead"]), (&json!("staging"), &json!(0)));
    assert_eq!(waiting["holders"][0]["holder"], "holder");
    assert_eq!(events(&second, "reservation-held")[0]["environments"], json!(["staging"]));
}

#[tokio::test]
async fn a_run_whose_environment_is_taken_away_ends_its_tests_and_says_who_did_it() {
    let etcd = Etcd::start();
    let application = Application::on_etcd(&etcd).await;
    application.close_gate("victim");
    let junit = application.folder.path().join("junit.xml");
    let more = ["--test-threads", "1", "-E", "test(early) | test(uses_it)"];
    let mut victim = Running::start(
        application
            .command(&[&["run", "--env", "staging", "--run-id", "victim"][..], &more].concat())
            .env("ETCDTEST_JUNIT", &junit),
    );
    victim.line_with("early").unwrap();
    application.wait_for("start", "victim");
    let stored = async {
        while application.recorded("victim").await == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    in_time("the result", stored).await;
    let refused = application.etcdtest(&["env", "release", "staging"]);
    refused.refuses(
        102,
        &["you have not reserved the environment `staging`: it is held by run victim", "--force"],
    );
    let released = application.etcdtest(&["env", "release", "staging", "--force"]);
    assert!(released.stdout.starts_with("staging released: run victim of ann@"), "{released:?}");
    let ended = victim.end();
    ended.refuses(102, &["the environment `staging` was taken away by ann@", "env show staging"]);
    let shown = application.shown("victim");
    assert_eq!((&shown["counts"]["passed"], &shown["counts"]["not_run"]), (&json!(1), &json!(1)));
    assert!(fs::read_to_string(&junit).unwrap().contains("early"), "it has its reports all the same");
    assert!(application.log().iter().all(|(what, ..)| what == "start"), "its test was ended");
}

#[tokio::test]
async fn a_person_reserves_an_environment_and_runs_wait_until_it_is_given_back() {
    let etcd = Etcd::start();
    let application = Application::on_etcd(&etcd).await;
    let reserved =
        application.etcdtest(&["env", "reserve", "staging", "--for", "2h", "--why", "a look at the queue"]);
    assert_eq!(
        reserved.stdout,
        "staging is yours for 2h: `cargo etcdtest env release staging` gives it back\n"
    );
    let mut run = application.start("run", &["uses_it"]);
    let line = run.line_with("Waiting").unwrap();
    assert!(
        line.contains("held by ann@") && line.contains("left (a look at the queue); next in the queue"),
        "{line}"
    );
    let released = application.etcdtest(&["env", "release", "staging"]);
    assert_eq!(released.code, Some(0), "{released:?}");
    assert_eq!(run.end().code, Some(0));

    fs::write(application.folder.path().join("free.toml"), "description = \"for all\"\n").unwrap();
    let file = application.folder.path().join("free.toml");
    assert_eq!(application.etcdtest(&["env", "apply", file.to_str().unwrap()]).code, Some(0));
    let free = application.etcdtest(&["env", "reserve", "free", "--for", "1h"]);
    free.refuses(2, &["the environment `free` has no capacity", "capacity = 1"]);
    let unknown = application.etcdtest(&["env", "reserve", "stagin", "--for", "1h"]);
    unknown.refuses(102, &["there is no environment `stagin`", "staging"]);
}

#[tokio::test]
async fn the_reservation_is_the_runs_and_outlives_the_worker_that_made_it() {
    let etcd = Etcd::start();
    let application = Application::on_etcd(&etcd).await;
    application.close_gate("joint");
    let mut first = application.start("joint", &[]);
    application.wait_for("start", "joint");
    let mut second = application.start("joint", &[]);
    second.line_with("Starting").unwrap();
    first.signal(Signal::KILL);
    assert_eq!(first.line_with("uses_it"), None);
    let mut next = application.start("next", &[]);
    next.line_with("Waiting").unwrap();
    // Longer than the reservation would live: the second one keeps it.
    second.line_with("Takeover").unwrap();
    application.open_gate("joint");
    assert_eq!((second.end().code, next.end().code), (Some(0), Some(0)));
    let log = application.log();
    let said: Vec<_> = log.iter().map(|(what, run, _)| format!("{what} {run}")).collect();
    assert_eq!(said, ["start joint", "start joint", "end joint", "start next", "end next"]);
    assert!(log[0].2 < log[1].2, "it was executed anew, under another token: {log:?}");
}

#[tokio::test]
async fn who_was_frozen_for_longer_than_the_reservation_lives_goes_on_where_another_kept_it() {
    let etcd = Etcd::start();
    let application = Application::on_etcd(&etcd).await;
    application.close_gate("kept");
    let first = application.start("kept", &[]);
    application.wait_for("start", "kept");
    let mut second = application.start("kept", &[]);
    second.line_with("Starting").unwrap();
    first.signal(Signal::STOP);
    second.line_with("Takeover").unwrap();
    application.open_gate("kept");
    first.signal(Signal::CONT);
    for ran in [first.end(), second.end()] {
        assert_eq!(ran.code, Some(0), "{ran:?}");
    }
    assert_eq!(application.shown("kept")["counts"]["passed"], json!(2));
}
