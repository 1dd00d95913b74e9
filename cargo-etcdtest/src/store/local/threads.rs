//! The two threads that own the connections: one reads, one writes.
//!
//! Writes that wait together are committed together, each still a revision of its own and
//! each undone alone if it fails; so many small writers share the cost of the disk.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::{oneshot, watch};

use super::fault::{self, Outcome};
use super::{history, lease, schema, system};
use crate::store::StoreError;
use crate::store::api::Result;

/// How often the reader looks, while somebody watches, for what other processes wrote and
/// for leases that ended.
const TICK: Duration = Duration::from_millis(50);

/// At most so many writes are committed together.
const BATCH: usize = 64;

type ReadJob = Box<dyn FnOnce(&Connection) + Send>;

/// A handle on the threads, which end with the last of them.
#[derive(Clone, Debug)]
pub(super) struct Threads {
    reads: Sender<ReadJob>,
    writes: Sender<Box<dyn Job>>,
    changed: Arc<watch::Sender<()>>,
    location: Arc<str>,
}

/// A write on its way to the writer.
trait Job: Send {
    /// Does it, within the transaction that is open.
    fn run(&mut self, connection: &Connection, location: &str);
    /// Answers, when the transaction was committed or not.
    fn settle(self: Box<Self>, committed: Result<()>);
}

struct Write<W, T> {
    work: Option<W>,
    result: Option<Result<T>>,
    answer: oneshot::Sender<Result<T>>,
}

impl Threads {
    /// Opens the connections and starts the threads.
    pub(super) fn start(file: &Path) -> Result<Self> {
        let location: Arc<str> = file.display().to_string().into();
        let open = || schema::open(file).map_err(|fault| fault.at(&location));
        let (to_write, to_read) = (open()?, open()?);
        let changed = Arc::new(watch::Sender::new(()));
        let (reads, read_jobs) = channel();
        let (writes, write_jobs) = channel();
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            let spawned = thread::Builder::new().name(name.into()).spawn(run);
            spawned.map(drop).map_err(|error| fault::file("its thread cannot be started", file, &error))
        };
        let (at, wake) = (location.clone(), changed.clone());
        spawn("store-writer", Box::new(move || write_all(&to_write, &write_jobs, &wake, &at)))?;
        let (wake, expire) = (changed.clone(), writes.clone());
        spawn("store-reader", Box::new(move || read_all(&to_read, &read_jobs, &wake, &expire)))?;
        Ok(Self { reads, writes, changed, location })
    }

    /// Where the store is.
    pub(super) fn location(&self) -> &str {
        &self.location
    }

    /// What changes whenever the store may have changed.
    pub(super) fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Reads something, in one snapshot of the store in which no ended lease still lives.
    pub(super) async fn read<T, W>(&self, mut work: W) -> Result<T>
    where
        T: Send + 'static,
        W: FnMut(&Connection) -> Outcome<T> + Send + 'static,
    {
        loop {
            let (answer, result) = oneshot::channel();
            let location = self.location.clone();
            let job = Box::new(move |connection: &Connection| {
                let read = read(connection, &mut work).map_err(|fault| fault.at(&location));
                // Whoever asked may have gone.
                let _ = answer.send((read, work));
            });
            self.reads.send(job).map_err(|_| self.stopped())?;
            let (read, again) = result.await.map_err(|_| self.stopped())?;
            match read? {
                Some(read) => return Ok(read),
                None => self.write(|_| Ok(())).await?,
            }
            work = again;
        }
    }

    /// Writes something, all of it or nothing, after the leases that ended were ended.
    pub(super) async fn write<T, W>(&self, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: FnOnce(&Connection) -> Outcome<T> + Send + 'static,
    {
        let (answer, result) = oneshot::channel();
        let job = Write { work: Some(work), result: None, answer };
        self.writes.send(Box::new(job)).map_err(|_| self.stopped())?;
        result.await.map_err(|_| self.stopped())?
    }

    /// Moves all writes from the log beside the file into the file, and empties that log, if
    /// nobody is reading.
    pub(super) async fn checkpoint(&self) -> Result<()> {
        let (answer, result) = oneshot::channel();
        let location = self.location.clone();
        let job = Box::new(move |connection: &Connection| {
            // Whether somebody read meanwhile stands in its answer: then the next one does it.
            let done = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
            let _ = answer.send(done.map_err(|error| fault::sqlite(&error, &location)));
        });
        self.reads.send(job).map_err(|_| self.stopped())?;
        result.await.map_err(|_| self.stopped())?
    }

    fn stopped(&self) -> StoreError {
        StoreError::Failed { location: self.location.to_string(), reason: "its thread has ended".into() }
    }
}

