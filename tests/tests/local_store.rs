//! The embedded store among processes: killed ones, several at once, damaged files.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use cargo_etcdtest::store::local::LocalStore;
use cargo_etcdtest::store::{Key, KeyRange, Notice, Op, Read, Revision, Store, StoreError, Txn, get, list};
use rustix::process::Signal;
use whole_program::Running;
use whole_program::conformance::increment;

/// What says to the process of a test what to do, and where.
const ROLE: &str = "ETCDTEST_TESTS_ROLE";
const FOLDER: &str = "ETCDTEST_TESTS_FOLDER";

/// How many tasks of a writing process write at once, and how many keys each writes in a
/// transaction.
const WRITERS: usize = 4;
const KEYS: usize = 20;

/// How often each process counts.
const COUNTS: usize = 150;

/// A process of this program that plays a role; killed on drop.
struct Other(Running);

impl Other {
    fn start(role: &str, folder: &Path) -> Self {
        let mut program = Command::new(env::current_exe().unwrap());
        program.args(["--exact", "another_process", "--ignored", "--nocapture"]);
        Self(Running::start(program.env(ROLE, role).env(FOLDER, folder)))
    }

    /// Waits until it has said numbers once more.
    fn says_numbers(&mut self) {
        while numbers(&self.0.line_with("").expect("it goes on")).is_none() {}
    }

    /// Kills it, and gives all numbers that it ever said.
    fn killed(self) -> Vec<Vec<usize>> {
        self.0.signal(Signal::KILL);
        self.0.end().stdout.split_inclusive('\n').filter_map(numbers).collect()
    }

    fn succeeds(self) {
        let ran = self.0.end();
        assert_eq!(ran.code, Some(0), "{ran:?}");
    }
}

/// The numbers of a line that holds nothing else, and is no half one, as a killed process leaves it.
fn numbers(line: &str) -> Option<Vec<usize>> {
    let numbers: Vec<_> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    (!numbers.is_empty() && line.ends_with('\n')).then_some(numbers)
}

#[test]
#[ignore = "the other tests start it as a process of its own"]
fn another_process() {
    let Ok(role) = env::var(ROLE) else { return };
    let folder = env::var_os(FOLDER).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = LocalStore::open(folder.as_ref()).unwrap();
        match role.as_str() {
            "write" => write_for_ever(store).await,
            "count" => {
                for _ in 0..COUNTS {
                    increment(&store, "count").await;
                }
            }
            "open" => {
                put(&store, &format!("opened/{}", std::process::id()), "").await;
            }
            "lease" => {
                let lease = store.grant(Duration::from_secs(1)).await.unwrap().id;
                let put = Op::Put { key: "leased".into(), value: Vec::new(), lease: Some(lease) };
                store.txn(txn(vec![put])).await.unwrap();
                println!("\n1");
                std::future::pending::<()>().await;
            }
            other => panic!("there is no role {other}"),
        }
    });
}

