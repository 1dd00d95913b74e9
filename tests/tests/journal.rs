//! Results outlive an etcd that is away: in the journal, until the store has them.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "these are tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use cargo_etcdtest::model::RunId;
use cargo_etcdtest::store::{KeyRange, Op, Store as _, Txn, decode_block, decompress, keys, list};
use rustix::process::Signal;
use serde_json::{Value, json};
use whole_program::etcd::Etcd;
use whole_program::subject::{Ran, Running, Subject};

/// One test that ends when `right` is written, and another that ends when `go` is.
const TWO: [&str; 4] = ["pair::left", "gate::late::c10", "--run-id", "cut-off"];

/// A run of both, with these arguments, on an etcd that went when both were under way; the first
/// has ended since, and the run waits for the store.
fn cut_off(subject: &Subject, etcd: &mut Etcd, more: &[&str]) -> Running {
    let endpoint = etcd.endpoint();
    let json = ["--endpoints", &endpoint, "--test-threads", "2", "--format", "json"];
    let mut run = subject.start(&[&TWO[..], &json, more].concat());
    for _ in 0..2 {
        run.line_with("attempt-started").unwrap();
    }
    etcd.kill();
    fs::write(subject.meeting("right"), "").unwrap();
    run.line_with("store-away").unwrap();
    run
}

fn journals(subject: &Subject) -> Vec<PathBuf> {
    let files = fs::read_dir(subject.path().join(".etcdtest/journal")).unwrap();
    files.map(|file| file.unwrap().path()).collect()
}

/// How many units of the run passed, and how far it is.
fn shown(subject: &Subject, etcd: &Etcd) -> (Value, Value) {
    let shown = ["runs", "show", "cut-off", "--format", "json", "--endpoints", &etcd.endpoint()];
    let shown = subject.etcdtest(&shown);
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap_or_else(|_| panic!("{shown:?}"));
    (shown["counts"]["passed"].clone(), shown["state"].clone())
}

#[test]
fn an_outage_longer_than_the_store_is_waited_for_costs_nothing_while_tests_run() {
    let (subject, mut etcd) = (Subject::new(), Etcd::start());
    // It is told after three seconds.
    let mut run = cut_off(&subject, &mut etcd, &["--store-timeout", "1s"]);
    let journal = &journals(&subject)[0];
    assert_eq!(fs::metadata(journal).unwrap().permissions().mode() & 0o777, 0o600);
    etcd.restart();
    run.line_with("unit-finished").unwrap();
    fs::write(subject.meeting("go"), "").unwrap();
    let ran = run.end();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(shown(&subject, &etcd), (json!(2), json!("finished")));
    assert_eq!(journals(&subject), [""; 0].map(PathBuf::from), "all of it is stored");
}

#[test]
fn a_store_that_stays_away_ends_the_run_with_103_and_says_where_its_results_are() {
    let (subject, mut etcd) = (Subject::new(), Etcd::start());
    let run = cut_off(&subject, &mut etcd, &["--store-timeout", "1s"]);
    fs::write(subject.meeting("go"), "").unwrap();
    let ran = run.end();
    let journal = journals(&subject)[0].display().to_string();
    let texts = [
        "the run `cut-off` ended before its results were stored",
        &etcd.endpoint(),
        "2 results are only in",
        &journal,
        "cargo etcdtest store sync",
        "runs show",
        "store-timeout",
    ];
    ran.refuses(103, &texts);
}

/// The fields of a journal's records, those that are compressed as they were before.
fn fields(journal: &[u8]) -> Vec<Vec<u8>> {
    const HEAD: usize = 20;
    let length = |bytes: &[u8]| usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
    let (mut fields, mut rest) = (Vec::new(), journal);
    while !rest.is_empty() {
        let (record, next) = rest[HEAD..].split_at(length(&rest[4..]));
        let mut record = record;
        while !record.is_empty() {
            let (field, next) = record[8..].split_at(length(record));
            fields.push(decompress(&"field".into(), field).unwrap());
            record = next;
        }
        rest = next;
    }
    fields
}

