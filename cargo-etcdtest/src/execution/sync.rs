//! Storing what workers that are no more left in their journals.

use std::collections::{HashMap, HashSet};
use std::fmt;

use super::claims::Claims;
use super::error::{Result, RunError};
use super::finish::{conclude, is_ripe};
use super::journal::{Header, LeftBehind};
use super::membership::Membership;
use super::recorder::store as store_units;
use crate::model::{Run, RunState, UnitIndex, Worker};
use crate::store::{
    Compare, KeyRange, Op, Patience, Revision, SharedStore, Txn, decode, decode_block, get, keys, list,
};

/// How many results are sent together at the most.
const BATCH: usize = 500;

/// What came of a journal that was left behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Synced {
    /// How many of its results the store has.
    pub stored: usize,
    /// How many it will never have.
    pub superseded: usize,
    /// Why not.
    pub why: Option<Superseded>,
    /// All units of the run have their results: it was finished.
    pub finished: bool,
}

/// Why a result is not to be stored any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Superseded {
    /// The run was deleted.
    Gone,
    /// The run is over.
    Over,
    /// Other workers took the units over.
    TakenOver,
    /// The run does not hold the locks any more under which they were executed.
    LocksLost,
}

impl fmt::Display for Superseded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gone => "the run was deleted",
            Self::Over => "the run has ended without it",
            Self::TakenOver => "other workers have taken these tests over",
            Self::LocksLost => "the run has lost the environment in which they ran",
        })
    }
}

/// Stores what a worker left behind, under the worker's own name: what its claim record still has
/// is its own, as after any time that it was away. Whatever the store has then is noted in the
/// journal, so that this may end anywhere and be done again.
///
/// # Errors
/// As for any transaction of the run.
pub async fn sync(
    store: &SharedStore,
    left: &mut LeftBehind,
    host: String,
    patience: &Patience,
) -> Result<Synced> {
    let header = left.header().clone();
    let none = |why| Synced { superseded: left.count(), why: Some(why), ..Synced::default() };
    let run = patience.lasts(|| get(store.as_ref(), keys::run(&header.run))).await?;
    let Some(run) = run.as_ref().map(decode::<Run>).transpose()? else { return Ok(none(Superseded::Gone)) };
    make_room(store, &header, patience).await?;
    let worker = Worker::new(header.worker.clone(), host, header.run.clone());
    let (mut membership, plan) = match Membership::join(store.clone(), worker, run, patience).await {
        Ok(joined) => joined,
        Err(RunError::Gone(_)) => return Ok(none(Superseded::Gone)),
        Err(error) => return Err(error),
    };
    let locks = header.locks.iter().map(|(key, created)| (key.as_str().into(), Revision(*created)));
    membership.hold(locks.collect());
    let mut claims = Claims::new(membership).await?;
    let (stored, synced) = send(&mut claims, left, patience).await?;
    claims.membership_mut().hold(vec![]);
    if claims.membership().run().state == RunState::Cancelling {
        // Nobody is to execute the rest.
        claims.leave().await?;
    }
    let mut membership = claims.into_membership();
    let finished =
        is_ripe(&mut membership, &plan).await? && conclude(&mut membership, &plan).await?.is_some();
    membership.leave().await;
    // Noted at the end: whoever has to begin again sees it through to the same.
    left.settle(&stored);
    Ok(Synced { finished, ..synced })
}

/// Takes the key of the worker away, whose process is gone: its lease may live on for a while.
async fn make_room(store: &SharedStore, header: &Header, patience: &Patience) -> Result<()> {
    let key = keys::worker(&header.worker);
    let Some(pair) = patience.lasts(|| get(store.as_ref(), key.clone())).await? else { return Ok(()) };
    if decode::<Worker>(&pair)?.run != header.run {
        return Ok(());
    }
    let txn = Txn {
        compares: vec![Compare::created(key.clone(), pair.created)],
        then: vec![Op::Delete(KeyRange::key(key))],
        otherwise: vec![],
    };
    patience.lasts(|| store.txn(txn.clone())).await?;
    Ok(())
}

/// Sends what is still the worker's own; gives the units whose results the store has then.
async fn send(
    claims: &mut Claims,
    left: &LeftBehind,
    patience: &Patience,
) -> Result<(Vec<UnitIndex>, Synced)> {
    let before = stored_before(claims.membership(), patience).await?;
    let mut stored: Vec<UnitIndex> =
        left.results().map(|executed| executed.result.unit).filter(|unit| before.contains(unit)).collect();
    let mut why = Superseded::Over;
    if matches!(claims.membership().run().state, RunState::Running | RunState::Cancelling) {
        why = Superseded::TakenOver;
        let tokens = left.results().map(|executed| (executed.result.unit, executed.result.token));
        let running = match claims.inherit(&tokens.collect::<HashMap<_, _>>()).await {
            Ok(running) => running,
            Err(RunError::LockLost(_)) => return Ok(told(left, stored, Superseded::LocksLost)),
            Err(error) => return Err(error),
        };
        let results =
            left.results().filter(|executed| claims.holds(executed.result.unit, executed.result.token));
        let own: Vec<_> = results.cloned().collect();
        for batch in own.chunks(BATCH) {
            why = match store_units(claims, batch, &running).await {
                Ok(()) => continue,
                Err(RunError::LockLost(_)) => Superseded::LocksLost,
                Err(RunError::Superseded { .. }) => Superseded::Over,
                Err(error) => return Err(error),
            };
            break;
        }
        let others: HashSet<UnitIndex> = claims.take_superseded().into_iter().collect();
        let given_back = own.iter().map(|executed| &executed.result);
        let given_back = given_back.filter(|result| !claims.holds(result.unit, result.token));
        stored.extend(given_back.map(|result| result.unit).filter(|unit| !others.contains(unit)));
    }
    Ok(told(left, stored, why))
}

/// What is told of a journal of which these units are stored, and the rest is not: `why`.
fn told(left: &LeftBehind, stored: Vec<UnitIndex>, why: Superseded) -> (Vec<UnitIndex>, Synced) {
    let superseded = left.count() - stored.len();
    let why = (superseded > 0).then_some(why);
    let synced = Synced { stored: stored.len(), superseded, why, finished: false };
    (stored, synced)
}

/// The units whose results the worker stored, in this life or an earlier one.
async fn stored_before(membership: &Membership, patience: &Patience) -> Result<HashSet<UnitIndex>> {
    let worker = &membership.worker().id;
    let blocks = KeyRange::prefix(keys::blocks_of(membership.id(), worker));
    let page = patience.lasts(|| list(membership.store().as_ref(), blocks.clone())).await?;
    let mut units = HashSet::new();
    for pair in &page.pairs {
        let own = decode_block(pair)?.results.into_iter().filter(|result| result.worker == *worker);
        units.extend(own.map(|result| result.unit));
    }
    Ok(units)
}

#[cfg(test)]
mod tests;
