//! Watches: nothing is left out, one notice for each revision.

use super::*;

cases![
    a_watch_from_now_on_tells_only_what_follows,
    a_watch_from_a_revision_tells_that_revision_too,
    a_watch_from_a_revision_to_come_waits_for_it,
    a_notice_holds_the_changes_of_one_revision_in_their_order,
    a_change_comes_with_its_history,
    only_the_watched_range_is_told,
    a_range_that_is_deleted_is_one_notice,
    nothing_is_left_out_while_many_write,
    watches_do_not_disturb_each_other,
    large_values_are_told,
    a_watch_behind_a_compaction_says_so_and_goes_on,
];

async fn a_watch_from_now_on_tells_only_what_follows(store: SharedStore) {
    put(&*store, "key", "before").await;
    let mut watch = store.watch(KeyRange::key("key"), Revision(0)).await.unwrap();
    let after = put(&*store, "key", "after").await;
    assert_eq!(next_changes(&mut watch).await, (after, vec!["key=after".into()]));
}

async fn a_watch_from_a_revision_tells_that_revision_too(store: SharedStore) {
    put(&*store, "key", "0").await;
    let first = put(&*store, "key", "1").await;
    put(&*store, "other", "").await;
    let third = delete(&*store, KeyRange::key("key")).await;
    let mut watch = store.watch(KeyRange::key("key"), first).await.unwrap();
    assert_eq!(next_changes(&mut watch).await, (first, vec!["key=1".into()]));
    assert_eq!(next_changes(&mut watch).await, (third, vec!["-key".into()]));
    let last = put(&*store, "key", "2").await;
    assert_eq!(next_changes(&mut watch).await, (last, vec!["key=2".into()]));
}

async fn a_watch_from_a_revision_to_come_waits_for_it(store: SharedStore) {
    let now = revision(&*store).await;
    let mut watch = store.watch(KeyRange::key("key"), later(now, 3)).await.unwrap();
    for value in ["1", "2", "3"] {
        put(&*store, "key", value).await;
    }
    assert_eq!(next_changes(&mut watch).await, (later(now, 3), vec!["key=3".into()]));
}

async fn a_notice_holds_the_changes_of_one_revision_in_their_order(store: SharedStore) {
    put(&*store, "k/2", "").await;
    let mut watch = store.watch(KeyRange::prefix("k/"), Revision(0)).await.unwrap();
    let ops =
        [Op::put("k/3", "c"), Op::Delete(KeyRange::key("k/2")), Op::put("other", ""), Op::put("k/1", "a")];
    let written = write(&*store, ops).await.revision;
    let next_one = put(&*store, "k/3", "d").await;
    assert_eq!(
        next_changes(&mut watch).await,
        (written, vec!["k/3=c".into(), "-k/2".into(), "k/1=a".into()])
    );
    assert_eq!(next_changes(&mut watch).await, (next_one, vec!["k/3=d".into()]));
}

async fn a_change_comes_with_its_history(store: SharedStore) {
    let lease = store.grant(PATIENCE).await.unwrap().id;
    let created = put(&*store, "key", "1").await;
    let mut watch = store.watch(KeyRange::key("key"), Revision(0)).await.unwrap();
    let modified = write(&*store, [leased("key", lease)]).await.revision;
    let expected = KeyValue {
        key: "key".into(),
        value: b"leased".into(),
        created,
        modified,
        version: 2,
        lease: Some(lease),
    };
    let changes = vec![Change::Put(expected)];
    assert_eq!(next(&mut watch).await, Notice::Changed { revision: modified, changes });
    store.revoke(lease).await.unwrap();
}

