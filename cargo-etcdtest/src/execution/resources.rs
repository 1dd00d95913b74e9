//! Resources that only so many tests may use at once, over all machines.

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::attempt::Leave;
use crate::environments::{Reservation, ReservationError, Reservations, Waiting, Wanted};
use crate::model::{Fence, Holder, UnitIndex, WorkerId};

/// What a worker locks resources with.
#[derive(Clone, Debug)]
pub struct Resources {
    /// The queues.
    pub reservations: Reservations,
    /// Who stands in them.
    pub worker: WorkerId,
    /// Who typed the command: `user@host`.
    pub author: String,
    /// How long a lock outlives a worker that is not heard of.
    pub ttl: Duration,
}

/// A resource that a unit has asked for. Dropping it leaves the queue, or gives the resource up,
/// whatever the unit has come to.
#[derive(Debug)]
pub struct Asked(watch::Receiver<Standing>);

/// How far a unit has come that has asked for a resource.
#[derive(Clone, Debug)]
enum Standing {
    /// The store has not answered yet.
    Unknown,
    /// Others have it.
    Waiting(Waiting),
    /// It may use it.
    Held(Arc<Reservation>),
    /// It will never be its turn.
    Failed(Arc<ReservationError>),
}

impl Resources {
    /// Asks for a resource that so many units may use at once, for this one under this token.
    /// `why` tells those who wait behind it what they wait for. The future is all that happens to
    /// the lock, from its place in the queue until it is given up, for somebody to see to its end;
    /// `decided` is called once it is clear whether the resource is held.
    pub fn ask<F: FnOnce() + Send + 'static>(
        &self,
        resource: &str,
        capacity: NonZeroUsize,
        (unit, token): (UnitIndex, Fence),
        why: String,
        decided: F,
    ) -> (Asked, impl Future<Output = ()> + Send + use<F>) {
        let capacity =
            u32::try_from(capacity.get()).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MAX);
        let wanted = Wanted {
            holder: Holder::Worker(format!("{}.{}.{}", self.worker, unit.0, token.0)),
            author: self.author.clone(),
            why,
            environments: vec![(resource.to_owned(), capacity)],
            ttl: self.ttl,
            timeout: Duration::MAX,
        };
        let reservations = self.reservations.clone();
        let (say, hear) = watch::channel(Standing::Unknown);
        let lock = async move {
            let on_wait = |waiting: &Waiting| {
                say.send_replace(Standing::Waiting(waiting.clone()));
            };
            match reservations.reserve(&wanted, say.closed(), on_wait).await {
                Ok(lock) => {
                    let lock = Arc::new(lock);
                    say.send_replace(Standing::Held(lock.clone()));
                    decided();
                    say.closed().await;
                    lock.release().await;
                }
                Err(error) => {
                    say.send_replace(Standing::Failed(Arc::new(error)));
                    decided();
                }
            }
        };
        (Asked(hear), lock)
    }
}

impl Asked {
    /// Waits until the resource is held, for as long as this is not dropped, or it is clear that
    /// it will not be. It may be given up and called again.
    ///
    /// # Errors
    /// As the store fails.
    pub async fn decided(&mut self) -> Result<Arc<Reservation>, Arc<ReservationError>> {
        let decided = |standing: &Standing| matches!(standing, Standing::Held(_) | Standing::Failed(_));
        match self.0.wait_for(decided).await.as_deref() {
            Ok(Standing::Held(lock)) => Ok(lock.clone()),
            Ok(Standing::Failed(error)) => Err(error.clone()),
            // Whoever saw to it has given that up.
            Ok(Standing::Unknown | Standing::Waiting(_)) | Err(_) => {
                Err(Arc::new(ReservationError::Interrupted { waiting: None }))
            }
        }
    }

    /// Whether [`Asked::decided`] has something to tell.
    pub fn is_decided(&self) -> bool {
        matches!(*self.0.borrow(), Standing::Held(_) | Standing::Failed(_))
    }

    /// Whom it waits for, if that is known.
    pub fn waiting(&self) -> Option<Waiting> {
        match &*self.0.borrow() {
            Standing::Waiting(waiting) => Some(waiting.clone()),
            Standing::Unknown | Standing::Held(_) | Standing::Failed(_) => None,
        }
    }
}

