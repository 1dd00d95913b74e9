//! Which compare of the protocol is for what: each is left out of every transaction, and the
//! simulation has to notice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use whole_program::simulation::{Guard, Trial, Wrong, in_parallel};
use whole_program::tables;

/// So many trials show which compares there are.
const SHOWN: u64 = 200;
/// Within so many trials it is noticed that a compare is left out.
const NOTICED: u64 = 1000;
/// Within so many it is noticed at the latest, where the whole table is asked for.
const WHOLE: u64 = 3000;
/// So many show once more that nobody misses those of which it is known why.
const SPARED: u64 = 500;

/// The compares that nothing depends on that is promised, and why they are made.
const SPARE: &[(&str, &str)] = &[
    ("takeover: its owner is gone", GONE),
    ("finishing: its owner is gone", GONE),
    ("planning: its owner is gone", GONE),
    ("running: its owner is gone", GONE),
    (
        "finishing: no claim record is left",
        "what is dealt stays dealt, and new records come only out of old ones",
    ),
    ("finishing: position as read", "what is dealt stays dealt"),
    ("flush: there is no such block", "the own claim record refuses a second copy"),
    (
        "planning: there is no such run",
        "what a planner has begun is seen below the run; before that, either may plan",
    ),
    (
        "make room: still registered",
        "a journal is locked while it is sent, and who is not registered any more registers again",
    ),
    ("register: not registered", "no two processes share an id, and a late copy names a lease that is over"),
    (
        "lock: not in the queue",
        "the place stays as old as it was, and only hangs on another lease of the run",
    ),
    ("lock: the lock is held", "one that comes back is younger, and no write of the run names it"),
    (
        "resource: not in the queue",
        "the place stays as old as it was; whoever put it there has left, and a late copy names a lease that is over",
    ),
    ("cancelling: the lock is held", HARMLESS),
    ("output: the lock is held", HARMLESS),
    ("own record: the lock is held", HARMLESS),
];

const GONE: &str = "a worker's key never comes back as it was: who was gone when it was read is gone";
const HARMLESS: &str = "it gives nobody a unit and records none";

/// Those that it takes more trials to miss than there are every day.
const RARE: &[&str] = &[
    "cancelling: not in the queue",
    "finishing: still registered",
    "latest result: latest result as read",
    "own record: the run is as read",
    "plan: still registered",
    "running: still registered",
    "takeover: the lock is held",
    "takeover: the run is as read",
];

/// Every compare that the protocol makes; with `SIMULATION_COMPARE`, those whose names have this
/// text in them.
fn guards() -> BTreeSet<Guard> {
    let guards = Mutex::new(BTreeSet::new());
    in_parallel(SHOWN, |seed| {
        let met = Trial { seed, ..Trial::default() }.run().met;
        guards.lock().expect("nobody panics").extend(met);
        true
    });
    let text = std::env::var("SIMULATION_COMPARE").unwrap_or_default();
    let guards = guards.into_inner().expect("nobody panics");
    guards.into_iter().filter(|guard| guard.to_string().contains(&text)).collect()
}

/// The first trial that fails without a compare, and how.
fn notice(guard: &Guard, within: u64) -> Option<(u64, Wrong)> {
    (0..within).find_map(|seed| {
        let trial = Trial { seed, without: Some(guard.clone()), ..Trial::default() };
        Some((seed, trial.run().wrong.into_iter().next()?))
    })
}

fn spare(guard: &Guard) -> Option<&'static str> {
    let name = guard.to_string();
    SPARE.iter().find(|(spare, _)| *spare == name).map(|(_, why)| *why)
}

/// Leaves each of these compares out, as many at once as there are processors, in as many trials as
/// `within` says.
fn notice_all(
    guards: &[Guard],
    within: impl Fn(&Guard) -> u64 + Sync,
) -> BTreeMap<Guard, Option<(u64, Wrong)>> {
    let (next, noticed) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    in_parallel(guards.len() as u64, |_| {
        let guard = &guards[next.fetch_add(1, Ordering::Relaxed)];
        let wrong = notice(guard, within(guard));
        tell(guard, wrong.as_ref());
        noticed.lock().expect("nobody panics").insert(guard.clone(), wrong);
        true
    });
    noticed.into_inner().expect("nobody panics")
}

/// Prints the row of a compare.
fn tell(guard: &Guard, wrong: Option<&(u64, Wrong)>) {
    println!("{}", row(guard, wrong));
}

/// A row of the table: the compare, the trial that notices, and what is broken without it; or
/// why nothing is.
fn row(guard: &Guard, wrong: Option<&(u64, Wrong)>) -> String {
    match wrong {
        Some((seed, wrong)) => format!("{:<52} {seed:>5}  {wrong}", guard.to_string()),
        None => format!("{:<52} {:>5}  {}", guard.to_string(), "-", spare(guard).unwrap_or("?")),
    }
}

#[test]
fn without_any_one_compare_a_promise_is_broken() {
    let tried = |guard: &Guard| spare(guard).is_none() && !RARE.contains(&&*guard.to_string());
    let guards: Vec<Guard> = guards().into_iter().filter(tried).collect();
    let noticed = notice_all(&guards, |_| NOTICED);
    let missed: Vec<_> =
        noticed.iter().filter(|(_, wrong)| wrong.is_none()).map(|(guard, _)| guard.to_string()).collect();
    assert!(missed.is_empty(), "nobody notices in {NOTICED} trials without: {missed:#?}");
}

/// The whole table, for whoever changes the protocol: `cargo xtask faults` prints it.
#[test]
#[ignore = "takes many minutes"]
fn the_table_of_compares() {
    let guards: Vec<Guard> = guards().into_iter().collect();
    let given = std::env::var("SIMULATION_SEEDS").ok().map(|text| text.parse().expect("a number"));
    let usual = |guard: &Guard| if spare(guard).is_some() { SPARED } else { WHOLE };
    let noticed = notice_all(&guards, |guard| given.unwrap_or_else(|| usual(guard)));
    let missed = noticed.iter().filter(|(guard, wrong)| wrong.is_none() && spare(guard).is_none());
    let rows: Vec<String> = noticed.iter().map(|(guard, wrong)| row(guard, wrong.as_ref())).collect();
    tables::keep("compares", &rows.join("\n"));
    assert_eq!(missed.count(), 0, "compares that nobody misses, and nobody knows why");
    let needed = noticed.iter().filter(|(guard, wrong)| wrong.is_some() && spare(guard).is_some());
    assert_eq!(needed.count(), 0, "compares that are needed after all");
}
