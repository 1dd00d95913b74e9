//! Who used which resource, and when: at no time more than may use it at once.

use std::collections::BTreeSet;
use std::sync::Mutex;

use cargo_etcdtest::environments::Reservation;
use cargo_etcdtest::model::{Fence, RunId, UnitIndex, WorkerId};
use cargo_etcdtest::store::{KeyRange, Store};
use tokio::time::Instant;

use super::job::Resource;
use super::judge::{Promise, Wrong};
use super::lock;
use super::memory::MemoryStore;

/// Where all places in the queues for resources are.
pub(super) const QUEUES: &str = "/locks/resources/";

/// All uses of one trial.
#[derive(Debug, Default)]
pub(super) struct Uses(Mutex<Vec<Use>>);

/// An attempt at a unit that has a resource for itself.
#[derive(Clone, Debug)]
pub(super) struct Use {
    pub(super) resource: Resource,
    pub(super) unit: Unit,
    /// The lease of its place in the queue.
    pub(super) lease: i64,
    /// Since when it stood there.
    pub(super) asked: Instant,
    pub(super) from: Instant,
    /// When it came to its end, if it did so as long as the lock was held.
    pub(super) to: Option<Instant>,
}

/// A unit in the hands of a worker.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Unit {
    pub(super) run: RunId,
    pub(super) index: UnitIndex,
    pub(super) worker: WorkerId,
    pub(super) token: Fence,
}

/// What is wrong with using a resource now, as the store has it: it is somebody else's turn, or
/// nobody holds this lock any more. That is excused where somebody else has ended its lease.
pub(super) async fn fault(
    store: &MemoryStore,
    resource: Resource,
    held: &Reservation,
    excused: bool,
) -> Option<Wrong> {
    let (key, created) = held.locks().into_iter().next()?;
    let queue = store.read(KeyRange::prefix(format!("{QUEUES}{}/", resource.name)).into()).await;
    let queue = queue.expect("the store itself has no faults").pairs;
    if queue.iter().any(|pair| pair.key == key && pair.created == created) {
        let before = queue.iter().filter(|pair| pair.created < created).count();
        let how = || format!("{key} uses {} when {before} are before it", resource.name);
        (before >= resource.capacity.get()).then(|| Wrong::new(Promise::NoneTwice, how()))
    } else {
        let how = || format!("{key} uses {} when its lock is gone", resource.name);
        (!excused).then(|| Wrong::new(Promise::NoneStale, how()))
    }
}

impl Uses {
    /// Takes in one that begins, and gives its number.
    pub(super) fn begin(&self, begun: Use) -> usize {
        let mut uses = lock(&self.0);
        uses.push(begun);
        uses.len() - 1
    }

    /// One has come to its end, and held its lock until then.
    pub(super) fn end(&self, number: usize) {
        lock(&self.0)[number].to = Some(Instant::now());
    }

    /// How many had to wait for another one.
    pub(super) fn waits(&self) -> u64 {
        let uses = lock(&self.0);
        let ended_before = |one: &Use, other: &Use| {
            one.resource == other.resource
                && other.from <= one.asked
                && other.to.is_some_and(|to| one.asked < to && to <= one.from)
        };
        uses.iter().filter(|one| uses.iter().any(|other| ended_before(one, other))).count() as u64
    }

    /// Too many at the same time, of those whose results are recorded. Whose lease somebody else
    /// has ended may have heard of it too late.
    pub(super) fn wrong(&self, recorded: &BTreeSet<Unit>, ended_by_others: &BTreeSet<i64>) -> Vec<Wrong> {
        let uses = lock(&self.0);
        let counted: Vec<(&Use, Instant)> = uses
            .iter()
            .filter(|one| recorded.contains(&one.unit) && !ended_by_others.contains(&one.lease))
            .filter_map(|one| Some((one, one.to?)))
            .collect();
        let too_many = |(one, _): &&(&Use, Instant)| {
            let at_once = |(other, to): &&(&Use, Instant)| {
                other.resource == one.resource && other.from <= one.from && one.from < *to
            };
            counted.iter().filter(at_once).count() > one.resource.capacity.get()
        };
        let how = |(one, _): &(&Use, Instant)| {
            format!("{:?} used {} with too many others", one.unit, one.resource.name)
        };
        counted.iter().filter(too_many).map(|one| Wrong::new(Promise::NoneTwice, how(one))).collect()
    }
}
