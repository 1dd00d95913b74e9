//! The environments of a run, kept from others while it needs them.

use std::time::Instant;

use tokio::sync::watch;

use super::attempt::Leave;
use super::error::Result;
use super::events::{EventSink, RunEvent};
use super::order::Order;
use crate::environments::{Reservation, Reservations, Wanted};
use crate::model::{Environment, Holder};
use crate::store::SharedStore;

/// Waits until those environments of the run are free that have a capacity, and keeps them;
/// `None` where none has. Whoever is told to leave meanwhile leaves the queues.
///
/// # Errors
/// As [`Reservations::reserve`].
pub(super) async fn reserve(
    store: &SharedStore,
    order: &Order,
    mut leave: watch::Receiver<Leave>,
    events: &EventSink,
) -> Result<Option<Reservation>> {
    let limited = |environment: &Environment| {
        environment.definition.capacity.map(|capacity| (environment.name.clone(), capacity))
    };
    let environments: Vec<_> = order.environments.iter().filter_map(limited).collect();
    if environments.is_empty() {
        return Ok(None);
    }
    let wanted = Wanted {
        holder: Holder::Run(order.id.clone()),
        author: order.author.clone(),
        why: String::new(),
        environments,
        ttl: order.policy.reserve_ttl,
        timeout: order.policy.reserve_timeout,
    };
    let stop = async {
        if leave.wait_for(|leave| *leave > Leave::ToFinish).await.is_err() {
            // Nobody is left to say so.
            std::future::pending::<()>().await;
        }
    };
    let on_wait = |waiting: &_| {
        let _ = events.send(RunEvent::Waiting(Clone::clone(waiting)));
    };
    let began = Instant::now();
    let reservations = Reservations::new(store.clone(), order.patience);
    match reservations.reserve(&wanted, stop, on_wait).await {
        Ok(reservation) => {
            let environments = reservation.environments().map(str::to_owned).collect();
            let _ = events.send(RunEvent::Reserved { environments, waited: began.elapsed() });
            Ok(Some(reservation))
        }
        Err(error) => Err(error.into()),
    }
}
