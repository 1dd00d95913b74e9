//! A run: planned, shared out, executed, recorded, finished, and watched.

mod attempt;
mod batches;
mod cancel;
mod claims;
mod code;
mod differences;
#[cfg(not(target_os = "linux"))]
mod direct;
mod error;
mod events;
mod executed;
mod finish;
mod frames;
mod groups;
mod journal;
#[cfg(target_os = "linux")]
mod keeper;
mod lanes;
mod launcher;
mod membership;
mod output;
mod plan;
mod policy;
mod process;
mod recorder;
mod requirements;
mod reserve;
mod resources;
mod run;
mod said;
mod services;
mod streams;
mod sync;
mod timings;
mod verdict;
mod watch;
mod work;
mod worker;

pub use attempt::{Launch, Leave};
pub use cancel::{Cancelled, cancel, resume};
pub use claims::{Claimed, Claims, News};
pub use code::commit_of;
#[cfg(not(target_os = "linux"))]
pub use direct::serve_as_keeper;
pub use error::{Result, RunError};
pub use events::{AttemptOutput, RunEvent, Unit};
pub use executed::Executed;
pub use finish::{Latest, conclude};
pub use journal::{Header, Journal, JournalError, JournalFolder, Kept, LeftBehind, StoreName, Unreadable};
#[cfg(target_os = "linux")]
pub use keeper::serve_as_keeper;
pub use launcher::Launcher;
pub use membership::{Membership, Proposal};
pub use output::Output;
pub use plan::{Histories, History, Plan};
pub use policy::{Policy, TestPolicy};
pub use recorder::{Dealt, LocksHeld, Request, Share, record};
pub use requirements::{Requirements, Unmet, requirements};
pub use resources::Resources;
pub use run::{Entry, Order, Selected, give_back, run};
pub use services::{Ground, NotReady, Part, ServiceLog, Supplied, Supply, check};
pub use sync::{Superseded, Synced, sync};
pub use timings::Timings;
pub use watch::follow;
pub use work::Work;
pub use worker::{Ended, EventSink, execute};
