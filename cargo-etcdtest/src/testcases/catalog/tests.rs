use std::sync::Arc;

use super::*;
use crate::store::{Notice, local::LocalStore};
use crate::testcases::{BinaryKind, sample};

/// A catalog on a store of its own, which goes with the folder.
fn catalog() -> (Catalog, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let store: SharedStore = Arc::new(LocalStore::open(folder.path()).unwrap());
    (Catalog::new(store), folder)
}

fn id(text: &str) -> TestCaseId {
    text.parse().unwrap()
}

fn described(text: &str) -> Description {
    Description { description: text.into(), ..Description::default() }
}

async fn states(catalog: &Catalog) -> Vec<(String, TestCaseState)> {
    let all = catalog.list().await.unwrap();
    all.into_iter().map(|stored| (stored.case.id.to_string(), stored.case.state())).collect()
}

#[tokio::test]
async fn only_what_changed_is_written() {
    let (catalog, _folder) = catalog();
    let mut list = sample::list(&[("smoke", &["a", "b"]), ("users", &["c"])]);
    let first = catalog.sync(&list).await.unwrap();
    assert_eq!(first, SyncCounts { added: 3, ..SyncCounts::default() });

    let before = catalog.list().await.unwrap();
    let again = catalog.sync(&list).await.unwrap();
    assert_eq!(again, SyncCounts { unchanged: 3, ..SyncCounts::default() });
    assert!(again.is_unchanged());
    assert_eq!(catalog.list().await.unwrap(), before, "nothing was written, not even the same");

    Arc::make_mut(&mut list.tests[1].code).description.tags = vec!["new".into()];
    Arc::make_mut(&mut list.tests[1].code).timeout = Some(Duration::from_millis(1500));
    let third = catalog.sync(&list).await.unwrap();
    assert_eq!(third, SyncCounts { changed: 1, unchanged: 2, ..SyncCounts::default() });
    let changed = catalog.get(&id("shop::smoke::b")).await.unwrap();
    assert_eq!(changed.case.code.as_ref(), Some(&*list.tests[1].code));
}

#[tokio::test]
async fn what_is_gone_from_a_listed_binary_vanishes_and_may_return() {
    let (catalog, _folder) = catalog();
    let whole = sample::list(&[("smoke", &["a", "b"]), ("users", &["c"])]);
    catalog.sync(&whole).await.unwrap();

    // Only `smoke` was built this time, `users` is still in the manifest.
    let mut part = sample::list(&[("smoke", &["a"])]);
    part.targets.clone_from(&whole.targets);
    assert_eq!(catalog.sync(&part).await.unwrap().vanished, 1);
    assert_eq!(
        states(&catalog).await,
        [
            ("shop::smoke::a".into(), TestCaseState::Implemented),
            ("shop::smoke::b".into(), TestCaseState::Vanished),
            ("shop::users::c".into(), TestCaseState::Implemented),
        ]
    );
    assert!(catalog.sync(&part).await.unwrap().is_unchanged(), "it vanishes once");

    // `users` is gone from the manifest.
    assert_eq!(
        catalog.sync(&sample::list(&[("smoke", &["a", "b"])])).await.unwrap(),
        SyncCounts { vanished: 1, returned: 1, unchanged: 1, ..SyncCounts::default() }
    );
    assert_eq!(
        states(&catalog).await.into_iter().map(|(_, state)| state).collect::<Vec<_>>(),
        [TestCaseState::Implemented, TestCaseState::Implemented, TestCaseState::Vanished]
    );
}

#[tokio::test]
async fn a_list_without_the_package_touches_nothing_of_it() {
    let (catalog, _folder) = catalog();
    catalog.sync(&sample::list(&[("smoke", &["a"])])).await.unwrap();
    let other = TestList { targets: [("other".into(), ["lib".into()].into())].into(), ..TestList::default() };
    assert!(catalog.sync(&other).await.unwrap().is_unchanged());
    assert_eq!(states(&catalog).await[0].1, TestCaseState::Implemented);
}

