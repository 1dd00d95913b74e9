//! The flags that every verb has. Where a flag is missing, variables and files are asked:
//! see [`crate::config`].

#![expect(clippy::doc_markdown, reason = "these texts are the help a terminal shows")]

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Flags of every verb.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Store and settings")]
pub struct GlobalArgs {
    /// Endpoints of the etcd cluster; without any, the store is the project's own `.etcdtest/`
    #[arg(long, global = true, value_name = "HOST:PORT,…", value_delimiter = ',')]
    pub endpoints: Vec<String>,
    /// User of the etcd cluster; the password comes from ETCDTEST_PASSWORD, or after a colon
    #[arg(long, global = true, value_name = "NAME[:PASSWORD]")]
    pub user: Option<String>,
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

/// How data is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Human,
    /// JSON, stable and documented; newline-delimited where there is more than one document.
    Json,
}
