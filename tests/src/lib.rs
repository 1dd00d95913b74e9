//! What the tests of the whole program share.

pub mod etcd;
mod program;
mod project;

pub use program::{etcd, program, root};
pub use project::Project;
