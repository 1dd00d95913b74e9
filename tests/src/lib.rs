//! What the tests of the whole program share.

pub mod certificates;
pub mod conformance;
pub mod etcd;
pub mod faults;
mod fresh_copy;
#[cfg(target_os = "linux")]
pub mod leftovers;
pub mod processes;
mod program;
mod project;
pub mod proxy;
pub mod simulation;
pub mod stores;
pub mod subject;

pub use fresh_copy::FreshCopy;
pub use program::{program, root};
pub use project::Project;