#[test]
fn no_secret_is_in_a_journal() {
    const SECRET: &str = "hunter2-or-so";
    let (subject, etcd) = (Subject::new(), Etcd::start());
    let endpoint = etcd.endpoint();
    let store = ["--endpoints", &endpoint];
    let environment = "[config]\nurl = \"${secrets.token}\"\n[secrets]\ntoken = { env = \"SHOP_TOKEN\" }\n";
    subject.write("environments/local.toml", environment);
    let apply = [&["env", "apply", "environments/local.toml"][..], &store].concat();
    let applied = Ran::of(subject.command(&apply).env("SHOP_TOKEN", SECRET));
    assert_eq!(applied.code, Some(0), "{applied:?}");

    let tests = ["config::is_read", "gate::late::c10", "--store-output", "all", "--test-threads", "2"];
    let mut run = subject.start(&[&tests[..], &["--format", "json"], &store].concat());
    run.line_with("unit-finished").unwrap();
    let journal = fs::read(&journals(&subject)[0]).unwrap();
    fs::write(subject.meeting("go"), "").unwrap();
    assert_eq!(run.end().code, Some(0));
    let fields = fields(&journal);
    let holds = |text: &str| fields.iter().any(|field| String::from_utf8_lossy(field).contains(text));
    assert!(holds("local@1 has [secret token]") && !holds(SECRET));
    assert!(!String::from_utf8_lossy(&journal).contains(SECRET));
}

/// Has a worker die that could not store a result, with the store there again.
fn leave_behind(subject: &Subject, etcd: &mut Etcd) {
    let run = cut_off(subject, etcd, &[]);
    run.signal(Signal::KILL);
    run.end();
    etcd.restart();
    etcd.wait_until_healthy();
}

fn sync(subject: &Subject, etcd: &Etcd, more: &[&str]) -> Ran {
    let endpoint = etcd.endpoint();
    subject.etcdtest(&[&["store", "sync", "--format", "json", "--endpoints", &endpoint], more].concat())
}

/// A field of what was told of the only journal.
fn told(ran: &Ran, field: &str) -> Value {
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let told: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{ran:?}"));
    told[field].clone()
}

#[tokio::test]
async fn what_a_run_could_not_store_is_sent_later_once_by_however_many() {
    let (subject, mut etcd) = (Subject::new(), Etcd::start());
    let run = cut_off(&subject, &mut etcd, &["--store-timeout", "1s"]);
    fs::write(subject.meeting("go"), "").unwrap();
    assert_eq!(run.end().code, Some(103));
    let elsewhere = Etcd::start();
    assert_eq!(told(&sync(&subject, &elsewhere, &["--discard"]), "elsewhere"), 2, "it is for another store");

    etcd.restart();
    etcd.wait_until_healthy();
    let command = ["store", "sync", "--format", "json", "--endpoints", &etcd.endpoint()];
    let both = [(); 2].map(|()| subject.start(&command)).map(Running::end);
    let stored = both.iter().flat_map(Ran::events).map(|told| told["stored"].as_u64().unwrap());
    assert_eq!(stored.sum::<u64>(), 2, "{both:?}");
    assert!(both.iter().all(|ran| ran.code == Some(0)), "{both:?}");
    assert_eq!(shown(&subject, &etcd), (json!(2), json!("finished")));
    let store = etcd.connect().await;
    let blocks = list(&store, KeyRange::prefix(keys::blocks(&RunId::new("cut-off")))).await.unwrap();
    let results = blocks.pairs.iter().map(|pair| decode_block(pair).unwrap().results.len());
    assert_eq!(results.sum::<usize>(), 2);
    assert_eq!(journals(&subject).len(), 0);
    assert_eq!(sync(&subject, &etcd, &[]).stdout, "");
}

