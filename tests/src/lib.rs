//! What the tests of the whole program share.

pub mod certificates;
pub mod conformance;
pub mod etcd;
mod program;
mod project;
pub mod stores;
pub mod subject;

pub use program::{program, root};
pub use project::Project;
