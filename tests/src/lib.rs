//! What the tests of the whole program share.

pub mod conformance;
pub mod certificates;
pub mod etcd;
pub mod stores;
mod program;
mod project;

pub use program::{etcd, program, root};
pub use project::Project;
