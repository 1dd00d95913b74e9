//! Copying a store into another one: the embedded one into a cluster, one cluster or
//! namespace into another.
//!
//! Everything is copied as it is stored, at one revision, but for what hangs on leases, for
//! runs that are not over, and, unless they are wanted, for secrets. Revisions that records
//! name are those of the store they come from.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use miette::Diagnostic;

use super::api::{Compare, Key, KeyRange, KeyValue, Op, Page, Read, Revision, Store, Txn};
use super::error::StoreError;
use super::{Commit, commit, decode, keys};
use crate::model::{Run, RunId};

/// How long a write stays with a store that does not answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// How many records are read at once, and how many of those that may be large.
const PAGE: usize = 100;
const PAGE_OF_CHUNKS: usize = 16;

/// Where values may be large.
const LARGE: [&str; 4] = ["/data/", "/execution/", "/logs/", "/reports/"];

/// How many bytes one transaction writes.
const BYTES: usize = 900 << 10;

/// What was copied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// How many records were written.
    pub records: u64,
    /// How many were there already, from a copy that was interrupted.
    pub present: u64,
    /// Runs that are not over, or cannot be read: they were left out.
    pub runs_left: Vec<RunId>,
    /// How many secrets, each version one, were left out.
    pub secrets_left: u64,
}

/// Why a store cannot be copied.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum CopyError {
    /// One of the stores failed.
    #[error("the {side} of the copy failed: {source}")]
    Store {
        /// `source` or `target`.
        side: &'static str,
        /// What it said.
        #[source]
        source: StoreError,
    },
    /// The source forgot the moment that was being copied.
    #[error("the source was written to for so long that it forgot the moment that was being copied")]
    #[diagnostic(help("copy it while no run goes on"))]
    Changing,
    /// The target holds something else than an earlier copy of the source.
    #[error("the target is in use: its record {key} is not what the source holds there")]
    #[diagnostic(help(
        "copy into an empty store, or into a namespace of its own with --to-namespace; an interrupted copy goes \
         on where the source has not changed since"
    ))]
    InUse {
        /// The first such record.
        key: Key,
    },
}

type Result<T> = std::result::Result<T, CopyError>;

fn source(source: StoreError) -> CopyError {
    match source {
        StoreError::Compacted(_) => CopyError::Changing,
        source => CopyError::Store { side: "source", source },
    }
}

fn target(source: StoreError) -> CopyError {
    CopyError::Store { side: "target", source }
}

/// What is copied of the source.
struct Selection<'a> {
    from: &'a dyn Store,
    /// The revision at which it is read.
    at: Revision,
    /// The segments of the runs that are copied.
    runs: BTreeSet<Vec<u8>>,
    secrets: bool,
}

/// Copies a store, with its secrets if they are wanted. The target must be empty, or hold
/// nothing but what an earlier copy of the same records wrote there.
///
/// # Errors
/// [`CopyError::InUse`], [`CopyError::Changing`], or what one of the stores said.
pub async fn copy(from: &dyn Store, to: &dyn Store, secrets: bool) -> Result<Copied> {
    let mut copied = Copied::default();
    let selection = Selection::new(from, secrets, &mut copied).await?;
    for prefix in keys::STORED {
        selection.check(to, prefix).await?;
    }
    for prefix in keys::STORED {
        selection.copy(to, prefix, &mut copied).await?;
    }
    Ok(copied)
}

impl<'a> Selection<'a> {
    async fn new(from: &'a dyn Store, secrets: bool, copied: &mut Copied) -> Result<Self> {
        let first =
            from.read(Read { limit: Some(1), keys_only: true, ..KeyRange::prefix(keys::RUNS).into() });
        let at = first.await.map_err(source)?.revision;
        let mut selection = Self { from, at, runs: BTreeSet::new(), secrets };
        let mut range = Some(KeyRange::prefix(keys::RUNS));
        while let Some(some) = range {
            let page = selection.page(some.clone(), PAGE).await?;
            for pair in &page.pairs {
                if decode::<Run>(pair).is_ok_and(|run| run.is_over()) {
                    selection.runs.insert(pair.key.as_bytes()[keys::RUNS.len()..].to_vec());
                } else if let Some(segments) = keys::segments_below(&pair.key, keys::RUNS) {
                    copied.runs_left.extend(segments.into_iter().next().map(RunId::new));
                }
            }
            range = rest(some, &page);
        }
        Ok(selection)
    }