async fn only_the_watched_range_is_told(store: SharedStore) {
    let mut watch = store.watch(range("b", "d"), Revision(0)).await.unwrap();
    let mut one = store.watch(KeyRange::key("b"), Revision(0)).await.unwrap();
    for key in ["a", "b/", "d", "c", "b"] {
        put(&*store, key, "").await;
    }
    let mut told = Vec::new();
    for _ in 0..3 {
        told.extend(next_changes(&mut watch).await.1);
    }
    assert_eq!(told, ["b/=", "c=", "b="]);
    assert_eq!(next_changes(&mut one).await.1, ["b="]);
}

async fn a_range_that_is_deleted_is_one_notice(store: SharedStore) {
    write(&*store, ["k/3", "k/1", "k/2"].map(|key| Op::put(key, ""))).await;
    let mut watch = store.watch(KeyRange::prefix("k/"), Revision(0)).await.unwrap();
    let deleted = delete(&*store, KeyRange::prefix("k/")).await;
    let keys = ["-k/1", "-k/2", "-k/3"].map(String::from).to_vec();
    assert_eq!(next_changes(&mut watch).await, (deleted, keys));
}

async fn nothing_is_left_out_while_many_write(store: SharedStore) {
    let (writers, each) = (3, 60);
    let first = later(revision(&*store).await, 1);
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for i in 0..each {
                    let pair = ["a", "b"].map(|key| Op::put(format!("k/{writer}/{key}"), i.to_string()));
                    write(&*store, pair).await;
                }
            })
        })
        .collect();
    // One watch is there from the start, the others come while there is writing.
    let mut watches = Vec::new();
    for _ in 0..3 {
        watches.push(store.watch(KeyRange::prefix("k/"), first).await.unwrap());
        put(&*store, "other", "").await;
    }
    for task in tasks {
        task.await.unwrap();
    }
    for watch in &mut watches {
        let mut values = vec![0; writers];
        let mut last = Revision(0);
        for _ in 0..writers * each {
            let (revision, changes) = next_changes(watch).await;
            assert!(revision > last);
            last = revision;
            let writer: usize = changes[0][2..3].parse().unwrap();
            let value = values[writer];
            assert_eq!(changes, [format!("k/{writer}/a={value}"), format!("k/{writer}/b={value}")]);
            values[writer] += 1;
        }
    }
}

async fn watches_do_not_disturb_each_other(store: SharedStore) {
    let mut first = store.watch(KeyRange::key("key"), Revision(0)).await.unwrap();
    let unread = store.watch(KeyRange::key("key"), Revision(0)).await.unwrap();
    let dropped = store.watch(KeyRange::key("key"), Revision(0)).await.unwrap();
    drop(dropped);
    for i in 0..300 {
        put(&*store, "key", &i.to_string()).await;
    }
    for i in 0..300 {
        assert_eq!(next_changes(&mut first).await.1, [format!("key={i}")]);
    }
    drop(unread);
}

async fn large_values_are_told(store: SharedStore) {
    let first = later(revision(&*store).await, 1);
    for i in 0..12_u8 {
        write(&*store, [Op::put("key", vec![i; 512 << 10])]).await;
    }
    let mut watch = store.watch(KeyRange::key("key"), first).await.unwrap();
    for i in 0..12_u8 {
        let Notice::Changed { changes, .. } = next(&mut watch).await else { panic!("compacted") };
        assert!(matches!(&changes[..], [Change::Put(pair)] if pair.value == vec![i; 512 << 10]));
    }
}

async fn a_watch_behind_a_compaction_says_so_and_goes_on(store: SharedStore) {
    let first = put(&*store, "key", "1").await;
    put(&*store, "key", "2").await;
    let compacted = put(&*store, "key", "3").await;
    store.compact(compacted).await.unwrap();
    let mut watch = store.watch(KeyRange::key("key"), first).await.unwrap();
    let Notice::Compacted { revision } = next(&mut watch).await else { panic!("history was gone") };
    assert!(revision >= compacted);
    let after = put(&*store, "key", "4").await;
    assert_eq!(next_changes(&mut watch).await, (after, vec!["key=4".into()]));
}
