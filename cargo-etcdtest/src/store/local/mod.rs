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

    async fn count(&self, range: KeyRange) -> Result<u64> {
        self.threads.read(move |connection| history::count(connection, &range)).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome> {
        txn::check(&txn)?;
        if txn.only_reads() {
            return self.threads.read(move |connection| txn::apply(connection, &txn)).await;
        }
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
        self.threads.write(move |connection| history::compact(connection, upto)).await?;
        self.threads.checkpoint().await
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
    use crate::store::api::{KeyRange, Notice, Op};
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
        let empty = pages(&store).await;
        let mut last = Revision(0);
        for round in 0..20 {
            let put = Op::put("key", vec![round; 100_000]);
            last = store.txn(Txn { then: vec![put], ..Txn::default() }).await.unwrap().revision;
        }
        let full = pages(&store).await - empty;
        store.compact(last).await.unwrap();
        let compacted = pages(&store).await - empty;
        assert_eq!(fs::metadata(folder.path().join("store.db-wal")).unwrap().len(), 0);
        assert!(compacted < full / 10, "{compacted} pages of {full} are left for one value of 20");
    }

    /// Writes a value of 4 KiB at one of a few keys, each a revision of its own, so often.
    async fn overwrite(store: &LocalStore, times: u32) {
        for some in 0..times / 50 {
            let put = |number: u32| {
                let key = format!("key-{}", (some + number) % 7);
                store.txn(Txn { then: vec![Op::put(key, vec![b'x'; 4096])], ..Txn::default() })
            };
            for written in futures::future::join_all((0..50).map(put)).await {
                written.unwrap();
            }
        }
    }

    async fn pages(store: &LocalStore) -> u32 {
        let count = |connection: &rusqlite::Connection| {
            Ok(connection.pragma_query_value(None, "page_count", |row| row.get(0))?)
        };
        store.threads.read(count).await.unwrap()
    }

    #[tokio::test]
    async fn the_oldest_history_is_forgotten_and_the_file_stops_growing() {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::open(folder.path()).unwrap();
        let deleted = Txn { then: vec![Op::put("gone", ""), Op::put("stays", "same")], ..Txn::default() };
        let first = store.txn(deleted).await.unwrap().revision;
        let delete = Txn { then: vec![Op::Delete(KeyRange::key("gone"))], ..Txn::default() };
        store.txn(delete).await.unwrap();
        let mut behind = store.watch(KeyRange::prefix("key"), first).await.unwrap();

        overwrite(&store, 700).await;
        // What is forgotten after a write is forgotten before the next one.
        overwrite(&store, 50).await;
        let position = store.threads.read(history::position).await.unwrap();
        let kept = position.revision.0 - position.compacted.0;
        assert!((300..=450).contains(&kept), "{kept}");
        let all = KeyRange { start: "a".into(), end: Some("z".into()) };
        let read = |at| store.read(Read { at: Some(Revision(at)), ..all.clone().into() });
        assert!(matches!(read(position.compacted.0 - 1).await, Err(StoreError::Compacted(_))));
        assert_eq!(read(position.compacted.0).await.unwrap().pairs.len(), 8);
        assert_eq!(get(&store, "stays".into()).await.unwrap().unwrap().created, first);
        let rows = |connection: &rusqlite::Connection| {
            Ok(connection.query_one("SELECT count(*) FROM log", [], |row| row.get::<_, i64>(0))?)
        };
        let rows = store.threads.read(rows).await.unwrap();
        assert!(rows <= kept + 1 + 8, "{rows} rows for {kept} revisions and 8 keys");

        let full = pages(&store).await;
        overwrite(&store, 800).await;
        let later = pages(&store).await;
        assert!(later < full + full / 5, "{later} pages after {full}");
        // A watch that was overtaken says so, and goes on.
        let mut overtaken = false;
        loop {
            match behind.next().await.unwrap().unwrap() {
                Notice::Compacted { .. } => overtaken = true,
                Notice::Changed { revision, .. } if revision.0 >= position.revision.0 => break,
                Notice::Changed { .. } => {}
            }
        }
        assert!(overtaken);
    }

    #[tokio::test]
    async fn forgetting_a_little_at_a_time_leaves_what_forgetting_at_once_does() {
        let folder = tempfile::tempdir().unwrap();
        let open = |name: &str| LocalStore::open(&folder.path().join(name)).unwrap();
        let (little, once) = (open("little"), open("once"));
        let mut last = Revision(0);
        for step in 0..60_u32 {
            let key = |number: u32| format!("k{}", number % 9);
            let then = match step % 4 {
                0 => vec![Op::put(key(step), "a"), Op::put(key(step + 1), "b")],
                1 => vec![Op::Delete(KeyRange::key(key(step + 2)))],
                2 => vec![Op::put(key(step * 5), "c"), Op::Delete(KeyRange::key(key(step * 5 + 1)))],
                _ => vec![Op::put(key(step * 7), "d")],
            };
            for store in [&little, &once] {
                last = store.txn(Txn { then: then.clone(), ..Txn::default() }).await.unwrap().revision;
            }
        }
        for upto in (2..=last.0 - 3).step_by(7).chain([last.0 - 2]) {
            little.compact(Revision(upto)).await.unwrap();
        }
        once.compact(Revision(last.0 - 2)).await.unwrap();
        let rows = |connection: &rusqlite::Connection| {
            let mut rows =
                connection.prepare("SELECT id, key, created, version, value FROM log ORDER BY id")?;
            let row = |row: &rusqlite::Row<'_>| {
                let (id, key): (i64, Vec<u8>) = (row.get(0)?, row.get(1)?);
                let (created, version): (i64, i64) = (row.get(2)?, row.get(3)?);
                Ok((id, key, created, version, row.get::<_, Option<Vec<u8>>>(4)?))
            };
            Ok(rows.query_map([], row)?.collect::<rusqlite::Result<Vec<_>>>()?)
        };
        let (little, once) =
            (little.threads.read(rows).await.unwrap(), once.threads.read(rows).await.unwrap());
        assert_eq!(little, once);
        assert!(once.len() < 20, "{}", once.len());
    }
}
