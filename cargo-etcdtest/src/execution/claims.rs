//! The units a worker holds: taking them, and giving them back with their results.
//!
//! A unit is at any time in exactly one of three places: undealt, in one claim record, or
//! in a block of results. Each move is one transaction, so nothing is lost or doubled.

mod inherit;
mod orphans;
mod takeover;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use super::error::Result;
use super::membership::Membership;
use super::plan::Plan;
use crate::model::{Block, Claim, Fence, Loss, NextPosition, RunState, UnitIndex, UnitResult};
use crate::store::{
    Commit, Compare, Key, KeyRange, KeyValue, Op, Page, Read, Revision, Txn, Wake, commit, compress, decode,
    encode, keys,
};

/// The most units one claim takes: bounds the size of the claim record.
const MAX_UNITS: usize = 500;
/// The most stripes one claim takes from: bounds the operations of its transaction.
const MAX_STRIPES: usize = 16;
/// The largest block of results, in bytes as stored.
const MAX_BLOCK: usize = 512 << 10;
/// The same before it is compressed: far below what is refused when it is read.
const MAX_CONTENT: usize = 8 << 20;

/// What a worker holds of a run.
#[derive(Debug)]
pub struct Claims {
    membership: Membership,
    held: BTreeMap<UnitIndex, Held>,
    /// What was announced last as being executed.
    running: Vec<UnitIndex>,
    /// How often the claim record was written.
    seq: u64,
    /// Where the claim record was last written; 0 while there is none (`m` of the protocol).
    revision: Revision,
    /// Under which identity of the worker that was.
    owner: Revision,
    /// How many units of each stripe have been dealt, and where that was last written.
    next: Vec<(u32, Revision)>,
    /// How many blocks this process has tried to write; never reset.
    blocks: u64,
    /// How long the store was waited for.
    storing: Duration,
    /// Units that others took meanwhile, and that nobody was told of yet.
    superseded: Vec<UnitIndex>,
    /// Wakes where the run's record changes.
    run_changes: Option<Wake>,
    /// Wakes where claim records or workers change; only for one that has looked at them.
    shares: Option<Wake>,
    /// Since when units that were lost on this machine are left to others.
    left_to_others: HashMap<Key, Instant>,
}

/// A unit that a worker holds.
#[derive(Clone, Debug)]
struct Held {
    token: Fence,
    losses: Vec<Loss>,
}

/// What came of a [`Claims::claim`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// These units are the worker's now, under this fencing token.
    Units(Vec<UnitIndex>, Fence),
    /// So is this one, which was lost with other workers and is to be executed alone. It has
    /// been announced as being executed.
    Alone(UnitIndex, Fence, Vec<Loss>),
    /// So is this one, which was lost so often that it counts as crashed.
    Crashed(UnitIndex, Fence, Vec<Loss>),
    /// Nothing can be taken now, but that may change by itself after so long, or when
    /// [`Claims::news`] come.
    Wait(Option<Duration>),
    /// Every unit of the run has its result in the store, or somebody finishes the run.
    Exhausted,
    /// The run was cancelled.
    Cancelled,
}

/// Something that a worker should act upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// The worker's lease was lost: see [`Claims::renew`].
    LeaseLost,
    /// The run's record was written: see [`Claims::look`].
    Run,
    /// A claim record or a worker has come, gone or changed.
    Shares,
}

impl Claims {
    /// A worker that holds nothing yet.
    ///
    /// # Errors
    /// As for any read of the store.
    pub async fn new(membership: Membership) -> Result<Self> {
        let page = membership.read(KeyRange::prefix(keys::next_positions(membership.id())).into()).await?;
        let next = positions(&page)?;
        let owner = membership.identity();
        Ok(Self {
            membership,
            held: BTreeMap::new(),
            running: Vec::new(),
            seq: 0,
            revision: Revision(0),
            owner,
            next,
            blocks: 0,
            storing: Duration::ZERO,
            superseded: Vec::new(),
            run_changes: None,
            shares: None,
            left_to_others: HashMap::new(),
        })
    }

    /// The worker's place in the run, for writes beside the claims.
    pub fn membership_mut(&mut self) -> &mut Membership {
        &mut self.membership
    }

    /// The worker's place in the run.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// How long the store was waited for until now.
    pub fn storing(&self) -> Duration {
        self.storing
    }

    /// The worker's place in the run, when nothing more is to be claimed or stored.
    pub fn into_membership(self) -> Membership {
        self.membership
    }

    /// Whether the worker still holds a unit under this token.
    pub fn holds(&self, unit: UnitIndex, token: Fence) -> bool {
        self.held.get(&unit).is_some_and(|held| held.token == token)
    }

