//! Whether a run kept its promises: its whole history is played again, revision by revision.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use cargo_etcdtest::execution::Plan;
use cargo_etcdtest::model::{
    Claim, Labels, LatestResult, NextPosition, Outcome, PlanChunk, Record, Run, RunId, RunState, TestCaseId,
    UnitIndex, UnitResult, Worker, WorkerId,
};
use cargo_etcdtest::store::{Change, Key, KeyValue, Revision, decode, decode_block, keys};

/// What is known of a run at a revision.
#[derive(Debug)]
pub struct Judge {
    id: RunId,
    run: Option<Run>,
    chunks: BTreeMap<Key, PlanChunk>,
    /// The plan, once it is whole.
    plan: Option<Plan>,
    /// How many units of each stripe were dealt.
    dealt: BTreeMap<usize, u32>,
    /// What each worker holds.
    claims: BTreeMap<String, BTreeMap<UnitIndex, Held>>,
    /// Where each unit has its result, and which.
    results: BTreeMap<UnitIndex, UnitResult>,
    /// The live workers, each with its create revision.
    workers: BTreeMap<String, Revision>,
    /// All that ever were, each with its lanes: who only cancels a run has none.
    known: BTreeMap<String, u32>,
    /// What each of them has that not every worker has.
    labels: BTreeMap<String, Labels>,
    /// Somebody deleted the run.
    deleted: bool,
    /// When the run was created.
    created: Revision,
    /// The locks of the run, each with its create revision.
    locks: BTreeMap<Key, Revision>,
    /// How many it had when its first units were dealt.
    needed: Option<usize>,
    reports: BTreeMap<Key, Vec<u8>>,
    latest: BTreeMap<Key, LatestResult>,
    wrong: Vec<Wrong>,
}

/// How a worker holds a unit.
#[derive(Clone, Debug)]
struct Held {
    token: Revision,
    /// The locks that the run had when the unit came to the worker.
    locks: BTreeMap<Key, Revision>,
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Which.
    pub promise: Promise,
    /// How.
    pub how: String,
}

/// The key that a change is of.
fn key_of(change: &Change) -> &Key {
    match change {
        Change::Put(pair) => &pair.key,
        Change::Deleted(key) => key,
    }
}

/// Whether a change cancels a run: who does not work for it may, registered or not.
fn cancels(change: &Change) -> bool {
    let Change::Put(pair) = change else { return false };
    pair.key.as_bytes().starts_with(b"/runs/")
        && decode::<Run>(pair).is_ok_and(|run| run.state == RunState::Cancelling)
}

/// What is promised of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// No result is lost that was announced, and no unit is left out.
    NoneLost,
    /// No unit has two results, or two who hold it.
    NoneTwice,
    /// Nobody writes what is not its own any more.
    NoneStale,
    /// The run comes to its end, with one outcome, which its reports tell.
    Ends,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.promise, self.how)
    }
}

impl Wrong {
    /// A broken promise.
    pub fn new(promise: Promise, how: impl Into<String>) -> Self {
        Self { promise, how: how.into() }
    }
}

impl Judge {
    /// Plays a store's history. `writers` says who wrote what, as far as that is known.
    pub fn of(id: &RunId, log: &[(Revision, Vec<Change>)], writers: &BTreeMap<Revision, String>) -> Self {
        let mut judge = Self {
            id: id.clone(),
            run: None,
            chunks: BTreeMap::new(),
            plan: None,
            dealt: BTreeMap::new(),
            claims: BTreeMap::new(),
            results: BTreeMap::new(),
            workers: BTreeMap::new(),
            known: BTreeMap::new(),
            labels: BTreeMap::new(),
            deleted: false,
            created: Revision(0),
            locks: BTreeMap::new(),
            needed: None,
            reports: BTreeMap::new(),
            latest: BTreeMap::new(),
            wrong: Vec::new(),
        };
        for (revision, changes) in log {
            judge.play(*revision, changes, writers.get(revision));
        }
        judge
    }

    /// What was wrong in the history.
    pub fn wrong(&self) -> &[Wrong] {
        &self.wrong
    }

