//! Runs that share an environment of capacity 1: one at a time, by the log of the
//! application itself.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "these are tests")]

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use cargo_etcdtest::environments::{EnvironmentFile, Environments};
use cargo_etcdtest::model::{Definition, Holder, RunId};
use cargo_etcdtest::store::local::LocalStore;
use cargo_etcdtest::store::{Change, Key, KeyRange, Notice, Read, Revision, SharedStore, keys};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use whole_program::etcd::Etcd;
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

/// After how long without progress a test gives up.
const PATIENCE: Duration = Duration::from_mins(3);

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
    async fn on(store: SharedStore, flags: &[&str], environment: &str) -> Self {
        let definition = Definition { capacity: NonZeroU32::new(1), ..Definition::default() };
        let file = EnvironmentFile { name: environment.to_owned(), definition };
        Environments::new(store.clone()).apply(&file, "ann@desk").await.unwrap();
        let flags = flags.iter().map(ToString::to_string).collect();
        Self { folder: tempfile::tempdir().unwrap(), store, flags, environment: environment.to_owned() }
    }

    async fn on_etcd(etcd: &Etcd) -> Self {
        Self::on(Arc::new(etcd.connect().await), &["--endpoints", &etcd.endpoint()], "staging").await
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        project().prepare(&mut command).args(arguments).args(&self.flags);
        command.env("APPLICATION", self.folder.path()).env("ETCDTEST_RESERVE_TTL", "5s").env("USER", "ann");
        command
    }

    fn etcdtest(&self, arguments: &[&str]) -> Ran {
        self.command(arguments).output().unwrap().into()
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
        let began = Instant::now();
        while !self.log().iter().any(|(said, by, _)| said == what && by == run) {
            assert!(began.elapsed() < PATIENCE, "no {what} of {run} in {:?}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
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
    let application = Application::on(store, &[], "apart").await;
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
        while !matches!(changes.next().await, Some(Ok(Notice::Changed { changes, .. }))
            if changes.iter().any(|change| matches!(change, Change::Deleted(_))))
        {}
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