    /// Reads some of the source.
    async fn page(&self, range: KeyRange, limit: usize) -> Result<Page> {
        let read = Read { limit: Some(limit), at: Some(self.at), ..range.into() };
        self.from.read(read).await.map_err(source)
    }

    /// Whether a record is to be copied.
    fn wants(&self, pair: &KeyValue) -> bool {
        let key = pair.key.as_bytes();
        let of_run = [keys::RUNS]
            .into_iter()
            .chain(keys::RUN_TREES)
            .find_map(|tree| key.strip_prefix(tree.as_bytes())?.split(|&byte| byte == b'/').next());
        pair.lease.is_none()
            && of_run.is_none_or(|run| self.runs.contains(run))
            && (self.secrets || !key.starts_with(keys::SECRETS.as_bytes()))
    }

    /// Makes sure that the target has nothing below a prefix but what would be copied.
    async fn check(&self, to: &dyn Store, prefix: &str) -> Result<()> {
        let mut range = Some(KeyRange::prefix(prefix));
        while let Some(some) = range {
            let read = Read { limit: Some(page_size(prefix)), ..some.clone().into() };
            let page = to.read(read).await.map_err(target)?;
            let (Some(first), Some(last)) = (page.pairs.first(), page.pairs.last()) else { return Ok(()) };
            let mut ours = BTreeMap::new();
            let mut same = Some(KeyRange { start: first.key.clone(), end: Some(last.key.successor()) });
            while let Some(some) = same {
                let page = self.page(some.clone(), page_size(prefix)).await?;
                same = rest(some, &page);
                let wanted = page.pairs.into_iter().filter(|pair| self.wants(pair));
                ours.extend(wanted.map(|pair| (pair.key, pair.value)));
            }
            if let Some(other) = page.pairs.iter().find(|pair| ours.get(&pair.key) != Some(&pair.value)) {
                return Err(CopyError::InUse { key: other.key.clone() });
            }
            range = rest(some, &page);
        }
        Ok(())
    }

    /// Copies what is below a prefix and not in the target yet.
    async fn copy(&self, to: &dyn Store, prefix: &str, copied: &mut Copied) -> Result<()> {
        let mut range = Some(KeyRange::prefix(prefix));
        while let Some(some) = range {
            let page = self.page(some.clone(), page_size(prefix)).await?;
            range = rest(some, &page);
            if prefix == keys::SECRETS && !self.secrets {
                copied.secrets_left += page.pairs.len() as u64;
            }
            let mut wanted: Vec<KeyValue> = page.pairs.into_iter().filter(|pair| self.wants(pair)).collect();
            let (Some(first), Some(last)) = (wanted.first(), wanted.last()) else { continue };
            let there = KeyRange { start: first.key.clone(), end: Some(last.key.successor()) };
            let there = to.read(Read { keys_only: true, ..there.into() }).await.map_err(target)?;
            let there: BTreeSet<Key> = there.pairs.into_iter().map(|pair| pair.key).collect();
            let before = wanted.len();
            wanted.retain(|pair| !there.contains(&pair.key));
            copied.present += (before - wanted.len()) as u64;
            copied.records += wanted.len() as u64;
            put_all(to, wanted).await?;
        }
        Ok(())
    }
}

/// Writes records that are not there, in as few transactions as their size allows.
async fn put_all(to: &dyn Store, pairs: Vec<KeyValue>) -> Result<()> {
    let mut waiting = Txn::default();
    let mut bytes = 0;
    let mut pairs = pairs.into_iter().peekable();
    while let Some(pair) = pairs.next() {
        bytes += pair.key.as_bytes().len() + pair.value.len();
        waiting.compares.push(Compare::created(pair.key.clone(), Revision(0)));
        waiting.then.push(Op::put(pair.key.clone(), pair.value));
        let next = pairs.peek().map_or(BYTES, |next| next.key.as_bytes().len() + next.value.len());
        if bytes + next > BYTES {
            let txn = std::mem::take(&mut waiting);
            bytes = 0;
            if let Commit::Refused(_) = commit(to, &txn, &pair.key, PATIENCE).await.map_err(target)? {
                return Err(CopyError::InUse { key: pair.key });
            }
        }
    }
    Ok(())
}

fn page_size(prefix: &str) -> usize {
    if LARGE.contains(&prefix) { PAGE_OF_CHUNKS } else { PAGE }
}

/// What is left to read of a range after a page of it.
fn rest(range: KeyRange, page: &Page) -> Option<KeyRange> {
    let last = page.pairs.last().filter(|_| page.more)?;
    Some(KeyRange { start: last.key.successor(), ..range })
}

#[cfg(test)]
mod tests;
