//! A worker's place in a run: what each of its transactions compares against.

use std::time::Duration;

use jiff::Timestamp;

use crate::model::{
    Cancellation, Environment, NextPosition, PlanChunk, Run, RunId, RunState, Steward, Worker,
};
use crate::reports::history::live_workers;
use crate::store::{
    Commit, Compare, Key, KeyRange, LeaseKeeper, Op, Page, Patience, Read, Revision, SharedStore, StoreError,
    Target, Txn, TxnOutcome, Wake, commit, decode, encode, keys, list_chunks,
};

use super::error::{Result, RunError};
use super::plan::Plan;
use super::policy::Policy;

/// How long a worker that is not heard of is taken to be alive.
const WORKER_TTL: Duration = Duration::from_secs(15);

/// How many records of a plan one transaction carries.
const TOGETHER: usize = 100;
/// How many bytes they have together, unless a single one has more.
const TOGETHER_BYTES: usize = 768 << 10;

/// A registered worker of a run.
#[derive(Debug)]
pub struct Membership {
    store: SharedStore,
    worker: Worker,
    lease: LeaseKeeper,
    /// The create revision of the worker's key: its identity (`c` of the protocol).
    identity: Revision,
    /// The run as last read.
    run: Run,
    /// Where that was last written (`G` of the protocol).
    generation: Revision,
    /// The locks that the run holds, each with the revision that created it (`L`).
    locks: Vec<(Key, Revision)>,
    patience: Patience,
}

/// What a worker writes for: each is done in one state of the run, and no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Duty {
    /// The plan, which is this worker's to write.
    Plan,
    /// What its tests do.
    Execute,
    /// The reports, which are this worker's to write.
    Finish,
}

/// The run that a worker creates where there is none of its id.
#[derive(Clone, Copy, Debug)]
pub struct Proposal<'a> {
    /// Its record, in whichever state.
    pub run: &'a Run,
    /// Its plan.
    pub plan: &'a Plan,
    /// What it runs against.
    pub environments: &'a [Environment],
    /// The rules for whoever works for it; without, each worker goes by its own.
    pub rules: Option<&'a Policy>,
}

