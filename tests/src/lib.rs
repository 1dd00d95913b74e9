//! What the tests of the whole program share.

<<<<<<< HEAD
pub mod conformance;
=======
>>>>>>> example
pub mod certificates;
pub mod conformance;
pub mod etcd;
mod program;
pub mod stores;
<<<<<<< HEAD
mod program;
mod project;

pub use program::{etcd, program, root};
pub use project::Project;
=======

pub use program::{program, root};
>>>>>>> example
