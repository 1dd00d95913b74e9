//! Transactions: conditions, branches, what is refused.

use super::*;
use cargo_etcdtest::store::{Answer, Compare, Target};

cases![
    many_changes_are_one_revision,
    a_transaction_that_only_reads_is_no_revision,
    every_target_compares_for_equal_and_not_equal,
    a_missing_key_counts_as_0_and_has_no_value,
    every_key_of_a_compared_range_must_satisfy_it,
    nothing_under_a_prefix_is_a_condition,
    one_condition_that_fails_takes_the_other_branch,
    gets_see_the_writes_before_them,
    writing_a_key_twice_is_refused_in_either_branch,
    both_branches_may_write_the_same_key,
    overlapping_deletes_count_each_key_once,
    a_refused_transaction_changes_nothing,
    a_get_in_the_branch_not_taken_is_not_checked,
    too_many_operations_are_refused,
    too_many_bytes_are_refused,
    the_largest_allowed_transaction_is_taken,
    counting_by_compare_and_swap_loses_nothing,
];

async fn holds(store: &dyn Store, compare: Compare) -> bool {
    store.txn(Txn { compares: vec![compare], ..Txn::default() }).await.unwrap().succeeded
}

async fn many_changes_are_one_revision(store: SharedStore) {
    let before = put(&*store, "k/old", "").await;
    let ops = [
        Op::put("k/1", "1"),
        Op::Delete(KeyRange::key("k/old")),
        Op::put("k/2", "2"),
        Op::Delete(KeyRange::key("none")),
    ];
    let outcome = write(&*store, ops).await;
    assert!(outcome.succeeded);
    assert_eq!(outcome.revision, later(before, 1));
    assert_eq!(outcome.answers, [Answer::Put, Answer::Deleted(1), Answer::Put, Answer::Deleted(0)]);
    let page = store.read(KeyRange::prefix("k/").into()).await.unwrap();
    assert_eq!(page.pairs.len(), 2);
    assert!(page.pairs.iter().all(|pair| pair.modified == outcome.revision));
}

async fn a_transaction_that_only_reads_is_no_revision(store: SharedStore) {
    let before = put(&*store, "key", "").await;
    let outcome = write(&*store, [Op::Get(Read::key("key")), Op::Get(Read::key("none"))]).await;
    assert_eq!(outcome.revision, before);
    assert_eq!(outcome.pages().map(|page| page.pairs.len()).collect::<Vec<_>>(), [1, 0]);
    let nothing = write(&*store, []).await;
    assert_eq!((nothing.succeeded, nothing.revision), (true, before));
}

async fn every_target_compares_for_equal_and_not_equal(store: SharedStore) {
    let lease = store.grant(PATIENCE).await.unwrap().id;
    let created = put(&*store, "key", "old").await;
    let modified = write(&*store, [leased("key", lease)]).await.revision;
    for (target, same) in [
        (Target::Value(b"leased".into()), true),
        (Target::Value(b"old".into()), false),
        (Target::Version(2), true),
        (Target::Version(1), false),
        (Target::Created(created), true),
        (Target::Created(modified), false),
        (Target::Modified(modified), true),
        (Target::Modified(created), false),
        (Target::Lease(Some(lease)), true),
        (Target::Lease(None), false),
        (Target::Lease(Some(LeaseId(1))), false),
    ] {
        for equal in [true, false] {
            let compare = Compare { range: KeyRange::key("key"), target: target.clone(), equal };
            assert_eq!(holds(&*store, compare.clone()).await, same == equal, "{compare:?}");
        }
    }
    store.revoke(lease).await.unwrap();
}

async fn a_missing_key_counts_as_0_and_has_no_value(store: SharedStore) {
    for range in [KeyRange::key("none"), KeyRange::prefix("none/"), range("z", "a")] {
        for (target, equal, expected) in [
            (Target::Version(0), true, true),
            (Target::Version(0), false, false),
            (Target::Version(1), true, false),
            (Target::Version(1), false, true),
            (Target::Created(Revision(0)), true, true),
            (Target::Created(Revision(1)), true, false),
            (Target::Modified(Revision(0)), true, true),
            (Target::Modified(Revision(0)), false, false),
            (Target::Lease(None), true, true),
            (Target::Lease(None), false, false),
            (Target::Lease(Some(LeaseId(7))), false, true),
            (Target::Value(Vec::new()), true, false),
            (Target::Value(Vec::new()), false, false),
            (Target::Value(b"x".into()), false, false),
        ] {
            let compare = Compare { range: range.clone(), target, equal };
            assert_eq!(holds(&*store, compare.clone()).await, expected, "{compare:?}");
        }
    }
}

