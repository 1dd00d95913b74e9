//! Going on where an earlier life of the worker ended.

use std::collections::HashMap;

use super::{Claims, Held};
use crate::execution::error::Result;
use crate::model::{Claim, Fence, UnitIndex};
use crate::store::{Read, Revision, decode};

impl Claims {
    /// Makes the claim record that an earlier life of this worker left its own again. What it
    /// still has is held, under the tokens of the results that are known; of the others nothing
    /// is known. Gives the units that were announced as being executed.
    ///
    /// # Errors
    /// As for any transaction of the run.
    pub async fn inherit(&mut self, tokens: &HashMap<UnitIndex, Fence>) -> Result<Vec<UnitIndex>> {
        let page = self.membership.read(Read::key(self.key())).await?;
        let Some(pair) = page.pairs.first() else { return Ok(Vec::new()) };
        let Claim { owner, seq, units, lost, running, .. } = decode(pair)?;
        for unit in units {
            let token = tokens.get(&unit).copied().unwrap_or(Fence(0));
            let losses = lost.get(&unit).cloned().unwrap_or_default();
            self.held.insert(unit, Held { token, losses });
        }
        (self.owner, self.seq, self.revision) = (Revision(owner), seq, pair.modified);
        self.running = running;
        self.reclaim().await?;
        Ok(self.running.clone())
    }
}
