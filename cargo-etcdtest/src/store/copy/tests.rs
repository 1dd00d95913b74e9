//! What is copied, and into what.

use super::*;
use crate::model::RunState;
use crate::reports::sample::{TestStore, every_kind};
use crate::store::encode;

/// A store with a run, one that goes on, an environment with a secret, and a worker.
async fn full() -> TestStore {
    let store = TestStore::new();
    let mut details = every_kind();
    store.write(&details).await;
    details.run.id = RunId::new("running");
    details.run.state = RunState::Running;
    store.write(&details).await;
    let text = |key: &str, value: &str| (Key::from(key), value.as_bytes().to_vec());
    store
        .put(vec![
            text("/environments/staging", "2"),
            text("/history/environments/staging/0000000001", "1"),
            text("/secrets/staging/token/0000000001", "hidden"),
            text("/logs/gone/1", "of no run"),
            text("/elsewhere", "of nobody here"),
        ])
        .await;
    for hundred in 0..3 {
        let test_case = |number: u32| text(&format!("/testcases/p/b/{hundred}{number:02}"), "t");
        store.put((0..100).map(test_case).collect()).await;
    }
    store
        .put((0..3).map(|chunk| (keys::data_chunk("staging", "d", chunk), vec![7; 400 << 10])).collect())
        .await;
    let lease = store.store.grant(Duration::from_mins(1)).await.unwrap();
    let put = Op::Put { key: "/workers/w".into(), value: vec![], lease: Some(lease.id) };
    store.store.txn(Txn { then: vec![put], ..Txn::default() }).await.unwrap();
    store
}

/// Everything in a store, without its history.
async fn content(store: &dyn Store) -> BTreeMap<String, Vec<u8>> {
    let page = super::super::list_chunks(store, KeyRange::prefix("/")).await.unwrap();
    page.pairs.into_iter().map(|pair| (pair.key.to_string(), pair.value)).collect()
}

#[tokio::test]
async fn everything_that_lasts_is_copied_as_it_is() {
    let (from, to) = (full().await, TestStore::new());
    let copied = copy(&*from.store, &*to.store, true).await.unwrap();
    let mut expected = content(&*from.store).await;
    for key in ["/workers/w", "/logs/gone/1", "/elsewhere"] {
        expected.remove(key).unwrap();
    }
    expected.retain(|key, _| !key.contains("/running"));
    assert!(expected.keys().any(|key| key.starts_with("/logs/2026")) && expected.len() > 270);
    let found = content(&*to.store).await;
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    assert_eq!(found, expected);
    assert_eq!(copied.records, expected.len() as u64);
    assert_eq!(copied.runs_left, [RunId::new("running")]);
    assert_eq!((copied.present, copied.secrets_left), (0, 0));
}

#[tokio::test]
async fn secrets_stay_unless_they_are_wanted() {
    let (from, to) = (full().await, TestStore::new());
    let copied = copy(&*from.store, &*to.store, false).await.unwrap();
    assert_eq!(copied.secrets_left, 1);
    assert!(content(&*to.store).await.keys().all(|key| !key.starts_with("/secrets/")));
    // They can follow later.
    let copied = copy(&*from.store, &*to.store, true).await.unwrap();
    assert_eq!((copied.records, copied.secrets_left), (1, 0));
    assert_eq!(content(&*to.store).await["/secrets/staging/token/0000000001"], b"hidden");
}

#[tokio::test]
async fn an_interrupted_copy_goes_on() {
    let (from, to) = (full().await, TestStore::new());
    copy(&*from.store, &*to.store, true).await.unwrap();
    let whole = content(&*to.store).await;
    let lost = KeyRange { start: "/reports/".into(), end: Some("/testcases/p/b/3".into()) };
    to.store.txn(Txn { then: vec![Op::Delete(lost)], ..Txn::default() }).await.unwrap();
    let left = content(&*to.store).await.len();
    let copied = copy(&*from.store, &*to.store, true).await.unwrap();
    assert_eq!(content(&*to.store).await, whole);
    assert_eq!((copied.present, copied.records), (left as u64, (whole.len() - left) as u64));
}

#[tokio::test]
async fn a_store_in_use_is_refused_and_left_as_it_is() {
    let from = full().await;
    for (key, value) in [
        ("/environments/staging", "another"),
        ("/runs/another", "of its own"),
        ("/logs/gone/1", "of no run"),
        ("/testcases/p/b/999", "more"),
    ] {
        let to = TestStore::new();
        to.put(vec![(key.into(), value.into())]).await;
        let error = copy(&*from.store, &*to.store, true).await.unwrap_err();
        assert!(matches!(&error, CopyError::InUse { key: other } if other.to_string() == key), "{error}");
        assert_eq!(content(&*to.store).await.len(), 1, "{key}");
    }
    // What does not belong to this program is no concern of it.
    let to = TestStore::new();
    to.put(vec![("/elsewhere".into(), b"theirs".to_vec())]).await;
    assert!(copy(&*from.store, &*to.store, true).await.unwrap().records > 0);
}

#[tokio::test]
async fn a_run_that_cannot_be_read_stays() {
    let (from, to) = (TestStore::new(), TestStore::new());
    let mut details = every_kind();
    details.run.id = RunId::new("a");
    from.write(&details).await;
    let newer = keys::run(&RunId::new("b"));
    from.put(vec![(newer, b"{\"schema\":9}".to_vec()), (keys::run(&RunId::new("c")), encode(&details.run))])
        .await;
    let copied = copy(&*from.store, &*to.store, true).await.unwrap();
    assert_eq!(copied.runs_left, [RunId::new("b")]);
    assert!(!content(&*to.store).await.contains_key("/runs/b"));
}

#[tokio::test]
async fn a_source_that_forgets_what_is_being_copied_is_told() {
    let (from, to) = (full().await, TestStore::new());
    let mut copied = Copied::default();
    let selection = Selection::new(&*from.store, true, &mut copied).await.unwrap();
    from.put(vec![("/testcases/p/b/new".into(), vec![])]).await;
    from.store.compact(from.store.status().await.unwrap().revision).await.unwrap();
    let error = selection.copy(&*to.store, keys::TEST_CASES, &mut copied).await.unwrap_err();
    assert!(matches!(error, CopyError::Changing), "{error}");
}
