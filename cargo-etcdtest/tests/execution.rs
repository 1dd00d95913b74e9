//! Runs of made-up test binaries, at the ends where something goes wrong.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cargo_etcdtest::config::{Flags, MaxFail, Retries, Settings};
use cargo_etcdtest::environments::SecretValues;
use cargo_etcdtest::execution::{
    Entry, Leave, Order, Policy, Result as RunResult, RunError, Selected, Timings, run,
};
use cargo_etcdtest::model::{
    Attempt, Build, Code, Definition, Description, Environment, Labels, Outcome, RunId, TestCaseId, TestKind,
    WorkerId,
};
use cargo_etcdtest::reports::RunDetails;
use cargo_etcdtest::store::local::LocalStore;
use cargo_etcdtest::store::{
    KeyRange, Lease, LeaseId, Op, Page, Read, Result, Revision, Secret, SharedStore, Store, StoreError,
    StoreStatus, Txn, TxnOutcome, Watch, decode_output, keys, list,
};
use cargo_etcdtest::testcases::{Binary, BinaryKind, ListedTest};
use tokio::sync::{mpsc, watch};

/// A plain binary whose tests are the branches of a shell's `case`.
fn binary(folder: &Path, branches: &str) -> Arc<Binary> {
    let path = folder.join("binary");
    let pass = "echo 'test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out'";
    std::fs::write(&path, format!("#!/bin/sh\ncase \"$1\" in\n{branches}\n*) {pass} ;;\nesac\n")).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    let folder = camino::Utf8PathBuf::from_path_buf(folder.to_owned()).unwrap();
    Arc::new(Binary {
        package: "shop".into(),
        name: "lib".into(),
        target: "shop".into(),
        kind: BinaryKind::Lib,
        path: folder.join("binary"),
        directory: folder,
        variables: Vec::new(),
    })
}

fn order(binary: &Arc<Binary>, tests: &[&str], policy: Policy) -> Order {
    let test = |name: &&str| Selected {
        test: ListedTest {
            id: TestCaseId::new("shop", "lib", *name),
            code: Code {
                kind: TestKind::Plain,
                description: Description::default(),
                timeout: None,
                retries: None,
                environments: Vec::new(),
                exclusive: None,
                needs: Labels::default(),
                ignore: None,
                file: None,
                line: None,
            }
            .into(),
            typed: false,
            binary: binary.clone(),
        },
        skipped: HashMap::new(),
    };
    Order {
        id: RunId::new("run"),
        tests: tests.iter().map(test).collect(),
        tests_digest: String::new(),
        environments: vec![Environment::unstored("local", Definition::default(), "ann@desk")],
        secrets: SecretValues::default(),
        policy,
        shuffle: None,
        repetitions: NonZeroU32::MIN,
        labels: Labels::default(),
        command: vec![],
        author: "ann@desk".into(),
        host: "desk".into(),
        worker: WorkerId::generate("desk"),
        entry: Entry::CreateOrJoin,
        keeper: env!("CARGO_BIN_EXE_cargo-etcdtest").into(),
        root: "/".into(),
        built: vec![],
        commit: None,
        build: Build::default(),
        patience: Duration::from_secs(30),
        journals: None,
        timings: Timings::start(),
    }
}

fn policy() -> Policy {
    policy_of(Flags { max_fail: Some(MaxFail::All), ..Flags::default() })
}

/// Rules with two lanes, of these flags alone.
fn policy_of(flags: Flags) -> Policy {
    let root = tempfile::tempdir().unwrap();
    let settings = Settings::load(flags, root.path(), []).unwrap();
    let mut policy = Policy::new(&settings, false, false);
    policy.lanes = NonZeroUsize::new(2).unwrap();
    policy
}

async fn execute(store: SharedStore, order: Order, leave: Leave) -> RunResult<RunDetails> {
    let (events, _) = mpsc::unbounded_channel();
    let (_leave, told) = watch::channel(leave);
    run(store, order, told, &events).await
}

fn attempt<'a>(details: &'a RunDetails, test: &str) -> &'a Attempt {
    let unit = details.units.iter().find(|unit| unit.planned.test.test == test).unwrap();
    unit.result.as_ref().unwrap().attempts.last().unwrap()
}

/// A store that fails wherever keys of this range are put.
#[derive(Debug)]
struct Refusing {
    store: SharedStore,
    range: KeyRange,
    failure: fn() -> StoreError,
}

#[async_trait]
impl Store for Refusing {
    async fn txn(&self, txn: Txn) -> Result<TxnOutcome> {
        if txn.then.iter().any(|op| matches!(op, Op::Put { key, .. } if self.range.contains(key))) {
            return Err((self.failure)());
        }
        self.store.txn(txn).await
    }

    async fn read(&self, read: Read) -> Result<Page> {
        self.store.read(read).await
    }

