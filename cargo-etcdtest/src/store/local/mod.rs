//! The embedded store: etcd's data model in one `SQLite` file, which several processes of
//! one machine may use at once.

mod fault;
mod history;
mod lease;
mod place;
mod schema;
#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "elsewhere.rs")]
mod system;
mod threads;
mod txn;
mod watch;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;

pub use self::place::make_folder;
use self::threads::Threads;
use super::api::{
    KeyRange, Lease, LeaseId, Page, Read, Result, Revision, Store, StoreStatus, Txn, TxnOutcome, Watch,
};

/// A store in a folder of this machine.
#[derive(Debug)]
pub struct LocalStore {
    file: PathBuf,
    threads: Threads,
}

impl LocalStore {
    /// Opens the store in a folder; makes both where they are missing. Blocks while it does.
    ///
    /// # Errors
    /// [`StoreError::Unsupported`](super::StoreError::Unsupported) where the folder is on a
    /// network file system, or the file is no store or one of a newer version;
    /// [`StoreError::NoSpace`](super::StoreError::NoSpace) on a full disk;
    /// [`StoreError::Failed`](super::StoreError::Failed) where the folder or the file
    /// cannot be made or read.
    pub fn open(folder: &Path) -> Result<Self> {
        let file = place::prepare(folder)?;
        let threads = Threads::start(&file)?;
        Ok(Self { file, threads })
    }
}

#[async_trait]
impl Store for LocalStore {
    async fn read(&self, read: Read) -> Result<Page> {
        self.threads
            .read(move |connection| {
                let position = history::position(connection)?;
                history::check_readable(read.at, position)?;
                history::page(connection, &read, position.revision)
            })
            .await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome> {
        txn::check(&txn)?;
        self.threads.write(move |connection| txn::apply(connection, &txn)).await
    }

    async fn watch(&self, range: KeyRange, from: Revision) -> Result<Watch> {
        // Listening begins before the revision is read, so that no change falls between.
        let changed = self.threads.changed();
        let from = if from > Revision(0) {
            from
        } else {
            Revision(self.threads.read(history::position).await?.revision.0 + 1)
        };
        let (sender, notices) = mpsc::channel(watch::WAITING);
        tokio::spawn(watch::deliver(self.threads.clone(), changed, range, from, sender));
        Ok(Watch::new(notices))
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease> {
        self.threads.write(move |connection| lease::grant(connection, ttl, system::now())).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration> {
        self.threads.write(move |connection| lease::keep_alive(connection, lease, system::now())).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        self.threads.write(move |connection| lease::revoke(connection, lease)).await
    }

    async fn compact(&self, upto: Revision) -> Result<()> {
        self.threads.write(move |connection| history::compact(connection, upto)).await
    }

    async fn status(&self) -> Result<StoreStatus> {
        let revision = self.threads.read(history::position).await?.revision;
        let size = |file: &Path| fs::metadata(file).map_or(0, |found| found.len());
        Ok(StoreStatus {
            kind: "local",
            location: self.threads.location().to_owned(),
            version: Some(format!("SQLite {}", rusqlite::version())),
            size: Some(size(&self.file) + size(&self.file.with_extension("db-wal"))),
            quota: None,
            revision,
            members: Vec::new(),
            warnings: Vec::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::api::{KeyRange, Op};
    use crate::store::{StoreError, get};

    fn open(file: &Path) -> String {
        LocalStore::open(file.parent().unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn a_store_of_a_newer_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = LocalStore::open(folder.path()).unwrap().file;
        rusqlite::Connection::open(&file).unwrap().pragma_update(None, "user_version", 99).unwrap();
        assert_eq!(
            open(&file),
            format!(
                "the store at {} cannot be used: it was written by a newer cargo-etcdtest (format 99, this \
                 version knows 1); update this one",
                file.display()
            )
        );
    }

    #[test]
    fn a_file_that_is_no_store_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("store.db");
        let garbage = "no database ".repeat(100);
        fs::write(&file, &garbage).unwrap();
        assert!(open(&file).contains("it is not a database; move it away"), "{}", open(&file));
        assert_eq!(fs::read_to_string(&file).unwrap(), garbage);

        fs::remove_file(&file).unwrap();
        rusqlite::Connection::open(&file).unwrap().execute_batch("CREATE TABLE theirs (a)").unwrap();
        assert!(open(&file).contains("it is a database of another program"), "{}", open(&file));
    }

    #[tokio::test]
    async fn a_full_disk_is_told_and_what_was_there_stays() {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::open(folder.path()).unwrap();
        let put = |key: &str, bytes| Txn {
            then: vec![Op::put(format!("{key}/small"), ""), Op::put(key, vec![b'x'; bytes])],
            ..Txn::default()
        };
        store.txn(put("before", 10)).await.unwrap();
        // A file that may not grow is to SQLite what a full disk is.
        let limit = |pages: i32| {
            store.threads.write(move |connection| {
                Ok(connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))?)
            })
        };
        limit(1).await.unwrap();
        let error = store.txn(put("big", 1 << 20)).await.unwrap_err();
        assert!(matches!(error, StoreError::NoSpace { .. }), "{error:?}");
        assert!(get(&store, "big/small".into()).await.unwrap().is_none());
        assert_eq!(get(&store, "before".into()).await.unwrap().unwrap().value, b"xxxxxxxxxx");
        limit(1 << 20).await.unwrap();
        store.txn(put("big", 1 << 20)).await.unwrap();
        assert_eq!(get(&store, "big".into()).await.unwrap().unwrap().value.len(), 1 << 20);
    }

    #[tokio::test]
    async fn deadlines_from_before_a_restart_of_the_machine_do_not_outlive_the_lease() {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::open(folder.path()).unwrap();
        let lease = store.grant(Duration::from_secs(1)).await.unwrap().id;
        let put = Op::Put { key: "leased".into(), value: Vec::new(), lease: Some(lease) };
        store.txn(Txn { then: vec![put], ..Txn::default() }).await.unwrap();
        let mut watch = store.watch(KeyRange::key("leased"), Revision(0)).await.unwrap();
        // The machine's clock began anew: the deadline is a year ahead.
        store
            .threads
            .write(|connection| {
                connection.execute("UPDATE leases SET deadline = deadline + 31536000000", [])?;
                Ok(())
            })
            .await
            .unwrap();
        let gone = tokio::time::timeout(Duration::from_mins(1), watch.next()).await;
        assert!(gone.is_ok(), "the lease outlived its year");
        assert!(get(&store, "leased".into()).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_compaction_makes_the_file_smaller() {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::open(folder.path()).unwrap();
        let pages = async || {
            let count = |connection: &rusqlite::Connection| {
                Ok(connection.pragma_query_value(None, "page_count", |row| row.get::<_, u32>(0))?)
            };
            store.threads.read(count).await.unwrap()
        };
        let empty = pages().await;
        let mut last = Revision(0);
        for round in 0..20 {
            let put = Op::put("key", vec![round; 100_000]);
            last = store.txn(Txn { then: vec![put], ..Txn::default() }).await.unwrap().revision;
        }
        let full = pages().await - empty;
        store.compact(last).await.unwrap();
        let compacted = pages().await - empty;
        assert!(compacted < full / 10, "{compacted} pages of {full} are left for one value of 20");
    }
}