/// Reads in one snapshot; `None` where leases have to be ended first.
fn read<T>(connection: &Connection, work: &mut impl FnMut(&Connection) -> Outcome<T>) -> Outcome<Option<T>> {
    let snapshot = connection.unchecked_transaction()?;
    if lease::is_due(&snapshot, system::now())? {
        return Ok(None);
    }
    work(&snapshot).map(Some)
}

fn read_all(
    connection: &Connection,
    jobs: &Receiver<ReadJob>,
    changed: &watch::Sender<()>,
    expire: &Sender<Box<dyn Job>>,
) {
    let mut ticked = Instant::now();
    let mut version = None;
    loop {
        let watched = changed.receiver_count() > 0;
        let job = if watched {
            jobs.recv_timeout(TICK.saturating_sub(ticked.elapsed()))
        } else {
            jobs.recv().map_err(RecvTimeoutError::from)
        };
        match job {
            Ok(job) => job(connection),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if watched && ticked.elapsed() >= TICK {
            ticked = Instant::now();
            // A tick that fails is no harm: whoever reads next hears of it.
            let seen = connection.pragma_query_value(None, "data_version", |row| row.get::<_, i64>(0)).ok();
            if seen.is_some() && seen != version {
                version = seen;
                changed.send_replace(());
            }
            if lease::is_due(connection, system::now()).unwrap_or(false) {
                let (answer, _) = oneshot::channel();
                let nothing = Write { work: Some(|_: &Connection| Ok(())), result: None, answer };
                let _ = expire.send(Box::new(nothing));
            }
        }
    }
}

fn write_all(
    connection: &Connection,
    jobs: &Receiver<Box<dyn Job>>,
    changed: &watch::Sender<()>,
    location: &str,
) {
    while let Ok(first) = jobs.recv() {
        let mut batch = vec![first];
        let begun = begin(connection).map_err(|fault| fault.at(location));
        let committed = begun.and_then(|()| {
            batch[0].run(connection, location);
            while batch.len() < BATCH
                && !connection.is_autocommit()
                && let Ok(mut job) = jobs.try_recv()
            {
                job.run(connection, location);
                batch.push(job);
            }
            commit(connection, location)
        });
        if committed.is_ok() {
            changed.send_replace(());
        } else if !connection.is_autocommit() {
            // The next BEGIN tells if even this fails.
            let _ = connection.execute_batch("ROLLBACK");
        }
        let error = committed.err();
        for job in batch {
            job.settle(error.as_ref().map_or(Ok(()), |error| Err(error.clone())));
        }
        // Nobody waits for it; what fails now is tried again after the next write.
        if history::is_long(connection).unwrap_or(false) && trim(connection).is_err() {
            let _ = connection.execute_batch("ROLLBACK");
        }
    }
}

/// Forgets the oldest history.
fn trim(connection: &Connection) -> Outcome<()> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    history::trim(connection)?;
    Ok(connection.execute_batch("COMMIT")?)
}

/// Begins a transaction and ends the leases whose time is over.
fn begin(connection: &Connection) -> Outcome<()> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    lease::expire(connection, system::now())
}

fn commit(connection: &Connection, location: &str) -> Result<()> {
    if connection.is_autocommit() {
        // After some failures SQLite undoes the whole transaction by itself.
        let reason = "another write failed and undid this one".into();
        return Err(StoreError::Unavailable { location: location.into(), reason });
    }
    connection.execute_batch("COMMIT").map_err(|error| fault::commit(&error, location))
}

impl<T, W> Job for Write<W, T>
where
    T: Send,
    W: FnOnce(&Connection) -> Outcome<T> + Send,
{
    fn run(&mut self, connection: &Connection, location: &str) {
        let work = self.work.take();
        self.result = work.map(|work| undone_alone(connection, work).map_err(|fault| fault.at(location)));
    }

    fn settle(self: Box<Self>, committed: Result<()>) {
        let Self { result, answer, .. } = *self;
        let settled = match (committed, result) {
            (Err(error), Some(Ok(_)) | None) => Err(error),
            (_, Some(result)) => result,
            (Ok(()), None) => return,
        };
        // Whoever asked may have gone.
        let _ = answer.send(settled);
    }
}

/// Does something; if it fails, what it did is undone and what was done before it stays.
fn undone_alone<T>(connection: &Connection, work: impl FnOnce(&Connection) -> Outcome<T>) -> Outcome<T> {
    connection.prepare_cached("SAVEPOINT work")?.execute([])?;
    let result = work(connection);
    if result.is_err() {
        if connection.is_autocommit() {
            return result;
        }
        connection.prepare_cached("ROLLBACK TO work")?.execute([])?;
    }
    connection.prepare_cached("RELEASE work")?.execute([])?;
    result
}
