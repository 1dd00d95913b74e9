//! Reports in the store, in chunks, as they are: `etcdctl get` shows them readably.

use super::details::RunDetails;
use super::error::ReportError;
use super::{junit, summary};
use crate::model::RunId;
use crate::store::{CHUNK, Compare, KeyRange, Op, Read, SharedStore, Txn, keys, list_chunks};

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
        let chunks = list_chunks(&*self.store, KeyRange::prefix(keys::report(run, name))).await?.pairs;
        if chunks.is_empty() {
            let existing = self.names(run).await?;
            return Err(ReportError::UnknownReport { run: run.clone(), name: name.to_owned(), existing });
        }
        Ok(chunks.into_iter().flat_map(|chunk| chunk.value).collect())
    }

    /// The names of a run's reports.
    ///
    /// # Errors
    /// As [`crate::store::Store::read`].
    pub async fn names(&self, run: &RunId) -> Result<Vec<String>, ReportError> {
        let prefix = keys::reports(run);
        let read = Read { keys_only: true, ..KeyRange::prefix(prefix.clone()).into() };
        let pairs = self.store.read(read).await?.pairs;
        let segments = pairs.iter().filter_map(|pair| keys::segments_below(&pair.key, &prefix.to_string()));
        let mut names: Vec<String> = segments.filter_map(|segments| segments.into_iter().next()).collect();
        names.dedup();
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reports::sample::TestStore;
    use crate::store::{Revision, list};

    #[tokio::test]
    async fn a_report_is_stored_readably_in_chunks_and_reads_back() {
        let store = TestStore::new();
        let (reports, run) = (Reports::new(store.store.clone()), RunId::new("r"));
        let long = "<testsuites/>\n".repeat(50_000).into_bytes();
        for content in [&long[..], b"short", b""] {
            reports.put(&run, JUNIT, content, &[]).await.unwrap();
            assert_eq!(reports.get(&run, JUNIT).await.unwrap(), content);
            let chunks =
                list(&*store.store, KeyRange::prefix(keys::report(&run, JUNIT))).await.unwrap().pairs;
            assert_eq!(chunks.len(), content.len().div_ceil(CHUNK).max(1));
            assert!(chunks.iter().all(|chunk| chunk.value.len() <= CHUNK));
            assert!(content.starts_with(&chunks[0].value));
        }
        reports.put(&run, SUMMARY, b"{}", &[]).await.unwrap();
        assert_eq!(reports.names(&run).await.unwrap(), [JUNIT, SUMMARY]);
        assert_eq!(reports.names(&RunId::new("r2")).await.unwrap(), [""; 0]);
    }

    #[tokio::test]
    async fn a_writer_that_was_replaced_writes_nothing() {
        let store = TestStore::new();
        let (reports, run) = (Reports::new(store.store.clone()), RunId::new("r"));
        let stale = Compare::modified(keys::run(&run), Revision(99));
        let error = reports.put(&run, JUNIT, b"late", &[stale]).await.unwrap_err();
        assert!(matches!(error, ReportError::Superseded { .. }));
        assert!(matches!(reports.get(&run, JUNIT).await, Err(ReportError::UnknownReport { .. })));
    }
}
