//! Transactions whose answer may get lost.

use super::api::{Key, Op, Result, Revision, Store, Txn, TxnOutcome};
use super::error::StoreError;
use super::patience::Patience;
use super::read::get;

/// What came of a [`commit`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Commit {
    /// The transaction's writes were made at this revision, by this try or an earlier one.
    Applied(Revision),
    /// A compare did not hold; the outcome carries the answers of the other branch.
    Refused(TxnOutcome),
}

/// Carries out a transaction and stays with it through an outage of the store, for as long as
/// the patience lasts.
///
/// `proof` is a key that the transaction puts with a value that nobody else would write.
/// Where an answer was lost, that key tells whether the transaction was applied; if not,
/// the identical transaction is sent again. Its compares must name what it changes, so
/// that of two copies only one can be applied.
///
/// # Errors
/// As [`Store::txn`], once the patience is at its end.
pub async fn commit(
    store: &dyn Store,
    txn: &Txn,
    proof: &Key,
    patience: impl Into<Patience>,
) -> Result<Commit> {
    let mut wait = patience.into().begin();
    let mut in_doubt = false;
    loop {
        let error = match attempt(store, txn, proof, in_doubt).await {
            Ok(commit) => return Ok(commit),
            Err(error) => error,
        };
        in_doubt |= matches!(error, StoreError::UnknownOutcome { .. });
        if !error.is_transient() && !matches!(error, StoreError::NoSpace { .. }) {
            return Err(error);
        }
        wait.after(error).await?;
    }
}

async fn attempt(store: &dyn Store, txn: &Txn, proof: &Key, in_doubt: bool) -> Result<Commit> {
    if in_doubt && let Some(revision) = proven(store, txn, proof).await? {
        return Ok(Commit::Applied(revision));
    }
    let outcome = store.txn(txn.clone()).await?;
    if outcome.succeeded {
        return Ok(Commit::Applied(outcome.revision));
    }
    // An earlier copy may have been applied between the look and this try.
    if in_doubt && let Some(revision) = proven(store, txn, proof).await? {
        return Ok(Commit::Applied(revision));
    }
    Ok(Commit::Refused(outcome))
}

/// At which revision the transaction's own value came to stand at the key.
async fn proven(store: &dyn Store, txn: &Txn, proof: &Key) -> Result<Option<Revision>> {
    let ours = txn.then.iter().find_map(|op| match op {
        Op::Put { key, value, .. } if key == proof => Some(value),
        _ => None,
    });
    let found = get(store, proof.clone()).await?;
    Ok(found.filter(|pair| Some(&pair.value) == ours).map(|pair| pair.modified))
}
