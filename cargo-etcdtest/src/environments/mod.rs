//! The environment service: from files to versions in the store, and from names to what a
//! run uses.

mod draft;
mod error;
mod file;
mod name;
mod pattern;
mod sealing;
mod secret_error;
mod secret_input;
mod secrets;
mod service;

pub use draft::{Draft, editor};
pub use error::EnvironmentError;
pub use file::{EnvironmentFile, read_files};
pub use name::check_name;
pub use pattern::allows;
pub use sealing::{Identities, Recipients};
pub use secret_error::SecretError;
pub use secret_input::SecretInput;
pub use secrets::{SecretValues, Secrets};
pub use service::{Applied, Environments, LOCAL};
