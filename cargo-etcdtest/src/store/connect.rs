//! Which store the settings mean.

use std::path::PathBuf;
use std::sync::Arc;

use super::api::{Result, SharedStore};
use super::etcd::{EtcdOptions, EtcdStore};
use super::local::LocalStore;

/// Which store to use, and how to reach it.
#[derive(Clone, Debug, Default)]
pub struct StoreOptions {
    /// The etcd cluster; used where it has an endpoint.
    pub etcd: EtcdOptions,
    /// The folder of the local store, used otherwise.
    pub local: PathBuf,
}

/// Connects to the store that the options mean.
///
/// # Errors
/// As [`EtcdStore::connect`] for a cluster, and as opening the local store otherwise.
pub async fn connect(options: &StoreOptions) -> Result<SharedStore> {
    if options.etcd.endpoints.is_empty() {
        return Ok(Arc::new(LocalStore::open(&options.local)?));
    }
    Ok(Arc::new(EtcdStore::connect(options.etcd.clone()).await?))
}