#[tokio::test]
async fn a_written_test_case_goes_over_to_the_only_test_of_its_name() {
    let (catalog, _folder) = catalog();
    for written in ["shop::checkout", "shop::twice", "shop::orders::paid", "shop::never"] {
        catalog.create(id(written), described(written)).await.unwrap();
    }
    let list = sample::list(&[
        ("smoke", &["cart::checkout", "cart::rapid_checkout", "orders::paid", "a::twice"]),
        ("users", &["b::twice"]),
    ]);
    let counts = catalog.sync(&list).await.unwrap();
    assert_eq!((counts.adopted, counts.added), (2, 3));
    assert_eq!(
        states(&catalog).await.into_iter().filter(|(_, state)| *state == TestCaseState::Written).count(),
        2,
        "an ambiguous name and one without code stay as they are"
    );
    let adopted = catalog.get(&id("shop::smoke::cart::checkout")).await.unwrap().case;
    assert_eq!(adopted.description().description, "shop::checkout");
    assert_eq!(adopted.state(), TestCaseState::Implemented);
    assert!(catalog.sync(&list).await.unwrap().is_unchanged());
}

#[tokio::test]
async fn a_name_that_another_binary_has_too_is_ambiguous_even_when_that_one_was_not_built() {
    let (catalog, _folder) = catalog();
    let whole = sample::list(&[("smoke", &["a::twice"]), ("users", &["b::twice"])]);
    catalog.sync(&whole).await.unwrap();
    catalog.create(id("shop::twice"), described("which?")).await.unwrap();
    let mut part = sample::list(&[("smoke", &["a::twice"])]);
    part.targets.clone_from(&whole.targets);
    assert_eq!(catalog.sync(&part).await.unwrap().adopted, 0);
}

#[tokio::test]
async fn what_people_wrote_survives_changes_of_the_code() {
    let (catalog, _folder) = catalog();
    let mut list = sample::list(&[("smoke", &["a"])]);
    Arc::make_mut(&mut list.tests[0].code).description = described("from the code");
    catalog.sync(&list).await.unwrap();
    let a = id("shop::smoke::a");
    catalog.update(&a, None, |written| written.description = "by hand".into()).await.unwrap();
    Arc::make_mut(&mut list.tests[0].code).description.owner = Some("orders".into());
    catalog.sync(&list).await.unwrap();
    let description = catalog.get(&a).await.unwrap().case.description();
    assert_eq!((description.description.as_str(), description.owner.as_deref()), ("by hand", Some("orders")));

    catalog.update(&a, None, |written| *written = Description::default()).await.unwrap();
    let cleared = catalog.get(&a).await.unwrap().case;
    assert_eq!((cleared.description().description.as_str(), cleared.written), ("from the code", None));
}

