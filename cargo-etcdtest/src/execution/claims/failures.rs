//! What has failed in a run, and whether that can still keep something from being begun.

use super::{Claims, positions};
use crate::execution::error::Result;
use crate::execution::plan::Plan;
use crate::model::{Claim, Failures};
use crate::store::{KeyRange, Op, decode, keys};

impl Claims {
    /// How many units of the run failed since it was begun or resumed, on whichever worker, as far
    /// as it is stored; and whether there are some, beside those of this worker, that nobody has
    /// said to have begun.
    ///
    /// # Errors
    /// As for any read of the store.
    pub async fn failures(&mut self, plan: &Plan) -> Result<(u32, bool)> {
        let id = self.membership.id();
        let ranges = [keys::failures(id), keys::next_positions(id), keys::claims(id)];
        let read = ranges.map(|prefix| Op::Get(KeyRange::prefix(prefix).into()));
        let mut pages = self.membership.ask(read.into()).await?.pages();
        let failed = pages.next().unwrap_or_default();
        let failed = failed.pairs.iter().map(|pair| Ok(decode::<Failures>(pair)?.failed));
        let failed = failed.sum::<Result<u32>>()?;
        self.next = positions(&pages.next().unwrap_or_default())?;
        let mut unbegun = !self.is_dealt(plan);
        let (claims, own) = (pages.next().unwrap_or_default(), self.key());
        for pair in claims.pairs.iter().filter(|pair| pair.key != own) {
            let Claim { units, running, .. } = decode(pair)?;
            unbegun |= units.iter().any(|unit| !running.contains(unit));
        }
        Ok((failed, unbegun))
    }
}
