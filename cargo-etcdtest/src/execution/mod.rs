//! A run: planned, shared out, executed, recorded, finished, and watched.

mod attempt;
mod claims;
mod code;
#[cfg(not(target_os = "linux"))]
mod direct;
mod error;
mod events;
mod finish;
mod frames;
mod groups;
#[cfg(target_os = "linux")]
pub mod keeper;
mod membership;
mod output;
mod plan;
mod process;
mod recorder;
mod run;
mod streams;
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
pub use process::Launcher;
pub use plan::{Histories, History, Plan};
pub use run::{Order, Selected, run};
pub use watch::follow;
pub use work::{EnvironmentFiles, Policy, Work};
pub use worker::{EventSink, execute};
