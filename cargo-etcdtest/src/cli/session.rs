//! What a verb works with: its settings, and the store they mean.

use std::path::{Path, PathBuf};

use clap::ColorChoice;

use super::{Failure, GlobalArgs};
use crate::config::{Flags, Settings, find_workspace_root};
use crate::environments::{EnvironmentId, Environments, Identities, KnownSecrets, Secrets};
use crate::execution::JournalFolder;
use crate::store::{SharedStore, Store, connect};

/// Settings that were resolved, and where.
#[derive(Debug)]
pub struct Session {
    /// The settings.
    pub settings: Settings,
    /// The workspace root; the current folder where there is no cargo project.
    pub root: PathBuf,
}

impl Session {
    /// Resolves the settings of a verb: its own flags, those that every verb has, variables
    /// and files. `manifest` is the package that was named, if one was.
    ///
    /// # Errors
    /// A setting is wrong, or there is no such manifest.
    pub fn new(global: &GlobalArgs, flags: Flags, manifest: Option<&Path>) -> Result<Self, Failure> {
        let root = match find_workspace_root(manifest) {
            Ok(root) => root,
            Err(error) if manifest.is_some() => return Err(Failure::usage(error)),
            Err(_) => std::env::current_dir().unwrap_or_default(),
        };
        let settings =
            Settings::load(global.merge(flags), &root, std::env::vars_os()).map_err(Failure::usage)?;
        match settings.color {
            ColorChoice::Auto => anstream::ColorChoice::Auto,
            ColorChoice::Always => anstream::ColorChoice::Always,
            ColorChoice::Never => anstream::ColorChoice::Never,
        }
        .write_global();
        Ok(Self { settings, root })
    }

    /// Opens the store.
    ///
    /// # Errors
    /// It cannot be reached or used.
    pub async fn store(&self) -> Result<SharedStore, Failure> {
        Ok(connect(&self.settings.store_options(&self.root)).await?)
    }

    /// Where results are kept that this store may not have yet; `None` where the store is the
    /// project's own.
    pub fn journals(&self, store: &dyn Store) -> Option<JournalFolder> {
        JournalFolder::of(&self.settings.store_options(&self.root), store)
    }

    /// The secrets of the store, as far as the identities that the settings name can read
    /// them.
    ///
    /// # Errors
    /// What is named as an identity is none.
    pub fn secrets(&self, store: SharedStore) -> Result<Secrets, Failure> {
        let Settings { identity, age_key, .. } = &self.settings;
        Ok(Secrets::new(store, Identities::load(identity.as_deref(), age_key.as_ref())?))
    }

    /// What somebody typed about environments, to be stored without the secrets of these.
    ///
    /// # Errors
    /// What is named as an identity is none, or the store failed.
    pub async fn without_secrets(
        &self,
        text: &str,
        of: impl IntoIterator<Item = EnvironmentId>,
        store: &SharedStore,
    ) -> Result<String, Failure> {
        if text.is_empty() {
            return Ok(String::new());
        }
        let environments = Environments::new(store.clone());
        let known = KnownSecrets::stored(of, &environments, &self.secrets(store.clone())?).await?;
        Ok(known.without(text))
    }
}
