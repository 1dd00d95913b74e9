//! Keys, their history, and reading them.

use super::*;
use cargo_etcdtest::store::list;

cases![
    a_new_key_is_of_version_1_and_of_the_revision_that_wrote_it,
    writing_again_counts_the_version_and_keeps_the_creation,
    a_deleted_key_begins_anew,
    deleting_nothing_is_no_revision,
    a_read_at_a_revision_shows_what_was,
    a_revision_that_has_not_come_is_refused,
    pairs_come_in_the_order_of_bytes,
    a_limit_tells_whether_there_is_more,
    keys_alone_come_without_values,
    a_range_ends_before_its_end,
    an_inverted_range_is_empty,
    a_long_range_read_in_pages_is_of_one_revision,
    an_empty_value_is_a_value,
    keys_are_counted_as_they_are_now,
];

async fn a_new_key_is_of_version_1_and_of_the_revision_that_wrote_it(store: SharedStore) {
    let before = revision(&*store).await;
    let written = put(&*store, "key", "value").await;
    assert_eq!(written, later(before, 1));
    let expected = KeyValue {
        key: "key".into(),
        value: b"value".into(),
        created: written,
        modified: written,
        version: 1,
        lease: None,
    };
    assert_eq!(pair(&*store, "key").await, Some(expected));
    assert_eq!(pair(&*store, "other").await, None);
}

async fn writing_again_counts_the_version_and_keeps_the_creation(store: SharedStore) {
    let first = put(&*store, "key", "1").await;
    put(&*store, "other", "").await;
    let second = put(&*store, "key", "1").await;
    let pair = pair(&*store, "key").await.unwrap();
    assert_eq!((pair.created, pair.modified, pair.version), (first, second, 2));
}

async fn a_deleted_key_begins_anew(store: SharedStore) {
    put(&*store, "key", "1").await;
    let written = put(&*store, "key", "2").await;
    let deleted = delete(&*store, KeyRange::key("key")).await;
    assert_eq!(deleted, later(written, 1));
    assert_eq!(pair(&*store, "key").await, None);
    let again = put(&*store, "key", "3").await;
    let pair = pair(&*store, "key").await.unwrap();
    assert_eq!((pair.created, pair.modified, pair.version), (again, again, 1));
}

async fn deleting_nothing_is_no_revision(store: SharedStore) {
    let before = put(&*store, "key", "").await;
    let outcome = write(&*store, [Op::Delete(KeyRange::prefix("none/"))]).await;
    assert_eq!(outcome.revision, before);
    assert_eq!(revision(&*store).await, before);
}

async fn a_read_at_a_revision_shows_what_was(store: SharedStore) {
    let first = put(&*store, "k/a", "1").await;
    put(&*store, "k/b", "1").await;
    put(&*store, "k/a", "2").await;
    let third = delete(&*store, KeyRange::key("k/b")).await;
    let all = KeyRange::prefix("k/");
    let text = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(texts(&*store, at(all.clone(), later(first, -1))).await, []);
    assert_eq!(texts(&*store, at(all.clone(), first)).await, [text("k/a", "1")]);
    assert_eq!(texts(&*store, at(all.clone(), later(first, 1))).await, [text("k/a", "1"), text("k/b", "1")]);
    assert_eq!(texts(&*store, at(all.clone(), later(first, 2))).await, [text("k/a", "2"), text("k/b", "1")]);
    assert_eq!(texts(&*store, at(all.clone(), third)).await, [text("k/a", "2")]);

    let page = store.read(at(all, later(first, 1))).await.unwrap();
    assert_eq!(page.revision, third, "a page tells where the store is, not what was asked for");
    let old = &page.pairs[0];
    assert_eq!((old.created, old.modified, old.version), (first, first, 1));
}

async fn a_revision_that_has_not_come_is_refused(store: SharedStore) {
    let last = put(&*store, "key", "").await;
    let error = store.read(at(KeyRange::key("key"), later(last, 1))).await.unwrap_err();
    assert!(matches!(error, StoreError::FutureRevision(_)), "{error:?}");
}

async fn pairs_come_in_the_order_of_bytes(store: SharedStore) {
    let keys: [&[u8]; 6] = [b"k\xff\xff", b"k", b"k\xff", b"k\x00", b"ka", b"k\x00\x00"];
    for key in keys {
        write(&*store, [Op::put(Key::new(key), "")]).await;
    }
    let page = store.read(KeyRange::prefix("k").into()).await.unwrap();
    let found: Vec<_> = page.pairs.iter().map(|pair| pair.key.as_bytes()).collect();
    let sorted: [&[u8]; 6] = [b"k", b"k\x00", b"k\x00\x00", b"ka", b"k\xff", b"k\xff\xff"];
    assert_eq!(found, sorted);
}

