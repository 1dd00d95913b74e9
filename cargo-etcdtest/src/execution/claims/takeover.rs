//! Taking over the units of workers that died, or left.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use super::orphans::{Orphan, View};
use super::{Claimed, Claims, Hand};
use crate::execution::dealing::enough;
use crate::execution::error::Result;
use crate::execution::pace::Pace;
use crate::execution::plan::Plan;
use crate::model::{Fence, Labels, Loss, RunState, UnitIndex};
use crate::reports::Unserved;
use crate::store::{KeyRange, Op, Revision, Wake, encode, keys};

/// With how many workers a unit may be lost: it is not begun any more then.
const MAX_LOSSES: usize = 3;
/// How long a unit that was lost on this machine is left to workers on others.
const ELSEWHERE: Duration = Duration::from_secs(5);

impl Claims {
    /// What undealt units need that no live worker of the run has, as far as this worker knows,
    /// and how many they are: it has been told when it was answered [`Claimed::Wait`].
    pub fn unserved(&self) -> &Unserved {
        &self.unserved
    }

    /// Whether all that is left of the run needs labels that this worker does not have, as far as
    /// it knows: it has been told when it was answered [`Claimed::Wait`].
    pub fn is_unneeded(&self) -> bool {
        self.unneeded
    }

    fn find_unserved(&self, plan: &Plan, workers: &[Labels]) -> Unserved {
        let mut unserved = Unserved::new();
        for (stripe, (dealt, _)) in self.next.iter().enumerate() {
            let Some(needs) = plan.needs(stripe) else { continue };
            let left = plan.left(stripe, *dealt);
            if left > 0 && !needs.is_empty() && !workers.iter().any(|labels| labels.satisfy(needs)) {
                *unserved.entry(needs.clone()).or_default() += left;
            }
        }
        unserved
    }

    /// Takes over units of a worker that died, or left. `None` where something has changed
    /// meanwhile.
    pub(super) async fn take_over(
        &mut self,
        plan: &Plan,
        pace: &Pace,
        hand: Hand,
    ) -> Result<Option<Claimed>> {
        let view = self.view().await?;
        self.unserved = self.find_unserved(plan, &view.labels);
        if self.membership.run().state != RunState::Running {
            return Ok(None);
        }
        if view.records == 0 && self.is_dealt(plan) {
            return Ok(Some(Claimed::Exhausted));
        }
        let labels = &self.membership.worker().labels;
        let mut held = view.held.iter().filter_map(|unit| plan.unit(*unit));
        // What others hold may be lost with them, and is this worker's to take then.
        self.unneeded = hand.empty && !self.is_dealt(plan) && !held.any(|unit| labels.satisfy(&unit.needs));
        let mut again = None;
        for orphan in view.orphans {
            let (mut fresh, mut lost) = orphan.units();
            let labels = &self.membership.worker().labels;
            let may_take = |unit| plan.unit(unit).is_some_and(|planned| labels.satisfy(&planned.needs));
            fresh.retain(|unit| may_take(*unit));
            lost.retain(|(unit, _)| may_take(*unit));
            fresh.truncate(enough(plan, pace, &fresh, self.all_lanes()).max(hand.idle));
            if let Some(claimed) = self.take_fresh(&orphan, fresh).await? {
                return Ok(claimed);
            }
            let Some((unit, losses)) = lost.into_iter().next() else { continue };
            let crashed = losses.len() >= MAX_LOSSES;
            if !crashed {
                if !hand.empty {
                    continue;
                }
                let first_seen = *self.left_to_others.entry(orphan.key.clone()).or_insert_with(Instant::now);
                let left = ELSEWHERE.saturating_sub(first_seen.elapsed());
                if orphan.record.host == self.membership.worker().host && view.elsewhere && !left.is_zero() {
                    again = Some(again.unwrap_or(left).min(left));
                    continue;
                }
                self.running = vec![unit];
            }
            let Some(token) = self.move_here(&orphan, &[(unit, losses.clone())]).await? else {
                return Ok(None);
            };
            let claimed = if crashed { Claimed::Crashed } else { Claimed::Alone };
            return Ok(Some(claimed(unit, token, losses)));
        }
        Ok(Some(Claimed::Wait(again)))
    }

    /// Takes over units that were not lost. The outer `None` where there are none, the inner
    /// where something has changed meanwhile.
    async fn take_fresh(
        &mut self,
        orphan: &Orphan,
        fresh: Vec<UnitIndex>,
    ) -> Result<Option<Option<Claimed>>> {
        if fresh.is_empty() {
            return Ok(None);
        }
        let moved: Vec<_> = fresh.iter().map(|&unit| (unit, Vec::new())).collect();
        let token = self.move_here(orphan, &moved).await?;
        Ok(Some(token.map(|token| Claimed::Units(fresh, token))))
    }

    /// Moves units of an orphaned record into the own one. `None` where something has changed
    /// meanwhile.
    async fn move_here(
        &mut self,
        orphan: &Orphan,
        units: &[(UnitIndex, Vec<Loss>)],
    ) -> Result<Option<Fence>> {
        let mut record = self.record();
        for (unit, losses) in units {
            record.units.push(*unit);
            if !losses.is_empty() {
                record.lost.insert(*unit, losses.clone());
            }
        }
        let mut compares = self.fence();
        compares.extend(orphan.compares());
        let moved: HashSet<UnitIndex> = units.iter().map(|(unit, _)| *unit).collect();
        let then = vec![Op::put(self.key(), encode(&record)), orphan.without(&moved)];
        let revision = self.attempt(compares, then, record).await?;
        Ok(revision.map(|revision| Fence(revision.0)))
    }

    /// Who holds what: read at one revision, from which on changes are told as news.
    async fn view(&mut self) -> Result<View> {
        let claims = KeyRange::prefix(keys::claims(self.membership.id()));
        let workers = KeyRange::prefix(keys::WORKERS);
        let mut then = self.membership.questions();
        then.extend([Op::Get(claims.clone().into()), Op::Get(workers.clone().into())]);
        let outcome = self.membership.ask(then).await?;
        if self.shares.is_none() {
            let after = Revision(outcome.revision.0 + 1);
            self.shares = Some(Wake::new(self.membership.store().as_ref(), [claims, workers], after).await?);
        }
        let mut pages = outcome.pages();
        if !self.membership.take_answers(&mut pages)? {
            self.membership.register_again().await?;
        }
        let (claims, workers) = (pages.next().unwrap_or_default(), pages.next().unwrap_or_default());
        View::new(&self.membership, &claims, &workers)
    }
}
