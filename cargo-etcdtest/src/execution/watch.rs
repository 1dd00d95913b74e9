//! Following a run from anywhere: what the store has of it, then every change, without a
//! gap between them.

use std::collections::{BTreeSet, HashSet};

use super::error::{Result, RunError};
use super::events::{AttemptOutput, EventSink, RunEvent, Unit};
use super::plan::Plan;
use crate::config::OutputWhen;
use crate::model::{Block, Claim, Labels, PlanChunk, Run, RunId, RunState, RunSummary, UnitIndex, Worker};
use crate::reports::history::{Life, life, live_workers};
use crate::reports::{Unserved, stalled_text, unserved, unserved_text};
use crate::store::{
    Change, Key, KeyRange, KeyValue, Notice, Revision, SharedStore, Watch, decode, decode_block, get, keys,
    list,
};

/// A run that is being followed.
struct Follower<'a> {
    store: &'a SharedStore,
    id: &'a RunId,
    events: &'a EventSink,
    plan: Plan,
    /// The plan has been read.
    started: bool,
    /// The units whose execution was told, by a claim or by their result.
    begun: HashSet<UnitIndex>,
    /// The units whose result was told.
    told: HashSet<UnitIndex>,
    cancelling: bool,
    /// What was told last of whether somebody works for it.
    life: Life,
    /// What was told that tests wait for.
    needs: BTreeSet<Labels>,
}

/// Tells `events` what happened in a run so far and what happens from now on, until it is
/// over, and says what came of it.
///
/// # Errors
/// [`RunError::Gone`] where there is no such run, or it is deleted meanwhile.
pub async fn follow(store: &SharedStore, id: &RunId, events: &EventSink) -> Result<(RunSummary, bool)> {
    let page = store.read(crate::store::Read::key(keys::run(id))).await?;
    let run: Run = page.pairs.first().map(decode).transpose()?.ok_or_else(|| RunError::Gone(id.clone()))?;
    let after = Revision(page.revision.0 + 1);
    let mut records = store.watch(KeyRange::key(keys::run(id)), after).await?;
    let mut shares = store.watch(KeyRange::prefix(keys::execution(id)), after).await?;
    let mut workers = store.watch(KeyRange::prefix(keys::WORKERS), after).await?;

    let mut follower = Follower {
        store,
        id,
        events,
        plan: Plan::from_chunks([], &[]),
        started: false,
        begun: HashSet::new(),
        told: HashSet::new(),
        cancelling: false,
        life: Life::Live,
        needs: BTreeSet::new(),
    };
    if let Some(end) = follower.take_run(&run).await? {
        return Ok(end);
    }
    follower.look_for_workers().await?;
    loop {
        tokio::select! {
            notice = next(&mut records) => {
                let run = match notice? {
                    Notice::Changed { changes, .. } => changes.into_iter().last(),
                    Notice::Compacted { .. } => get(store.as_ref(), keys::run(id)).await?.map(Change::Put),
                };
                let Some(Change::Put(pair)) = run else { return Err(RunError::Gone(id.clone())) };
                if let Some(end) = follower.take_run(&decode(&pair)?).await? {
                    return Ok(end);
                }
                follower.look_for_workers().await?;
            }
            notice = next(&mut shares) => match notice? {
                Notice::Changed { changes, .. } => {
                    let puts = changes.iter().filter_map(|change| match change {
                        Change::Put(pair) => Some(pair),
                        Change::Deleted(_) => None,
                    });
                    puts.into_iter().try_for_each(|pair| follower.take_pair(pair))?;
                }
                Notice::Compacted { .. } => follower.catch_up().await?,
            },
            notice = next(&mut workers) => {
                notice?;
                follower.look_for_workers().await?;
            }
        }
    }
}

async fn next(watch: &mut Watch) -> Result<Notice> {
    match watch.next().await {
        Some(notice) => Ok(notice?),
        // A watch ends only with an error, which was told before.
        None => std::future::pending().await,
    }
}

