//! Data sets in the store: in compressed chunks, under the digest of their content.

use std::time::Duration;

use miette::Diagnostic;
use sha2::{Digest, Sha256};

use crate::model::DataSet;
use crate::store::{
    self, KeyRange, Op, SharedStore, StoreError, Txn, decode_output, encode_data, keys, list_chunks,
};

/// How long a write stays with a store that does not answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The data sets of one store.
#[derive(Clone, Debug)]
pub struct DataSets {
    store: SharedStore,
}

/// Why data sets cannot be given to tests.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum DataError {
    /// The store does not have what was stored.
    #[error("the data set `{name}` of `{environment}` cannot be used: {reason}")]
    #[diagnostic(help("apply the file of `{environment}` to write it anew: `cargo etcdtest env apply`"))]
    Damaged {
        /// The environment that it belongs to.
        environment: String,
        /// Its name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The files for tests cannot be written.
    #[error("failed to write the data sets for the tests")]
    #[diagnostic(help("make room there, or name another folder for temporary files in TMPDIR"))]
    Files(#[source] std::io::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl DataSets {
    /// The data sets of this store.
    pub fn new(store: SharedStore) -> Self {
        Self { store }
    }

    /// Stores this content as belonging to an environment, unless it is there already, and
    /// says where. What is damaged there is written anew.
    ///
    /// # Errors
    /// As the store fails.
    pub async fn put(&self, environment: &str, content: &[u8]) -> Result<DataSet, StoreError> {
        let set = DataSet {
            environment: environment.to_owned(),
            digest: digest(content),
            size: content.len() as u64,
        };
        let found = self.chunks(&set).await?;
        if decode_output(&found).is_ok_and(|found| found == content) {
            return Ok(set);
        }
        let chunks = encode_data(environment, &set.digest, content);
        let mut rest = KeyRange::prefix(keys::data(environment, &set.digest));
        rest.start = keys::data_chunk(environment, &set.digest, chunks.len());
        for (key, value) in chunks {
            if found.iter().any(|pair| pair.key == key && pair.value == value) {
                continue;
            }
            // Whoever else writes it writes the same.
            let txn = Txn { then: vec![Op::put(key.clone(), value)], ..Txn::default() };
            store::commit(&*self.store, &txn, &key, PATIENCE).await?;
        }
        if found.iter().any(|pair| rest.contains(&pair.key)) {
            self.store.txn(Txn { then: vec![Op::Delete(rest)], ..Txn::default() }).await?;
        }
        Ok(set)
    }

    /// The content of a data set, which its environment calls `name`.
    ///
    /// # Errors
    /// [`DataError::Damaged`], or as the store fails.
    pub async fn get(&self, name: &str, set: &DataSet) -> Result<Vec<u8>, DataError> {
        let damaged = |reason: String| DataError::Damaged {
            environment: set.environment.clone(),
            name: name.to_owned(),
            reason,
        };
        let chunks = self.chunks(set).await?;
        if chunks.is_empty() && set.size > 0 {
            return Err(damaged("the store does not have it".into()));
        }
        let content = decode_output(&chunks).map_err(|error| damaged(error.to_string()))?;
        if digest(&content) == set.digest {
            Ok(content)
        } else {
            Err(damaged(format!("what the store has of it has not the digest {}", set.digest)))
        }
    }

    async fn chunks(&self, set: &DataSet) -> Result<Vec<store::KeyValue>, StoreError> {
        let chunks = KeyRange::prefix(keys::data(&set.environment, &set.digest));
        Ok(list_chunks(&*self.store, chunks).await?.pairs)
    }
}

/// The SHA-256 of a content, in hexadecimal.
fn digest(content: &[u8]) -> String {
    hex::encode(Sha256::digest(content))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::Key;
    use crate::store::local::LocalStore;

    fn fixture() -> (tempfile::TempDir, DataSets) {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::open(folder.path()).unwrap();
        (folder, DataSets::new(Arc::new(store)))
    }

    /// What cannot be compressed.
    fn noise(length: usize) -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(7);
        std::iter::repeat_with(|| random.u8(..)).take(length).collect()
    }

    async fn damage(sets: &DataSets, key: Key, value: Option<&[u8]>) {
        let op =
            value.map_or_else(|| Op::Delete(KeyRange::key(key.clone())), |value| Op::put(key.clone(), value));
        sets.store.txn(Txn { then: vec![op], ..Txn::default() }).await.unwrap();
    }

    #[tokio::test]
    async fn a_set_is_stored_in_pieces_and_reads_back() {
        let (_folder, sets) = fixture();
        for content in [noise(600_000), b"[]".to_vec(), b"{}".repeat(1 << 20), vec![]] {
            let set = sets.put("staging", &content).await.unwrap();
            assert_eq!((set.size, set.digest.len()), (content.len() as u64, 64));
            assert_eq!(sets.get("users", &set).await.unwrap(), content);
            let chunks = sets.chunks(&set).await.unwrap();
            assert!(chunks.iter().all(|chunk| chunk.value.len() <= 512 << 10), "each fits into a value");
            // The second time nothing is written.
            assert_eq!(sets.put("staging", &content).await.unwrap(), set);
            assert_eq!(sets.chunks(&set).await.unwrap(), chunks);
        }
    }

    #[tokio::test]
    async fn what_is_damaged_is_told_and_applying_it_again_mends_it() {
        let (_folder, sets) = fixture();
        let content = noise(600_000);
        let set = sets.put("base", &content).await.unwrap();
        let key = |chunk| keys::data_chunk("base", &set.digest, chunk);
        let first = keys::data_chunk("base", &set.digest, 0);
        let longer = sets.chunks(&set).await.unwrap().len();
        for (chunk, value, reason) in [
            (0, None, "has not the digest"),
            (1, Some(&b"other"[..]), "has not the digest"),
            (1, Some(&[0x28, 0xb5, 0x2f, 0xfd, 1][..]), "it cannot be decompressed"),
            (longer, Some(&b"more"[..]), "has not the digest"),
        ] {
            damage(&sets, key(chunk), value).await;
            let error = sets.get("users", &set).await.unwrap_err().to_string();
            assert!(error.starts_with("the data set `users` of `base` cannot be used: "), "{error}");
            assert!(error.contains(reason), "{error}");
            assert_eq!(sets.put("base", &content).await.unwrap(), set);
            assert_eq!(sets.get("users", &set).await.unwrap(), content);
        }
        let all = KeyRange::prefix(keys::data("base", &set.digest));
        sets.store.txn(Txn { then: vec![Op::Delete(all)], ..Txn::default() }).await.unwrap();
        let error = sets.get("users", &set).await.unwrap_err().to_string();
        assert!(error.ends_with("the store does not have it"), "{error}");
        assert!(first.to_string().starts_with("/data/base/"), "{first}");
    }
}
