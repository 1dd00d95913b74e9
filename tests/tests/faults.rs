//! Real workers over a real cluster of three, while workers and members are killed and
//! frozen and the network fails them: nothing is lost, nothing is there twice, and nobody
//! writes what is not its own any more.
//!
//! A few trials run with all tests; `cargo xtask faults` runs every fault several times and
//! prints the table.
#![cfg(target_os = "linux")]

use std::time::Duration;

use whole_program::faults::Arena;
use whole_program::proxy::Traffic;
use whole_program::simulation::{Promise, Wrong};

/// Something that goes wrong while a run is under way.
struct Fault {
    name: &'static str,
    workers: usize,
    users: bool,
    happen: fn(&mut Arena),
}

/// Longer than the lease of a worker.
const LONG: Duration = Duration::from_secs(20);

const FAULTS: [Fault; 12] = [
    Fault { name: "three of four workers are killed", workers: 4, users: false, happen: kill_three },
    Fault { name: "workers are killed one after the other", workers: 8, users: false, happen: kill_slowly },
    Fault {
        name: "a worker is frozen for 20 s",
        workers: 4,
        users: false,
        happen: |arena| arena.freeze(0, LONG),
    },
    Fault { name: "the leader is killed", workers: 4, users: false, happen: kill_leader },
    Fault { name: "the leader is frozen", workers: 4, users: false, happen: freeze_leader },
    Fault { name: "all members are down for 20 s", workers: 4, users: false, happen: all_down },
    Fault { name: "connections are cut", workers: 4, users: false, happen: cut },
    Fault { name: "bytes are delayed", workers: 4, users: false, happen: delay },
    Fault { name: "connections are half open for 20 s", workers: 4, users: false, happen: half_open },
    Fault { name: "answers are lost", workers: 6, users: false, happen: lose_answers },
    Fault { name: "history is compacted", workers: 4, users: false, happen: compact },
    Fault { name: "tokens expire", workers: 4, users: true, happen: expire },
];

fn seconds(most: f64) -> Duration {
    Duration::from_secs_f64(most * fastrand::f64())
}

fn kill_three(arena: &mut Arena) {
    for worker in 0..3 {
        std::thread::sleep(seconds(0.5));
        arena.kill(worker);
    }
}

fn kill_slowly(arena: &mut Arena) {
    for worker in 0..6 {
        std::thread::sleep(seconds(3.0));
        arena.kill(worker);
    }
}

fn kill_leader(arena: &mut Arena) {
    let leader = arena.leader();
    arena.cluster.members[leader].kill();
    std::thread::sleep(seconds(5.0));
    arena.cluster.members[leader].restart();
}

fn freeze_leader(arena: &mut Arena) {
    let leader = arena.leader();
    arena.cluster.members[leader].freeze();
    std::thread::sleep(seconds(10.0));
    arena.cluster.members[leader].thaw();
}

fn all_down(arena: &mut Arena) {
    arena.cluster.members.iter_mut().for_each(whole_program::etcd::Etcd::kill);
    std::thread::sleep(LONG);
    arena.cluster.members.iter_mut().for_each(whole_program::etcd::Etcd::restart);
}

fn cut(arena: &mut Arena) {
    for _ in 0..4 {
        arena.traffic(Traffic::Cut, seconds(1.0));
        std::thread::sleep(seconds(1.0));
    }
}

fn delay(arena: &mut Arena) {
    arena.traffic(Traffic::Delayed(Duration::from_millis(300)), Duration::from_secs(5));
}

fn half_open(arena: &mut Arena) {
    arena.traffic(Traffic::HalfOpen, LONG);
}

fn lose_answers(arena: &mut Arena) {
    for _ in 0..3 {
        arena.traffic(Traffic::Unanswered, seconds(3.0));
        std::thread::sleep(seconds(1.0));
    }
}

fn compact(arena: &mut Arena) {
    for executions in [10, 20, 30] {
        arena.wait_for_executions(executions);
        arena.compact();
    }
}

fn expire(arena: &mut Arena) {
    // Any question would prolong a token: it expires while nobody asks.
    arena.traffic(Traffic::HalfOpen, Duration::from_secs(4));
}

/// What was wrong with one run in which this happens.
fn trial(fault: &Fault) -> Vec<Wrong> {
    let mut arena = Arena::with(fault.workers, fault.users);
    (fault.happen)(&mut arena);
    arena.judge()
}

fn check(name: &str) {
    let fault = FAULTS.iter().find(|fault| fault.name == name).expect("it is in the table");
    let wrong = trial(fault);
    assert!(wrong.is_empty(), "{name}: {wrong:#?}");
}

#[test]
fn a_run_survives_the_death_of_all_workers_but_one() {
    check("three of four workers are killed");
}

#[test]
fn a_run_survives_the_death_of_the_leader() {
    check("the leader is killed");
}

#[test]
fn a_run_survives_answers_that_are_lost() {
    check("answers are lost");
}

/// So many trials of each fault; a number in `FAULT_TRIALS` says otherwise.
const TRIALS: usize = 3;

#[test]
#[ignore = "takes many minutes"]
fn the_table_of_faults() {
    let trials = std::env::var("FAULT_TRIALS").map_or(TRIALS, |text| text.parse().expect("a number"));
    let mut all = Vec::new();
    let mut rows = vec![format!(
        "{:<42} {:>6} {:>5} {:>7} {:>6} {:>6}",
        "fault", "trials", "lost", "double", "stale", "other"
    )];
    for fault in &FAULTS {
        let wrong: Vec<Wrong> = (0..trials).flat_map(|_| trial(fault)).collect();
        let count = |promise| wrong.iter().filter(|wrong| wrong.promise == promise).count();
        let [lost, double, stale, other] =
            [Promise::NoneLost, Promise::NoneTwice, Promise::NoneStale, Promise::Ends].map(count);
        rows.push(format!("{:<42} {trials:>6} {lost:>5} {double:>7} {stale:>6} {other:>6}", fault.name));
        println!("{}", rows[rows.len() - 1]);
        all.extend(wrong);
    }
    println!("\n{}", rows.join("\n"));
    assert!(all.is_empty(), "{all:#?}");
}
