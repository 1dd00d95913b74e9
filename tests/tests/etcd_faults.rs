//! The etcd engine against members that die, freeze, fill up and forget.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cargo_etcdtest::store::etcd::{EtcdOptions, EtcdStore};
use cargo_etcdtest::store::{
    Change, Compare, KeyRange, LeaseKeeper, Notice, Op, Read, Revision, Store, StoreError, Txn, Watch, list,
};
use futures::future::join_all;
use tokio::time::{Instant, timeout};
use whole_program::etcd::{Cluster, Etcd};

/// How long a test waits for what must come, on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(90);

async fn put(store: &EtcdStore, key: &str, value: impl Into<Vec<u8>>) -> Result<Revision, StoreError> {
    Ok(store.txn(Txn { then: vec![Op::put(key, value)], ..Txn::default() }).await?.revision)
}

/// Writes until it is sure that it was applied.
async fn put_surely(store: &EtcdStore, key: &str) -> Revision {
    let started = Instant::now();
    loop {
        match put(store, key, "value").await {
            Ok(revision) => return revision,
            Err(error) if error.is_transient() && started.elapsed() < PATIENCE => {}
            Err(error) => panic!("{error}"),
        }
    }
}

async fn notice(watch: &mut Watch) -> Notice {
    let notice = timeout(PATIENCE, watch.next()).await.expect("the watch goes on");
    notice.expect("the watch goes on").expect("the watch goes on")
}

/// The keys put, until this one.
async fn puts_until(watch: &mut Watch, last: &str) -> Vec<(Revision, String)> {
    let mut seen = Vec::new();
    loop {
        let Notice::Changed { revision, changes } = notice(watch).await else {
            panic!("nothing was compacted")
        };
        for change in changes {
            let Change::Put(pair) = change else { panic!("nothing was deleted") };
            seen.push((revision, pair.key.to_string()));
        }
        if seen.last().is_some_and(|(_, key)| key == last) {
            return seen;
        }
    }
}

/// A store that asks this member first: the others are frozen while it connects.
async fn connected_to(cluster: &Cluster, member: usize, options: EtcdOptions) -> EtcdStore {
    let others = || cluster.members.iter().enumerate().filter(|(index, _)| *index != member);
    others().for_each(|(_, etcd)| etcd.freeze());
    let store = EtcdStore::connect(options).await;
    others().for_each(|(_, etcd)| etcd.thaw());
    store.expect("the member answers")
}

#[tokio::test]
async fn killed_and_restarted_members_lose_no_write_and_no_notice() {
    let mut cluster = Cluster::start();
    let store = cluster.connect().await;
    let mut watch = store.watch(KeyRange::prefix("/"), Revision(0)).await.unwrap();
    let mut written = Vec::new();
    for member in 0..3 {
        cluster.members[member].kill();
        for number in 0..10 {
            let key = format!("/{member}/{number}");
            written.push((put_surely(&store, &key).await, key.clone()));
            assert_eq!(store.read(Read::key(key.as_str())).await.unwrap().pairs.len(), 1);
        }
        cluster.members[member].restart();
        cluster.members[member].wait_until_healthy();
    }
    let seen = puts_until(&mut watch, "/2/9").await;
    assert!(seen.is_sorted(), "{seen:?}");
    // A write with an unknown outcome was repeated and may be there twice.
    assert!(written.iter().all(|entry| seen.contains(entry)), "{written:?} {seen:?}");
}

#[tokio::test]
async fn a_frozen_member_holds_up_no_request_and_no_watch() {
    let cluster = Cluster::start();
    let options = EtcdOptions { request_timeout: Duration::from_secs(6), ..cluster.options() };
    let store = connected_to(&cluster, 0, options).await;
    let first = put_surely(&store, "/before").await;
    let mut watch = store.watch(KeyRange::prefix("/"), first).await.unwrap();
    puts_until(&mut watch, "/before").await;

    cluster.members[0].freeze();
    let reads = (0..8).map(|_| store.read(Read::key("/before")));
    for page in timeout(Duration::from_secs(30), join_all(reads)).await.expect("no read hangs") {
        assert_eq!(page.expect("another member answers").pairs.len(), 1);
    }
    put_surely(&store, "/while").await;
    assert_eq!(puts_until(&mut watch, "/while").await.len(), 1);
    cluster.members[0].thaw();
}