    /// The units that others took and that [`Claims::take_superseded`] will give.
    pub(super) fn superseded(&self) -> &[UnitIndex] {
        &self.superseded
    }

    /// The units that others took since the last call, while this worker was away: their
    /// results are not its own to store any more.
    pub fn take_superseded(&mut self) -> Vec<UnitIndex> {
        std::mem::take(&mut self.superseded)
    }

    /// Takes the next units, so many that together they are expected to take `wanted`, at
    /// least one. `running` announces what is being executed meanwhile. Where all have been
    /// dealt, takes over those that a worker held who died; one that was lost with it only
    /// where this worker has nothing else to execute, which `idle` says.
    ///
    /// # Errors
    /// As for any transaction of the run.
    pub async fn claim(
        &mut self,
        plan: &Plan,
        wanted: Duration,
        estimate: impl Fn(UnitIndex) -> Duration,
        running: &[UnitIndex],
        idle: bool,
    ) -> Result<Claimed> {
        self.reclaim().await?;
        self.running = running.to_vec();
        loop {
            match self.membership.run().state {
                RunState::Running => {}
                RunState::Planning { .. } | RunState::Finishing { .. } | RunState::Finished { .. } => {
                    return Ok(Claimed::Exhausted);
                }
                RunState::Cancelling => return Ok(Claimed::Cancelled),
            }
            let (units, positions) = self.choose(plan, wanted, &estimate);
            let claimed = if units.is_empty() {
                self.take_over(wanted, &estimate, idle).await?
            } else {
                self.take(&units, &positions).await?.map(|token| Claimed::Units(units, token))
            };
            if let Some(claimed) = claimed {
                return Ok(claimed);
            }
        }
    }

    /// Takes undealt units. `None` where something has changed meanwhile.
    async fn take(&mut self, units: &[UnitIndex], positions: &[(usize, u32)]) -> Result<Option<Fence>> {
        let mut record = self.record();
        record.units.extend(units);
        let mut compares = self.fence();
        let mut then = vec![Op::put(self.key(), encode(&record))];
        for &(stripe, dealt) in positions {
            let key = keys::next_position(self.membership.id(), stripe);
            compares.push(Compare::modified(key.clone(), self.next[stripe].1));
            then.push(Op::put(key, encode(&NextPosition { dealt })));
        }
        let Some(revision) = self.attempt(compares, then, record).await? else { return Ok(None) };
        for &(stripe, dealt) in positions {
            self.next[stripe] = (dealt, revision);
        }
        Ok(Some(Fence(revision.0)))
    }

    /// Waits for something to act upon. It may be given up and called again.
    ///
    /// # Errors
    /// As for any watch.
    pub async fn news(&mut self) -> Result<News> {
        if self.run_changes.is_none() {
            let run = KeyRange::key(keys::run(self.membership.id()));
            let after = Revision(self.membership.generation().0 + 1);
            self.run_changes = Some(Wake::new(self.membership.store().as_ref(), [run], after).await?);
        }
        Ok(tokio::select! {
            biased;
            changed = changed(&mut self.run_changes) => changed.map(|()| News::Run)?,
            changed = changed(&mut self.shares) => changed.map(|()| News::Shares)?,
            () = self.membership.lease_lost() => News::LeaseLost,
        })
    }

    /// Reads the run's record, and whether the worker is still registered.
    ///
    /// # Errors
    /// As for any transaction of the run.
    pub async fn look(&mut self) -> Result<()> {
        let outcome = self.membership.ask(self.membership.questions()).await?;
        if !self.membership.take_answers(&mut outcome.pages())? {
            self.membership.register_again().await?;
        }
        if !self.is_open() {
            self.lose_all();
        }
        self.reclaim().await
    }

    /// Registers the worker again after its lease was lost, and takes over what its own record
    /// still has. Others may have taken some of it.
    ///
    /// # Errors
    /// As for any transaction of the run.
    pub async fn renew(&mut self) -> Result<()> {
        self.membership.register_again().await?;
        self.reclaim().await
    }

    /// Makes the claim record that of the worker's present life.
    async fn reclaim(&mut self) -> Result<()> {
        while self.owner != self.membership.identity() && !self.held.is_empty() {
            if !self.is_open() {
                self.lose_all();
                break;
            }
            let record = self.record();
            self.attempt(self.fence(), vec![Op::put(self.key(), encode(&record))], record).await?;
        }
        self.owner = self.membership.identity();
        Ok(())
    }

