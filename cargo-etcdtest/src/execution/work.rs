//! What a worker executes, and by which rules.

use std::sync::Arc;

use tokio::time::Instant;

use super::journal::Journal;
use super::launcher::Launcher;
use super::order::Tests;
use super::plan::Plan;
use super::policy::Policy;
use super::resources::Resources;
use super::services::Supply;
use crate::environments::Reservation;
use crate::model::{Place, RunId, WorkerId};

/// Where an attempt is executed.
#[derive(Clone, Debug)]
pub struct Seat {
    /// The machine.
    pub host: Arc<str>,
    /// The lane, from 0.
    pub lane: usize,
    /// When the worker began.
    pub since: Instant,
}

impl Seat {
    /// The place of an attempt that begins now.
    pub fn place(&self) -> Place {
        Place {
            host: self.host.to_string(),
            lane: u32::try_from(self.lane + 1).unwrap_or(u32::MAX),
            offset: self.since.elapsed(),
        }
    }
}

/// A run as one worker sees it. It holds secrets, so it does not print.
pub struct Work {
    /// The run.
    pub run: RunId,
    /// The worker.
    pub worker: WorkerId,
    /// Its machine.
    pub host: Arc<str>,
    /// When it began.
    pub since: Instant,
    /// All units.
    pub plan: Arc<Plan>,
    /// The tests that the units name.
    pub tests: Tests,
    /// The environments that the units name, ready for them.
    pub supply: Supply,
    /// The rules.
    pub policy: Policy,
    /// What starts its attempts.
    pub launcher: Arc<Launcher>,
    /// What its tests lock resources with.
    pub resources: Resources,
    /// The run's reservation of its environments, if they need one.
    pub reservation: Option<Arc<Reservation>>,
    /// Where results are kept until a store elsewhere has them.
    pub journal: Option<Arc<Journal>>,
    /// It leaves once nothing is left of the run that this worker may execute.
    pub while_needed: bool,
}

impl Work {
    /// Whether the run's reservation must be taken as lost.
    pub(super) fn has_lost_reservation(&self) -> bool {
        self.reservation.as_ref().is_some_and(|reservation| reservation.is_lost())
    }

    /// Waits until it is known whether the reservation is held, though it counted as lost.
    pub(super) async fn is_reserved_after_all(&self) -> bool {
        match &self.reservation {
            Some(reservation) => reservation.is_held_after_all().await,
            None => true,
        }
    }

    /// Waits until the run's reservation must be taken as lost; for ever where it needs none.
    pub(super) async fn reservation_lost(&self) {
        match &self.reservation {
            Some(reservation) => reservation.lost().await,
            None => std::future::pending().await,
        }
    }
}
