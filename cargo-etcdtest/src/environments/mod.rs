//! The environment service: from files to versions in the store, and from names to what a
//! run uses.

mod bind;
mod chain;
mod check;
mod comparison;
mod data_files;
mod data_sets;
mod draft;
mod error;
mod fault;
mod file;
mod given_data;
mod given_secrets;
mod known_secrets;
mod name;
mod path;
mod pattern;
mod reservations;
mod sealing;
mod secret_error;
mod secret_input;
mod secrets;
mod service;
mod text;

pub use bind::{Bindings, bind};
pub use chain::Chain;
pub use check::check;
pub use comparison::Compared;
pub use data_files::DataFiles;
pub use data_sets::{DataError, DataSets};
pub use draft::{Draft, editor};
pub use error::EnvironmentError;
pub use fault::Fault;
pub use file::{EnvironmentFile, SecretInput, read_files};
pub use given_data::GivenData;
pub use given_secrets::GivenSecrets;
pub use known_secrets::KnownSecrets;
pub use name::{EnvironmentId, check_name};
pub use pattern::allows;
pub use reservations::{Place, Queue, Reservation, ReservationError, Reservations, Waiting, Wanted};
pub use sealing::{Identities, Recipients};
pub use secret_error::SecretError;
pub use secrets::{SecretValues, Secrets};
pub use service::{Applied, Change, Environments, LOCAL};
pub use text::values;
