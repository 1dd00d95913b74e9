//! `runs` and `report` of the real program, on a store written by the library.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use cargo_etcdtest::model::{Run, RunId, RunState};
use cargo_etcdtest::reports::{JUNIT, Reports};
use cargo_etcdtest::store::local::LocalStore;
use cargo_etcdtest::store::{Op, SharedStore, Txn, encode, keys};

fn etcdtest(project: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cargo-etcdtest"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCDTEST_")) {
        command.env_remove(name);
    }
    command.arg("etcdtest").args(arguments).current_dir(project).env("TZ", "UTC").output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A project whose store has one run, `nightly`, with a JUnit report.
async fn project() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    std::fs::create_dir(path.join("src")).unwrap();
    std::fs::write(path.join("src/lib.rs"), "").unwrap();
    let manifest = "[package]\nname = \"project\"\nversion = \"0.1.0\"\nedition = \"2024\"\n";
    std::fs::write(path.join("Cargo.toml"), manifest).unwrap();

    let store: SharedStore = Arc::new(LocalStore::open(&path.join(".etcdtest")).unwrap());
    let run = Run {
        state: RunState::Finished { cancelled: false },
        created: "2027-01-01T00:00:00Z".parse().unwrap(),
        command: vec!["cargo".into()],
        stripes: vec![1],
        ..Run::new(RunId::new("nightly"), "ann@desk")
    };
    let then = vec![Op::put(keys::run(&run.id), encode(&run))];
    store.txn(Txn { then, ..Txn::default() }).await.unwrap();
    Reports::new(store).put(&run.id, JUNIT, [b"<testsuites/>\n".to_vec()]).await.unwrap();
    folder
}

#[tokio::test]
async fn a_run_is_listed_shown_and_its_report_exported() {
    let project = project().await;
    let list = etcdtest(project.path(), &["runs", "list", "--format", "json"]);
    assert_eq!(
        text(&list.stdout),
        "{\"author\":\"ann@desk\",\"command\":[\"cargo\"],\"commit\":null,\"counts\":null,\
         \"created\":\"2027-01-01T00:00:00Z\",\"environments\":[],\"finished\":null,\"run\":\"nightly\",\
         \"state\":\"finished\",\"units\":0}\n"
    );
    let show = etcdtest(project.path(), &["runs", "show", "night"]);
    assert!(
        text(&show.stdout).starts_with("Run nightly finished\n  created  2027-01-01 00:00:00 ("),
        "{show:?}"
    );
    assert_eq!(show.status.code(), Some(0));

    let export = etcdtest(project.path(), &["report", "export", "latest", "--format", "junit"]);
    assert_eq!(text(&export.stdout), "<testsuites/>\n");
    let export = etcdtest(project.path(), &["report", "export", "-o", "out/junit.xml"]);
    assert_eq!(text(&export.stderr), "wrote junit.xml of run nightly to out/junit.xml\n");
    assert_eq!(std::fs::read_to_string(project.path().join("out/junit.xml")).unwrap(), "<testsuites/>\n");
}

#[tokio::test]
async fn a_run_or_report_that_is_not_there_is_wrong_usage_and_says_what_is() {
    let project = project().await;
    for (arguments, what, help) in [
        (&["runs", "show", "nightyl"][..], "there is no run `nightyl`", "`nightly`"),
        (&["report", "show", "latest"], "has no report `summary.json`", "`junit.xml`"),
    ] {
        let output = etcdtest(project.path(), arguments);
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert_eq!((output.status.code(), stdout.as_str()), (Some(2), ""), "{stderr}");
        assert!(stderr.contains(what) && stderr.contains(help), "{stderr}");
    }
}
