//! What an environment needs before its tests can run: services, which the runner starts,
//! watches and stops, and probes of what runs elsewhere.

mod binding;
mod check;
mod fleet;
mod http;
mod log;
mod look;
mod not_ready;
mod port;
mod probe;
mod program;
mod service;
mod supply;

pub(super) use binding::expected_config;
pub use check::check;
pub use fleet::Ground;
pub use log::ServiceLog;
pub use not_ready::{NotReady, Part};
pub use supply::{Supplied, Supply};