/// Does something that goes no further than `say` says, as long as the lock is held: that is
/// told what `leave` is, and to die at once when the lock is lost. Says whether it was, even if
/// it turned out later that it was not.
pub async fn while_held<T>(
    lock: &Reservation,
    work: impl Future<Output = T>,
    mut leave: watch::Receiver<Leave>,
    say: watch::Sender<Leave>,
) -> (T, bool) {
    tokio::pin!(work);
    // This machine may have slept since the lock was its own.
    let mut lost = lock.is_lost();
    if lost {
        say.send_replace(Leave::ToDie);
    }
    loop {
        tokio::select! {
            biased;
            done = &mut work => return (done, lost || lock.is_lost()),
            () = lock.lost(), if !lost => {
                lost = true;
                say.send_replace(Leave::ToDie);
            }
            Ok(()) = leave.changed() => {
                let now = *leave.borrow_and_update();
                say.send_if_modified(|said| {
                    let raised = now > *said;
                    *said = now.max(*said);
                    raised
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinHandle;

    use super::*;
    use crate::store::local::LocalStore;
    use crate::store::{KeyRange, SharedStore, list};

    /// A worker on a store, where each of its units that has asked is seen to.
    struct Worker {
        store: SharedStore,
        resources: Resources,
        _folder: tempfile::TempDir,
    }

    impl Worker {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let store: SharedStore = Arc::new(LocalStore::open(folder.path()).unwrap());
            let resources = Resources {
                reservations: Reservations::new(store.clone(), Duration::from_secs(30)),
                worker: WorkerId::generate("desk"),
                author: "ann@desk".into(),
                ttl: Duration::from_mins(1),
            };
            Self { store, resources, _folder: folder }
        }

        fn ask(&self, unit: u32) -> (Asked, JoinHandle<()>) {
            let why = format!("the test {unit}");
            let unit = (UnitIndex(unit), Fence(1));
            let (asked, lock) = self.resources.ask("printer", NonZeroUsize::MIN, unit, why, || {});
            (asked, tokio::spawn(lock))
        }

        /// How many have the printer or wait for it.
        async fn places(&self) -> usize {
            list(self.store.as_ref(), KeyRange::prefix("/locks/")).await.unwrap().pairs.len()
        }
    }

    /// Waits until it is known for whom it waits.
    async fn waits(asked: &mut Asked) -> Waiting {
        asked.0.wait_for(|standing| matches!(standing, Standing::Waiting(_))).await.unwrap();
        assert!(!asked.is_decided());
        asked.waiting().unwrap()
    }

    #[tokio::test]
    async fn who_is_dropped_leaves_the_queue_and_gives_up_what_it_has() {
        let worker = Worker::new();
        let (mut first, first_lock) = worker.ask(1);
        first.decided().await.unwrap();
        assert!(first.is_decided() && first.waiting().is_none());
        let (mut second, second_lock) = worker.ask(2);
        let (mut third, third_lock) = worker.ask(3);
        let waiting = waits(&mut second).await;
        assert_eq!(waiting.holders[0].why, "the test 1");
        waits(&mut third).await;
        drop(second);
        second_lock.await.unwrap();
        assert_eq!(worker.places().await, 2);
        drop(first);
        first_lock.await.unwrap();
        third.decided().await.unwrap();
        drop(third);
        third_lock.await.unwrap();
        assert_eq!(worker.places().await, 0);
    }

    #[tokio::test]
    async fn who_is_dropped_at_once_leaves_nothing() {
        let worker = Worker::new();
        let (asked, lock) = worker.ask(1);
        drop(asked);
        lock.await.unwrap();
        assert_eq!(worker.places().await, 0);
    }

    #[tokio::test]
    async fn a_unit_that_asks_again_does_not_wait_for_what_it_left() {
        let worker = Worker::new();
        let (mut first, first_lock) = worker.ask(1);
        first.decided().await.unwrap();
        // Nobody sees to its end.
        first_lock.abort();
        let (mut again, _lock) = worker.ask(1);
        again.decided().await.unwrap();
        assert_eq!(worker.places().await, 1);
    }

    #[tokio::test]
    async fn whoever_saw_to_it_and_gave_that_up_is_not_waited_for() {
        let worker = Worker::new();
        let (mut first, lock) = worker.ask(1);
        lock.abort();
        let failed = first.decided().await;
        assert!(matches!(*failed.unwrap_err(), ReservationError::Interrupted { .. }));
    }
}