    /// The run as it was at the end.
    pub fn run(&self) -> Option<&Run> {
        self.run.as_ref()
    }

    /// The results, each with its test.
    pub fn results(&self) -> impl Iterator<Item = (&TestCaseId, &UnitResult)> {
        let plan = self.plan.as_ref();
        self.results.iter().filter_map(move |(unit, result)| Some((&plan?.unit(*unit)?.test, result)))
    }

    /// What is wrong at the end, where these units' results were announced as stored, each by
    /// a worker.
    pub fn end(mut self, announced: &BTreeSet<(WorkerId, UnitIndex)>) -> Vec<Wrong> {
        let Some(run) = self.run.clone() else {
            if !self.deleted {
                self.breaks(Promise::Ends, "there is no run");
            }
            return self.wrong;
        };
        for (worker, unit) in announced {
            if !self.deleted && self.results.get(unit).is_none_or(|result| result.worker != *worker) {
                self.breaks(Promise::NoneLost, format!("what {worker} announced of {unit} is lost"));
            }
        }
        let RunState::Finished { cancelled } = run.state else {
            self.breaks(Promise::Ends, format!("it ends as {:?}", run.state));
            return self.wrong;
        };
        let units = run.units as usize;
        if !cancelled && self.results.len() != units {
            self.breaks(Promise::NoneLost, format!("{} of {units} units have a result", self.results.len()));
        }
        if !cancelled && self.claims.values().any(|held| !held.is_empty()) {
            self.breaks(Promise::NoneLost, format!("units are still held: {:?}", self.claims));
        }
        let count = |outcome| self.results.values().filter(|result| result.outcome == outcome).count();
        let summary = run.summary.unwrap_or_default();
        let told = [
            (summary.passed + summary.flaky, Outcome::Passed),
            (summary.failed, Outcome::Failed),
            (summary.skipped, Outcome::Skipped),
            (summary.timed_out, Outcome::TimedOut),
            (summary.crashed, Outcome::Crashed),
        ];
        if told.iter().any(|(told, outcome)| *told as usize != count(*outcome))
            || summary.not_run as usize + self.results.len() != units
        {
            self.breaks(
                Promise::Ends,
                format!("the summary is {summary:?}, the results are {:?}", self.results),
            );
        }
        if self.reports.is_empty() {
            self.breaks(Promise::Ends, "there is no report");
        }
        self.wrong
    }

    /// What is wrong with the latest results that several runs left: each is that of the
    /// newest run that has one.
    pub fn latest(judges: &[Self]) -> Vec<Wrong> {
        let mut newest: BTreeMap<Key, (&RunId, &UnitResult)> = BTreeMap::new();
        if judges.iter().any(|judge| judge.deleted) {
            return Vec::new();
        }
        let mut judges: Vec<&Self> = judges.iter().collect();
        judges.sort_by_key(|judge| judge.created);
        for judge in &judges {
            let Some(plan) = &judge.plan else { continue };
            for (unit, result) in &judge.results {
                let Some(planned) = plan.unit(*unit) else { continue };
                let key = keys::latest_result(&planned.test, &planned.environment);
                newest.insert(key, (&judge.id, result));
            }
        }
        let Some(judge) = judges.last() else { return Vec::new() };
        let wrong = newest.into_iter().filter_map(|(key, (run, result))| {
            let latest = judge.latest.get(&key);
            let right = latest.is_some_and(|latest| latest.run == *run && latest.result == *result);
            (!right).then(|| Wrong::new(Promise::Ends, format!("the latest result of {key} is {latest:?}")))
        });
        wrong.collect()
    }

    fn breaks(&mut self, promise: Promise, how: impl Into<String>) {
        self.wrong.push(Wrong::new(promise, how));
    }