    /// Gives up what it holds: whoever takes it over need not fear that it was lost.
    ///
    /// # Errors
    /// As for any transaction of the run.
    pub async fn leave(&mut self) -> Result<()> {
        while !self.held.is_empty() {
            if !self.is_open() {
                self.lose_all();
                break;
            }
            self.running.clear();
            let record = Claim { left: true, ..self.record() };
            let then = vec![Op::put(self.key(), encode(&record))];
            if self.attempt(self.fence(), then, record).await?.is_some() {
                self.held.clear();
            }
        }
        Ok(())
    }

    /// Stores results and gives their units back in the same transaction; not those of units
    /// that others took meanwhile.
    ///
    /// # Errors
    /// As for any transaction of the run.
    pub async fn flush(&mut self, results: Vec<UnitResult>, running: &[UnitIndex]) -> Result<()> {
        self.running = running.to_vec();
        let mut waiting = vec![results];
        while let Some(mut results) = waiting.pop() {
            results.retain(|result| self.holds(result.unit, result.token));
            if results.is_empty() {
                continue;
            }
            let content = encode(&Block { results: results.clone() });
            let block = compress(&content);
            if (block.len() > MAX_BLOCK || content.len() > MAX_CONTENT) && results.len() > 1 {
                waiting.push(results.split_off(results.len() / 2));
                waiting.push(results);
            } else if !self.store_block(&results, block).await? {
                if !self.is_open() {
                    self.lose_all();
                }
                waiting.push(results);
            }
        }
        Ok(())
    }

    /// Says whether it was stored; if not, something has changed meanwhile.
    async fn store_block(&mut self, results: &[UnitResult], block: Vec<u8>) -> Result<bool> {
        let (membership, number) = (&self.membership, self.blocks);
        let block_key =
            keys::block(membership.id(), &membership.worker().id, membership.identity().0, number);
        self.blocks += 1;
        let done: HashSet<UnitIndex> = results.iter().map(|result| result.unit).collect();
        let mut record = self.record();
        record.units.retain(|unit| !done.contains(unit));
        record.lost.retain(|unit, _| !done.contains(unit));

        let mut compares = self.fence();
        compares.push(Compare::created(block_key.clone(), Revision(0)));
        let nothing_left = record.units.is_empty();
        let claim = if nothing_left {
            Op::Delete(KeyRange::key(self.key()))
        } else {
            Op::put(self.key(), encode(&record))
        };
        if self.attempt(compares, vec![Op::put(block_key, block), claim], record).await?.is_none() {
            return Ok(false);
        }
        if nothing_left {
            self.revision = Revision(0);
        }
        Ok(true)
    }

    /// What every move of units compares: the run, the worker, and the claim record.
    fn fence(&self) -> Vec<Compare> {
        let mut compares = self.membership.fence();
        compares.push(Compare::modified(self.key(), self.revision));
        compares
    }

    fn key(&self) -> Key {
        keys::claim(self.membership.id(), &self.membership.worker().id)
    }

    /// The record of what is held, as it is written next.
    fn record(&self) -> Claim {
        let lost = self.held.iter().filter(|(_, held)| !held.losses.is_empty());
        Claim {
            owner: self.membership.identity().0,
            host: self.membership.worker().host.clone(),
            seq: self.seq + 1,
            units: self.held.keys().copied().collect(),
            lost: lost.map(|(unit, held)| (*unit, held.losses.clone())).collect(),
            running: self.running.clone(),
            left: false,
        }
    }

    /// Whether what is held may still be stored.
    fn is_open(&self) -> bool {
        matches!(self.membership.run().state, RunState::Running | RunState::Cancelling)
    }

    /// Forgets what it held: somebody finishes the run without it.
    fn lose_all(&mut self) {
        self.superseded.extend(std::mem::take(&mut self.held).into_keys());
    }

    /// Carries out one move, after which this is the claim record; its first write is the proof
    /// that it was made. `None` where a compare did not hold: what has changed is known then.
    async fn attempt(
        &mut self,
        compares: Vec<Compare>,
        then: Vec<Op>,
        record: Claim,
    ) -> Result<Option<Revision>> {
        let Some(Op::Put { key: proof, .. }) = then.first().cloned() else { return Ok(None) };
        let mut otherwise = self.membership.questions();
        otherwise.push(Op::Get(Read::key(self.key())));
        otherwise.push(Op::Get(KeyRange::prefix(keys::next_positions(self.membership.id())).into()));
        let txn = Txn { compares, then, otherwise };

        let store = self.membership.store().clone();
        let asked = Instant::now();
        let commit = commit(store.as_ref(), &txn, &proof, self.membership.patience()).await;
        self.storing += asked.elapsed();
        match commit? {
            Commit::Applied(revision) => {
                self.settle(record, revision);
                Ok(Some(revision))
            }
            Commit::Refused(outcome) => {
                let landed = self.refused(outcome.pages(), record).await?;
                if landed.is_some() {
                    return Ok(landed);
                }
                let pause = Duration::from_millis(fastrand::u64(0..20));
                tokio::time::sleep(pause).await;
                Ok(None)
            }
        }
    }

