//! The store over time: old runs go, full ones recover, whole ones move.
#![expect(clippy::unwrap_used, reason = "these are tests")]

use std::fs;
use std::process::Command;

use cargo_etcdtest::store::etcd::EtcdStore;
use cargo_etcdtest::store::{KeyRange, Op, Store, StoreError, Txn};
use etcd_client::{Permission, PermissionType};
use serde_json::Value;
use whole_program::etcd::{self, Etcd};
use whole_program::subject::{Ran, Subject};

/// One test that passes, and nothing else.
const RUN: [&str; 3] = ["run", "-E", "test(=outcomes::passes)"];

fn json(ran: &Ran) -> Value {
    assert_eq!(ran.code, Some(0), "{ran:?}");
    serde_json::from_str(&ran.stdout).unwrap()
}

/// The ids of the runs that a store has, newest first.
fn runs(subject: &Subject, store: &[&str]) -> Vec<String> {
    let listed = subject.etcdtest(&[&["runs", "list", "--format", "json"], store].concat());
    assert_eq!(listed.code, Some(0), "{listed:?}");
    listed.events().iter().map(|run| run["run"].as_str().unwrap().to_owned()).collect()
}

fn run(subject: &Subject, id: &str, more: &[&str]) {
    let ran = subject.etcdtest(&[&RUN[..], &["--run-id", id], more].concat());
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

#[test]
fn the_end_of_a_run_deletes_old_ones_but_never_itself() {
    let subject = Subject::new();
    run(&subject, "first", &[]);
    run(&subject, "second", &[]);
    assert_eq!(runs(&subject, &[]), ["second", "first"], "neither is old");
    let ran = |id: &str, newest: &str| {
        let mut command = subject.command(&[&RUN[..], &["--run-id", id]].concat());
        command.env("ETCDTEST_GC_OLDER_THAN", "1ms").env("ETCDTEST_GC_KEEP_RUNS", newest);
        let ran = Ran::of(&mut command);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        runs(&subject, &[])
    };
    assert_eq!(ran("third", "all"), ["third", "second", "first"]);
    assert_eq!(ran("fourth", "2"), ["fourth", "third"]);
    assert_eq!(ran("fifth", "1"), ["fifth"]);
    assert_eq!(subject.etcdtest(&["report", "export", "fifth"]).code, Some(0));
    assert_eq!(subject.etcdtest(&["report", "export", "fourth"]).code, Some(2));
}

#[test]
fn a_run_under_way_is_never_deleted_by_another() {
    let subject = Subject::new();
    let gate = ["gate::", "--no-fail-fast", "--run-id", "under-way", "--format", "json"];
    let mut under_way = subject.start(&[&["run"], &gate[..]].concat());
    under_way.line_with("unit-finished").expect("a test ends");
    let mut other = subject.command(&[&RUN[..], &["--run-id", "other"]].concat());
    other.env("ETCDTEST_GC_OLDER_THAN", "1ms").env("ETCDTEST_GC_KEEP_RUNS", "1");
    assert_eq!(Ran::of(&mut other).code, Some(0));
    let gc = json(&subject.etcdtest(&["store", "gc", "--keep-runs", "0", "--format", "json"]));
    assert_eq!(gc["runs"], serde_json::json!(["other"]));
    fs::write(subject.meeting("go"), "").unwrap();
    let ran = under_way.end();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(runs(&subject, &[]), ["under-way"]);
    assert_eq!(subject.etcdtest(&["report", "export", "under-way"]).code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_user_may_not_see_is_not_counted_and_the_rest_is_shown() {
    let etcd = Etcd::start();
    let endpoint = etcd.endpoint();
    let subject = Subject::new();
    run(&subject, "seen", &["--endpoints", &endpoint]);
    let auth = etcd.client().await;
    let mut auth = auth.auth_client();
    auth.role_add("viewer").await.unwrap();
    for prefix in ["/runs/", "/reports/"] {
        let (from, to) = (prefix.to_owned(), prefix.replace("s/", "s0"));
        let permission = Permission::new(PermissionType::Read, from).with_range_end(to);
        auth.role_grant_permission("viewer", permission).await.unwrap();
    }
    auth.user_add("viewer", "viewer", None).await.unwrap();
    auth.user_grant_role("viewer", "viewer").await.unwrap();
    etcd.enable_auth().await;
    let status = ["store", "status", "--format", "json", "--endpoints", &endpoint, "--user", "viewer:viewer"];
    let status = json(&subject.etcdtest(&status));
    let records = status["store"]["records"].as_array().unwrap();
    let of = |prefix: &str| records.iter().find(|line| line["prefix"] == prefix).unwrap()["count"].clone();
    assert_eq!(of("/runs/"), 1);
    assert!(of("/reports/").as_u64().unwrap() > 0 && of("/secrets/").is_null() && of("/locks/").is_null());
    // Who may not delete runs is told so, and nothing is half deleted.
    let gc = ["store", "gc", "--keep-runs", "0", "--endpoints", &endpoint, "--user", "viewer:viewer"];
    subject.etcdtest(&gc).refuses(2, &["the store denied"]);
}

#[test]
fn gc_deletes_runs_with_everything_that_was_stored_of_them() {
    let subject = Subject::new();
    for id in ["first", "second", "third"] {
        run(&subject, id, &["--store-output", "all"]);
    }
    let records = || {
        let status = json(&subject.etcdtest(&["store", "status", "--format", "json"]));
        let records = status["store"]["records"].as_array().unwrap().clone();
        let of = |prefix: &str| {
            records.iter().find(|line| line["prefix"] == prefix).unwrap()["count"].as_u64().unwrap()
        };
        [of("/runs/"), of("/execution/"), of("/logs/"), of("/reports/"), of("/results/")]
    };
    let before = records();
    let gc =
        |flags: &[&str]| json(&subject.etcdtest(&[&["store", "gc", "--format", "json"], flags].concat()));
    let would = gc(&["--keep-runs", "1", "--dry-run"]);
    assert_eq!(would["runs"], serde_json::json!(["first", "second"]));
    assert_eq!(records(), before);
    let done = gc(&["--keep-runs", "1", "--compact"]);
    assert_eq!(done["runs"], would["runs"]);
    let [runs, execution, logs, reports, results] = before;
    assert_eq!(records(), [1, execution / 3, logs / 3, reports / 3, results], "of {before:?}");
    let (deleted, left) = (done["records"].as_u64().unwrap(), runs + execution + logs + reports);
    assert_eq!(deleted, left / 3 * 2);
    assert_eq!(gc(&["--keep-runs", "1", "--compact"])["records"], 0);
    // Without a flag the settings hold: nothing is that old.
    assert_eq!(gc(&[])["runs"], serde_json::json!([]));
}

/// Fills an etcd with what is left of a run that is gone, until it takes no more.
async fn fill(store: &EtcdStore) {
    for number in 0.. {
        let put = Op::put(format!("/logs/gone/{number:06}"), vec![b'x'; 60 << 10]);
        match store.txn(Txn { then: vec![put], ..Txn::default() }).await {
            Ok(_) => {}
            Err(StoreError::NoSpace { .. }) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Does what is told to do about an etcd without space.
fn recover(subject: &Subject, endpoint: &str) {
    let gc = ["store", "gc", "--keep-runs", "10", "--compact", "--format", "json", "--endpoints", endpoint];
    let gc = json(&subject.etcdtest(&gc));
    assert!(gc["remains"].as_u64().unwrap() > 50, "{gc}");
    for arguments in [&["defrag"][..], &["alarm", "disarm"]] {
        let mut etcdctl = Command::new(etcd::folder().join("etcdctl"));
        let done = Ran::of(etcdctl.args(["--endpoints", endpoint]).args(arguments));
        assert_eq!(done.code, Some(0), "{done:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_waits_for_space_and_then_stores_what_it_could_not() {
    let etcd = Etcd::with(&["--quota-backend-bytes=8000000"]);
    let endpoint = etcd.endpoint();
    let subject = Subject::new();
    let gate = ["run", "gate::", "--format", "json", "--endpoints", &endpoint, "--run-id", "waits"];
    let mut under_way = subject.start(&gate);
    under_way.line_with("unit-finished").expect("a test ends");
    fill(&etcd.connect().await).await;
    fs::write(subject.meeting("go"), "").unwrap();
    under_way.line_with("store-away").expect("it cannot store results");
    recover(&subject, &endpoint);
    let ran = under_way.end();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let summary = ["report", "export", "waits", "--format", "json", "--endpoints", &endpoint];
    let counts = &json(&subject.etcdtest(&summary))["counts"];
    assert_eq!((&counts["passed"], &counts["not_run"]), (&20.into(), &0.into()), "{counts}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_without_space_is_explained_and_recovers_by_the_commands_that_are_told() {
    let etcd = Etcd::with(&["--quota-backend-bytes=8000000"]);
    let endpoint = etcd.endpoint();
    let on_etcd = ["--endpoints", endpoint.as_str()];
    let subject = Subject::new();
    run(&subject, "before", &on_etcd);
    let store = etcd.connect().await;
    fill(&store).await;

    let commands = ["store gc --keep-runs 10 --compact", "etcdctl defrag", "etcdctl alarm disarm"];
    let full = subject.etcdtest(&[&RUN[..], &["--run-id", "full"], &on_etcd].concat());
    full.refuses(103, &[&["has no space left"], &commands[..]].concat());
    let status = subject.etcdtest(&[&["store", "status", "--format", "json"], &on_etcd[..]].concat());
    let warnings = json(&status)["store"]["warnings"].to_string();
    assert!(commands.iter().chain(&["NOSPACE"]).all(|text| warnings.contains(text)), "{warnings}");

    recover(&subject, &endpoint);
    assert!(store.read(KeyRange::prefix("/logs/gone/").into()).await.unwrap().pairs.is_empty());
    run(&subject, "after", &on_etcd);
    let found = runs(&subject, &on_etcd);
    assert!(found.starts_with(&["after".into()]) && found.contains(&"before".into()), "{found:?}");
    let status = subject.etcdtest(&[&["store", "status"], &on_etcd[..]].concat());
    assert!(!status.stdout.contains("NOSPACE"), "{status:?}");
}

#[test]
fn a_project_moves_from_its_own_file_to_a_cluster_and_on_to_another_namespace() {
    let etcd = Etcd::start();
    let endpoint = etcd.endpoint();
    let subject = Subject::new();
    subject.environment("staging", "a = 1", &[]);
    run(&subject, "moved", &["--env", "staging"]);
    let copied =
        ["store", "copy", "--from", "local", "--to", &endpoint, "--to-namespace", "one", "--format", "json"];
    let copied = json(&subject.etcdtest(&copied));
    assert!(copied["records"].as_u64().unwrap() > 10, "{copied}");
    let again = [
        "store",
        "copy",
        "--endpoints",
        &endpoint,
        "--namespace",
        "one",
        "--to-namespace",
        "two",
        "--to",
        &endpoint,
    ];
    assert_eq!(subject.etcdtest(&again).code, Some(0));
    let shown = |store: &[&str]| {
        let shown = subject.etcdtest(&[&["report", "export", "moved", "--format", "json"], store].concat());
        assert_eq!(shown.code, Some(0), "{shown:?}");
        shown.stdout
    };
    let two = ["--endpoints", endpoint.as_str(), "--namespace", "two"];
    assert_eq!(shown(&two), shown(&[]));
    run(&subject, "there", &[&["--env", "staging"], &two[..]].concat());
    let itself = subject.etcdtest(&[&["store", "copy", "--to", &endpoint][..], &two].concat());
    itself.refuses(2, &["the source and the target of the copy are the same store"]);
    // What is in use is not written over.
    let refused = subject.etcdtest(&["store", "copy", "--to", &endpoint, "--to-namespace", "two"]);
    refused.refuses(2, &["the target is in use", "--to-namespace"]);
    let nowhere = subject.etcdtest(&["store", "copy", "--to", "local", "--to-namespace", "three"]);
    nowhere.refuses(2, &["a local store has no namespace `three`"]);
}