    fn play(&mut self, revision: Revision, changes: &[Change], writer: Option<&String>) {
        let before = self.wrong.len();
        let mut moved = false;
        let stale =
            writer.filter(|writer| self.known.contains_key(*writer) && !self.workers.contains_key(*writer));
        if let Some(writer) = stale
            && let Some(key) = changes
                .iter()
                .filter(|change| self.known[writer] > 0 || !cancels(change))
                .map(key_of)
                .find(|key| self.is_of_run(key))
        {
            self.breaks(Promise::NoneStale, format!("{writer} wrote {key} when it was not registered"));
        }
        // With the run goes all that belongs to it.
        if changes.contains(&Change::Deleted(keys::run(&self.id))) {
            self.forget();
        }
        // Results first: they are of units that the same transaction gives back.
        for results in [true, false] {
            for change in changes {
                let key = key_of(change);
                if key.to_string().starts_with(&keys::blocks(&self.id).to_string()) == results {
                    let pair = if let Change::Put(pair) = change { Some(pair) } else { None };
                    moved |= self.change(revision, key, pair);
                }
            }
        }
        if moved {
            self.check_places();
        }
        for wrong in &mut self.wrong[before..] {
            wrong.how.insert_str(0, &format!("at {revision}: "));
        }
    }

    /// Takes in one change, and says whether units may have been moved by it.
    fn change(&mut self, revision: Revision, key: &Key, pair: Option<&KeyValue>) -> bool {
        let text = key.to_string();
        let segments: Vec<&str> = text.split('/').skip(1).collect();
        let own = |run: &str| run == self.id.as_str();
        let over = self.run.as_ref().is_some_and(Run::is_over);
        match segments[..] {
            ["workers", worker] => match pair {
                Some(pair) => {
                    if let Some(Worker { lanes, labels, .. }) = self.read(Some(pair)) {
                        self.known.insert(worker.into(), lanes);
                        self.labels.insert(worker.into(), labels);
                    }
                    self.workers.insert(worker.into(), pair.created);
                }
                None => drop(self.workers.remove(worker)),
            },
            ["locks", "environments", _, holder] if own(holder) => match pair {
                Some(pair) => drop(self.locks.insert(key.clone(), pair.created)),
                None => drop(self.locks.remove(key)),
            },
            ["results", ..] => {
                if let Some(latest) = self.read::<LatestResult>(pair) {
                    self.latest.insert(key.clone(), latest);
                }
            }
            ["runs", run] if own(run) => self.advance(revision, pair),
            ["execution" | "reports" | "logs", run, ..]
                if own(run) && self.run.is_none() && pair.is_some() =>
            {
                self.breaks(Promise::NoneStale, format!("{key} was written when there was no run"));
            }
            ["execution" | "reports" | "logs", run, ..] if own(run) && self.run.is_none() => {}
            ["execution" | "reports" | "logs", run, ..] if own(run) && over => {
                self.breaks(Promise::NoneStale, format!("{key} was written when the run was over"));
            }
            ["execution", run, "plan", _] if own(run) && self.plan.is_some() => {
                self.breaks(Promise::NoneStale, format!("{key} was written when the run was planned"));
            }
            ["execution", run, "plan", _] if own(run) => match self.read::<PlanChunk>(pair) {
                Some(chunk) => drop(self.chunks.insert(key.clone(), chunk)),
                None => drop(self.chunks.remove(key)),
            },
            ["execution", run, "next", stripe] if own(run) => {
                let (Some(next), Ok(stripe)) = (self.read::<NextPosition>(pair), stripe.parse()) else {
                    self.breaks(Promise::Ends, format!("{key} makes no sense"));
                    return true;
                };
                self.dealt.insert(stripe, next.dealt);
                return true;
            }
            ["execution", run, "claims", worker] if own(run) => {
                self.hold(revision, worker, pair);
                return true;
            }
            ["execution", run, "results", block] if own(run) => {
                self.record(block, pair);
                return true;
            }
            ["reports", run, ..] if own(run) => self.report(key, pair),
            _ => {}
        }
        false
    }

    fn read<T: Record>(&mut self, pair: Option<&KeyValue>) -> Option<T> {
        match decode(pair?) {
            Ok(record) => Some(record),
            Err(error) => {
                self.breaks(Promise::Ends, error.to_string());
                None
            }
        }
    }

    /// The run was deleted: one that is created later is another one.
    fn forget(&mut self) {
        self.deleted = true;
        (self.run, self.plan, self.needed) = (None, None, None);
        self.chunks.clear();
        self.dealt.clear();
        self.claims.clear();
        self.results.clear();
        self.reports.clear();
    }

