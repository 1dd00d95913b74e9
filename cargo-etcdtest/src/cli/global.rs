//! The flags that every verb has. Where a flag is missing, variables and files are asked:
//! see [`crate::config`].

#![expect(clippy::doc_markdown, reason = "these texts are the help a terminal shows")]

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::run::duration;
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
    /// File with the age identity that decrypts secrets
    #[arg(long, global = true, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// Prefix of all keys, for several projects in one cluster
    #[arg(long, global = true, value_name = "PREFIX")]
    pub namespace: Option<String>,
    /// How long a store that does not answer is waited for
    #[arg(long, global = true, value_name = "DURATION", value_parser = duration)]
    pub store_timeout: Option<Duration>,
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

/// What was typed, for records: the program as people call it, wherever it is installed,
/// and with `***` in the place of a password after a user's name.
pub(super) fn without_password(arguments: &[OsString]) -> Vec<String> {
    let mut of_user = false;
    let mut shown = vec!["cargo".to_owned(), "etcdtest".to_owned()];
    for argument in arguments.iter().skip(1) {
        let argument = argument.to_string_lossy();
        let (flag, value) = if of_user { ("", Some(&*argument)) } else { split_user(&argument) };
        shown.push(match value.and_then(|value| value.split_once(':')) {
            Some((name, _)) => format!("{flag}{name}:***"),
            None => argument.to_string(),
        });
        of_user = argument == "--user";
    }
    shown
}

fn split_user(argument: &str) -> (&str, Option<&str>) {
    const FLAG: &str = "--user=";
    argument.strip_prefix(FLAG).map_or((argument, None), |value| (FLAG, Some(value)))
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
            identity: self.identity.clone(),
            namespace: self.namespace.clone(),
            store_timeout: self.store_timeout,
            format: self.format,
            color: self.color,
            ..own
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typed_password_is_kept_out_of_records() {
        let shown = |line: &str| {
            let arguments: Vec<_> = line.split(' ').map(OsString::from).collect();
            without_password(&arguments).join(" ")
        };
        assert_eq!(shown("x --user root:pass:word run a:b"), "cargo etcdtest --user root:*** run a:b");
        assert_eq!(shown("x run --user=root:secret"), "cargo etcdtest run --user=root:***");
        assert_eq!(shown("/bin/x --user root --user"), "cargo etcdtest --user root --user");
    }
}
