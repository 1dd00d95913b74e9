//! The units a worker holds: taking them, and giving them back with their results.
//!
//! A unit is at any time in exactly one of three places: undealt, in one claim record, or
//! in a block of results. Each move is one transaction, so nothing is lost or doubled.

mod failures;
mod inherit;
mod orphans;
mod takeover;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use super::dealing::{Asking, Choice, choose};
use super::error::Result;
use super::membership::Membership;
use super::pace::Pace;
use super::plan::Plan;
use crate::model::{Block, Claim, Failures, Fence, Loss, NextPosition, RunState, UnitIndex, UnitResult};
use crate::reports::Unserved;
use crate::store::{
    Commit, Compare, Key, KeyRange, KeyValue, Op, Page, Read, Revision, Txn, Wake, commit, compress, decode,
    encode, keys,
};

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
    /// How many workers held units then, this one included.
    workers: usize,
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
    /// What undealt units need that nobody has, with how many they are.
    unserved: Unserved,
    /// Nothing is left that this worker may execute, nor can it come back to it.
    unneeded: bool,
    /// Since when units that were lost on this machine are left to others.
    left_to_others: HashMap<Key, Instant>,
    /// The claim record has units that this worker has forgotten.
    orphaned: bool,
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
    /// Units are being dealt, but none that it would do to take ahead.
    Later,
    /// Nothing can be taken now, but that may change by itself after so long, or when
    /// [`Claims::news`] come.
    Wait(Option<Duration>),
    /// Every unit of the run has its result in the store, or somebody finishes the run.
    Exhausted,
    /// The run was cancelled.
    Cancelled,
}

