//! Thousands of runs in virtual time, each with other troubles: whatever happens, every unit
//! gets exactly one result, and the run comes to its end.
//!
//! `SIMULATION_SEED=42` replays one trial and prints what happens in it; `SIMULATION_SEEDS`
//! says how many are tried.

use std::collections::BTreeMap;
use std::sync::Mutex;

use whole_program::simulation::{Trial, in_parallel};

/// How many trials there are where nothing else is said.
const SEEDS: u64 = 2000;

/// A number that somebody gives in a variable.
fn given(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn every_unit_gets_exactly_one_result_whatever_happens() {
    if let Some(seed) = given("SIMULATION_SEED") {
        let verdict = Trial { seed, trace: true, ..Trial::default() }.run();
        println!("{}", verdict.trace.join("\n"));
        assert!(verdict.wrong.is_empty(), "seed {seed}: {:#?}", verdict.wrong);
        return;
    }
    let (failed, seen) = (Mutex::new(Vec::new()), Mutex::new(BTreeMap::new()));
    in_parallel(given("SIMULATION_SEEDS").unwrap_or(SEEDS), |seed| {
        let verdict = Trial { seed, ..Trial::default() }.run();
        for (what, count) in verdict.seen {
            *seen.lock().expect("nobody panics").entry(what).or_insert(0) += count;
        }
        let well = verdict.wrong.is_empty();
        if !well {
            failed.lock().expect("nobody panics").push((seed, verdict.wrong));
        }
        well
    });
    let failed = failed.into_inner().expect("nobody panics");
    assert!(failed.is_empty(), "replay with SIMULATION_SEED: {failed:#?}");
    let seen = seen.into_inner().expect("nobody panics");
    println!("{seen:#?}");
    assert!(seen.values().all(|count| *count > 0), "not all was tried: {seen:#?}");
}

#[test]
fn the_same_seed_is_the_same_trial() {
    for seed in 0..20 {
        let trial = || Trial { seed, trace: true, ..Trial::default() }.run().trace;
        let (first, second) = (trial(), trial());
        let difference = first.iter().zip(&second).find(|(first, second)| first != second);
        assert!(difference.is_none() && first.len() == second.len(), "seed {seed}: {difference:?}");
    }
}
