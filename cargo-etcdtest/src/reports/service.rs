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

/// A report in pieces, as they follow each other. It may be larger than what there is of memory
/// for it: each is made when it is asked for.
pub type Pieces<'a> = Box<dyn Iterator<Item = Vec<u8>> + Send + 'a>;

/// Makes a report of a run.
pub type Render = fn(&RunDetails) -> Pieces<'_>;

/// The name of the JUnit report.
pub const JUNIT: &str = "junit.xml";
/// The name of the summary.
pub const SUMMARY: &str = "summary.json";

/// All reports that a run gets when it ends, by name.
pub const REPORTS: [(&str, Render); 2] =
    [(JUNIT, |details| Box::new(junit(details))), (SUMMARY, |details| Box::new(summary(details)))];

/// How many chunks one transaction carries: each waits for the disk, and may have 1 MiB.
const TOGETHER: usize = 3;

/// What has to be written so that a report is stored: transactions of a few chunks each, with a
/// key that proves it; the first one also takes away what an earlier version left behind.
pub fn report_writes(
    run: &RunId,
    name: &str,
    pieces: impl Iterator<Item = Vec<u8>>,
) -> impl Iterator<Item = (Key, Vec<Op>)> {
    let mut chunks = chunks(pieces).enumerate();
    let mut first = true;
    std::iter::from_fn(move || {
        let some = chunks.by_ref().take(TOGETHER);
        let some: Vec<_> =
            some.map(|(number, chunk)| (keys::report_chunk(run, name, number), chunk)).collect();
        let (proof, last) = (some.first()?.0.clone(), some.last()?.0.successor());
        let mut writes: Vec<Op> = some.into_iter().map(|(key, chunk)| Op::put(key, chunk)).collect();
        if std::mem::take(&mut first) {
            let rest = KeyRange { start: last, ..KeyRange::prefix(keys::report(run, name)) };
            writes.push(Op::Delete(rest));
        }
        Some((proof, writes))
    })
}

/// The same in chunks of the size that is stored. An empty report is one empty chunk: it exists.
fn chunks(mut pieces: impl Iterator<Item = Vec<u8>>) -> impl Iterator<Item = Vec<u8>> {
    let (mut waiting, mut first) = (Vec::new(), true);
    std::iter::from_fn(move || {
        while waiting.len() < CHUNK
            && let Some(piece) = pieces.next()
        {
            waiting.extend(piece);
        }
        let rest = waiting.split_off(waiting.len().min(CHUNK));
        let chunk = std::mem::replace(&mut waiting, rest);
        let exists = std::mem::take(&mut first) || !chunk.is_empty();
        exists.then_some(chunk)
    })
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
    pub async fn put(
        &self,
        run: &RunId,
        name: &str,
        pieces: impl IntoIterator<Item = Vec<u8>>,
    ) -> Result<(), ReportError> {
        for (_, then) in report_writes(run, name, pieces.into_iter()) {
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
        let mut content = Vec::new();
        for chunk in chunks {
            content.extend(chunk.value);
        }
        Ok(content)
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

    fn put_bytes(writes: &[Op]) -> usize {
        let put = |write: &Op| if let Op::Put { value, .. } = write { value.len() } else { 0 };
        writes.iter().map(put).sum()
    }

    #[tokio::test]
    async fn a_report_is_stored_readably_in_chunks_and_reads_back() {
        let store = TestStore::new();
        let (reports, run) = (Reports::new(store.store.clone()), RunId::new("r"));
        let long = "<testsuites/>\n".repeat(90_000).into_bytes();
        let pieces = [1000, CHUNK, CHUNK + 9].into_iter().map(|piece| (&long[..], piece));
        for (content, piece) in pieces.chain([(&b"short"[..], 2), (b"", 1)]) {
            let pieces = content.chunks(piece);
            let writes = report_writes(&run, JUNIT, pieces.clone().map(<[u8]>::to_vec));
            assert!(writes.map(|(_, writes)| put_bytes(&writes)).all(|bytes| bytes < 1 << 20));
            reports.put(&run, JUNIT, pieces.map(<[u8]>::to_vec)).await.unwrap();
            assert_eq!(reports.get(&run, JUNIT).await.unwrap(), content);
            let chunks =
                list(&*store.store, KeyRange::prefix(keys::report(&run, JUNIT))).await.unwrap().pairs;
            assert_eq!(chunks.len(), content.len().div_ceil(CHUNK).max(1));
            assert!(chunks.iter().all(|chunk| chunk.value.len() <= CHUNK));
            assert!(content.starts_with(&chunks[0].value));
        }
        reports.put(&run, SUMMARY, [b"{}".to_vec()]).await.unwrap();
        assert_eq!(reports.names(&run).await.unwrap(), [JUNIT, SUMMARY]);
        assert_eq!(reports.names(&RunId::new("r2")).await.unwrap(), [""; 0]);
    }
}