impl Follower<'_> {
    /// Reads the plan, and tells what has happened so far.
    async fn start(&mut self, run: &Run) -> Result<()> {
        let page = list(self.store.as_ref(), KeyRange::prefix(keys::plan(self.id))).await?;
        let chunks: Vec<PlanChunk> = page.pairs.iter().map(decode).collect::<std::result::Result<_, _>>()?;
        self.plan = Plan::from_chunks(chunks, &run.stripes);
        self.started = true;
        let tests: HashSet<_> = self.plan.units().map(|(_, unit)| &unit.test).collect();
        self.tell(RunEvent::Started {
            run: self.id.clone(),
            units: run.units,
            tests: u32::try_from(tests.len()).unwrap_or(u32::MAX),
            environments: run.environments.clone(),
            shuffle: run.shuffle,
        });
        self.catch_up().await
    }

    /// Tells all results and all that is being executed, as far as not told before. What
    /// the watches deliver of it again is known then; before the plan is read, nothing is.
    async fn catch_up(&mut self) -> Result<()> {
        for prefix in [keys::blocks(self.id), keys::claims(self.id)] {
            let page = list(self.store.as_ref(), KeyRange::prefix(prefix)).await?;
            page.pairs.iter().try_for_each(|pair| self.take_pair(pair))?;
        }
        Ok(())
    }

    fn take_pair(&mut self, pair: &KeyValue) -> Result<()> {
        let below = |prefix: Key| KeyRange::prefix(prefix).contains(&pair.key);
        if below(keys::blocks(self.id)) {
            self.take_block(decode_block(pair)?);
        } else if below(keys::claims(self.id)) {
            let claim: Claim = decode(pair)?;
            for index in claim.running {
                if let Some(planned) = self.plan.unit(index)
                    && self.begun.insert(index)
                {
                    self.tell(RunEvent::AttemptStarted { unit: Unit::new(index, planned), attempt: 1 });
                }
            }
        }
        Ok(())
    }

    fn take_block(&mut self, block: Block) {
        for result in block.results {
            if let Some(planned) = self.plan.unit(result.unit)
                && self.told.insert(result.unit)
            {
                let result_unit = result.unit;
                self.begun.insert(result_unit);
                let unit = Unit::new(result.unit, planned);
                let shown =
                    if result.outcome.is_failure() { OutputWhen::ImmediateFinal } else { OutputWhen::Never };
                self.tell(RunEvent::Finished {
                    unit,
                    result,
                    output: AttemptOutput::default().into(),
                    shown,
                });
                self.tell(RunEvent::Stored { units: vec![result_unit] });
            }
        }
    }

    /// Takes in the run's record; says what came of the run where it is over.
    async fn take_run(&mut self, run: &Run) -> Result<Option<(RunSummary, bool)>> {
        if !self.started && !matches!(run.state, RunState::Planning { .. }) {
            self.start(run).await?;
        }
        if run.state == RunState::Cancelling && !self.cancelling {
            self.cancelling = true;
            let reason = run.cancelled.as_ref().map_or("somebody said so", |cancelled| &cancelled.reason);
            self.tell(RunEvent::Cancelled { reason: reason.to_owned() });
        }
        let RunState::Finished { cancelled } = run.state else { return Ok(None) };
        // The watches are two: results may still be on their way by the other one.
        self.catch_up().await?;
        let summary = run.summary.unwrap_or_default();
        self.tell(RunEvent::Ended { run: self.id.clone(), summary, cancelled });
        Ok(Some((summary, cancelled)))
    }

    /// Says so where no live worker works for the run, or none yet, or tests wait for one that has
    /// what they need.
    async fn look_for_workers(&mut self) -> Result<()> {
        let run = get(self.store.as_ref(), keys::run(self.id)).await?;
        let Some(run) = run.as_ref().and_then(|run| decode::<Run>(run).ok()).filter(|run| !run.is_over())
        else {
            return Ok(());
        };
        let life = life(self.store.as_ref(), &run).await?;
        if std::mem::replace(&mut self.life, life) != life {
            match life {
                Life::Live => {}
                Life::Awaited => self.tell(RunEvent::Queued { run: run.id.clone() }),
                Life::Stalled => {
                    self.tell(RunEvent::Stalled { run: run.id.clone(), reason: stalled_text(&run) });
                }
            }
        }
        if run.state == RunState::Running {
            self.tell_needs().await?;
        }
        Ok(())
    }

    /// Says which tests wait for a worker that has what they need: once, until there is one.
    async fn tell_needs(&mut self) -> Result<()> {
        let workers = live_workers(self.store.as_ref(), self.id).await?;
        let workers: Vec<Worker> = workers.into_iter().map(|(worker, _)| worker).collect();
        let left = self.plan.units().filter(|(index, _)| !self.told.contains(index));
        let unserved: Unserved = unserved(left.map(|(_, planned)| &planned.needs), &workers);
        for (needs, units) in &unserved {
            if !self.needs.contains(needs) {
                self.tell(RunEvent::Notice { text: unserved_text(self.id, needs, *units) });
            }
        }
        self.needs = unserved.into_keys().collect();
        Ok(())
    }

    fn tell(&self, event: RunEvent) {
        // A display that went away is no reason to fail.
        let _ = self.events.send(event);
    }
}