async fn a_limit_tells_whether_there_is_more(store: SharedStore) {
    let first = write(&*store, ["k/1", "k/2", "k/3"].map(|key| Op::put(key, ""))).await.revision;
    put(&*store, "k/4", "").await;
    for (limit, at, count, more) in [
        (0, None, 0, true),
        (2, None, 2, true),
        (3, None, 3, true),
        (4, None, 4, false),
        (5, None, 4, false),
        (2, Some(first), 2, true),
        (3, Some(first), 3, false),
    ] {
        let read = Read { limit: Some(limit), at, ..KeyRange::prefix("k/").into() };
        let page = store.read(read.clone()).await.unwrap();
        assert_eq!((page.pairs.len(), page.more), (count, more), "{read:?}");
        assert!(page.pairs.iter().zip(["k/1", "k/2"]).all(|(pair, key)| pair.key == key.into()));
    }
}

async fn keys_alone_come_without_values(store: SharedStore) {
    let first = put(&*store, "key", "value").await;
    put(&*store, "other", "value").await;
    for at in [None, Some(first)] {
        let page = store.read(Read { keys_only: true, at, ..Read::key("key") }).await.unwrap();
        let pair = &page.pairs[0];
        assert_eq!((pair.value.as_slice(), pair.modified, pair.version), (b"".as_slice(), first, 1));
    }
}

async fn a_range_ends_before_its_end(store: SharedStore) {
    write(&*store, ["a", "b", "b/", "c"].map(|key| Op::put(key, ""))).await;
    let keys = async |range| {
        let texts = texts(&*store, range).await;
        texts.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
    };
    assert_eq!(keys(range("a", "b")).await, ["a"]);
    assert_eq!(keys(range("a", "b\0")).await, ["a", "b"]);
    assert_eq!(keys(range("b", "c")).await, ["b", "b/"]);
    assert_eq!(keys(KeyRange::key("b")).await, ["b"]);
    assert_eq!(keys(KeyRange::prefix("b/")).await, ["b/"]);
}

async fn an_inverted_range_is_empty(store: SharedStore) {
    let before = write(&*store, ["a", "b", "c"].map(|key| Op::put(key, ""))).await.revision;
    assert_eq!(texts(&*store, range("c", "a")).await, []);
    assert_eq!(texts(&*store, range("b", "b")).await, []);
    assert_eq!(delete(&*store, range("c", "a")).await, before);
}

async fn a_long_range_read_in_pages_is_of_one_revision(store: SharedStore) {
    let total = 2_500;
    for hundred in 0..total / 100 {
        let puts: Vec<_> = (0..100).map(|i| Op::put(format!("k/{:05}", hundred * 100 + i), "old")).collect();
        write(&*store, puts).await;
    }
    // Whoever writes meanwhile is not seen by the pages that follow the first.
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            for i in 0..50 {
                put(&*store, &format!("k/{:05}", 2_499 - i), "new").await;
                put(&*store, &format!("k/{:05}/more", 2_000 + i), "new").await;
            }
        })
    };
    let whole = list(&*store, KeyRange::prefix("k/")).await.unwrap();
    writer.await.unwrap();
    let then = store.read(at(KeyRange::prefix("k/"), whole.revision)).await.unwrap();
    assert_eq!(whole.pairs, then.pairs);
    assert!(whole.pairs.len() >= total && !whole.more);
}

async fn an_empty_value_is_a_value(store: SharedStore) {
    let first = put(&*store, "key", "").await;
    put(&*store, "key", "1").await;
    assert_eq!(texts(&*store, at(KeyRange::key("key"), first)).await, [("key".into(), String::new())]);
    let mut watch = store.watch(KeyRange::key("key"), first).await.unwrap();
    assert_eq!(next_changes(&mut watch).await, (first, vec!["key=".into()]));
}

async fn keys_are_counted_as_they_are_now(store: SharedStore) {
    for number in 0..30 {
        put(&*store, &format!("a/{number}"), "value").await;
    }
    put(&*store, "a/1", "again").await;
    delete(&*store, range("a/20", "a/25")).await;
    put(&*store, "b", "").await;
    assert_eq!(store.count(KeyRange::prefix("a/")).await.unwrap(), 25);
    assert_eq!(store.count(range("a/1", "a/2")).await.unwrap(), 11);
    assert_eq!(store.count(KeyRange::key("b")).await.unwrap(), 1);
    assert_eq!(store.count(KeyRange::prefix("c")).await.unwrap(), 0);
}