    async fn watch(&self, range: KeyRange, from: Revision) -> Result<Watch> {
        self.store.watch(range, from).await
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease> {
        self.store.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration> {
        self.store.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.store.revoke(lease).await
    }

    async fn compact(&self, upto: Revision) -> Result<()> {
        self.store.compact(upto).await
    }

    async fn status(&self) -> Result<StoreStatus> {
        self.store.status().await
    }
}

#[tokio::test]
async fn a_store_that_goes_away_at_the_end_leaves_a_run_that_is_only_to_be_concluded() {
    let folder = tempfile::tempdir().unwrap();
    let store: SharedStore = Arc::new(LocalStore::open(folder.path()).unwrap());
    let binary = binary(folder.path(), "");
    let mut order = order(&binary, &["passes"], policy());
    order.patience = Duration::from_millis(200);
    let away: SharedStore = Arc::new(Refusing {
        store: store.clone(),
        range: KeyRange::prefix(keys::reports(&RunId::new("run"))),
        failure: || StoreError::Unavailable { location: "there".into(), reason: "away".into() },
    });
    let error = execute(away, order, Leave::ToFinish).await.unwrap_err();
    let RunError::Unfinished { cancelled: false, .. } = &error else { panic!("{error}") };
    assert!(error.to_string().contains("all results of run `run` are stored, but it is not concluded"));
    let blocks = list(&*store, KeyRange::prefix(keys::blocks(&RunId::new("run")))).await.unwrap();
    assert_eq!(blocks.pairs.len(), 1, "and so it is");
}

fn folder() -> (tempfile::TempDir, SharedStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(LocalStore::open(&folder.path().join("store")).unwrap());
    (folder, store)
}

#[tokio::test]
async fn what_cannot_be_recorded_is_not_executed_any_further() {
    let (folder, store) = folder();
    let binary = binary(folder.path(), "endless) exec sleep 600 ;;");
    let order = order(&binary, &["endless", "passing"], policy());
    let ended = tokio::time::timeout(
        Duration::from_mins(2),
        execute(
            Arc::new(Refusing {
                store,
                range: KeyRange::prefix(keys::blocks(&RunId::new("run"))),
                failure: || StoreError::Denied { what: "results".into(), reason: "no role".into() },
            }),
            order,
            Leave::ToFinish,
        ),
    );
    let error = ended.await.expect("the run waits for a test that nobody can record").unwrap_err();
    assert_eq!(error.to_string(), "the store denied results: no role");
}

#[tokio::test]
async fn a_run_that_is_stopped_before_it_begins_executes_nothing() {
    let (folder, store) = folder();
    let binary = binary(folder.path(), "");
    let details = execute(store, order(&binary, &["a", "b"], policy()), Leave::ToEnd).await.unwrap();
    assert_eq!(details.run.summary.unwrap().not_run, 2);
}

#[tokio::test]
async fn a_failure_of_the_last_test_cancels_nothing() {
    let (folder, store) = folder();
    let binary = binary(folder.path(), "failing) exit 1 ;;");
    let policy = policy_of(Flags::default());
    let details = execute(store, order(&binary, &["failing"], policy), Leave::ToFinish).await.unwrap();
    assert_eq!(details.run.state, cargo_etcdtest::model::RunState::Finished { cancelled: false });
}

#[tokio::test]
async fn what_a_test_printed_is_kept_where_an_escaped_process_holds_its_streams() {
    let (folder, store) = folder();
    let branches = "failing) echo 'what went wrong'; setsid sleep 5 & exit 3 ;;";
    let binary = binary(folder.path(), branches);
    let details = execute(store, order(&binary, &["failing"], policy()), Leave::ToFinish).await.unwrap();
    let attempt = attempt(&details, "failing");
    assert_eq!((attempt.outcome, attempt.exit_code), (Outcome::Crashed, Some(3)));
    assert_eq!(details.units[0].output(1, "output"), Some("what went wrong\n"));
}

#[tokio::test]
async fn many_long_messages_are_stored_within_what_a_transaction_takes() {
    let (folder, store) = folder();
    let closing = "test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out";
    let branches = &format!("fail*) cat long; echo '{closing}'; exit 101 ;;");
    let binary = binary(folder.path(), branches);
    std::fs::write(folder.path().join("long"), format!("Error: {}\n", "\u{1}".repeat(100_000))).unwrap();
    let tests: Vec<String> = (0..45).map(|number| format!("fail{number}")).collect();
    let tests: Vec<&str> = tests.iter().map(String::as_str).collect();
    let retries = Some(Retries::at_once(1));
    let mut policy = policy_of(Flags { retries, max_fail: Some(MaxFail::All), ..Flags::default() });
    policy.lanes = NonZeroUsize::new(8).unwrap();
    let details = execute(store.clone(), order(&binary, &tests, policy), Leave::ToFinish).await.unwrap();
    assert_eq!(details.run.summary.unwrap().failed, 45);
    let key = keys::latest_result(&TestCaseId::new("shop", "lib", "fail7"), "local");
    assert!(cargo_etcdtest::store::get(&*store, key).await.unwrap().unwrap().value.len() <= 512 << 10);
}

#[tokio::test]
async fn a_secret_that_a_test_prints_is_stored_nowhere_in_whatever_pieces_it_comes() {
    let folder = tempfile::tempdir().unwrap();
    let binary = binary(
        folder.path(),
        "a) printf 'all of %s' $ETCDTEST_SECRET_db; printf ' and in pieces hun' >&2; sleep 0.2; printf 'ter2-hunter3\\n' >&2
            printf 'at the end hunt'; exit 3 ;;",
    );
    let store = Arc::new(LocalStore::open(&folder.path().join("store")).unwrap());
    let mut order = order(&binary, &["a"], policy());
    order.secrets.insert("local", "db", Secret::new("hunter2-hunter3"));
    order.command = vec!["run".into(), "hunter2-hunter3".into()];
    let details = execute(store.clone(), order, Leave::ToFinish).await.unwrap();
    assert_eq!(details.run.command, ["run", "[secret db]"]);

    let page = list(&*store, KeyRange::prefix("/logs/")).await.unwrap();
    let output = |name: &str| {
        let pair = page.pairs.iter().find(|pair| pair.key.to_string().contains(name)).unwrap();
        String::from_utf8(decode_output(std::slice::from_ref(pair)).unwrap()).unwrap()
    };
    assert_eq!(
        output("/output/"),
        "all of [secret db] and in pieces [secret db]\nat the end hunt",
        "what is no secret is not held for ever"
    );
}
