//! Which runs go, and what is left of them.

use super::*;
use crate::model::{RunState, WorkerId};
use crate::reports::sample::{self, TestStore, at, every_kind};
use crate::store::encode;

/// Days, as a time.
fn days(days: u64) -> Duration {
    Duration::from_hours(24 * days)
}

/// A day of the sample.
fn day(day: i64) -> Timestamp {
    at(86_400 * day)
}

/// Writes a run that was created on a day, with all that belongs to one.
async fn write(store: &TestStore, id: &str, created: i64) {
    let mut details = every_kind();
    (details.run.id, details.run.created) = (RunId::new(id), day(created));
    store.write(&details).await;
    store.put(vec![(keys::report_chunk(&details.run.id, "junit.xml", 0), vec![1])]).await;
}

/// The ids of the runs that go on day 10.
async fn going(store: &TestStore, newest: usize, younger_than: u64) -> Vec<String> {
    let keep = Keep { newest, younger_than: days(younger_than) };
    let old = old_runs(&*store.store, keep, day(10), usize::MAX).await.unwrap();
    old.into_iter().map(|run| run.id.to_string()).collect()
}

/// All keys that name a run.
async fn keys_of(store: &TestStore, run: &str) -> Vec<String> {
    let mut found = Vec::new();
    for prefix in [keys::RUNS].into_iter().chain(keys::RUN_TREES) {
        let keys = list_keys(&*store.store, KeyRange::prefix(prefix)).await.unwrap().pairs;
        found.extend(keys.iter().map(|pair| pair.key.to_string()));
    }
    found.retain(|key| key.split('/').nth(2) == Some(run));
    found
}

#[tokio::test]
async fn a_run_goes_that_is_neither_new_enough_nor_young_enough() {
    let store = TestStore::new();
    for (id, created) in [("c", 1), ("a", 3), ("b", 9)] {
        write(&store, id, created).await;
    }
    assert_eq!(going(&store, 0, 0).await, ["c", "a", "b"], "in the order in which they were stored");
    assert_eq!(going(&store, 1, 0).await, ["c", "a"]);
    assert_eq!(going(&store, 0, 5).await, ["c", "a"]);
    assert_eq!(going(&store, 0, 8).await, ["c"]);
    assert_eq!(going(&store, 2, 5).await, ["c"]);
    assert_eq!(going(&store, 9, 0).await, [""; 0]);
    let first = old_runs(&*store.store, Keep::default(), day(10), 1).await.unwrap();
    assert_eq!(first[0].id.as_str(), "c");
    assert_eq!(first.len(), 1);
}

#[tokio::test]
async fn a_run_that_a_worker_names_and_one_that_cannot_be_read_stay() {
    let store = TestStore::new();
    for id in ["live", "stalled"] {
        let mut details = sample::run(vec![]);
        (details.run.id, details.run.state) = (RunId::new(id), RunState::Running);
        store.write(&details).await;
    }
    let worker = Worker::new(WorkerId::new("host-1-abc"), "host", RunId::new("live"));
    store
        .put(vec![
            (keys::worker(&worker.id), encode(&worker)),
            (keys::run(&RunId::new("newer")), b"{\"schema\":9}".to_vec()),
        ])
        .await;
    assert_eq!(going(&store, 0, 0).await, ["stalled"]);
}

#[tokio::test]
async fn a_deleted_run_leaves_nothing_and_its_neighbours_whole() {
    let store = TestStore::new();
    // Their keys surround each other's in every tree.
    for id in ["a", "a-b", "a0", "a b"] {
        write(&store, id, 1).await;
    }
    let before = keys_of(&store, "a-b").await;
    let count = keys_of(&store, "a").await.len();
    assert!(count > 5, "{count}");
    let old = old_runs(&*store.store, Keep::default(), day(10), 1).await.unwrap();
    assert_eq!(delete_run(&*store.store, &old[0]).await.unwrap(), Some(count as u64));
    assert_eq!(keys_of(&store, "a").await, [""; 0]);
    assert_eq!(keys_of(&store, "a-b").await, before);
    assert_eq!(delete_remains(&*store.store, false).await.unwrap(), 0);
    // Another process that had found it too deletes nothing any more.
    assert_eq!(delete_run(&*store.store, &old[0]).await.unwrap(), Some(0));
}

#[tokio::test]
async fn a_run_that_changed_since_it_was_found_stays() {
    let store = TestStore::new();
    write(&store, "a", 1).await;
    let old = old_runs(&*store.store, Keep::default(), day(10), 1).await.unwrap();
    write(&store, "a", 1).await;
    let before = keys_of(&store, "a").await;
    assert_eq!(delete_run(&*store.store, &old[0]).await.unwrap(), None);
    assert_eq!(keys_of(&store, "a").await, before);
}

#[tokio::test]
async fn what_an_interrupted_deletion_left_is_found_and_nothing_else() {
    let store = TestStore::new();
    for id in ["a", "b", "b-c", "b0", "c%2Fd", "z"] {
        write(&store, id, 1).await;
    }
    let kept = keys_of(&store, "b-c").await.len();
    for gone in ["a", "b", "b0", "z"] {
        let txn =
            Txn { then: vec![Op::Delete(KeyRange::key(keys::run(&RunId::new(gone))))], ..Txn::default() };
        store.store.txn(txn).await.unwrap();
    }
    let mut left = 0;
    for gone in ["a", "b", "b0", "z"] {
        left += keys_of(&store, gone).await.len() as u64;
    }
    assert!(left > 0);
    assert_eq!(delete_remains(&*store.store, true).await.unwrap(), left);
    assert_eq!(delete_remains(&*store.store, false).await.unwrap(), left);
    assert_eq!(delete_remains(&*store.store, false).await.unwrap(), 0);
    for gone in ["a", "b", "b0", "z"] {
        assert_eq!(keys_of(&store, gone).await, [""; 0]);
    }
    assert_eq!(keys_of(&store, "b-c").await.len(), kept);
}

#[tokio::test]
async fn more_than_one_piece_goes_and_what_is_written_by_a_new_run_of_the_id_stays() {
    let store = TestStore::new();
    let log = |number: usize| (format!("/logs/a/{number:06}").into(), vec![]);
    for hundred in 0..25 {
        store.put((hundred * 100..hundred * 100 + 100).map(log).collect()).await;
    }
    let run = keys::run(&RunId::new("a"));
    store.put(vec![(run.clone(), vec![])]).await;
    assert_eq!(delete_below(&*store.store, &run, "/logs/a/".into()).await.unwrap(), 0);
    store
        .store
        .txn(Txn { then: vec![Op::Delete(KeyRange::key(run.clone()))], ..Txn::default() })
        .await
        .unwrap();
    assert_eq!(delete_below(&*store.store, &run, "/logs/a/".into()).await.unwrap(), 2500);
}
