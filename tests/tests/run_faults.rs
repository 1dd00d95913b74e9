//! Runs whose store fails them.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "these are tests")]

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use cargo_etcdtest::store::local::LocalStore;
use cargo_etcdtest::store::{KeyRange, Op, SharedStore, Store, Txn, keys, list};
use serde_json::{Value, json};
use whole_program::certificates::Authority;
use whole_program::etcd::Etcd;
use whole_program::started_by;
use whole_program::subject::{Ran, Running, Subject};

fn results(ran: &Ran) -> Vec<u64> {
    let events = ran.events();
    let finished = events.iter().filter(|event| event["event"] == "unit-finished");
    let mut units: Vec<u64> = finished.map(|event| event["unit"].as_u64().unwrap()).collect();
    units.sort_unstable();
    units
}

#[test]
fn a_run_outlives_a_restart_of_etcd_and_loses_nothing() {
    let mut etcd = Etcd::start();
    let store = ["--endpoints", &etcd.endpoint()];
    let subject = Subject::new();
    let run = ["gate::", "--run-id", "restarted", "--test-threads", "2", "--format", "json"];
    let mut run = subject.start(&[&run[..], &store].concat());
    run.line_with("unit-finished").unwrap();
    let mut watch = subject.start(&[&["watch", "restarted", "--format", "json"], &store[..]].concat());
    watch.line_with("unit-finished").unwrap();
    etcd.kill();
    fs::write(subject.meeting("go"), "").unwrap();
    assert!(run.line_with("store-away").is_some(), "an outage is told");
    etcd.restart();
    let all: Vec<u64> = (0..20).collect();
    for ran in [run.end(), watch.end()] {
        assert_eq!((ran.code, results(&ran)), (Some(0), all.clone()), "{ran:?}");
    }
    let shown = subject.etcdtest(&[&["runs", "show", "restarted", "--format", "json"], &store[..]].concat());
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!((&shown["state"], &shown["counts"]["passed"]), (&json!("finished"), &json!(20)));
}

#[tokio::test]
async fn a_worker_whose_lease_was_lost_registers_again_and_goes_on() {
    let subject = Subject::new();
    let arguments =
        ["gate::", "outcomes::errs", "--no-fail-fast", "--run-id", "forgotten", "--format", "json"];
    let mut run = subject.start(&[&arguments[..], &["--store-output", "all"]].concat());
    run.line_with("unit-finished").unwrap();
    let store: SharedStore =
        std::sync::Arc::new(LocalStore::open(&subject.path().join(".etcdtest")).unwrap());
    let gone = Op::Delete(KeyRange::prefix(keys::WORKERS));
    store.txn(Txn { then: vec![gone], ..Txn::default() }).await.unwrap();
    fs::write(subject.meeting("go"), "").unwrap();
    let ran = run.end();
    assert_eq!((ran.code, results(&ran)), (Some(100), (0..22).collect()), "{ran:?}");
    let blocks = keys::blocks(&cargo_etcdtest::model::RunId::new("forgotten"));
    let mut stored = BTreeSet::new();
    for pair in list(store.as_ref(), KeyRange::prefix(blocks)).await.unwrap().pairs {
        let block: cargo_etcdtest::model::Block = cargo_etcdtest::store::decode_block(&pair).unwrap();
        assert!(block.results.iter().all(|result| stored.insert(result.unit)), "each unit once");
    }
    assert_eq!(stored.len(), 22);
    let workers = list(store.as_ref(), KeyRange::prefix(keys::WORKERS)).await.unwrap();
    assert_eq!(workers.pairs.len(), 0, "it left when it was done");
}

