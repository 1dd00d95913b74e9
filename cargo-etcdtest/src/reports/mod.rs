//! The report service: runs read back from the store, and documents made about them.

mod details;
mod error;
pub mod history;
mod junit;
#[cfg(test)]
pub(crate) mod sample;
pub mod text;

pub use details::{AttemptOutput, RunDetails, UnitDetails};
pub use error::ReportError;
pub use junit::junit;
