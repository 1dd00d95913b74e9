//! Real workers over a real cluster of three, while workers and members are killed and
//! frozen and the network fails them: nothing is lost, nothing is there twice, and nobody
//! writes what is not its own any more.
//!
//! A few trials run with all tests; `cargo xtask faults` runs every fault several times and
//! prints the table.
#![cfg(target_os = "linux")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use whole_program::etcd::Etcd;
use whole_program::faults::Arena;
use whole_program::processes::eventually;
use whole_program::proxy::Traffic;
use whole_program::simulation::{Promise, Wrong};
use whole_program::tables;

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
    Fault {
        name: "three of four workers are killed",
        workers: 4,
        users: false,
        happen: |arena| kill(arena, 3),
    },
    Fault {
        name: "workers are killed one after the other",
        workers: 8,
        users: false,
        happen: |arena| kill(arena, 6),
    },
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

/// Kills the first workers, each at a random moment of the whole run.
fn kill(arena: &mut Arena, count: usize) {
    // A test that loses three workers is not executed again.
    let last = if count > 3 { Arena::TESTS - 10 } else { Arena::TESTS };
    let mut moments: Vec<_> = (0..count).map(|_| fastrand::usize(1..=last)).collect();
    moments.sort_unstable();
    for (worker, moment) in moments.into_iter().enumerate() {
        arena.wait_for_executions(moment);
        std::thread::sleep(seconds(0.2));
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
    arena.cluster.members.iter_mut().for_each(Etcd::kill);
    std::thread::sleep(LONG);
    arena.cluster.members.iter_mut().for_each(Etcd::restart);
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
    // If this one is never told that it missed something, nobody is.
    let bystander = arena.bystander(&[0, 1]);
    let both = |traffic| [0, 1].map(|member| arena.traffic_of(member, traffic));
    // Who watches at these members comes back when what it missed is forgotten.
    both(Traffic::HalfOpen);
    arena.wait_for_executions(arena.executions() + 5);
    arena.compact();
    both(Traffic::Cut);
    std::thread::sleep(Duration::from_millis(200));
    both(Traffic::Passes);
    bystander.wait_until_it_missed_something();
    arena.compact();
}

fn expire(arena: &mut Arena) {
    let before = arena.refused_tokens();
    for _ in 0..3 {
        // Any question would prolong a token: it expires while nobody asks.
        arena.traffic(Traffic::HalfOpen, Duration::from_secs(3));
        // Then all ask at once, by new connections.
        arena.traffic(Traffic::Cut, seconds(0.2));
        std::thread::sleep(seconds(1.0));
    }
    let refused = || (arena.refused_tokens() > before).then_some(());
    eventually(refused, "a token that has expired");
}

/// What was wrong with one run in which this happens.
fn trial(fault: &Fault) -> Vec<Wrong> {
    let run = AssertUnwindSafe(|| {
        let mut arena = Arena::with(fault.workers, fault.users);
        arena.wait_for_executions(fastrand::usize(1..Arena::TESTS / 2));
        (fault.happen)(&mut arena);
        arena.judge()
    });
    // Whatever did not come in good time is told by a panic.
    catch_unwind(run).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        vec![Wrong::new(Promise::Ends, text.unwrap_or_default())]
    })
}

fn check(name: &str) {
    let fault = FAULTS.iter().find(|fault| fault.name == name).expect("it is in the table");
    let wrong = trial(fault);
    let wrong: Vec<_> = wrong.iter().map(ToString::to_string).collect();
    assert!(wrong.is_empty(), "{name}: {}", wrong.join("\n"));
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
fn a_run_survives_the_absence_of_the_whole_store() {
    check("all members are down for 20 s");
}

#[test]
fn a_run_survives_that_its_history_is_compacted() {
    check("history is compacted");
}

#[test]
fn a_run_survives_answers_that_are_lost() {
    check("answers are lost");
}

/// So many trials of each fault; a number in `FAULT_TRIALS` says otherwise.
const TRIALS: usize = 5;

/// `FAULT` names one fault, or some by a part of their names.
#[test]
#[ignore = "takes half an hour: `cargo xtask faults`"]
fn the_table_of_faults() {
    let trials = std::env::var("FAULT_TRIALS").map_or(TRIALS, |text| text.parse().expect("a number"));
    let named = std::env::var("FAULT").unwrap_or_default();
    let mut all = Vec::new();
    let mut rows = vec![format!(
        "{:<42} {:>6} {:>5} {:>7} {:>6} {:>6}",
        "fault", "trials", "lost", "double", "stale", "other"
    )];
    for fault in FAULTS.iter().filter(|fault| fault.name.contains(&named)) {
        let began = Instant::now();
        let wrong: Vec<Wrong> = (0..trials).flat_map(|_| trial(fault)).collect();
        let count = |promise| wrong.iter().filter(|wrong| wrong.promise == promise).count();
        let [lost, double, stale, other] =
            [Promise::NoneLost, Promise::NoneTwice, Promise::NoneStale, Promise::Ends].map(count);
        rows.push(format!("{:<42} {trials:>6} {lost:>5} {double:>7} {stale:>6} {other:>6}", fault.name));
        println!("{} in {:.0?}", rows[rows.len() - 1], began.elapsed());
        for wrong in &wrong {
            println!("{wrong}");
        }
        all.extend(wrong);
    }
    tables::keep("faults", &rows.join("\n"));
    assert!(all.is_empty(), "{} promises were broken", all.len());
}
