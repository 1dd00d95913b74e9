//! The units a worker holds: taking them, and giving them back with their results.
//!
//! A unit is at any time in exactly one of three places: undealt, in one claim record, or
//! in a block of results. Each move is one transaction, so nothing is lost or doubled.

use std::time::Duration;

use backon::Retryable;
use tokio::time::Instant;

use crate::model::{Block, Claim, Fence, NextPosition, RunState, UnitIndex, UnitResult};
use crate::store::{
    Commit, Compare, KeyRange, Op, Page, Read, Revision, StoreError, Txn, commit, compress, decode, encode,
    keys, list, pauses,
};

use super::error::Result;
use super::membership::Membership;
use super::plan::Plan;

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
    record: Claim,
    /// Where the claim record was last written; 0 while there is none (`m` of the protocol).
    revision: Revision,
    /// How many units of each stripe have been dealt, and where that was last written.
    next: Vec<(u32, Revision)>,
    /// How many blocks this process has written; never reset.
    blocks: u64,
    /// How long the store was waited for.
    storing: Duration,
}

/// What came of a [`Claims::claim`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// These units are the worker's now, under this fencing token.
    Units(Vec<UnitIndex>, Fence),
    /// Every unit has been dealt.
    Exhausted,
    /// The run was cancelled.
    Cancelled,
}

impl Claims {
    /// A worker that holds nothing yet.
    ///
    /// # Errors
    /// As for any read of the store.
    pub async fn new(membership: Membership) -> Result<Self> {
        let record = Claim { owner: membership.identity().0, seq: 0, units: Vec::new(), running: Vec::new() };
        let next = KeyRange::prefix(keys::next_positions(membership.id()));
        let page = || list(membership.store().as_ref(), next.clone());
        let page = page.retry(pauses().with_total_delay(Some(membership.patience())));
        let page = page.when(StoreError::is_transient).await?;
        let next = positions(&page)?;
        Ok(Self { membership, record, revision: Revision(0), next, blocks: 0, storing: Duration::ZERO })
    }

    /// The worker's place in the run.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// The same, for writes beside the claims.
    pub fn membership_mut(&mut self) -> &mut Membership {
        &mut self.membership
    }

    /// How long the store was waited for until now.
    pub fn storing(&self) -> Duration {
        self.storing
    }

    /// The worker's place in the run, when nothing more is to be claimed or stored.
    pub fn into_membership(self) -> Membership {
        self.membership
    }

    /// Takes the next units, so many that together they are expected to take `wanted`, at
    /// least one. `running` announces what is being executed meanwhile.
    ///
    /// # Errors
    /// As for any transaction of the run.
    pub async fn claim(
        &mut self,
        plan: &Plan,
        wanted: Duration,
        estimate: impl Fn(UnitIndex) -> Duration,
        running: &[UnitIndex],
    ) -> Result<Claimed> {
        loop {
            if self.membership.run().state != RunState::Running {
                return Ok(Claimed::Cancelled);
            }
            let (units, positions) = self.choose(plan, wanted, &estimate);
            if units.is_empty() {
                return Ok(Claimed::Exhausted);
            }
            let mut record = self.next_record(running);
            record.units.extend(units.iter().map(|&unit| (unit, 0)));

            let run = self.membership.id();
            let mut compares = self.fence();
            let mut then = vec![Op::put(self.key(), encode(&record))];
            for &(stripe, dealt) in &positions {
                let key = keys::next_position(run, stripe);
                compares.push(Compare::modified(key.clone(), self.next[stripe].1));
                then.push(Op::put(key, encode(&NextPosition { dealt })));
            }
            if let Some(revision) = self.attempt(compares, then, record).await? {
                for (stripe, dealt) in positions {
                    self.next[stripe] = (dealt, revision);
                }
                return Ok(Claimed::Units(units, Fence(revision.0)));
            }
        }
    }

    /// Stores results and gives their units back in the same transaction.
    ///
    /// # Errors
    /// As for any transaction of the run.
    pub async fn flush(&mut self, results: Vec<UnitResult>, running: &[UnitIndex]) -> Result<()> {
        let mut waiting = vec![results];
        while let Some(mut results) = waiting.pop() {
            if results.is_empty() {
                continue;
            }
            let content = encode(&Block { results: results.clone() });
            let block = compress(&content);
            if (block.len() > MAX_BLOCK || content.len() > MAX_CONTENT) && results.len() > 1 {
                waiting.push(results.split_off(results.len() / 2));
                waiting.push(results);
                continue;
            }
            self.store_block(&results, block, running).await?;
        }
        Ok(())
    }

    async fn store_block(
        &mut self,
        results: &[UnitResult],
        block: Vec<u8>,
        running: &[UnitIndex],
    ) -> Result<()> {
        let number = self.blocks;
        self.blocks += 1;
        loop {
            let membership = &self.membership;
            let block_key =
                keys::block(membership.id(), &membership.worker().id, membership.identity().0, number);
            let mut record = self.next_record(running);
            record.units.retain(|(unit, _)| results.iter().all(|result| result.unit != *unit));

            let mut compares = self.fence();
            compares.push(Compare::created(block_key.clone(), Revision(0)));
            let claim = if record.units.is_empty() {
                Op::Delete(KeyRange::key(self.key()))
            } else {
                Op::put(self.key(), encode(&record))
            };
            let then = vec![Op::put(block_key, block.clone()), claim];
            if self.attempt(compares, then, record).await?.is_some() {
                return Ok(());
            }
            self.membership.check_open()?;
        }
    }

    /// What every move of units compares: the run, the worker, and the claim record.
    fn fence(&self) -> Vec<Compare> {
        let mut compares = self.membership.fence();
        compares.push(Compare::modified(self.key(), self.revision));
        compares
    }

    fn key(&self) -> crate::store::Key {
        keys::claim(self.membership.id(), &self.membership.worker().id)
    }

    fn next_record(&self, running: &[UnitIndex]) -> Claim {
        Claim {
            owner: self.membership.identity().0,
            seq: self.record.seq + 1,
            running: running.to_vec(),
            ..self.record.clone()
        }
    }

    /// Carries out one move; its first write is the proof that it was made. `None` where a
    /// compare did not hold: what has changed is known then.
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
                self.revision = if record.units.is_empty() { Revision(0) } else { revision };
                self.record = record;
                Ok(Some(revision))
            }
            Commit::Refused(outcome) => {
                self.refused(outcome.pages()).await?;
                let pause = Duration::from_millis(fastrand::u64(0..20));
                tokio::time::sleep(pause).await;
                Ok(None)
            }
        }
    }

    /// Takes in what a refused transaction read.
    async fn refused(&mut self, mut pages: impl Iterator<Item = Page>) -> Result<()> {
        let registered = self.membership.take_answers(&mut pages)?;
        let record = pages.next().and_then(|mut page| page.pairs.pop());
        if record.as_ref().map_or(Revision(0), |pair| pair.modified) != self.revision {
            return Err(self.membership.superseded());
        }
        if let Some(page) = pages.next() {
            self.next = positions(&page)?;
        }
        if !registered {
            self.membership.register_again().await?;
        }
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

/// The stripes' positions in the order of stripes.
fn positions(page: &Page) -> Result<Vec<(u32, Revision)>> {
    let position = |pair| Ok((decode::<NextPosition>(pair)?.dealt, pair.modified));
    page.pairs.iter().map(position).collect()
}
