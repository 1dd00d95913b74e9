//! Reservations in virtual time, on a network that loses answers, lets writes arrive late
//! and ends leases: nobody writes after the next one has come, and all come to an end.

use std::collections::HashSet;
use std::future::pending;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use cargo_etcdtest::environments::{Reservation, Reservations, Wanted};
use cargo_etcdtest::model::{Holder, RunId};
use cargo_etcdtest::store::{Change, Compare, Key, Op, SharedStore, Store, Txn};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use whole_program::simulation::{Link, Machine, MemoryStore, Network, Weather, in_parallel, in_virtual_time};

const SEEDS: u64 = 300;
/// Longer than any trouble.
const PATIENCE: Duration = Duration::from_hours(1);
/// How long there is trouble.
const TROUBLE: Duration = Duration::from_mins(2);

fn wanted(run: &str, environments: &[&str]) -> Wanted {
    Wanted {
        holder: Holder::Run(RunId::new(run)),
        author: format!("{run}@desk"),
        why: String::new(),
        environments: environments.iter().map(|name| ((*name).to_owned(), NonZeroU32::MIN)).collect(),
        ttl: Duration::from_secs(10),
        timeout: Duration::from_hours(10),
    }
}

/// The application writes in its log who uses it, under the holder's locks; false where they
/// are refused.
async fn use_it(store: &MemoryStore, reservation: &Reservation) -> bool {
    let locks = reservation.locks();
    let compares = locks.iter().map(|(key, created)| Compare::created(key.clone(), *created)).collect();
    let user = locks[0].1.to_string();
    let log = |name: &str| Op::put(format!("/log/{name}"), user.clone());
    let then = reservation.environments().map(log).collect();
    store.txn(Txn { compares, then, otherwise: vec![] }).await.expect("memory has no faults").succeeded
}

/// Who wrote to the log of an environment, each once as long as nobody else wrote.
fn users(store: &MemoryStore, name: &str) -> Vec<Vec<u8>> {
    let log = Key::from(format!("/log/{name}"));
    let changes = store.log().into_iter().flat_map(|(_, changes)| changes);
    let mut users: Vec<_> = changes
        .filter_map(|change| match change {
            Change::Put(pair) if pair.key == log => Some(pair.value),
            _ => None,
        })
        .collect();
    users.dedup();
    users
}

/// Reserves some environments twice, and uses them.
async fn contend(number: usize, network: Arc<Network>, machine: Arc<Machine>) {
    let store: SharedStore = Arc::new(Link::new(network.clone(), machine));
    let mut names = ["a", "b", "c"];
    fastrand::shuffle(&mut names);
    let names = &names[..fastrand::usize(1..=3)];
    for round in 0..2 {
        let wanted = wanted(&format!("{number}-{round}"), names);
        let reservations = Reservations::new(store.clone(), PATIENCE);
        let reservation =
            reservations.reserve(&wanted, pending(), |_| {}).await.expect("it comes to its turn");
        for _ in 0..5 {
            sleep(Duration::from_millis(fastrand::u64(..3000))).await;
            if !use_it(network.store(), &reservation).await {
                // A refusal is for ever, and it comes to know of it.
                reservation.lost().await;
                assert!(!use_it(network.store(), &reservation).await);
                break;
            }
        }
        reservation.release().await;
    }
}

async fn trouble(network: Arc<Network>, machines: Vec<Arc<Machine>>) {
    let trouble = async {
        loop {
            sleep(Duration::from_millis(fastrand::u64(..10_000))).await;
            let machine = &machines[fastrand::usize(..machines.len())];
            let leases = network.store().leases();
            match fastrand::u8(..4) {
                0 => machine.freeze(),
                1 => machines.iter().for_each(|machine| machine.thaw()),
                2 => network.cut(Duration::from_secs(fastrand::u64(..15))),
                _ if leases.is_empty() => {}
                _ => drop(network.store().revoke(leases[fastrand::usize(..leases.len())]).await),
            }
        }
    };
    let _ = timeout(TROUBLE, trouble).await;
    for machine in &machines {
        machine.thaw();
    }
    network.set_weather(Weather::default());
}

async fn check(seed: u64) {
    let weather = Weather { fatal: 0, ..Weather::any() };
    let network = Arc::new(Network::new(MemoryStore::new(), weather, None, false));
    let machines: Vec<_> = (0..5).map(|number| Arc::new(Machine::new(format!("m{number}")))).collect();
    let mut contenders = JoinSet::new();
    for (number, machine) in machines.iter().enumerate() {
        contenders.spawn(contend(number, network.clone(), machine.clone()));
    }
    tokio::spawn(trouble(network.clone(), machines));
    let all = async {
        while let Some(ended) = contenders.join_next().await {
            ended.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        }
    };
    assert!(timeout(PATIENCE, all).await.is_ok(), "seed {seed}: they wait for each other");
    for name in ["a", "b", "c"] {
        let users = users(network.store(), name);
        let distinct: HashSet<_> = users.iter().collect();
        assert_eq!(distinct.len(), users.len(), "seed {seed}: {name} was used by two at once: {users:?}");
    }
}

#[test]
fn whatever_the_network_does_nobody_writes_after_the_next_one_and_all_come_to_an_end() {
    in_parallel(SEEDS, |seed| {
        in_virtual_time(seed, check(seed));
        true
    });
}
