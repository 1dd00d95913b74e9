//! The report service: runs read back from the store, and documents made about them.

mod details;
mod error;
pub mod history;
mod junit;
mod resolve;
#[cfg(test)]
pub(crate) mod sample;
mod service;
pub mod story;
mod summary;
pub mod text;
mod waiting;
mod workers;

pub use details::{AttemptOutput, RunDetails, UnitDetails};
pub use error::ReportError;
pub use junit::junit;
pub use resolve::{LATEST, resolve_run};
pub use service::{JUNIT, Pieces, REPORTS, Render, Reports, SUMMARY, report_writes};
pub use summary::{AttemptSummary, Counts, SummaryReport, UnitSummary, WorkerSummary, seconds, summary};
pub use waiting::{Unserved, stalled_text, unserved, unserved_of, unserved_text};
pub use workers::{Span, WorkerLine, workers};
