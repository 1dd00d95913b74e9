//! What the tests of the whole program share.

mod program;

pub use program::{etcd, program, root};