#[tokio::test]
async fn of_several_changes_at_once_none_is_lost() {
    const WRITERS: usize = 8;
    let (catalog, _folder) = catalog();
    let plan = id("shop::plan");
    catalog.create(plan.clone(), Description::default()).await.unwrap();
    let writers = (0..WRITERS).map(|writer| {
        let (catalog, plan) = (catalog.clone(), plan.clone());
        tokio::spawn(async move {
            let mut conflicts = 0;
            loop {
                let step = writer.to_string();
                match catalog.update(&plan, None, |written| written.steps.push(step)).await {
                    Ok(_) => return conflicts,
                    Err(CatalogError::Conflict { .. }) => conflicts += 1,
                    Err(error) => panic!("{error}"),
                }
            }
        })
    });
    futures::future::try_join_all(writers).await.unwrap();
    let mut steps = catalog.get(&plan).await.unwrap().case.description().steps;
    steps.sort();
    assert_eq!(steps, (0..WRITERS).map(|writer| writer.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_change_of_what_was_read_before_somebody_elses_change_is_refused() {
    let (catalog, _folder) = catalog();
    let plan = id("shop::plan");
    let read = catalog.create(plan.clone(), Description::default()).await.unwrap();
    catalog.update(&plan, Some(read.revision), |written| written.expected = "first".into()).await.unwrap();
    let second =
        catalog.update(&plan, Some(read.revision), |written| written.expected = "second".into()).await;
    let error = second.unwrap_err();
    assert_eq!(error.to_string(), "the test case `shop::plan` was changed meanwhile by somebody else");
    assert!(error.help().unwrap().contains("read it again"));
    assert!(matches!(
        catalog.delete(&plan, Some(read.revision), false).await,
        Err(CatalogError::Conflict { .. })
    ));
    assert_eq!(catalog.get(&plan).await.unwrap().case.description().expected, "first");
}

#[tokio::test]
async fn two_who_register_at_once_both_succeed_and_agree() {
    let (catalog, _folder) = catalog();
    let names: Vec<_> = (0..500).map(|number| format!("test_{number:04}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let list = Arc::new(sample::list(&[("smoke", &names)]));
    let syncs = (0..3).map(|_| {
        let (catalog, list) = (catalog.clone(), Arc::clone(&list));
        tokio::spawn(async move { catalog.sync(&list).await.unwrap() })
    });
    let counts = futures::future::try_join_all(syncs).await.unwrap();
    assert_eq!(counts.iter().map(|counts| counts.added).sum::<usize>(), 500, "each was added once");
    let all = catalog.list().await.unwrap();
    assert_eq!(all.len(), 500);
}

#[tokio::test]
async fn many_and_large_test_cases_are_written_in_transactions_that_a_store_takes() {
    let (catalog, _folder) = catalog();
    let names: Vec<_> = (0..150).map(|number| format!("test_{number:04}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let mut list = sample::list(&[("smoke", &names)]);
    for test in &mut list.tests[..10] {
        Arc::make_mut(&mut test.code).description.description = "x".repeat(300 << 10);
    }
    let mut watch = catalog.store.watch(KeyRange::prefix(keys::TEST_CASES), Revision(0)).await.unwrap();
    assert_eq!(catalog.sync(&list).await.unwrap().added, 150);
    let mut written = 0;
    while written < 150 {
        let Some(Ok(Notice::Changed { changes, .. })) = watch.next().await else { panic!("the watch ended") };
        assert!(changes.len() <= 100, "{}", changes.len());
        let large = changes.iter().filter(|change| format!("{change:?}").len() > 300 << 10).count();
        assert!(large <= 3, "{large} times 300 KiB in one transaction");
        written += changes.len();
    }
}

#[tokio::test]
async fn a_test_case_with_code_is_deleted_only_when_it_vanished_or_on_demand() {
    let (catalog, _folder) = catalog();
    let whole = sample::list(&[("smoke", &["a", "b"])]);
    catalog.sync(&whole).await.unwrap();
    let (a, b) = (id("shop::smoke::a"), id("shop::smoke::b"));
    assert!(matches!(catalog.delete(&a, None, false).await, Err(CatalogError::HasCode(_))));
    catalog.delete(&a, None, true).await.unwrap();
    catalog.sync(&sample::list(&[("smoke", &[])])).await.unwrap();
    catalog.delete(&b, None, false).await.unwrap();
    assert_eq!(catalog.list().await.unwrap(), []);
}

#[tokio::test]
async fn ids_are_found_by_their_name_alone_and_misspelt_ones_are_guessed() {
    let (catalog, _folder) = catalog();
    catalog
        .sync(&sample::list(&[("smoke", &["orders::paid", "a::same"]), ("users", &["b::same"])]))
        .await
        .unwrap();
    assert_eq!(catalog.get(&id("shop::paid")).await.unwrap().case.id, id("shop::smoke::orders::paid"));
    assert_eq!(catalog.get(&id("shop::orders::paid")).await.unwrap().case.id.test, "orders::paid");

    let ambiguous = catalog.get(&id("shop::same")).await.unwrap_err().to_string();
    assert!(
        ambiguous.contains("shop::smoke::a::same") && ambiguous.contains("shop::users::b::same"),
        "{ambiguous}"
    );
    catalog.create(id("shop::web::paid"), Description::default()).await.unwrap();
    assert_eq!(
        catalog.get(&id("shop::paid")).await.unwrap().case.id,
        id("shop::web::paid"),
        "its whole path"
    );

    let missing = catalog.get(&id("shop::smoke::orders::payed")).await.unwrap_err();
    assert_eq!(missing.to_string(), "there is no test case `shop::smoke::orders::payed`");
    assert!(missing.help().unwrap().contains("did you mean `shop::smoke::orders::paid`?"));
    let taken = catalog.create(id("shop::smoke::orders::paid"), Description::default()).await.unwrap_err();
    assert!(matches!(taken, CatalogError::AlreadyExists(_)));
}

#[test]
fn the_digest_changes_with_ids_and_what_the_code_says_and_with_nothing_else() {
    let list = || sample::list(&[("smoke", &["a", "b"])]);
    let digest = list().digest();
    assert_eq!((digest.len(), list().digest() == digest), (64, true));
    assert_ne!(sample::list(&[("smoke", &["a"])]).digest(), digest);
    let mut other = list();
    Arc::make_mut(&mut other.tests[0].code).retries = Some(1);
    assert_ne!(other.digest(), digest);
    let mut other = list();
    other.tests[0].binary = sample::binary("elsewhere", BinaryKind::Bin);
    assert_eq!(other.digest(), digest, "the same tests built in another folder");
}