#[tokio::test]
async fn an_outage_of_all_is_waited_for_by_reads_and_leaves_no_gap_in_a_watch() {
    let mut etcd = Etcd::start();
    let options = EtcdOptions { request_timeout: PATIENCE, ..etcd.options() };
    let store = Arc::new(EtcdStore::connect(options).await.unwrap());
    let first = put(&store, "/0", "").await.unwrap();
    let mut watch = store.watch(KeyRange::prefix("/"), first).await.unwrap();
    etcd.kill();
    let read = tokio::spawn({
        let store = store.clone();
        async move { store.read(Read::key("/0")).await }
    });
    etcd.restart();
    etcd.wait_until_healthy();
    assert_eq!(read.await.unwrap().unwrap().pairs.len(), 1);
    for number in 1..=20 {
        put_surely(&store, &format!("/{number}")).await;
    }
    let mut seen: Vec<_> = puts_until(&mut watch, "/20").await.into_iter().map(|(_, key)| key).collect();
    seen.dedup();
    assert_eq!(seen, (0..=20).map(|number| format!("/{number}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_compacted_history_is_told_and_the_watch_goes_on() {
    let etcd = Etcd::start();
    let store = etcd.connect().await;
    let first = put(&store, "/a", "1").await.unwrap();
    let last = put(&store, "/a", "2").await.unwrap();
    store.compact(last).await.unwrap();
    assert!(matches!(store.compact(last).await, Err(StoreError::Compacted(_))));
    let old = Read { at: Some(first), ..Read::key("/a") };
    assert!(matches!(store.read(old).await, Err(StoreError::Compacted(revision)) if revision == first));
    let ahead = Revision(last.0 + 100);
    let future = Read { at: Some(ahead), ..Read::key("/a") };
    assert!(
        matches!(store.read(future).await, Err(StoreError::FutureRevision(revision)) if revision == ahead)
    );

    let mut watch = store.watch(KeyRange::prefix("/"), first).await.unwrap();
    assert_eq!(notice(&mut watch).await, Notice::Compacted { revision: last });
    let next = put(&store, "/b", "").await.unwrap();
    assert_eq!(puts_until(&mut watch, "/b").await, [(next, "/b".into())]);
}

#[tokio::test]
async fn a_watch_cut_off_while_history_is_compacted_says_so_and_goes_on() {
    let cluster = Cluster::start();
    let store = connected_to(&cluster, 0, cluster.options()).await;
    let first = put_surely(&store, "/before").await;
    let mut watch = store.watch(KeyRange::prefix("/"), first).await.unwrap();
    puts_until(&mut watch, "/before").await;

    cluster.members[0].freeze();
    let others = EtcdOptions { endpoints: cluster.endpoints()[1..].to_vec(), ..cluster.options() };
    let others = EtcdStore::connect(others).await.unwrap();
    put_surely(&others, "/missed").await;
    let compacted = put_surely(&others, "/missed").await;
    others.compact(compacted).await.unwrap();
    let Notice::Compacted { revision } = notice(&mut watch).await else { panic!("the history is gone") };
    assert!(revision >= compacted);
    let next = put_surely(&others, "/after").await;
    assert_eq!(puts_until(&mut watch, "/after").await, [(next, "/after".into())]);
    cluster.members[0].thaw();
}

#[tokio::test]
async fn more_than_4_mib_are_read_and_watched_one_notice_a_revision() {
    const REVISIONS: usize = 8;
    // The 2 MiB at which etcd splits what it sends lie in the middle of a revision.
    const KEYS: usize = 7;
    let etcd = Etcd::start();
    let store = etcd.connect().await;
    let mut first = None;
    for revision in 0..REVISIONS {
        let then = (0..KEYS).map(|key| Op::put(format!("/{revision}/{key}"), vec![b'x'; 150 * 1024]));
        let outcome = store.txn(Txn { then: then.collect(), ..Txn::default() }).await.unwrap();
        first.get_or_insert(outcome.revision);
    }
    let page = store.read(KeyRange::prefix("/").into()).await.unwrap();
    assert_eq!((page.pairs.len(), page.more), (REVISIONS * KEYS, false));
    assert_eq!(list(&store, KeyRange::prefix("/")).await.unwrap().pairs, page.pairs);

    let mut watch = store.watch(KeyRange::prefix("/"), first.unwrap()).await.unwrap();
    for number in 0..REVISIONS {
        let Notice::Changed { revision, changes } = notice(&mut watch).await else { panic!("none is gone") };
        assert_eq!(revision.0, first.unwrap().0 + i64::try_from(number).unwrap());
        assert_eq!(changes.len(), KEYS);
    }
    let huge = put(&store, "/huge", vec![b'x'; 3 * 1024 * 1024]).await;
    assert!(matches!(huge, Err(StoreError::TooLarge { .. })), "{huge:?}");
}

#[tokio::test]
async fn without_space_writes_are_refused_deletes_work_and_the_alarm_is_shown() {
    let etcd = Etcd::with(&["--quota-backend-bytes=2000000"]);
    let store = etcd.connect().await;
    let mut number = 0;
    let error = loop {
        match put(&store, &format!("/{number}"), vec![b'x'; 100 * 1024]).await {
            Ok(_) => number += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::NoSpace { .. }), "{error}");
    let delete = Txn { then: vec![Op::Delete(KeyRange::prefix("/"))], ..Txn::default() };
    assert!(store.txn(delete).await.unwrap().revision.0 > 0);
    assert!(store.read(KeyRange::prefix("/").into()).await.unwrap().pairs.is_empty());
    let warnings = store.status().await.unwrap().warnings;
    assert!(warnings.iter().any(|warning| warning.contains("NOSPACE")), "{warnings:?}");
}

#[tokio::test]
async fn a_transaction_that_cannot_be_is_refused_by_what_is_wrong_with_it() {
    let etcd = Etcd::start();
    let store = etcd.connect().await;
    let twice = Txn { then: vec![Op::put("/a", ""), Op::put("/b", ""), Op::put("/b", "")], ..Txn::default() };
    let error = store.txn(twice).await.unwrap_err();
    assert_eq!(error.to_string(), "a transaction writes /b twice");

    let gone = store.grant(Duration::from_mins(1)).await.unwrap();
    store.revoke(gone.id).await.unwrap();
    assert!(matches!(store.revoke(gone.id).await, Err(StoreError::LeaseNotFound)));
    let leased = Op::Put { key: "/c".into(), value: Vec::new(), lease: Some(gone.id) };
    let error = store.txn(Txn { then: vec![leased], ..Txn::default() }).await.unwrap_err();
    assert!(matches!(error, StoreError::LeaseNotFound), "{error}");

    let many = (0..200).map(|number| Op::put(format!("/{number}"), ""));
    let error = store.txn(Txn { then: many.collect(), ..Txn::default() }).await.unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { .. }), "{error}");
    assert!(store.read(KeyRange::prefix("/").into()).await.unwrap().pairs.is_empty());
}

#[tokio::test]
async fn an_endpoint_where_nobody_listens_is_named() {
    let mut etcd = Etcd::start();
    etcd.kill();
    let error = EtcdStore::connect(etcd.options()).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Unavailable { location, .. } if location.contains(&etcd.endpoint()))
    );
    assert!(error.to_string().contains("refused"), "{error}");
    let wrong = EtcdOptions { endpoints: vec!["not an endpoint".into()], ..EtcdOptions::default() };
    assert!(EtcdStore::connect(wrong).await.unwrap_err().to_string().contains("not an endpoint"));
}

