//! The flags that every verb has. Where a flag is missing, variables and files are asked:
//! see [`crate::config`].

#![expect(clippy::doc_markdown, reason = "these texts are the help a terminal shows")]

use std::path::PathBuf;

use clap::Args;

use crate::config::{Flags, Format, User};

/// Flags of every verb.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Store and settings")]
pub struct GlobalArgs {
    /// Endpoints of the etcd cluster; without any, the store is the project's own `.etcdtest/`
    #[arg(long, global = true, value_name = "HOST:PORT,…", value_delimiter = ',')]
    pub endpoints: Vec<String>,
    /// User of the etcd cluster; the password comes from ETCDTEST_PASSWORD, or after a colon
    #[arg(long, global = true, value_name = "NAME[:PASSWORD]")]
    pub user: Option<User>,
    /// Certificate authority to trust, PEM
    #[arg(long, global = true, value_name = "FILE")]
    pub cacert: Option<PathBuf>,
    /// Client certificate, PEM
    #[arg(long, global = true, value_name = "FILE")]
    pub cert: Option<PathBuf>,
    /// Key of the client certificate, PEM
    #[arg(long, global = true, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Prefix of all keys, for several projects in one cluster
    #[arg(long, global = true, value_name = "PREFIX")]
    pub namespace: Option<String>,
    /// Profile of `.config/etcdtest.toml` to use
    #[arg(long, global = true, value_name = "NAME")]
    pub profile: Option<String>,
    /// How data is printed
    #[arg(long, global = true, value_name = "FORMAT")]
    pub format: Option<Format>,
    /// When to use colours
    #[arg(long, global = true, value_name = "WHEN")]
    pub color: Option<clap::ColorChoice>,
}

impl GlobalArgs {
    /// What these flags say of the settings, with what a verb's own flags say.
    pub fn merge(&self, own: Flags) -> Flags {
        Flags {
            profile: self.profile.clone(),
            endpoints: Some(self.endpoints.clone()).filter(|endpoints| !endpoints.is_empty()),
            user: self.user.clone(),
            cacert: self.cacert.clone(),
            cert: self.cert.clone(),
            key: self.key.clone(),
            namespace: self.namespace.clone(),
            format: self.format,
            color: self.color,
            ..own
        }
    }
}
