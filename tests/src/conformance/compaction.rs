//! Compaction: history goes, what is current stays.

use super::*;

cases![
    what_was_before_cannot_be_read_and_what_is_stays,
    keys_deleted_before_do_not_come_back,
    a_compaction_counts_forward_only,
    a_transaction_that_reads_compacted_history_is_refused,
    a_watch_from_after_the_compaction_misses_nothing,
    keys_count_on_after_it,
];

async fn what_was_before_cannot_be_read_and_what_is_stays(store: SharedStore) {
    let first = put(&*store, "key", "1").await;
    put(&*store, "gone", "").await;
    let second = put(&*store, "key", "2").await;
    let third = delete(&*store, KeyRange::key("gone")).await;
    store.compact(second).await.unwrap();
    let error = store.read(at(KeyRange::key("key"), later(second, -1))).await.unwrap_err();
    assert!(matches!(error, StoreError::Compacted(_)), "{error:?}");
    assert!(store.read(at(KeyRange::key("key"), first)).await.is_err());
    assert_eq!(texts(&*store, at(KeyRange::key("key"), second)).await, [("key".into(), "2".to_owned())]);
    assert_eq!(texts(&*store, at(KeyRange::key("gone"), second)).await, [("gone".into(), String::new())]);
    assert_eq!(texts(&*store, at(KeyRange::key("gone"), third)).await, []);
    assert_eq!(texts(&*store, KeyRange::key("key")).await, [("key".into(), "2".to_owned())]);
    assert_eq!(revision(&*store).await, third);
}

async fn keys_deleted_before_do_not_come_back(store: SharedStore) {
    put(&*store, "key", "1").await;
    put(&*store, "key", "2").await;
    delete(&*store, KeyRange::key("key")).await;
    let last = put(&*store, "other", "").await;
    store.compact(last).await.unwrap();
    assert_eq!(texts(&*store, at(KeyRange::key("key"), last)).await, []);
    assert_eq!(pair(&*store, "key").await, None);
}

async fn a_compaction_counts_forward_only(store: SharedStore) {
    let first = put(&*store, "key", "1").await;
    let last = put(&*store, "key", "2").await;
    let error = store.compact(later(last, 1)).await.unwrap_err();
    assert!(matches!(error, StoreError::FutureRevision(_)), "{error:?}");
    store.compact(last).await.unwrap();
    for again in [first, last] {
        let error = store.compact(again).await.unwrap_err();
        assert!(matches!(error, StoreError::Compacted(_)), "{error:?}");
    }
}

async fn a_transaction_that_reads_compacted_history_is_refused(store: SharedStore) {
    let first = put(&*store, "key", "1").await;
    let last = put(&*store, "key", "2").await;
    store.compact(last).await.unwrap();
    let error = refused(&*store, [Op::put("key", "3"), Op::Get(at(KeyRange::key("key"), first))]).await;
    assert!(matches!(error, StoreError::Compacted(_)), "{error:?}");
    assert_eq!(pair(&*store, "key").await.unwrap().value, b"2");
}

async fn a_watch_from_after_the_compaction_misses_nothing(store: SharedStore) {
    put(&*store, "key", "1").await;
    let second = put(&*store, "key", "2").await;
    let third = put(&*store, "key", "3").await;
    let fourth = delete(&*store, KeyRange::key("key")).await;
    store.compact(second).await.unwrap();
    let mut watch = store.watch(KeyRange::key("key"), third).await.unwrap();
    assert_eq!(next_changes(&mut watch).await, (third, vec!["key=3".into()]));
    assert_eq!(next_changes(&mut watch).await, (fourth, vec!["-key".into()]));
}

async fn keys_count_on_after_it(store: SharedStore) {
    let created = put(&*store, "key", "1").await;
    let last = put(&*store, "key", "2").await;
    store.compact(last).await.unwrap();
    put(&*store, "key", "3").await;
    let pair = pair(&*store, "key").await.unwrap();
    assert_eq!((pair.created, pair.version), (created, 3));
}
