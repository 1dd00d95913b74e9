//! Both store engines keep the same promises, and so does the simulation's store.

use std::sync::Arc;

use cargo_etcdtest::store::SharedStore;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use whole_program::conformance::{self, scripts, transcript};
use whole_program::simulation::MemoryStore;
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

/// The simulation's store is no engine of the program; what is found with it holds for the
/// engines only because it behaves as they do.
#[tokio::test]
async fn every_case_holds_on_the_store_of_the_simulation() {
    conformance::run_all(async || Arc::new(MemoryStore::new()) as SharedStore).await;
}

#[test]
fn generated_scripts_are_answered_alike_by_all() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (local, etcd) = (LocalStores::new(), EtcdStores::start());
    // A script that fails by waiting in vain cannot be made much shorter in reasonable time.
    let config =
        Config { cases: 64, max_shrink_time: 60_000, failure_persistence: None, ..Config::default() };
    let compared = TestRunner::new(config).run(&scripts::script(), |script| {
        let (local, memory, theirs) = runtime.block_on(async {
            let (local, etcd) = (local.empty(), etcd.empty().await);
            let memory: SharedStore = Arc::new(MemoryStore::new());
            tokio::join!(
                transcript(&local, &script),
                transcript(&memory, &script),
                transcript(&etcd, &script)
            )
        });
        for (name, ours) in [("local", local), ("memory", memory)] {
            let difference = ours.iter().zip(&theirs).find(|(ours, theirs)| ours != theirs);
            if difference.is_some() || ours.len() != theirs.len() {
                return Err(TestCaseError::fail(format!("{name} and etcd differ: {difference:#?}")));
            }
        }
        Ok(())
    });
    if let Err(error) = compared {
        panic!("{error}");
    }
}
