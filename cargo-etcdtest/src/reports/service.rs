//! Reports in the store, in chunks, as they are: `etcdctl get` shows them readably.

use super::details::RunDetails;
use super::error::ReportError;
use super::{junit, summary};
use crate::model::RunId;
use crate::store::{CHUNK, Key, KeyRange, Op, Read, SharedStore, Txn, keys, list_chunks};

/// The report service.
#[derive(Clone, Debug)]
pub struct Reports {
    store: SharedStore,
}

/// Makes a report of a run.
pub type Render = fn(&RunDetails) -> Result<Vec<u8>, ReportError>;

/// The name of the JUnit report.
pub const JUNIT: &str = "junit.xml";
/// The name of the summary.
pub const SUMMARY: &str = "summary.json";

/// All reports that a run gets when it ends, by name.
pub const REPORTS: [(&str, Render); 2] = [(JUNIT, junit), (SUMMARY, |details| Ok(summary(details)))];

/// What has to be written so that a report is stored: one transaction a chunk, with the key
/// that proves it; the last one also takes away what an earlier, longer version left behind.
pub fn report_writes(run: &RunId, name: &str, content: &[u8]) -> Vec<(Key, Vec<Op>)> {
    // An empty report is one empty chunk: it exists.
    let chunks = content.chunks(CHUNK).chain(content.is_empty().then_some(content)).enumerate();
    let mut writes: Vec<(Key, Vec<Op>)> = chunks
        .map(|(number, chunk)| {
            let key = keys::report_chunk(run, name, number);
            (key.clone(), vec![Op::put(key, chunk)])
        })
        .collect();
    let mut rest = KeyRange::prefix(keys::report(run, name));
    rest.start = keys::report_chunk(run, name, writes.len());
    if let Some((_, last)) = writes.last_mut() {
        last.push(Op::Delete(rest));
    }
    writes
}

impl Reports {
    /// The reports of this store.
    pub fn new(store: SharedStore) -> Self {
        Self { store }
    }

    /// Stores a report, as [`report_writes`] has it. Doing it again gives the same.
    ///
    /// # Errors
    /// As [`crate::store::Store::txn`].
    pub async fn put(&self, run: &RunId, name: &str, content: &[u8]) -> Result<(), ReportError> {
        for (_, then) in report_writes(run, name, content) {
            self.store.txn(Txn { then, ..Txn::default() }).await?;
        }
        Ok(())
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
    use crate::store::list;

    #[tokio::test]
    async fn a_report_is_stored_readably_in_chunks_and_reads_back() {
        let store = TestStore::new();
        let (reports, run) = (Reports::new(store.store.clone()), RunId::new("r"));
        let long = "<testsuites/>\n".repeat(50_000).into_bytes();
        for content in [&long[..], b"short", b""] {
            reports.put(&run, JUNIT, content).await.unwrap();
            assert_eq!(reports.get(&run, JUNIT).await.unwrap(), content);
            let chunks =
                list(&*store.store, KeyRange::prefix(keys::report(&run, JUNIT))).await.unwrap().pairs;
            assert_eq!(chunks.len(), content.len().div_ceil(CHUNK).max(1));
            assert!(chunks.iter().all(|chunk| chunk.value.len() <= CHUNK));
            assert!(content.starts_with(&chunks[0].value));
        }
        reports.put(&run, SUMMARY, b"{}").await.unwrap();
        assert_eq!(reports.names(&run).await.unwrap(), [JUNIT, SUMMARY]);
        assert_eq!(reports.names(&RunId::new("r2")).await.unwrap(), [""; 0]);
    }
}