async fn every_key_of_a_compared_range_must_satisfy_it(store: SharedStore) {
    let first = write(&*store, [Op::put("k/1", "same"), Op::put("k/2", "same")]).await.revision;
    let all = |target| Compare { range: KeyRange::prefix("k/"), target, equal: true };
    assert!(holds(&*store, all(Target::Value(b"same".into()))).await);
    assert!(holds(&*store, all(Target::Modified(first))).await);
    put(&*store, "k/2", "other").await;
    assert!(!holds(&*store, all(Target::Value(b"same".into()))).await);
    assert!(!holds(&*store, all(Target::Modified(first))).await);
    assert!(holds(&*store, all(Target::Created(first))).await);
    let none = Compare { equal: false, ..all(Target::Value(b"same".into())) };
    assert!(!holds(&*store, none).await, "one of the two is the same");
}

async fn nothing_under_a_prefix_is_a_condition(store: SharedStore) {
    let absent = || Compare::absent(KeyRange::prefix("k/"));
    put(&*store, "k", "").await;
    assert!(holds(&*store, absent()).await);
    put(&*store, "k/1", "").await;
    assert!(!holds(&*store, absent()).await);
    delete(&*store, KeyRange::prefix("k/")).await;
    assert!(holds(&*store, absent()).await);
}

async fn one_condition_that_fails_takes_the_other_branch(store: SharedStore) {
    let modified = put(&*store, "key", "1").await;
    let txn = |last| Txn {
        compares: vec![Compare::modified("key", modified), Compare::created("none", last)],
        then: vec![Op::put("key", "then")],
        otherwise: vec![Op::Get(Read::key("key"))],
    };
    let outcome = store.txn(txn(Revision(1))).await.unwrap();
    assert_eq!((outcome.succeeded, outcome.revision), (false, modified));
    assert_eq!(outcome.pages().next().unwrap().pairs[0].value, b"1");
    let outcome = store.txn(txn(Revision(0))).await.unwrap();
    assert_eq!((outcome.succeeded, outcome.revision), (true, later(modified, 1)));
    assert_eq!(pair(&*store, "key").await.unwrap().value, b"then");
}

async fn gets_see_the_writes_before_them(store: SharedStore) {
    let before = write(&*store, [Op::put("a", "old"), Op::put("b", "old")]).await.revision;
    let both = || Op::Get(range("a", "c").into());
    let past = Op::Get(at(range("a", "c"), before));
    let ops = [both(), Op::put("a", "new"), both(), Op::Delete(KeyRange::key("b")), both(), past];
    let outcome = write(&*store, ops).await;
    let written = outcome.revision;
    let seen: Vec<_> = outcome
        .pages()
        .map(|page| {
            let values = page.pairs.iter().map(|pair| String::from_utf8_lossy(&pair.value).into_owned());
            (page.revision, values.collect::<Vec<_>>().join(" "))
        })
        .collect();
    let expected = [(before, "old old"), (written, "new old"), (written, "new"), (written, "old old")];
    assert_eq!(seen, expected.map(|(revision, values)| (revision, values.to_owned())));
}

async fn writing_a_key_twice_is_refused_in_either_branch(store: SharedStore) {
    let before = put(&*store, "k/a", "").await;
    let put = || Op::put("k/a", "");
    for ops in [
        vec![put(), put()],
        vec![put(), Op::Delete(KeyRange::key("k/a"))],
        vec![Op::Delete(KeyRange::key("k/a")), put()],
        vec![put(), Op::Get(Read::key("k/a")), Op::Delete(KeyRange::prefix("k/"))],
        vec![Op::Delete(range("a", "z")), Op::put("other", ""), put()],
    ] {
        let then = Txn { then: ops.clone(), ..Txn::default() };
        let otherwise = Txn { otherwise: ops, ..Txn::default() };
        for txn in [then, otherwise] {
            let error = store.txn(txn.clone()).await.unwrap_err();
            assert!(matches!(error, StoreError::DuplicateKey(_)), "{error:?} for {txn:?}");
        }
    }
    assert_eq!(revision(&*store).await, before);
}