#[tokio::test]
async fn dead_endpoints_among_live_ones_are_passed_over() {
    let mut dead = Etcd::start();
    dead.kill();
    let mut etcd = Etcd::start();
    let options = EtcdOptions { endpoints: vec![dead.endpoint(), etcd.endpoint()], ..etcd.options() };
    let store = EtcdStore::connect(options).await.unwrap();
    put(&store, "/a", "").await.unwrap();
    let states = store.status().await.unwrap().members;
    assert_eq!(states[1].1, "leader");
    assert!(states[0].1.contains("refused"), "{states:?}");
    etcd.restart();
    etcd.wait_until_healthy();
    put_surely(&store, "/b").await;
}

#[tokio::test]
async fn the_status_tells_which_members_are_gone_also_without_a_quorum() {
    let mut cluster = Cluster::start();
    let options = EtcdOptions { request_timeout: Duration::from_secs(2), ..cluster.options() };
    let store = EtcdStore::connect(options).await.unwrap();
    let whole = store.status().await.unwrap();
    assert_eq!(whole.members.iter().filter(|(_, state)| state == "leader").count(), 1, "{whole:?}");

    cluster.members[0].kill();
    cluster.members[1].kill();
    let rest = store.status().await.unwrap();
    assert!(rest.members[..2].iter().all(|(_, state)| state.contains("cannot be reached")), "{rest:?}");
    assert!(rest.warnings.iter().any(|warning| warning.contains("cannot be reached")), "{rest:?}");
    cluster.members[2].kill();
    assert!(matches!(store.status().await, Err(StoreError::Unavailable { .. })));
    assert!(matches!(put(&store, "/a", "").await, Err(StoreError::Unavailable { .. })));
}

