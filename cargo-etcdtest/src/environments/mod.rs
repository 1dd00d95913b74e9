//! The environment service: from files to versions in the store, and from names to what a
//! run uses.

mod draft;
mod error;
mod file;
mod name;
mod pattern;
mod reservation;
mod service;

pub use draft::{Draft, editor};
pub use error::EnvironmentError;
pub use file::{EnvironmentFile, read_files};
pub use name::check_name;
pub use pattern::allows;
pub use reservation::{Place, Queue, Reservation, ReservationError, Reservations, Waiting, Wanted};
pub use service::{Applied, Environments, LOCAL};
