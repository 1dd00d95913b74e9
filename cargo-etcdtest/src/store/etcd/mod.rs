//! The etcd engine: what etcd-client does not do by itself is done here.

mod cluster;
mod connection;
mod engine;
mod failure;
mod namespace;
mod options;
mod status;
mod tls;
mod watch;

pub use engine::EtcdStore;
pub use options::{EtcdOptions, has_user};