    fn is_of_run(&self, key: &Key) -> bool {
        let trees = [keys::execution(&self.id), keys::logs(&self.id), keys::reports(&self.id)];
        *key == keys::run(&self.id) || trees.iter().any(|tree| key.as_bytes().starts_with(tree.as_bytes()))
    }

    /// The run's record was written.
    fn advance(&mut self, revision: Revision, pair: Option<&KeyValue>) {
        let Some(next) = self.read::<Run>(pair) else {
            return;
        };
        let (from, to) = (self.run.as_ref().map(|run| &run.state), &next.state);
        let allowed = match to {
            RunState::Planning { .. } => matches!(from, None | Some(RunState::Planning { .. })),
            // One that was cancelled may be resumed.
            RunState::Running => !matches!(from, None | Some(RunState::Finished { cancelled: false })),
            RunState::Cancelling => matches!(from, Some(RunState::Running | RunState::Cancelling)),
            // What is not planned is only ended where it was cancelled.
            RunState::Finishing { cancelled, .. } => match from {
                None | Some(RunState::Finished { .. }) => false,
                Some(RunState::Planning { .. }) => *cancelled,
                Some(_) => true,
            },
            RunState::Finished { .. } => matches!(from, Some(RunState::Finishing { .. })),
        };
        if from.is_none() {
            self.created = revision;
        }
        if !allowed {
            self.breaks(Promise::NoneStale, format!("the run went from {from:?} to {to:?}"));
        }
        let unlocked = next.cancelled.as_ref().is_some_and(|why| why.reason == "its reservation was lost");
        if *to == RunState::Cancelling && unlocked && !self.locks.is_empty() {
            self.breaks(Promise::Ends, "it was cancelled for a lock that it has again");
        }
        match to {
            RunState::Running if self.plan.is_none() => {
                let plan = Plan::from_chunks(self.chunks.values().cloned(), &next.stripes);
                if plan.digest() != next.plan_digest || plan.len() != next.units as usize {
                    self.breaks(Promise::Ends, "the plan is not the one that was promised");
                }
                self.plan = Some(plan);
            }
            // Whoever finishes writes all reports anew.
            RunState::Finishing { .. } => self.reports.clear(),
            _ => {}
        }
        self.run = Some(next);
    }

    /// A claim record was written or deleted.
    fn hold(&mut self, revision: Revision, worker: &str, pair: Option<&KeyValue>) {
        let Some(claim) = self.read::<Claim>(pair) else {
            self.claims.remove(worker);
            return;
        };
        let owner = Revision(claim.owner);
        // A worker that registered again goes on with what is still its own.
        let before = self.claims.remove(worker).unwrap_or_default();
        let new = Held { token: revision, locks: self.locks.clone() };
        let held = |unit: &UnitIndex| (*unit, before.get(unit).unwrap_or(&new).clone());
        let units: BTreeMap<_, _> = claim.units.iter().map(held).collect();
        if units.len() != claim.units.len() {
            self.breaks(Promise::NoneTwice, format!("{worker} holds a unit twice: {:?}", claim.units));
        }
        if units.keys().any(|unit| !before.contains_key(unit)) {
            if self.workers.get(worker) != Some(&owner) {
                self.breaks(Promise::NoneStale, format!("{worker} took units when it was not registered"));
            }
            if self.run.as_ref().is_none_or(|run| run.state != RunState::Running) {
                self.breaks(Promise::NoneStale, format!("{worker} took units of a run that is not running"));
            }
            if *self.needed.get_or_insert(self.locks.len()) != self.locks.len() {
                self.breaks(Promise::NoneStale, format!("{worker} took units without the run's locks"));
            }
            self.check_labels(worker, units.keys().filter(|unit| !before.contains_key(unit)));
        }
        self.claims.insert(worker.to_owned(), units);
    }