    /// Takes in what was written: from now on this is what the worker holds.
    fn settle(&mut self, mut record: Claim, revision: Revision) {
        let mut before = std::mem::take(&mut self.held);
        let new = |losses| Held { token: Fence(revision.0), losses };
        let mut held = |unit| match before.remove(&unit) {
            Some(held) => (unit, held),
            None => (unit, new(record.lost.remove(&unit).unwrap_or_default())),
        };
        self.held = record.units.into_iter().map(&mut held).collect();
        (self.revision, self.owner, self.seq) = (revision, Revision(record.owner), record.seq);
    }

    /// Takes in what a refused transaction read, which was to write this record. Gives a
    /// revision where it was written all the same, by a copy whose answer was lost, and others
    /// have taken units out of it since.
    async fn refused(
        &mut self,
        mut pages: impl Iterator<Item = Page>,
        wanted: Claim,
    ) -> Result<Option<Revision>> {
        let registered = self.membership.take_answers(&mut pages)?;
        let record = pages.next().and_then(|mut page| page.pairs.pop());
        let mut landed = None;
        if let Some(pair) = &record
            && pair.modified != self.revision
            && decode::<Claim>(pair)?.seq == wanted.seq
        {
            landed = Some(pair.modified);
            self.settle(wanted, pair.modified);
        }
        if landed.is_some() || record.as_ref().map_or(Revision(0), |pair| pair.modified) != self.revision {
            self.adopt(record.as_ref())?;
        }
        if let Some(page) = pages.next() {
            self.next = positions(&page)?;
        }
        if !registered {
            self.membership.register_again().await?;
        }
        Ok(landed)
    }

    /// Takes in the own claim record, out of which others took units meanwhile.
    fn adopt(&mut self, record: Option<&KeyValue>) -> Result<()> {
        let units: HashSet<UnitIndex> = match record {
            Some(pair) => decode::<Claim>(pair)?.units.into_iter().collect(),
            None => HashSet::new(),
        };
        self.revision = record.map_or(Revision(0), |pair| pair.modified);
        self.superseded.extend(self.held.keys().filter(|unit| !units.contains(unit)));
        self.held.retain(|unit, _| units.contains(unit));
        Ok(())
    }

    /// The next units to take, and each touched stripe's position after that.
    fn choose(
        &self,
        plan: &Plan,
        wanted: Duration,
        estimate: impl Fn(UnitIndex) -> Duration,
    ) -> (Vec<UnitIndex>, Vec<(usize, u32)>) {
        let mut units = Vec::new();
        let mut positions = Vec::new();
        let mut expected = Duration::ZERO;
        let mut open: Vec<(usize, u32)> =
            self.next.iter().enumerate().map(|(at, next)| (at, next.0)).collect();
        open.retain(|&(stripe, dealt)| plan.dealt(stripe, dealt).is_some());
        // The units of one row stand side by side in the plan: a stripe that dealt less has
        // a longer unit next. Among equals a random one, so that workers seldom meet.
        fastrand::shuffle(&mut open);
        open.sort_by_key(|&(_, dealt)| dealt);
        let enough = |units: &Vec<UnitIndex>, expected| {
            !units.is_empty() && (expected >= wanted || units.len() >= MAX_UNITS)
        };
        for (stripe, mut dealt) in open.into_iter().take(MAX_STRIPES) {
            while !enough(&units, expected)
                && let Some(unit) = plan.dealt(stripe, dealt)
            {
                expected += estimate(unit);
                units.push(unit);
                dealt += 1;
            }
            positions.push((stripe, dealt));
            if enough(&units, expected) {
                break;
            }
        }
        (units, positions)
    }
}

/// Waits for a change, for ever where nothing is watched.
async fn changed(wake: &mut Option<Wake>) -> Result<()> {
    match wake {
        Some(wake) => Ok(wake.changed().await?),
        None => std::future::pending().await,
    }
}

/// The stripes' positions in the order of stripes.
fn positions(page: &Page) -> Result<Vec<(u32, Revision)>> {
    let position = |pair| Ok((decode::<NextPosition>(pair)?.dealt, pair.modified));
    page.pairs.iter().map(position).collect()
}
