//! A test runner and test management system for distributed applications, on etcd.
//!
//! The rooms, each importing only from those after it: [`cli`] → [`execution`] →
//! [`testcases`], [`environments`], [`reports`] → [`store`] → [`model`] →
//! [`etcdtest::protocol`].

pub mod author;
pub mod cli;
pub mod config;
pub mod document;
pub mod environments;
pub mod execution;
pub mod model;
pub mod nearest;
pub mod redact;
pub mod reports;
pub mod store;
pub mod testcases;