/// Each task writes transactions of many keys, numbered from where an earlier process
/// ended, and says the number of each that was acknowledged.
async fn write_for_ever(store: LocalStore) {
    let store = std::sync::Arc::new(store);
    let tasks: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let last = get(&*store, format!("last/{writer}").into()).await.unwrap();
                let next = last.map_or(0, |last| String::from_utf8(last.value).unwrap().parse().unwrap());
                for number in next + 1.. {
                    let value = vec![b'x'; 500];
                    let mut puts: Vec<_> = (0..KEYS)
                        .map(|key| Op::put(format!("k/{writer}/{number:06}/{key:03}"), value.clone()))
                        .collect();
                    puts.push(Op::put(format!("last/{writer}"), number.to_string()));
                    store.txn(txn(puts)).await.unwrap();
                    println!("\n{writer} {number}");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn a_writer_killed_in_the_middle_loses_nothing_acknowledged_and_leaves_nothing_half_done() {
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged = [0; WRITERS];
    for round in 0..20 {
        let mut other = Other::start("write", folder.path());
        // Another moment each time: the writer is ahead of what it says.
        for _ in 0..=round * 3 {
            other.says_numbers();
        }
        for said in other.killed() {
            acknowledged[said[0]] = said[1];
        }
        check_after_kill(folder.path(), &acknowledged).await;
    }
    let database = rusqlite::Connection::open(folder.path().join("store.db")).unwrap();
    let integrity: String = database.query_one("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(integrity, "ok");
}

async fn check_after_kill(folder: &Path, acknowledged: &[usize; WRITERS]) {
    let store = LocalStore::open(folder).unwrap();
    let page = list(&store, KeyRange::prefix("k/")).await.unwrap();
    let mut transactions: BTreeMap<String, Vec<Revision>> = BTreeMap::new();
    for pair in &page.pairs {
        let key = pair.key.to_string();
        let (transaction, _) = key.rsplit_once('/').unwrap();
        transactions.entry(transaction.into()).or_default().push(pair.modified);
    }
    for (transaction, revisions) in &transactions {
        assert_eq!(revisions.len(), KEYS, "{transaction} is there in part");
        assert!(revisions.iter().all(|revision| *revision == revisions[0]), "{transaction}: {revisions:?}");
    }
    for (writer, &last) in acknowledged.iter().enumerate() {
        let missing = (1..=last).find(|n| !transactions.contains_key(&format!("k/{writer}/{n:06}")));
        assert_eq!(missing, None, "acknowledged to writer {writer}, which wrote up to {last}");
    }
    // Nothing else was ever written, each transaction as one revision after the first.
    assert_eq!(page.revision.0 - 1, i64::try_from(transactions.len()).unwrap());
}

#[tokio::test]
async fn two_processes_count_together_and_a_third_sees_every_step() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::open(folder.path()).unwrap();
    put(&store, "count", "0").await;
    let mut watch = store.watch(KeyRange::key("count"), Revision(0)).await.unwrap();
    let others = [Other::start("count", folder.path()), Other::start("count", folder.path())];
    for expected in 1..=2 * COUNTS {
        let notice = tokio::time::timeout(Duration::from_mins(1), watch.next()).await;
        let Some(Ok(Notice::Changed { changes, .. })) = notice.expect("the others count on") else {
            panic!("the watch ended");
        };
        let told = format!("{changes:?}");
        assert_eq!(changes.len(), 1, "{told}");
        let cargo_etcdtest::store::Change::Put(pair) = &changes[0] else { panic!("{told}") };
        assert_eq!(pair.value, expected.to_string().into_bytes());
    }
    others.into_iter().for_each(Other::succeeds);
    let count = get(&store, "count".into()).await.unwrap().unwrap();
    assert_eq!(count.value, (2 * COUNTS).to_string().into_bytes());
}

#[tokio::test]
async fn many_processes_may_make_the_store_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("new");
    let others: Vec<_> = (0..6).map(|_| Other::start("open", &inside)).collect();
    let count = others.len();
    others.into_iter().for_each(Other::succeeds);
    let store = LocalStore::open(&inside).unwrap();
    let opened = list(&store, KeyRange::prefix("opened/")).await.unwrap();
    assert_eq!(opened.pairs.len(), count);
}

#[tokio::test]
async fn a_lease_of_a_killed_process_ends_for_those_who_watch_and_those_who_only_read() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let stores = folders.each_ref().map(|folder| LocalStore::open(folder.path()).unwrap());
    let mut watch = stores[0].watch(KeyRange::key("leased"), Revision(0)).await.unwrap();
    for folder in &folders {
        let mut other = Other::start("lease", folder.path());
        // When the key is there.
        other.says_numbers();
        other.killed();
    }
    let patience = Duration::from_mins(1);
    let told = tokio::time::timeout(patience, async { [watch.next().await, watch.next().await] }).await;
    let [Some(Ok(_)), Some(Ok(Notice::Changed { changes, .. }))] = told.expect("two notices") else {
        panic!("the watch ended");
    };
    assert_eq!(changes, [cargo_etcdtest::store::Change::Deleted("leased".into())]);
    let read = async {
        while get(&stores[1], "leased".into()).await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(patience, read).await.expect("reading alone ends a lease");
}

#[tokio::test]
async fn a_write_waits_for_another_process_and_a_read_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::open(folder.path()).unwrap();
    put(&store, "key", "before").await;
    let other = rusqlite::Connection::open(folder.path().join("store.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut written = Box::pin(store.txn(txn(vec![Op::put("key", "after")])));
    tokio::select! {
        _ = &mut written => panic!("the other process writes"),
        pair = get(&store, "key".into()) => assert_eq!(pair.unwrap().unwrap().value, b"before"),
    }
    other.execute_batch("COMMIT").unwrap();
    written.await.unwrap();
    assert_eq!(get(&store, "key".into()).await.unwrap().unwrap().value, b"after");
}

#[tokio::test]
async fn a_damaged_file_is_told_and_does_not_end_the_program() {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::open(folder.path()).unwrap();
    for i in 0..50 {
        put(&store, &format!("k/{i}"), &"x".repeat(1000)).await;
    }
    drop(store);
    let file = folder.path().join("store.db");
    let database = rusqlite::Connection::open(&file).unwrap();
    database.query_one("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(database);
    let length = fs::metadata(&file).unwrap().len();
    let garbage = vec![0x5a; usize::try_from(length - 8192).unwrap()];
    fs::OpenOptions::new().write(true).open(&file).unwrap().write_all_at(&garbage, 8192).unwrap();
    let read = async { LocalStore::open(folder.path())?.read(Read::from(KeyRange::prefix("k/"))).await };
    let error = read.await.unwrap_err();
    assert!(matches!(error, StoreError::Failed { .. }), "{error:?}");
    assert!(error.to_string().contains("the file is damaged"), "{error}");
}

fn txn(ops: Vec<Op>) -> Txn {
    Txn { then: ops, ..Txn::default() }
}

async fn put(store: &LocalStore, key: &str, value: &str) {
    store.txn(txn(vec![Op::put(Key::from(key), value)])).await.unwrap();
}
