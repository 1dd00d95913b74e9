//! A run: planned, shared out, executed, recorded, finished, and watched.

mod attempt;
mod batches;
mod claims;
mod code;
mod error;
mod events;
mod finish;
mod lanes;
mod membership;
mod output;
mod plan;
mod policy;
mod recorder;
mod run;
mod verdict;
mod watch;
mod work;
mod worker;

pub use attempt::{Launch, Leave};
pub use claims::{Claimed, Claims};
pub use code::commit_of;
pub use error::{Result, RunError};
pub use events::{AttemptOutput, RunEvent, Unit};
pub use finish::{Latest, finish};
pub use membership::Membership;
pub use output::Output;
pub use plan::{Histories, History, Plan};
pub use policy::{Policy, TestPolicy};
pub use run::{Order, Selected, run};
pub use watch::follow;
pub use work::{EnvironmentFiles, Work};
pub use worker::{EventSink, execute};
