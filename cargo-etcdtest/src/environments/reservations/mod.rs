//! Reservations: environments that only so many may use at once.
//!
//! Whoever wants environments puts one key for each into their queues, all in one
//! transaction on one lease. An environment is held by those who have fewer than its
//! capacity before them, by create revision. As all keys of a transaction have the same one,
//! there is one order over all queues: two who want several environments cannot wait for
//! each other.

mod error;
mod queue;
mod released;
mod reservation;
mod service;

pub use error::ReservationError;
pub use queue::{Place, Queue, Waiting};
pub use reservation::Reservation;
pub use service::{Reservations, Wanted};