#[tokio::test]
async fn a_namespace_neither_sees_nor_touches_what_is_outside() {
    let etcd = Etcd::start();
    let plain = etcd.connect().await;
    let namespace = |name: &str| EtcdOptions { namespace: name.into(), ..etcd.options() };
    let ours = EtcdStore::connect(namespace("ours")).await.unwrap();
    let theirs = EtcdStore::connect(namespace("theirs")).await.unwrap();
    let mut watch = ours.watch(KeyRange::prefix("/"), Revision(0)).await.unwrap();
    put(&theirs, "/a", "theirs").await.unwrap();
    put(&plain, "/a", "plain").await.unwrap();
    put(&ours, "/a", "ours").await.unwrap();
    assert_eq!(puts_until(&mut watch, "/a").await.len(), 1);
    let page = ours.read(KeyRange::prefix("/").into()).await.unwrap();
    assert_eq!(page.pairs.iter().map(|pair| pair.key.to_string()).collect::<Vec<_>>(), ["/a"]);
    assert_eq!(page.pairs[0].value, b"ours");

    let delete = Txn { then: vec![Op::Delete(KeyRange::prefix("/"))], ..Txn::default() };
    ours.txn(delete).await.unwrap();
    let left =
        plain.read(Read::from(KeyRange { start: "\u{1}".into(), end: Some("\u{7f}".into()) })).await.unwrap();
    let keys: Vec<_> = left.pairs.iter().map(|pair| pair.key.to_string()).collect();
    assert_eq!(keys, ["/a", "theirs/a"]);
}

#[tokio::test]
async fn a_lease_is_lost_when_its_server_is_frozen_for_longer_than_it_lives() {
    let etcd = Etcd::start();
    let store: Arc<EtcdStore> = Arc::new(etcd.connect().await);
    let keeper = LeaseKeeper::start(store.clone(), Duration::from_secs(2)).await.unwrap();
    let leased = Op::Put { key: "/worker".into(), value: Vec::new(), lease: Some(keeper.id()) };
    let revision = store.txn(Txn { then: vec![leased], ..Txn::default() }).await.unwrap().revision;
    let mut watch = store.watch(KeyRange::prefix("/"), Revision(revision.0 + 1)).await.unwrap();
    // It lives on for longer than its time to live, because it is renewed.
    assert!(timeout(Duration::from_secs(4), keeper.lost()).await.is_err());
    assert!(!keeper.is_lost());

    // What counts as lost lives on where a renewal comes to the server just in time.
    let lost = async {
        loop {
            etcd.freeze();
            keeper.lost().await;
            assert!(keeper.is_lost());
            etcd.thaw();
            if !keeper.is_alive_after_all().await {
                break;
            }
        }
    };
    timeout(PATIENCE, lost).await.expect("the lease is lost");
    let Notice::Changed { changes, .. } = notice(&mut watch).await else { panic!("nothing was compacted") };
    assert_eq!(changes, [Change::Deleted("/worker".into())]);
    assert!(matches!(store.keep_alive(keeper.id()).await, Err(StoreError::LeaseNotFound)));
    keeper.end().await.unwrap();
}