/// What a worker has in hand that claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hand {
    /// How many of its lanes have nothing to do.
    pub idle: usize,
    /// It has no unit at all that is not done.
    pub empty: bool,
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
            workers: 1,
            blocks: 0,
            storing: Duration::ZERO,
            superseded: Vec::new(),
            run_changes: None,
            shares: None,
            unserved: Unserved::new(),
            unneeded: false,
            left_to_others: HashMap::new(),
            orphaned: false,
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

    /// Takes the next units, as many as [`choose`] says. `running` announces what is being
    /// executed meanwhile. Where all have been dealt that this worker may take, takes over those
    /// that a worker held who died; one that was lost with it only where this worker has nothing
    /// else in hand.
    ///
    /// # Errors
    /// As for any transaction of the run.
    pub async fn claim(
        &mut self,
        plan: &Plan,
        pace: &Pace,
        hand: Hand,
        running: &[UnitIndex],
    ) -> Result<Claimed> {
        if self.orphaned {
            return Ok(Claimed::Exhausted);
        }
        self.reclaim().await?;
        self.running = running.to_vec();
        // To see that there is nothing to be had ahead, what was read last will do.
        if hand.idle == 0 && self.is_dealing(plan) && self.choose(plan, pace, hand).units.is_empty() {
            return Ok(Claimed::Later);
        }
        self.look_at_shares().await?;
        loop {
            match self.membership.run().state {
                RunState::Running => {}
                RunState::Planning { .. } | RunState::Finishing { .. } | RunState::Finished { .. } => {
                    return Ok(Claimed::Exhausted);
                }
                RunState::Cancelling => return Ok(Claimed::Cancelled),
            }
            let Choice { units, positions } = self.choose(plan, pace, hand);
            let claimed = if !units.is_empty() {
                self.take(&units, &positions).await?.map(|token| Claimed::Units(units, token))
            } else if self.is_dealing(plan) {
                Some(Claimed::Later)
            } else {
                self.take_over(plan, pace, hand).await?
            };
            if let Some(claimed) = claimed {
                return Ok(claimed);
            }
        }
    }

    /// Reads how far the stripes are dealt, and how many workers hold units.
    async fn look_at_shares(&mut self) -> Result<()> {
        let next = KeyRange::prefix(keys::next_positions(self.membership.id())).into();
        let claims = KeyRange::prefix(keys::claims(self.membership.id()));
        let claims = Read { keys_only: true, ..claims.into() };
        let mut pages = self.membership.ask(vec![Op::Get(next), Op::Get(claims)]).await?.pages();
        if let (Some(next), Some(claims)) = (pages.next(), pages.next()) {
            self.next = positions(&next)?;
            let own = self.key();
            let others = claims.pairs.iter().filter(|pair| pair.key != own);
            self.workers = others.count() + 1;
        }
        Ok(())
    }

    fn choose(&self, plan: &Plan, pace: &Pace, hand: Hand) -> Choice {
        let dealt: Vec<u32> = self.next.iter().map(|(dealt, _)| *dealt).collect();
        let asking =
            Asking { labels: &self.membership.worker().labels, idle: hand.idle, lanes: self.all_lanes() };
        choose(plan, &dealt, pace, &asking)
    }

    /// How many lanes all workers have, if each has as many as this one.
    fn all_lanes(&self) -> usize {
        self.workers.saturating_mul(self.membership.worker().lanes as usize)
    }

    /// Whether there are undealt units that this worker may take.
    fn is_dealing(&self, plan: &Plan) -> bool {
        let labels = &self.membership.worker().labels;
        let may_take = |stripe| plan.needs(stripe).is_some_and(|needs| labels.satisfy(needs));
        self.next
            .iter()
            .enumerate()
            .any(|(stripe, (dealt, _))| may_take(stripe) && plan.dealt(stripe, *dealt).is_some())
    }

    /// Whether every unit has been dealt, to whomever.
    fn is_dealt(&self, plan: &Plan) -> bool {
        let mut stripes = self.next.iter().enumerate();
        stripes.all(|(stripe, (dealt, _))| plan.dealt(stripe, *dealt).is_none())
    }

    /// Takes undealt units. `None` where something has changed meanwhile.
    async fn take(&mut self, units: &[UnitIndex], positions: &[(usize, u32)]) -> Result<Option<Fence>> {
        let mut record = self.record();
        record.units.extend(units);
        let mut compares = self.fence();
        let mut then = vec![Op::put(self.key(), encode(&record))];
        for &(stripe, dealt) in positions {
            let key = keys::next_position(self.membership.id(), stripe);
            // One that is not there was deleted with its run, which the fence notices.
            let (_, modified) = self.next.get(stripe).copied().unwrap_or_default();
            compares.push(Compare::modified(key.clone(), modified));
            then.push(Op::put(key, encode(&NextPosition { dealt })));
        }
        let Some(revision) = self.attempt(compares, then, record).await? else { return Ok(None) };
        for &(stripe, dealt) in positions {
            if let Some(next) = self.next.get_mut(stripe) {
                *next = (dealt, revision);
            }
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
        if self.orphaned {
            // Of a worker that is gone others take what is in its record.
            self.membership.register_again().await?;
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
            if !self.is_open() {
                self.lose_all();
            }
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
                waiting.push(results);
            }
        }
        Ok(())
    }

    /// Says whether it was stored; if not, something has changed meanwhile.
    async fn store_block(&mut self, results: &[UnitResult], block: Vec<u8>) -> Result<bool> {
        let (membership, number) = (&self.membership, self.blocks);
        let (run, worker, identity) = (membership.id(), &membership.worker().id, membership.identity().0);
        let block_key = keys::block(run, worker, identity, number);
        let failures_key = keys::failures_of_block(run, worker, identity, number);
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
        let mut then = vec![Op::put(block_key, block), claim];
        let failed = results.iter().filter(|result| result.outcome.is_failure()).count();
        if let Some(failed) = u32::try_from(failed).ok().filter(|failed| *failed > 0) {
            then.push(Op::put(failures_key, encode(&Failures { failed })));
        }
        if self.attempt(compares, then, record).await?.is_none() {
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

    /// Forgets what it held: somebody finishes the run without it. Where the run is resumed,
    /// what its record still has is for others, and it takes no more itself.
    fn lose_all(&mut self) {
        self.orphaned |= !self.held.is_empty();
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
