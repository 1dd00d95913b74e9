//! Resources that only so many tests may use at once, over all machines.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use tokio::sync::watch;

use super::attempt::{Leave, told};
use crate::environments::{Reservation, ReservationError, Reservations, Wanted};
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

impl Resources {
    /// Waits in the queue for a resource until this unit may use it; `None` where it was told to
    /// leave meanwhile.
    ///
    /// # Errors
    /// As the store fails.
    pub async fn lock(
        &self,
        resource: &str,
        capacity: NonZeroUsize,
        unit: UnitIndex,
        token: Fence,
        mut leave: watch::Receiver<Leave>,
    ) -> Result<Option<Reservation>, ReservationError> {
        let capacity =
            u32::try_from(capacity.get()).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MAX);
        let wanted = Wanted {
            holder: Holder::Worker(format!("{}.{}.{}", self.worker, unit.0, token.0)),
            author: self.author.clone(),
            why: String::new(),
            environments: vec![(resource.to_owned(), capacity)],
            ttl: self.ttl,
            timeout: Duration::MAX,
        };
        let stop = told(&mut leave, Leave::ToEnd);
        match self.reservations.reserve(&wanted, stop, |_| {}).await {
            Ok(lock) => Ok(Some(lock)),
            Err(ReservationError::Interrupted { .. }) => Ok(None),
            Err(error) => Err(error),
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