#[tokio::test]
async fn a_lease_that_is_ended_takes_its_keys_along() {
    let etcd = Etcd::start();
    let store: Arc<EtcdStore> = Arc::new(etcd.connect().await);
    let keeper = LeaseKeeper::start(store.clone(), Duration::from_mins(1)).await.unwrap();
    let leased = Op::Put { key: "/worker".into(), value: Vec::new(), lease: Some(keeper.id()) };
    store.txn(Txn { then: vec![leased], ..Txn::default() }).await.unwrap();
    keeper.end().await.unwrap();
    assert!(store.read(Read::key("/worker")).await.unwrap().pairs.is_empty());
}

#[tokio::test]
async fn what_is_said_of_a_write_is_true_whenever_the_server_dies() {
    let mut etcd = Etcd::start();
    let options = EtcdOptions { request_timeout: Duration::from_secs(2), ..etcd.options() };
    let store = Arc::new(EtcdStore::connect(options).await.unwrap());
    let mut said = BTreeMap::new();
    for round in 0..4 {
        let writes: Vec<_> = (0..64)
            .map(|number| {
                let store = store.clone();
                tokio::spawn(async move {
                    let mut said = Vec::new();
                    for turn in 0..20 {
                        let key = format!("/{round}/{number}/{turn}");
                        // Sent twice, it would fail the second time.
                        let txn = Txn {
                            compares: vec![Compare::absent(KeyRange::key(key.as_str()))],
                            then: vec![Op::put(key.as_str(), "value")],
                            otherwise: Vec::new(),
                        };
                        said.push((key, store.txn(txn).await));
                    }
                    said
                })
            })
            .collect();
        // In the middle of the writes: when some are there.
        let some = async {
            let written = || store.read(KeyRange::prefix(format!("/{round}/")).into());
            while written().await.is_ok_and(|page| page.pairs.len() < 100) {}
        };
        timeout(PATIENCE, some).await.expect("writes are applied");
        etcd.restart();
        etcd.wait_until_healthy();
        for write in writes {
            said.extend(write.await.unwrap());
        }
    }
    let there = etcd.connect().await.read(KeyRange::prefix("/").into()).await.unwrap();
    let there: BTreeMap<_, _> =
        there.pairs.iter().map(|pair| (pair.key.to_string(), pair.modified)).collect();
    let mut unknown = 0;
    for (key, said) in said {
        match said {
            Ok(outcome) => {
                assert!(outcome.succeeded, "{key} was written before");
                assert_eq!(there.get(&key), Some(&outcome.revision), "{key} was said to be written");
            }
            Err(StoreError::Unavailable { .. }) => {
                assert_eq!(there.get(&key), None, "{key} was said not to be");
            }
            Err(StoreError::UnknownOutcome { .. }) => unknown += 1,
            Err(error) => panic!("{key}: {error}"),
        }
    }
    assert!(unknown > 0, "the server died with no write under way");
}

#[tokio::test]
async fn no_request_waits_for_another() {
    const WRITES: u32 = 100;
    let etcd = Etcd::start();
    let options = EtcdOptions { request_timeout: Duration::from_secs(2), ..etcd.options() };
    let bound = options.request_timeout * WRITES / 4;
    let store = EtcdStore::connect(options).await.unwrap();
    put(&store, "/before", "").await.unwrap();
    // None is answered, so one after another they would take as many times the timeout.
    etcd.freeze();
    let keys: Vec<_> = (0..WRITES).map(|number| format!("/{number}")).collect();
    let writes = join_all(keys.iter().map(|key| put(&store, key, "value")));
    for written in timeout(bound, writes).await.expect("they are sent together") {
        assert!(matches!(written, Err(StoreError::UnknownOutcome { .. })), "{written:?}");
    }
    etcd.thaw();
}
