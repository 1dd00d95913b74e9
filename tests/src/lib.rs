//! What the tests of the whole program share.

pub mod certificates;
pub mod conformance;
pub mod etcd;
pub mod faults;
mod fresh_copy;
#[cfg(target_os = "linux")]
pub mod leftovers;
mod port;
pub mod processes;
mod program;
mod project;
pub mod proxy;
mod running;
pub mod simulation;
pub mod stores;
pub mod subject;
pub mod tables;

pub use fresh_copy::{FreshCopy, commit_all};
pub use port::Port;
pub use program::{program, root};
pub use project::Project;
pub use running::{Ran, Running, started_by};