/// Puts the worker's key on a lease of its own, and says at which revision it came into being.
async fn put_key(
    store: &SharedStore,
    worker: &Worker,
    patience: &Patience,
) -> Result<(LeaseKeeper, Revision)> {
    let key = keys::worker(&worker.id);
    loop {
        let lease = patience.lasts(|| LeaseKeeper::start(store.clone(), WORKER_TTL)).await?;
        let txn = Txn {
            compares: vec![Compare::created(key.clone(), Revision(0))],
            then: vec![Op::Put { key: key.clone(), value: encode(worker), lease: Some(lease.id()) }],
            otherwise: vec![],
        };
        match commit(store.as_ref(), &txn, &key, patience).await {
            Ok(Commit::Applied(revision)) => return Ok((lease, revision)),
            Ok(Commit::Refused(_)) => {
                return Err(RunError::Superseded { run: worker.run.clone(), worker: worker.id.clone() });
            }
            // The store was away for longer than the lease lived.
            Err(StoreError::LeaseNotFound) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Holds where the worker that did what only one may do is not alive: its key is absent, or
/// that of a later life.
pub(super) fn is_gone(by: &Steward) -> Compare {
    Compare {
        range: KeyRange::key(keys::worker(&by.worker)),
        target: Target::Created(Revision(by.identity)),
        equal: false,
    }
}

/// The plan of a run that is stored.
///
/// # Errors
/// [`RunError::Plan`] where it is not the one that the run's record promises.
pub(super) async fn read_plan(store: &SharedStore, run: &Run, patience: &Patience) -> Result<Plan> {
    let chunks = || list_chunks(store.as_ref(), KeyRange::prefix(keys::plan(&run.id)));
    let chunks = patience.lasts(chunks).await?;
    let chunks = chunks.pairs.iter().map(decode).collect::<std::result::Result<Vec<PlanChunk>, _>>()?;
    let plan = Plan::from_chunks(chunks, &run.stripes);
    if plan.digest() == run.plan_digest { Ok(plan) } else { Err(RunError::Plan(run.id.clone())) }
}

impl Membership {
    /// Registers a worker for a run, whose record was last written at this revision.
    ///
    /// # Errors
    /// As for any transaction.
    pub(super) async fn register(
        store: SharedStore,
        worker: Worker,
        run: Run,
        generation: Revision,
        patience: impl Into<Patience>,
    ) -> Result<Self> {
        let patience = patience.into();
        let (lease, identity) = put_key(&store, &worker, &patience).await?;
        Ok(Self { store, worker, lease, identity, run, generation, locks: Vec::new(), patience })
    }

    /// Registers a worker for the run that the proposal names, and creates that where there is
    /// none: the record, the plan, the environment snapshots, then the stripes' positions.
    /// Where there is one, it is joined once it is planned; a planner that died is replaced.
    /// Gives the run's plan, which may be another than the one proposed, and is empty where the
    /// run is being finished or is over.
    ///
    /// # Errors
    /// [`RunError::Exists`] where something is left of a deleted run of that id,
    /// [`RunError::Plan`] where its plan cannot be read.
    pub async fn enter(
        store: SharedStore,
        worker: Worker,
        proposal: Proposal<'_>,
        patience: impl Into<Patience>,
    ) -> Result<(Self, Plan)> {
        let run = proposal.run.clone();
        let mut membership = Self::register(store, worker, run, Revision(0), patience).await?;
        let plan = membership.settle(Some(proposal)).await?;
        Ok((membership, plan))
    }

    /// Registers a worker for a run that is there, and gives the run's plan: an empty one where
    /// the run is being finished or is over.
    ///
    /// # Errors
    /// [`RunError::Gone`] where there is no such run, [`RunError::Unplanned`] where its
    /// planner died, [`RunError::Plan`] where its plan cannot be read.
    pub async fn join(
        store: SharedStore,
        worker: Worker,
        run: Run,
        patience: impl Into<Patience>,
    ) -> Result<(Self, Plan)> {
        let mut membership = Self::register(store, worker, run, Revision(0), patience).await?;
        let plan = membership.settle(None).await?;
        Ok((membership, plan))
    }

    /// Waits until the run is planned, or plans it.
    async fn settle(&mut self, proposal: Option<Proposal<'_>>) -> Result<Plan> {
        let run = keys::run(self.id());
        loop {
            let page = self.read(Read::key(run.clone())).await?;
            let dead = match page.pairs.first() {
                None => None,
                Some(pair) => {
                    (self.run, self.generation) = (decode(pair)?, pair.modified);
                    let by = match &self.run.state {
                        RunState::Planning { by } => by.clone(),
                        RunState::Running | RunState::Cancelling => {
                            return read_plan(&self.store, &self.run, &self.patience).await;
                        }
                        // Nothing is dealt any more, and perhaps it never was planned.
                        RunState::Finishing { .. } | RunState::Finished { .. } => return Ok(Plan::default()),
                    };
                    if self.is_alive(&by).await? {
                        let ranges = [KeyRange::key(run.clone()), KeyRange::key(keys::worker(&by.worker))];
                        let after = Revision(page.revision.0 + 1);
                        Wake::new(self.store.as_ref(), ranges, after).await?.changed().await?;
                        continue;
                    }
                    Some(by)
                }
            };
            let Some(proposal) = proposal else {
                let id = self.id().clone();
                return Err(if dead.is_some() { RunError::Unplanned(id) } else { RunError::Gone(id) });
            };
            if self.begin_plan(proposal, dead.as_ref()).await? {
                match self.write_plan(proposal).await {
                    Ok(()) => return Ok(proposal.plan.clone()),
                    // Another planner took over while this one was away.
                    Err(RunError::Superseded { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }

    /// Writes the record of a run that is being planned by this worker, where there is nothing
    /// of a run of its id, or its planner is dead; what that has left goes at once. Says
    /// whether it was written.
    async fn begin_plan(&mut self, proposal: Proposal<'_>, dead: Option<&Steward>) -> Result<bool> {
        let (key, children) = (keys::run(self.id()), KeyRange::prefix(keys::execution(self.id())));
        let state = RunState::Planning { by: self.steward() };
        let run = Run { state, ..proposal.run.clone() };
        let given = match dead {
            None => [Compare::created(key.clone(), Revision(0)), Compare::absent(children.clone())],
            Some(by) => [Compare::modified(key.clone(), self.generation), is_gone(by)],
        };
        let txn = Txn {
            compares: given.into_iter().chain([self.alive()]).collect(),
            then: vec![Op::put(key.clone(), encode(&run)), Op::Delete(children)],
            otherwise: vec![
                Op::Get(Read::key(key.clone())),
                Op::Get(Read::key(keys::worker(&self.worker.id))),
            ],
        };
        match commit(self.store.as_ref(), &txn, &key, &self.patience).await? {
            Commit::Applied(revision) => {
                (self.run, self.generation) = (run, revision);
                Ok(true)
            }
            Commit::Refused(outcome) => {
                let mut pages = outcome.pages();
                let exists = pages.next().is_some_and(|page| !page.pairs.is_empty());
                if !self.is_registered(pages.next()) {
                    self.register_again().await?;
                } else if !exists {
                    return Err(RunError::Exists(self.id().clone()));
                }
                Ok(false)
            }
        }
    }

    /// Writes the plan of a run that is this worker's to plan, and opens it.
    async fn write_plan(&mut self, proposal: Proposal<'_>) -> Result<()> {
        let id = self.id().clone();
        let chunks = proposal.plan.chunks().enumerate();
        let chunks = chunks.map(|(index, chunk)| (keys::plan_chunk(&id, index), encode(&chunk)));
        let environments = proposal.environments.iter();
        let snapshots =
            environments.map(|environment| (keys::snapshot(&id, &environment.name), encode(environment)));
        let rules = proposal.rules.map(|rules| (keys::rules(&id), encode(rules)));
        let mut records = chunks.chain(snapshots).chain(rules).peekable();
        while let Some((proof, value)) = records.next() {
            // As many at once as one transaction takes: each waits for the disk.
            let mut bytes = value.len();
            let mut then = vec![Op::put(proof.clone(), value)];
            while then.len() < TOGETHER
                && let Some((key, value)) =
                    records.next_if(|(_, value)| bytes + value.len() <= TOGETHER_BYTES)
            {
                bytes += value.len();
                then.push(Op::put(key, value));
            }
            self.write(Duty::Plan, &proof, then).await?;
        }
        let positions = (0..proposal.plan.stripes())
            .map(|stripe| Op::put(keys::next_position(&id, stripe), encode(&NextPosition { dealt: 0 })))
            .collect();
        let planned = |run: &Run, by: Steward| {
            let mine =
                matches!(&run.state, RunState::Planning { by: planner } if planner.worker == by.worker);
            mine.then(|| Run { state: RunState::Running, ..run.clone() })
        };
        if self.advance(planned, positions).await? { Ok(()) } else { Err(self.superseded()) }
    }

    /// Reads through an outage of the store.
    pub(super) async fn read(&self, read: Read) -> Result<Page> {
        Ok(self.patience.lasts(|| self.store.read(read.clone())).await?)
    }

    /// Asks several questions at one revision, through an outage of the store.
    pub(super) async fn ask(&self, then: Vec<Op>) -> Result<TxnOutcome> {
        let again = || self.store.txn(Txn { then: then.clone(), ..Txn::default() });
        // What only reads may be asked again after a lost answer.
        Ok(self.patience.lasts(again).await?)
    }

    /// Whether the worker that does what only one may do is alive.
    pub(super) async fn is_alive(&self, by: &Steward) -> Result<bool> {
        let page = self.read(Read::key(keys::worker(&by.worker))).await?;
        Ok(page.pairs.iter().any(|pair| pair.created.0 == by.identity))
    }

    /// The other live workers of the run.
    ///
    /// # Errors
    /// As for any read of the store.
    pub async fn others(&self) -> Result<Vec<Worker>> {
        let live = || live_workers(self.store.as_ref(), &self.run.id);
        let live = self.patience.lasts(live).await?.into_iter().map(|(worker, _)| worker);
        Ok(live.filter(|worker| worker.id != self.worker.id).collect())
    }

    /// Waits until the worker's lease is lost: from then on others may take its units.
    pub async fn lease_lost(&self) {
        self.lease.lost().await;
    }

    /// The run as last read.
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// Where the run's record was last written, as far as is known.
    pub(super) fn generation(&self) -> Revision {
        self.generation
    }

    /// The run's id.
    pub fn id(&self) -> &RunId {
        &self.run.id
    }

    /// The worker.
    pub fn worker(&self) -> &Worker {
        &self.worker
    }

    /// The create revision of the worker's key.
    pub fn identity(&self) -> Revision {
        self.identity
    }

    /// The store.
    pub fn store(&self) -> &SharedStore {
        &self.store
    }

    /// How long an unreachable store is waited for.
    pub fn patience(&self) -> &Patience {
        &self.patience
    }

    /// Has every write from now on compare these locks too: the run holds them while units
    /// are executed. Without any, no more is compared.
    pub fn hold(&mut self, locks: Vec<(Key, Revision)>) {
        self.locks = locks;
    }

    /// The locks that every write compares.
    pub fn locks(&self) -> &[(Key, Revision)] {
        &self.locks
    }

    /// Holds while this worker is registered.
    fn alive(&self) -> Compare {
        Compare::created(keys::worker(&self.worker.id), self.identity)
    }

    /// What every write to the run compares: the run's record is the one last read, the
    /// worker is still the one that registered, and the run still holds its locks.
    pub fn fence(&self) -> Vec<Compare> {
        let locks = self.locks.iter().map(|(key, created)| Compare::created(key.clone(), *created));
        let run = Compare::modified(keys::run(self.id()), self.generation);
        [run, self.alive()].into_iter().chain(locks).collect()
    }

    /// What a refused transaction reads to find out why.
    pub fn questions(&self) -> Vec<Op> {
        let own = [keys::run(self.id()), keys::worker(&self.worker.id)];
        let locks = self.locks.iter().map(|(key, _)| key.clone());
        own.into_iter().chain(locks).map(|key| Op::Get(Read::key(key))).collect()
    }

    /// Takes in the answers to [`Membership::questions`]: the run as it is now, and whether
    /// the worker is still registered.
    ///
    /// # Errors
    /// [`RunError::Gone`] where the run was deleted, [`RunError::LockLost`] where it does not
    /// hold a lock any more.
    pub fn take_answers(&mut self, pages: &mut impl Iterator<Item = Page>) -> Result<bool> {
        let run = pages.next().and_then(|mut page| page.pairs.pop());
        let run = run.ok_or_else(|| RunError::Gone(self.run.id.clone()))?;
        self.run = decode(&run)?;
        self.generation = run.modified;
        let registered = self.is_registered(pages.next());
        for (key, created) in &self.locks {
            let held =
                pages.next().is_some_and(|page| page.pairs.iter().any(|pair| pair.created == *created));
            if !held {
                return Err(RunError::LockLost(key.clone()));
            }
        }
        Ok(registered)
    }

    /// Whether the worker's key, as it was read, is the one that this worker put.
    fn is_registered(&self, page: Option<Page>) -> bool {
        page.is_some_and(|page| page.pairs.iter().any(|pair| pair.created == self.identity))
    }

    /// Who this worker is where it does what only one may do.
    pub(super) fn steward(&self) -> Steward {
        Steward { worker: self.worker.id.clone(), identity: self.identity.0 }
    }

    /// Makes sure that the run, as last read, is in a state in which this may be done by this
    /// worker.
    ///
    /// # Errors
    /// [`RunError::Superseded`] where somebody else plans, finishes or has finished it.
    fn check(&self, duty: Duty) -> Result<()> {
        let open = match (duty, &self.run.state) {
            (Duty::Plan, RunState::Planning { by }) | (Duty::Finish, RunState::Finishing { by, .. }) => {
                by.worker == self.worker.id
            }
            (Duty::Execute, RunState::Running | RunState::Cancelling) => true,
            _ => false,
        };
        if open { Ok(()) } else { Err(self.superseded()) }
    }

    /// Registers the worker again after its lease was lost.
    ///
    /// # Errors
    /// As for any transaction.
    pub async fn register_again(&mut self) -> Result<()> {
        // What counts as lost here may still live in the store, for a moment.
        self.end_lease().await?;
        self.worker.since = Timestamp::now();
        (self.lease, self.identity) = put_key(&self.store, &self.worker, &self.patience).await?;
        Ok(())
    }

    async fn end_lease(&self) -> Result<()> {
        match self.patience.lasts(|| self.store.revoke(self.lease.id())).await {
            Ok(()) | Err(StoreError::LeaseNotFound) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Carries out writes under the fence; again if the run changed meanwhile or the worker
    /// had to register again. `proof` is one of the keys put.
    ///
    /// # Errors
    /// [`RunError::Superseded`] where the run is no longer in the state for it.
    pub(super) async fn write(&mut self, duty: Duty, proof: &Key, then: Vec<Op>) -> Result<()> {
        loop {
            self.check(duty)?;
            if self.attempt(proof, vec![], then.clone()).await?.is_some() {
                return Ok(());
            }
        }
    }

    /// Moves the run on: `next` makes its record out of the one last read, and does so again
    /// where that was changed meanwhile; `None` where there is nothing left to move. `with`
    /// is written in the same transaction. Says whether the run was moved.
    ///
    /// # Errors
    /// As for any transaction.
    pub async fn advance(
        &mut self,
        next: impl Fn(&Run, Steward) -> Option<Run>,
        with: Vec<Op>,
    ) -> Result<bool> {
        while let Some(run) = next(&self.run, self.steward()) {
            if self.try_advance(run, vec![], with.clone()).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Moves the run on to this record where these compares hold as well as the fence. Says
    /// whether it did; if not, the run has been read again, and the worker is registered.
    ///
    /// # Errors
    /// As for any transaction.
    pub(super) async fn try_advance(&mut self, run: Run, given: Vec<Compare>, with: Vec<Op>) -> Result<bool> {
        let key = keys::run(self.id());
        let then = [vec![Op::put(key.clone(), encode(&run))], with].concat();
        let Some(revision) = self.attempt(&key, given, then).await? else { return Ok(false) };
        (self.run, self.generation) = (run, revision);
        Ok(true)
    }

    /// Carries out writes under the fence and these compares once. `None` where one did not
    /// hold: the run has been read again then, and the worker is registered.
    async fn attempt(&mut self, proof: &Key, given: Vec<Compare>, then: Vec<Op>) -> Result<Option<Revision>> {
        let compares = self.fence().into_iter().chain(given).collect();
        let txn = Txn { compares, then, otherwise: self.questions() };
        match commit(self.store.as_ref(), &txn, proof, &self.patience).await? {
            Commit::Applied(revision) => Ok(Some(revision)),
            Commit::Refused(outcome) => {
                if !self.take_answers(&mut outcome.pages())? {
                    self.register_again().await?;
                }
                Ok(None)
            }
        }
    }

    /// Gives the worker's place up: its key goes at once, not when its lease would end.
    pub async fn leave(self) {
        // Unreachable, the lease ends by itself when its time is up.
        let _ = self.lease.end().await;
    }

    /// Gives the worker's place up, if others work for the run; says whether they do. The last
    /// one stays: two who leave at the same time do not leave the run to each other.
    ///
    /// # Errors
    /// As for any transaction.
    pub async fn leave_to_others(&mut self) -> Result<bool> {
        self.end_lease().await?;
        if self.others().await?.is_empty() {
            self.register_again().await?;
            return Ok(false);
        }
        Ok(true)
    }

    /// Has the run go no further than what is under way.
    ///
    /// # Errors
    /// As for any transaction.
    pub async fn cancel(&mut self, cancellation: Cancellation) -> Result<bool> {
        self.advance(|run, _| run.when_cancelled(&cancellation), vec![]).await
    }

    /// Cancels a run whose locks were lost, and holds none from now on. Says whether another worker
    /// of the run has a place again in one of their queues: it is not cancelled then.
    ///
    /// # Errors
    /// As for any transaction.
    pub(super) async fn cancel_unlocked(&mut self, cancellation: Cancellation) -> Result<bool> {
        let lost = std::mem::take(&mut self.locks);
        while let Some(run) = self.run.when_cancelled(&cancellation) {
            let mut given = Vec::new();
            for (key, created) in &lost {
                let page = self.read(Read::key(key.clone())).await?;
                let found = page.pairs.first().map_or(Revision(0), |pair| pair.created);
                if found > *created {
                    return Ok(true);
                }
                given.push(Compare::created(key.clone(), found));
            }
            if self.try_advance(run, given, vec![]).await? {
                break;
            }
        }
        Ok(false)
    }

    /// The error of a worker whose place was taken.
    pub fn superseded(&self) -> RunError {
        RunError::Superseded { run: self.run.id.clone(), worker: self.worker.id.clone() }
    }
}