    /// Whoever takes units has what they need.
    fn check_labels<'a>(&mut self, worker: &str, mut units: impl Iterator<Item = &'a UnitIndex>) {
        let labels = self.labels.get(worker).cloned().unwrap_or_default();
        let Some(plan) = &self.plan else { return };
        let lacks = |unit: &&UnitIndex| plan.unit(**unit).is_some_and(|unit| !labels.satisfy(&unit.needs));
        if let Some(unit) = units.find(lacks) {
            let how = format!("{worker} with the labels `{labels}` took {unit}, which needs others");
            self.breaks(Promise::NoneStale, how);
        }
    }

    /// A block of results was written.
    fn record(&mut self, name: &str, pair: Option<&KeyValue>) {
        let Some(pair) = pair.filter(|pair| pair.version == 1) else {
            self.breaks(Promise::NoneStale, format!("the block {name} was changed"));
            return;
        };
        let block = match decode_block(pair) {
            Ok(block) => block,
            Err(error) => return self.breaks(Promise::Ends, error.to_string()),
        };
        if self.run.as_ref().is_none_or(|run| !matches!(run.state, RunState::Running | RunState::Cancelling))
        {
            self.breaks(Promise::NoneStale, format!("the block {name} came when the run was not running"));
        }
        let writers = self.workers.iter().map(|(worker, identity)| format!("{worker}-{identity}."));
        if !writers.into_iter().any(|writer| name.starts_with(&writer)) {
            self.breaks(
                Promise::NoneStale,
                format!("the block {name} came from a worker that was not registered"),
            );
        }
        for result in block.results {
            let worker = result.worker.as_str();
            let held = self.claims.get(worker).and_then(|held| held.get(&result.unit));
            let token = held.map(|held| held.token.0);
            if held.is_some_and(|held| held.locks != self.locks) {
                self.breaks(Promise::NoneStale, format!("{worker} stored {} without its locks", result.unit));
            }
            // A worker that hears late that units are its own has a later one.
            if token.is_none_or(|token| token > result.token.0) {
                let (unit, told) = (result.unit, result.token.0);
                let how = format!("{worker} stored {unit} under the token {told}, its token was {token:?}");
                self.breaks(Promise::NoneStale, how);
            }
            if let Some(first) = self.results.insert(result.unit, result) {
                self.breaks(
                    Promise::NoneTwice,
                    format!("{} has two results, the first of {}", first.unit, first.worker),
                );
            }
        }
    }

    /// A piece of a report was written.
    fn report(&mut self, key: &Key, pair: Option<&KeyValue>) {
        let finishing = self.run.as_ref().is_some_and(|run| matches!(run.state, RunState::Finishing { .. }));
        let Some(pair) = pair.filter(|_| finishing) else {
            self.breaks(Promise::NoneStale, format!("{key} was written by nobody who finishes"));
            return;
        };
        // A copy of a write may come later, but it says the same.
        let before = self.reports.insert(key.clone(), pair.value.clone());
        if before.is_some_and(|before| before != pair.value) {
            self.breaks(Promise::NoneStale, format!("{key} was written twice"));
        }
    }

    /// Every unit is in exactly one place: undealt, held by one worker, or recorded.
    fn check_places(&mut self) {
        let Some(plan) = &self.plan else { return };
        let mut places: BTreeMap<UnitIndex, Vec<String>> = BTreeMap::new();
        for stripe in 0..plan.stripes() {
            let dealt = self.dealt.get(&stripe).copied().unwrap_or_default();
            for unit in (dealt..).map_while(|at| plan.dealt(stripe, at)) {
                places.entry(unit).or_default().push("undealt".into());
            }
        }
        for (worker, held) in &self.claims {
            for unit in held.keys() {
                places.entry(*unit).or_default().push(format!("held by {worker}"));
            }
        }
        for unit in self.results.keys() {
            places.entry(*unit).or_default().push("recorded".into());
        }
        for (unit, _) in plan.units() {
            let place = places.remove(&unit).unwrap_or_default();
            let promise = if place.is_empty() { Promise::NoneLost } else { Promise::NoneTwice };
            if place.len() != 1 {
                let how = format!("{unit} is in {} places: {}", place.len(), place.join(", "));
                self.wrong.push(Wrong::new(promise, how));
            }
        }
    }
}
