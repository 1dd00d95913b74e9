//! What the tests of the whole program share.

pub mod etcd;
mod program;

pub use program::{program, root};
