//! Both store engines keep the same promises.

use proptest::test_runner::{Config, TestCaseError, TestRunner};
use whole_program::conformance::{self, scripts, transcript};
use whole_program::stores::{EtcdStores, LocalStores};

#[tokio::test]
async fn every_case_holds_on_the_local_store() {
    let stores = LocalStores::new();
    conformance::run_all(async || stores.empty()).await;
}

#[tokio::test]
async fn every_case_holds_on_etcd() {
    let stores = EtcdStores::start();
    conformance::run_all(async || stores.empty().await).await;
}

#[test]
fn generated_scripts_are_answered_alike_by_both() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (local, etcd) = (LocalStores::new(), EtcdStores::start());
    // A script that fails by waiting in vain cannot be made much shorter in reasonable time.
    let config =
        Config { cases: 64, max_shrink_time: 60_000, failure_persistence: None, ..Config::default() };
    let compared = TestRunner::new(config).run(&scripts::script(), |script| {
        let (ours, theirs) = runtime.block_on(async {
            let (ours, theirs) = (local.empty(), etcd.empty().await);
            tokio::join!(transcript(&ours, &script), transcript(&theirs, &script))
        });
        match ours.iter().zip(&theirs).find(|(ours, theirs)| ours != theirs) {
            None if ours.len() == theirs.len() => Ok(()),
            difference => Err(TestCaseError::fail(format!("local and etcd differ: {difference:#?}"))),
        }
    });
    if let Err(error) = compared {
        panic!("{error}");
    }
}
