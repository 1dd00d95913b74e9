//! What the tests of the whole program share.

pub mod certificates;
pub mod conformance;
pub mod etcd;
pub mod stores;
