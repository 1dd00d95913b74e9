//! Reports in the store, in chunks, as they are: `etcdctl get` shows them readably.

use super::details::RunDetails;
use super::error::ReportError;
use super::{junit, summary};
use crate::model::RunId;
use crate::store::{CHUNK, Compare, KeyRange, Op, Read, SharedStore, Txn, keys, list};

/// The report service.
#[derive(Clone, Debug)]
pub struct Reports {
    store: SharedStore,
}

/// A report made of a run: its name and its content.
pub type Rendered = (&'static str, Vec<u8>);

/// The name of the JUnit report.
pub const JUNIT: &str = "junit.xml";
/// The name of the summary.
pub const SUMMARY: &str = "summary.json";

/// All reports that a run gets when it ends.
///
/// # Errors
/// [`ReportError::Rendering`].
pub fn render_all(details: &RunDetails) -> Result<Vec<Rendered>, ReportError> {
    Ok(vec![(JUNIT, junit(details)?), (SUMMARY, summary(details))])
}

impl Reports {
    /// The reports of this store.
    pub fn new(store: SharedStore) -> Self {
        Self { store }
    }

    /// Stores a report, chunk by chunk, each transaction under `compares`; then what an
    /// earlier, longer version left behind goes. Doing it again gives the same.
    ///
    /// # Errors
    /// [`ReportError::Superseded`] where a compare does not hold, and as
    /// [`crate::store::Store::txn`].
    pub async fn put(
        &self,
        run: &RunId,
        name: &str,
        content: &[u8],
        compares: &[Compare],
    ) -> Result<(), ReportError> {
        // An empty report is one empty chunk: it exists.
        let chunks = content.chunks(CHUNK).chain(content.is_empty().then_some(content));
        let mut next = 0;
        for chunk in chunks {
            self.write(run, name, compares, Op::put(keys::report_chunk(run, name, next), chunk)).await?;
            next += 1;
        }
        let mut rest = KeyRange::prefix(keys::report(run, name));
        rest.start = keys::report_chunk(run, name, next);
        self.write(run, name, compares, Op::Delete(rest)).await
    }

    async fn write(&self, run: &RunId, name: &str, compares: &[Compare], op: Op) -> Result<(), ReportError> {
        let txn = Txn { compares: compares.to_vec(), then: vec![op], otherwise: Vec::new() };
        if self.store.txn(txn).await?.succeeded {
            return Ok(());
        }
        Err(ReportError::Superseded { run: run.clone(), name: name.to_owned() })
    }

    /// Reads a report.
    ///
    /// # Errors
    /// [`ReportError::UnknownReport`], and as [`crate::store::Store::read`].
    pub async fn get(&self, run: &RunId, name: &str) -> Result<Vec<u8>, ReportError> {
        let chunks = list(&*self.store, KeyRange::prefix(keys::report(run, name))).await?.pairs;
        if chunks.is_empty() {
            let existing = self.names(run).await?.into_iter().map(|(name, _)| name).collect();
            return Err(ReportError::UnknownReport { run: run.clone(), name: name.to_owned(), existing });
        }
        Ok(chunks.into_iter().flat_map(|chunk| chunk.value).collect())
    }

    /// The names of a run's reports, each with the number of its chunks.
    ///
    /// # Errors
    /// As [`crate::store::Store::read`].
    pub async fn names(&self, run: &RunId) -> Result<Vec<(String, usize)>, ReportError> {
        let prefix = keys::reports(run);
        let read = Read { keys_only: true, ..KeyRange::prefix(prefix.clone()).into() };
        let mut names: Vec<(String, usize)> = Vec::new();
        for pair in self.store.read(read).await?.pairs {
            let Some(segments) = keys::segments_below(&pair.key, &prefix.to_string()) else { continue };
            let Some(name) = segments.into_iter().next() else { continue };
            match names.last_mut() {
                Some((last, chunks)) if *last == name => *chunks += 1,
                _ => names.push((name, 1)),
            }
        }
        Ok(names)
    }
}
