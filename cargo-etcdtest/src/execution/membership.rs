//! A worker's place in a run: what each of its transactions compares against.

use std::time::Duration;

use crate::model::{Environment, NextPosition, Run, RunId, RunState, Steward, Worker};
use crate::store::{
    Commit, Compare, Key, KeyRange, LeaseId, LeaseKeeper, Op, Page, Read, Revision, SharedStore, Txn, commit,
    decode, encode, keys,
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
    patience: Duration,
}

/// Puts the worker's key and says at which revision it came into being.
async fn register(
    store: &SharedStore,
    worker: &Worker,
    lease: LeaseId,
    patience: Duration,
) -> Result<Revision> {
    let key = keys::worker(&worker.id);
    let txn = Txn {
        compares: vec![Compare::created(key.clone(), Revision(0))],
        then: vec![Op::Put { key: key.clone(), value: encode(worker), lease: Some(lease) }],
        otherwise: vec![],
    };
    match commit(store.as_ref(), &txn, &key, patience).await? {
        Commit::Applied(revision) => Ok(revision),
        Commit::Refused(_) => {
            Err(RunError::Superseded { run: worker.run.clone(), worker: worker.id.clone() })
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
        patience: Duration,
        describe: impl FnOnce(RunState) -> Run,
    ) -> Result<Self> {
        let lease = LeaseKeeper::start(store.clone(), WORKER_TTL).await?;
        let identity = register(&store, &worker, lease.id(), patience).await?;
        let run =
            describe(RunState::Planning { by: Steward { worker: worker.id.clone(), identity: identity.0 } });
        let mut membership = Self { store, worker, lease, identity, run, generation: Revision(0), patience };
        let id = membership.run.id.clone();

        let create = Txn {
            compares: vec![
                Compare::created(keys::run(&id), Revision(0)),
                Compare::absent(KeyRange::prefix(keys::execution(&id))),
                membership.alive(),
            ],
            then: vec![Op::put(keys::run(&id), encode(&membership.run))],
            otherwise: vec![],
        };
        match commit(membership.store.as_ref(), &create, &keys::run(&id), patience).await? {
            Commit::Applied(revision) => membership.generation = revision,
            Commit::Refused(_) => {
                membership.leave().await;
                return Err(RunError::Exists(id));
            }
        }
        for (index, chunk) in plan.chunks().enumerate() {
            membership.put(keys::plan_chunk(&id, index), encode(&chunk)).await?;
        }
        for environment in environments {
            membership.put(keys::snapshot(&id, &environment.name), encode(environment)).await?;
        }
        let positions = (0..plan.stripes())
            .map(|stripe| Op::put(keys::next_position(&id, stripe), encode(&NextPosition { dealt: 0 })))
            .collect();
        membership.change_state(RunState::Running, positions).await?;
        Ok(membership)
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
    pub fn patience(&self) -> Duration {
        self.patience
    }

    fn alive(&self) -> Compare {
        Compare::created(keys::worker(&self.worker.id), self.identity)
    }

    /// What every write to the run compares: the run's record is the one last read, and the
    /// worker is still the one that registered.
    pub fn fence(&self) -> Vec<Compare> {
        vec![Compare::modified(keys::run(self.id()), self.generation), self.alive()]
    }

    /// What a refused transaction reads to find out why.
    pub fn questions(&self) -> Vec<Op> {
        [keys::run(self.id()), keys::worker(&self.worker.id)].map(|key| Op::Get(Read::key(key))).into()
    }

    /// Takes in the answers to [`Membership::questions`]: the run as it is now, and whether
    /// the worker is still registered.
    ///
    /// # Errors
    /// [`RunError::Gone`] where the run was deleted.
    pub fn take_answers(&mut self, pages: &mut impl Iterator<Item = Page>) -> Result<bool> {
        let run = pages.next().and_then(|mut page| page.pairs.pop());
        let run = run.ok_or_else(|| RunError::Gone(self.run.id.clone()))?;
        self.run = decode(&run)?;
        self.generation = run.modified;
        let worker = pages.next().and_then(|mut page| page.pairs.pop());
        Ok(worker.is_some_and(|pair| pair.created == self.identity))
    }

    /// Registers the worker again after its lease was lost.
    ///
    /// # Errors
    /// As for any transaction.
    pub async fn register_again(&mut self) -> Result<()> {
        self.lease = LeaseKeeper::start(self.store.clone(), WORKER_TTL).await?;
        self.identity = register(&self.store, &self.worker, self.lease.id(), self.patience).await?;
        Ok(())
    }

    /// Writes one key of the run under the fence, again if the run changed meanwhile.
    ///
    /// # Errors
    /// As [`Membership::write`].
    pub async fn put(&mut self, key: Key, value: Vec<u8>) -> Result<()> {
        self.write(&key.clone(), vec![Op::put(key, value)]).await.map(drop)
    }

    /// Carries out writes under the fence, again if the run changed meanwhile, and under a
    /// new registration if the lease was lost; `proof` is one of the keys put.
    ///
    /// # Errors
    /// [`RunError::Gone`] where the run was deleted, and what the store says.
    pub async fn write(&mut self, proof: &Key, then: Vec<Op>) -> Result<Revision> {
        let mut txn = Txn { compares: self.fence(), then, otherwise: self.questions() };
        loop {
            match commit(self.store.as_ref(), &txn, proof, self.patience).await? {
                Commit::Applied(revision) => return Ok(revision),
                Commit::Refused(outcome) => {
                    if !self.take_answers(&mut outcome.pages())? {
                        self.register_again().await?;
                    }
                    txn.compares = self.fence();
                }
            }
        }
    }

    /// Moves the run on to another state, with other writes in the same transaction.
    ///
    /// # Errors
    /// As [`Membership::write`].
    pub async fn change_state(&mut self, state: RunState, mut with: Vec<Op>) -> Result<()> {
        let run = Run { state, ..self.run.clone() };
        self.replace_run(run, &mut with).await
    }

    /// Writes the run's record, with other writes in the same transaction.
    ///
    /// # Errors
    /// As [`Membership::write`].
    pub async fn replace_run(&mut self, run: Run, with: &mut Vec<Op>) -> Result<()> {
        let key = keys::run(&run.id);
        let mut then = vec![Op::put(key.clone(), encode(&run))];
        then.append(with);
        self.generation = self.write(&key, then).await?;
        self.run = run;
        Ok(())
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
