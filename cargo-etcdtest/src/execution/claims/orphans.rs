//! Claim records whose owners died or left: pure, without a store.

use std::collections::HashSet;

use jiff::Timestamp;

use crate::execution::error::Result;
use crate::execution::membership::{Membership, is_gone};
use crate::model::{Claim, Labels, Loss, Steward, UnitIndex, Worker, WorkerId};
use crate::store::{Compare, Key, KeyRange, KeyValue, Op, Page, Revision, decode, encode, keys};

/// Who holds what of a run, at one revision.
#[derive(Debug)]
pub(super) struct View {
    /// How many claim records there are, the worker's own included.
    pub(super) records: usize,
    /// The units in those of others.
    pub(super) held: Vec<UnitIndex>,
    /// Those that nobody works off.
    pub(super) orphans: Vec<Orphan>,
    /// The run has live workers on other machines.
    pub(super) elsewhere: bool,
    /// What each live worker of the run has.
    pub(super) labels: Vec<Labels>,
}

/// A claim record that nobody works off.
#[derive(Debug)]
pub(super) struct Orphan {
    /// Where it is.
    pub(super) key: Key,
    /// What it says.
    pub(super) record: Claim,
    owner: WorkerId,
    modified: Revision,
}

impl View {
    /// What was read of a run's claim records and of all workers, for this one.
    pub(super) fn new(membership: &Membership, claims: &Page, workers: &Page) -> Result<Self> {
        let own = keys::claim(membership.id(), &membership.worker().id);
        let (mut orphans, mut held) = (Vec::new(), Vec::new());
        for pair in claims.pairs.iter().filter(|pair| pair.key != own) {
            let Some(owner) = keys::claim_owner(&pair.key) else { continue };
            let record: Claim = decode(pair)?;
            held.extend(&record.units);
            let key = keys::worker(&owner);
            let alive = |worker: &KeyValue| worker.key == key && worker.created.0 == record.owner;
            if !workers.pairs.iter().any(alive) {
                orphans.push(Orphan { key: pair.key.clone(), record, owner, modified: pair.modified });
            }
        }
        // So that several who look at the same time seldom meet.
        fastrand::shuffle(&mut orphans);
        let of_run = workers.pairs.iter().filter_map(|pair| decode::<Worker>(pair).ok());
        let of_run = of_run.filter(|worker| worker.run == *membership.id());
        let of_run: Vec<Worker> = of_run.collect();
        let elsewhere = of_run.iter().any(|worker| worker.host != membership.worker().host);
        let labels = of_run.into_iter().map(|worker| worker.labels).collect();
        Ok(Self { records: claims.pairs.len(), held, orphans, elsewhere, labels })
    }
}

impl Orphan {
    /// Its units for whoever takes them over: those that were not lost with their owner or
    /// before, and those that were, with whom.
    ///
    /// Of a worker that died, all units may have been what it died of but those that it would
    /// have had to announce first and did not: see [`Claim`].
    pub(super) fn units(&self) -> (Vec<UnitIndex>, Vec<(UnitIndex, Vec<Loss>)>) {
        let (mut fresh, mut lost) = (Vec::new(), Vec::new());
        for unit in &self.record.units {
            let mut losses = self.record.lost.get(unit).cloned().unwrap_or_default();
            let suspected = losses.is_empty() || self.record.running.contains(unit);
            if suspected && !self.record.left {
                losses.push(Loss { worker: self.owner.clone(), noticed: Timestamp::now() });
            }
            if losses.is_empty() {
                fresh.push(*unit);
            } else {
                lost.push((*unit, losses));
            }
        }
        (fresh, lost)
    }

    /// Hold while it is as it was read, and its owner as dead as then.
    pub(super) fn compares(&self) -> [Compare; 2] {
        let owner = Steward { worker: self.owner.clone(), identity: self.record.owner };
        [Compare::modified(self.key.clone(), self.modified), is_gone(&owner)]
    }

    /// Takes units out of it.
    pub(super) fn without(&self, moved: &HashSet<UnitIndex>) -> Op {
        let mut record = self.record.clone();
        record.units.retain(|unit| !moved.contains(unit));
        record.lost.retain(|unit, _| !moved.contains(unit));
        record.running.retain(|unit| !moved.contains(unit));
        if record.units.is_empty() {
            Op::Delete(KeyRange::key(self.key.clone()))
        } else {
            Op::put(self.key.clone(), encode(&record))
        }
    }
}