#[test]
fn a_killed_runner_leaves_its_results_to_the_next() {
    let (subject, mut etcd) = (Subject::new(), Etcd::start());
    leave_behind(&subject, &mut etcd);
    let endpoint = etcd.endpoint();
    let next = subject.etcdtest(&["tagged::one", "--endpoints", &endpoint]);
    let reminder = "1 result of cut-off could not be stored: `cargo etcdtest store sync`";
    assert!(next.code == Some(0) && next.stdout.contains(reminder), "{next:?}");
    let sent = sync(&subject, &etcd, &[]);
    assert_eq!((told(&sent, "stored"), told(&sent, "finished")), (json!(1), json!(false)));
    assert_eq!(shown(&subject, &etcd).0, 1);
    // The other test is executed by whoever goes on.
    fs::write(subject.meeting("go"), "").unwrap();
    let ran = subject.etcdtest(&[&TWO[..], &["--endpoints", &endpoint]].concat());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(shown(&subject, &etcd), (json!(2), json!("finished")));
}

#[test]
fn a_daemon_begins_by_sending_what_was_left_behind() {
    let (subject, mut etcd) = (Subject::new(), Etcd::start());
    leave_behind(&subject, &mut etcd);
    fs::write(subject.meeting("go"), "").unwrap();
    let mut daemon = subject.start(&["worker", "--daemon", "--endpoints", &etcd.endpoint()]);
    daemon.error_with("1 result of cut-off").unwrap();
    daemon.error_with("Waiting for runs").unwrap();
    daemon.signal(Signal::TERM);
    let daemon = daemon.end();
    assert_eq!(daemon.code, Some(0), "{daemon:?}");
    assert_eq!(sync(&subject, &etcd, &[]).stdout, "", "all of it is stored");
}

#[test]
fn each_journal_that_cannot_be_read_is_told_and_the_others_are_sent() {
    let (subject, mut etcd) = (Subject::new(), Etcd::start());
    leave_behind(&subject, &mut etcd);
    let sound = journals(&subject).remove(0);
    let broken = ["garbage", "zeros"].map(|name| sound.with_file_name(format!("worker-{name}.journal")));
    fs::write(&broken[0], "these are my notes").unwrap();
    fs::write(&broken[1], [0; 100]).unwrap();
    for sent in [1, 0] {
        let ran = sync(&subject, &etcd, &["--discard"]);
        let why = ["no record in it is whole", "remove the file"];
        let paths = broken.each_ref().map(|path| path.to_str().unwrap());
        ran.refuses(2, &[&paths[..], &why].concat());
        let told = ran.events();
        let stored = told.iter().filter(|told| told["stored"] == 1).count();
        assert_eq!((told.len(), stored), (2 + sent, sent), "{ran:?}");
        for path in paths {
            let error = told.iter().find(|told| told["journal"] == path).unwrap();
            assert!(error["error"].as_str().unwrap().contains(path) && error["kept"] == true, "{error}");
        }
    }
    assert_eq!(journals(&subject).len(), 2, "what cannot be read is somebody's to look at");
}

#[tokio::test]
async fn what_others_have_executed_meanwhile_is_superseded_and_kept_until_it_is_discarded() {
    let (subject, mut etcd) = (Subject::new(), Etcd::start());
    leave_behind(&subject, &mut etcd);
    // As when its lease has ended.
    let dead = Op::Delete(KeyRange::prefix(keys::WORKERS));
    etcd.connect().await.txn(Txn { then: vec![dead], ..Txn::default() }).await.unwrap();
    fs::write(subject.meeting("go"), "").unwrap();
    let ran = subject.etcdtest(&[&TWO[..], &["--endpoints", &etcd.endpoint()]].concat());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for (more, kept) in [(&[][..], 1), (&["--discard"], 0)] {
        let sent = sync(&subject, &etcd, more);
        assert_eq!((told(&sent, "stored"), told(&sent, "superseded")), (json!(0), json!(1)));
        assert_eq!(journals(&subject).len(), kept);
    }
    assert_eq!(shown(&subject, &etcd), (json!(2), json!("finished")));
}
