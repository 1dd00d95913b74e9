//! Leases: what hangs on them, renewing them, and their end.

use super::*;

/// The shortest life; an engine may grant a longer one.
const SHORT: Duration = Duration::from_secs(1);

cases![
    a_lease_lives_at_least_as_long_as_asked_in_whole_seconds,
    a_key_tells_its_lease,
    revoking_deletes_its_keys_as_one_revision,
    revoking_a_lease_without_keys_is_no_revision,
    a_later_put_decides_what_a_key_hangs_on,
    a_key_made_anew_does_not_hang_on_its_old_lease,
    an_ended_lease_is_not_found,
    a_lease_that_is_not_renewed_ends_and_takes_its_keys,
    a_renewed_lease_outlives_one_that_is_not,
    history_before_the_end_of_a_lease_stays,
];

async fn a_lease_lives_at_least_as_long_as_asked_in_whole_seconds(store: SharedStore) {
    for asked in
        [Duration::ZERO, Duration::from_millis(1), Duration::from_millis(61_500), Duration::from_mins(1)]
    {
        let lease = store.grant(asked).await.unwrap();
        assert!(lease.ttl >= asked && lease.ttl >= SHORT && lease.ttl.subsec_nanos() == 0, "{lease:?}");
        assert!(lease.ttl < asked + Duration::from_secs(10), "{lease:?}");
        assert_eq!(store.keep_alive(lease.id).await.unwrap(), lease.ttl);
        store.revoke(lease.id).await.unwrap();
    }
}

async fn a_key_tells_its_lease(store: SharedStore) {
    let lease = store.grant(PATIENCE).await.unwrap().id;
    write(&*store, [leased("key", lease)]).await;
    assert_eq!(pair(&*store, "key").await.unwrap().lease, Some(lease));
    store.revoke(lease).await.unwrap();
}

async fn revoking_deletes_its_keys_as_one_revision(store: SharedStore) {
    let lease = store.grant(PATIENCE).await.unwrap().id;
    let put = write(&*store, [leased("k/2", lease), leased("k/1", lease), Op::put("k/3", "")]).await.revision;
    let mut watch = store.watch(KeyRange::prefix("k/"), later(put, 1)).await.unwrap();
    store.revoke(lease).await.unwrap();
    assert_eq!(revision(&*store).await, later(put, 1));
    assert_eq!(next_changes(&mut watch).await, (later(put, 1), vec!["-k/1".into(), "-k/2".into()]));
    assert_eq!(pair(&*store, "k/1").await, None);
    assert!(pair(&*store, "k/3").await.is_some());
}

async fn revoking_a_lease_without_keys_is_no_revision(store: SharedStore) {
    let before = revision(&*store).await;
    let lease = store.grant(PATIENCE).await.unwrap().id;
    store.revoke(lease).await.unwrap();
    assert_eq!(revision(&*store).await, before);
}

async fn a_later_put_decides_what_a_key_hangs_on(store: SharedStore) {
    let (first, second) = (store.grant(PATIENCE).await.unwrap().id, store.grant(PATIENCE).await.unwrap().id);
    write(&*store, [leased("freed", first), leased("moved", first), leased("kept", first)]).await;
    write(&*store, [Op::put("freed", ""), leased("moved", second)]).await;
    store.revoke(first).await.unwrap();
    assert_eq!(pair(&*store, "freed").await.unwrap().lease, None);
    assert_eq!(pair(&*store, "moved").await.unwrap().lease, Some(second));
    assert_eq!(pair(&*store, "kept").await, None);
    store.revoke(second).await.unwrap();
    assert_eq!(pair(&*store, "moved").await, None);
    assert!(pair(&*store, "freed").await.is_some());
}

async fn a_key_made_anew_does_not_hang_on_its_old_lease(store: SharedStore) {
    let lease = store.grant(PATIENCE).await.unwrap().id;
    write(&*store, [leased("key", lease)]).await;
    delete(&*store, KeyRange::key("key")).await;
    put(&*store, "key", "").await;
    store.revoke(lease).await.unwrap();
    assert!(pair(&*store, "key").await.is_some());
}

async fn an_ended_lease_is_not_found(store: SharedStore) {
    let ended = store.grant(PATIENCE).await.unwrap().id;
    store.revoke(ended).await.unwrap();
    for lease in [ended, LeaseId(1)] {
        let errors = [
            store.keep_alive(lease).await.unwrap_err(),
            store.revoke(lease).await.unwrap_err(),
            refused(&*store, [leased("key", lease)]).await,
        ];
        assert!(errors.iter().all(|error| matches!(error, StoreError::LeaseNotFound)), "{errors:?}");
    }
}

async fn a_lease_that_is_not_renewed_ends_and_takes_its_keys(store: SharedStore) {
    let mut watch = store.watch(KeyRange::prefix("k/"), Revision(0)).await.unwrap();
    let lease = store.grant(SHORT).await.unwrap().id;
    let put = write(&*store, [leased("k/1", lease), leased("k/2", lease), Op::put("k/3", "")]).await.revision;
    assert_eq!(next_changes(&mut watch).await.0, put);
    assert_eq!(next_changes(&mut watch).await, (later(put, 1), vec!["-k/1".into(), "-k/2".into()]));
    assert_eq!(texts(&*store, KeyRange::prefix("k/")).await, [("k/3".to_owned(), String::new())]);
    assert!(matches!(store.keep_alive(lease).await.unwrap_err(), StoreError::LeaseNotFound));
}

async fn a_renewed_lease_outlives_one_that_is_not(store: SharedStore) {
    let mut watch = store.watch(KeyRange::prefix("k/"), Revision(0)).await.unwrap();
    let renewed = store.grant(SHORT).await.unwrap();
    let left = store.grant(SHORT).await.unwrap();
    write(&*store, [leased("k/renewed", renewed.id), leased("k/left", left.id)]).await;
    let renewing = async {
        loop {
            assert_eq!(store.keep_alive(renewed.id).await.unwrap(), renewed.ttl);
            tokio::time::sleep(SHORT / 10).await;
        }
    };
    tokio::select! {
        () = until_deleted(&mut watch, "k/left") => {}
        () = renewing => unreachable!("renewing goes on"),
    }
    assert!(pair(&*store, "k/renewed").await.is_some());
    until_deleted(&mut watch, "k/renewed").await;
}

async fn history_before_the_end_of_a_lease_stays(store: SharedStore) {
    let lease = store.grant(PATIENCE).await.unwrap().id;
    let put = write(&*store, [leased("key", lease)]).await.revision;
    store.revoke(lease).await.unwrap();
    let then = store.read(at(KeyRange::key("key"), put)).await.unwrap();
    assert_eq!(then.pairs[0].lease, Some(lease));
}