async fn both_branches_may_write_the_same_key(store: SharedStore) {
    let txn = Txn {
        compares: vec![Compare::created("key", Revision(0))],
        then: vec![Op::put("key", "then")],
        otherwise: vec![Op::Delete(KeyRange::key("key"))],
    };
    assert!(store.txn(txn.clone()).await.unwrap().succeeded);
    assert!(!store.txn(txn).await.unwrap().succeeded);
    assert_eq!(pair(&*store, "key").await, None);
}

async fn overlapping_deletes_count_each_key_once(store: SharedStore) {
    let before = write(&*store, ["a", "b", "c"].map(|key| Op::put(key, ""))).await.revision;
    let outcome = write(&*store, [Op::Delete(range("a", "c")), Op::Delete(range("b", "d"))]).await;
    assert_eq!(outcome.answers, [Answer::Deleted(2), Answer::Deleted(1)]);
    assert_eq!(outcome.revision, later(before, 1));
}

async fn a_refused_transaction_changes_nothing(store: SharedStore) {
    let before = put(&*store, "key", "old").await;
    let error = refused(&*store, [Op::put("key", "new"), leased("other", LeaseId(1))]).await;
    assert!(matches!(error, StoreError::LeaseNotFound), "{error:?}");
    let future = Op::Get(at(KeyRange::key("key"), later(before, 1)));
    let error = refused(&*store, [Op::put("key", "new"), future]).await;
    assert!(matches!(error, StoreError::FutureRevision(_)), "{error:?}");
    assert_eq!(pair(&*store, "key").await.unwrap().value, b"old");
    assert_eq!(revision(&*store).await, before);
}

async fn a_get_in_the_branch_not_taken_is_not_checked(store: SharedStore) {
    let before = put(&*store, "key", "old").await;
    let txn = Txn {
        then: vec![Op::put("key", "new")],
        otherwise: vec![Op::Get(at(KeyRange::key("key"), later(before, 9))), leased("key", LeaseId(1))],
        ..Txn::default()
    };
    assert!(store.txn(txn).await.unwrap().succeeded);
}

async fn too_many_operations_are_refused(store: SharedStore) {
    let puts = |count| (0..count).map(|i| Op::put(format!("k/{i}"), "")).collect::<Vec<_>>();
    let error = refused(&*store, puts(129)).await;
    assert!(matches!(error, StoreError::TooLarge { .. }), "{error:?}");
    assert_eq!(write(&*store, puts(128)).await.answers.len(), 128);
}

async fn too_many_bytes_are_refused(store: SharedStore) {
    let error = refused(&*store, [Op::put("key", vec![b'x'; 1_700_000])]).await;
    assert!(matches!(error, StoreError::TooLarge { .. }), "{error:?}");
    assert_eq!(pair(&*store, "key").await, None);
}

async fn the_largest_allowed_transaction_is_taken(store: SharedStore) {
    let puts: Vec<_> = (0..2).map(|i| Op::put(format!("k/{i}"), vec![b'x'; 512 << 10])).collect();
    write(&*store, puts).await;
    let page = store.read(KeyRange::prefix("k/").into()).await.unwrap();
    assert!(page.pairs.iter().all(|pair| pair.value == vec![b'x'; 512 << 10]));
    assert_eq!(page.pairs.len(), 2);
}

async fn counting_by_compare_and_swap_loses_nothing(store: SharedStore) {
    let (tasks, each) = (4, 25);
    put(&*store, "count", "0").await;
    let workers: Vec<_> = (0..tasks)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                for _ in 0..each {
                    increment(&*store, "count").await;
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
    let count = pair(&*store, "count").await.unwrap();
    assert_eq!(count.value, (tasks * each).to_string().into_bytes());
    assert_eq!(count.version, i64::from(1 + tasks * each));
}

/// Adds one to the number that a key holds, by compare and swap until it succeeds.
pub async fn increment(store: &dyn Store, key: &str) {
    loop {
        let pair = pair(store, key).await.unwrap();
        let count: u32 = String::from_utf8(pair.value).unwrap().parse().unwrap();
        let txn = Txn {
            compares: vec![Compare::modified(key, pair.modified)],
            then: vec![Op::put(key, (count + 1).to_string())],
            ..Txn::default()
        };
        if store.txn(txn).await.unwrap().succeeded {
            return;
        }
    }
}
