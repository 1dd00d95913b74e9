//! What the tests of the whole program share.

pub mod certificates;
pub mod conformance;
pub mod etcd;
mod program;
pub mod stores;

pub use program::{program, root};
