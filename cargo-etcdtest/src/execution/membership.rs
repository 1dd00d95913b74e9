//! A worker's place in a run: what each of its transactions compares against.

use std::time::Duration;

use crate::model::{Environment, NextPosition, Run, RunId, RunState, Steward, Worker};
use crate::store::{
    Commit, Compare, Key, KeyRange, LeaseKeeper, Op, Page, Patience, Read, Revision, SharedStore, StoreError,
    Txn, commit, decode, encode, keys,
};

use super::error::{Result, RunError};
use super::plan::Plan;

/// How long a worker that is not heard of is taken to be alive.
const WORKER_TTL: Duration = Duration::from_secs(15);

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

/// Puts the worker's key on a lease of its own, and says at which revision it came into being.
async fn register(
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

impl Membership {
    /// Registers a worker and creates its run: the record, the plan, the environment
    /// snapshots, then the stripes' positions. `describe` makes the record, given who plans.
    ///
    /// # Errors
    /// [`RunError::Exists`] where there is a run of that id, or something left of one.
    pub async fn create(
        store: SharedStore,
        worker: Worker,
        plan: &Plan,
        environments: &[Environment],
        patience: impl Into<Patience>,
        describe: impl FnOnce(RunState) -> Run,
    ) -> Result<Self> {
        let patience = patience.into();
        let (lease, identity) = register(&store, &worker, &patience).await?;
        let by = Steward { worker: worker.id.clone(), identity: identity.0 };
        let run = describe(RunState::Planning { by });
        let (generation, locks) = (Revision(0), Vec::new());
        let mut membership = Self { store, worker, lease, identity, run, generation, locks, patience };
        membership.put_run().await?;
        let id = membership.run.id.clone();
        for (index, chunk) in plan.chunks().enumerate() {
            membership.put(keys::plan_chunk(&id, index), encode(&chunk)).await?;
        }
        for environment in environments {
            membership.put(keys::snapshot(&id, &environment.name), encode(environment)).await?;
        }
        let positions = (0..plan.stripes())
            .map(|stripe| Op::put(keys::next_position(&id, stripe), encode(&NextPosition { dealt: 0 })))
            .collect();
        let planned = |run: &Run, by: Steward| {
            let mine =
                matches!(&run.state, RunState::Planning { by: planner } if planner.worker == by.worker);
            mine.then(|| Run { state: RunState::Running, ..run.clone() })
        };
        membership.advance(planned, positions).await?;
        membership.check_open()?;
        Ok(membership)
    }

    /// Writes the run's first record, where there is nothing of a run of its id.
    async fn put_run(&mut self) -> Result<()> {
        let key = keys::run(self.id());
        loop {
            let create = Txn {
                compares: vec![
                    Compare::created(key.clone(), Revision(0)),
                    Compare::absent(KeyRange::prefix(keys::execution(self.id()))),
                    self.alive(),
                ],
                then: vec![Op::put(key.clone(), encode(&self.run))],
                otherwise: vec![Op::Get(Read::key(keys::worker(&self.worker.id)))],
            };
            match commit(self.store.as_ref(), &create, &key, &self.patience).await? {
                Commit::Applied(revision) => {
                    self.generation = revision;
                    return Ok(());
                }
                Commit::Refused(outcome) => {
                    if self.is_registered(outcome.pages().next()) {
                        return Err(RunError::Exists(self.id().clone()));
                    }
                    self.register_again().await?;
                    self.run.state = RunState::Planning { by: self.steward() };
                }
            }
        }
    }

    /// The run as last read.
    pub fn run(&self) -> &Run {
        &self.run
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
    fn steward(&self) -> Steward {
        Steward { worker: self.worker.id.clone(), identity: self.identity.0 }
    }

    /// Makes sure that the run, as last read, is one that this worker may still write to.
    ///
    /// # Errors
    /// [`RunError::Superseded`] where somebody else plans, finishes or has finished it.
    pub fn check_open(&self) -> Result<()> {
        let open = match &self.run.state {
            RunState::Planning { by } | RunState::Finishing { by, .. } => by.worker == self.worker.id,
            RunState::Running | RunState::Cancelling => true,
            RunState::Finished { .. } => false,
        };
        if open { Ok(()) } else { Err(self.superseded()) }
    }

    /// Registers the worker again after its lease was lost.
    ///
    /// # Errors
    /// As for any transaction.
    pub async fn register_again(&mut self) -> Result<()> {
        (self.lease, self.identity) = register(&self.store, &self.worker, &self.patience).await?;
        Ok(())
    }

    /// Writes one key of the run under the fence, as [`Membership::write`] does.
    ///
    /// # Errors
    /// As [`Membership::write`].
    pub async fn put(&mut self, key: Key, value: Vec<u8>) -> Result<()> {
        self.write(&key.clone(), vec![Op::put(key, value)]).await
    }

    /// Carries out writes under the fence; again if the run changed meanwhile or the worker
    /// had to register again. `proof` is one of the keys put.
    ///
    /// # Errors
    /// [`RunError::Superseded`] where the run is no longer open to this worker.
    pub async fn write(&mut self, proof: &Key, then: Vec<Op>) -> Result<()> {
        while self.attempt(proof, then.clone()).await?.is_none() {
            self.check_open()?;
        }
        Ok(())
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
        let key = keys::run(self.id());
        while let Some(run) = next(&self.run, self.steward()) {
            let then = [vec![Op::put(key.clone(), encode(&run))], with.clone()].concat();
            if let Some(revision) = self.attempt(&key, then).await? {
                self.generation = revision;
                self.run = run;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Carries out writes under the fence once. `None` where a compare did not hold: the run
    /// has been read again then, and the worker is registered.
    async fn attempt(&mut self, proof: &Key, then: Vec<Op>) -> Result<Option<Revision>> {
        let txn = Txn { compares: self.fence(), then, otherwise: self.questions() };
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

    /// The error of a worker whose place was taken.
    pub fn superseded(&self) -> RunError {
        RunError::Superseded { run: self.run.id.clone(), worker: self.worker.id.clone() }
    }
}
