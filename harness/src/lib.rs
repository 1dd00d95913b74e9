//! The test harness of `cargo etcdtest`.

pub mod protocol;
