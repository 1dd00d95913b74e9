//! The cargo that the chores start.

use std::env;
use std::ffi::OsStr;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::{protoc, tool};

/// The variable in which the system's loader looks for dynamic libraries.
const LIBRARY_PATH: &str = "LD_LIBRARY_PATH";

/// Cargo, at the root of the checkout, with what its builds need.
pub(crate) struct Cargo {
    variables: Vec<(String, std::ffi::OsString)>,
}

impl Cargo {
    /// Finds what builds need.
    pub(crate) fn new() -> Result<Self> {
        let mut cargo = Self { variables: Vec::new() };
        for (name, value) in protoc::variables()? {
            cargo.env(name, value);
        }
        Ok(cargo)
    }

    /// Sets a variable for every command from here on.
    pub(crate) fn env(&mut self, name: &str, value: impl AsRef<OsStr>) {
        self.variables.push((name.to_owned(), value.as_ref().to_owned()));
    }

    /// A command, not yet started.
    pub(crate) fn command<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(arguments).current_dir(tool::root()).envs(self.variables.iter().cloned());
        // What `cargo run` says of this package is not true of what is started from here.
        for (name, _) in env::vars_os() {
            if name
                .to_str()
                .is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"))
            {
                command.env_remove(name);
            }
        }
        // Nor need what is started from here look for libraries where this package's are.
        if let (Some(paths), Ok(own)) = (env::var_os(LIBRARY_PATH), tool::built()) {
            let others = env::split_paths(&paths).filter(|path| !path.starts_with(&own));
            command.envs(env::join_paths(others).ok().map(|others| (LIBRARY_PATH, others)));
        }
        command
    }

    /// Prints the command as one would type it, and runs it to its end.
    pub(crate) fn run<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<()> {
        let arguments: Vec<_> = arguments.into_iter().collect();
        println!("$ cargo {}", arguments.join(" "));
        tool::run(&mut self.command(arguments))
    }

    /// The same, ended by force when the time is over.
    pub(crate) fn run_within<'a>(
        &self,
        limit: Duration,
        arguments: impl IntoIterator<Item = &'a str>,
    ) -> Result<()> {
        let arguments: Vec<_> = arguments.into_iter().collect();
        println!("$ cargo {}", arguments.join(" "));
        tool::run_within(limit, &mut self.command(arguments))
    }
}