#[test]
fn a_run_that_is_deleted_meanwhile_says_so() {
    let subject = Subject::new();
    let mut run = subject.start(&["gate::", "--run-id", "deleted", "--test-threads", "2"]);
    run.line_with("PASS").unwrap();
    let mut watch = subject.start(&["watch", "deleted"]);
    watch.line_with("Starting").unwrap();
    let store = LocalStore::open(&subject.path().join(".etcdtest")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let gone = Op::Delete(KeyRange::prefix("/runs/"));
    runtime.block_on(store.txn(Txn { then: vec![gone], ..Txn::default() })).unwrap();
    fs::write(subject.meeting("go"), "").unwrap();
    run.end().refuses(2, &["the run `deleted` was deleted", "run the tests again"]);
    watch.end().refuses(2, &["the run `deleted` was deleted"]);
}

#[test]
fn an_etcd_that_is_not_there_is_told_before_anything_is_built() {
    let subject = Subject::new();
    subject.change("src/lib.rs", "this would not compile");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    subject.etcdtest(&["--endpoints", &nobody]).refuses(103, &["cannot be reached", &nobody, "--endpoints"]);
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_not_shown() {
    let etcd = Etcd::with_users(&[]).await;
    let subject = Subject::new();
    let ran = subject.etcdtest(&["--endpoints", &etcd.endpoint(), "--user", "root:hunter2"]);
    ran.refuses(2, &["refused the credentials", &etcd.endpoint(), "check --user and ETCDTEST_PASSWORD"]);
    assert!(!format!("{ran:?}").contains("hunter2"), "{ran:?}");
}

#[test]
fn a_certificate_of_another_authority_is_refused() {
    let authority = Authority::new();
    let flags = authority.etcd_flags(&authority.sign("server"));
    let etcd = Etcd::with(&flags.iter().map(String::as_str).collect::<Vec<_>>());
    let client = authority.sign("client");
    let endpoint = format!("https://{}", etcd.endpoint());
    let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let (cert, key) = (text(&client.cert), text(&client.key));
    let mine = ["--endpoints", &endpoint, "--cert", &cert, "--key", &key, "--cacert"];
    let subject = Subject::new();
    let stranger = Authority::new();
    let other = text(&stranger.cacert());
    let ran = subject.etcdtest(&[&mine[..], &[&other, "tagged::one"]].concat());
    ran.refuses(2, &["certificate is not trusted", &endpoint, "--cacert"]);
    let right = text(&authority.cacert());
    assert_eq!(subject.etcdtest(&[&mine[..], &[&right, "tagged::one"]].concat()).code, Some(0));
    let missing = subject.etcdtest(&[&mine[..], &["no/such.pem"]].concat());
    missing.refuses(2, &["no/such.pem"]);
}

#[test]
fn a_local_store_of_a_newer_version_is_refused_and_left_alone() {
    let subject = Subject::new();
    assert_eq!(subject.etcdtest(&["tagged::one", "--run-id", "old"]).code, Some(0));
    let folder = subject.path().join(".etcdtest");
    let files = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let file = files
        .into_iter()
        .find(|path| fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"SQLite format 3")))
        .unwrap();
    let database = rusqlite::Connection::open(&file).unwrap();
    database.pragma_update(None, "user_version", 9999).unwrap();
    drop(database);
    let ran = subject.etcdtest(&["tagged::one"]);
    ran.refuses(2, &[".etcdtest", "newer", "update"]);
    let database = rusqlite::Connection::open(&file).unwrap();
    let version: i32 = database.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(version, 9999);
}

#[test]
fn a_record_of_a_newer_version_is_refused_by_its_key() {
    let subject = Subject::new();
    subject.environment("local", "url = \"x\"", &[]);
    let store = LocalStore::open(&subject.path().join(".etcdtest")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let newer = Op::put("/environments/local", "{\"schema\":99}");
    runtime.block_on(store.txn(Txn { then: vec![newer], ..Txn::default() })).unwrap();
    subject.etcdtest(&["tagged::one"]).refuses(2, &["/environments/local", "newer", "update"]);
}

/// The program may write no file longer than this: as on a disk that is full from there on.
fn limited(subject: &Subject, kilobytes: usize, arguments: &[&str]) -> Command {
    // SIGXFSZ is ignored, so that a write fails instead of ending the process.
    let script = "trap '' XFSZ; ulimit -f \"$0\"; exec \"$@\"";
    started_by(["sh", "-c", script, &kilobytes.to_string()], &subject.command(arguments))
}

#[test]
fn a_disk_that_is_full_ends_a_run_on_the_local_store_with_103_and_keeps_what_was_stored() {
    let subject = Subject::new();
    assert_eq!(subject.etcdtest(&["tagged::one", "--run-id", "before"]).code, Some(0));
    subject.write(".config/etcdtest.toml", "[profile.default]\nstore-timeout = \"1s\"\n");
    let size = fs::read_dir(subject.path().join(".etcdtest")).unwrap();
    let size = size.map(|entry| entry.unwrap().metadata().unwrap().len()).max().unwrap();
    // `ulimit -f` counts blocks of 512 bytes.
    let blocks = usize::try_from(size / 512).unwrap() + 8;
    let mut command = limited(&subject, blocks, &["gate::early", "outcomes::", "--store-output", "all"]);
    let ran = Running::start(&mut command).end();
    ran.refuses(103, &["ended before its results were stored", ".etcdtest", "runs show"]);
    let before = subject.etcdtest(&["runs", "show", "before"]);
    assert!(before.stdout.contains("1 passed"), "{before:?}");
    assert_eq!(subject.etcdtest(&["tagged::one"]).code, Some(0), "with room again it goes on");
}
