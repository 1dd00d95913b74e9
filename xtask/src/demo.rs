//! The main job, end to end, on the example.

use std::env;

use anyhow::Result;

use crate::cargo::Cargo;
use crate::tool;

/// Builds `cargo etcdtest`, applies the example's environments, and runs the example's
/// tests; `arguments` go to each `cargo etcdtest`.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let mut cargo = Cargo::new()?;
    cargo.run(["build", "--package", "cargo-etcdtest"])?;

    // Cargo finds its subcommands on PATH.
    let built = tool::built()?;
    let path = env::var_os("PATH").unwrap_or_default();
    cargo.env("PATH", env::join_paths(std::iter::once(built).chain(env::split_paths(&path)))?);

    let etcdtest = |rest: &str| {
        let rest = rest.split(' ').chain(arguments.iter().map(String::as_str));
        cargo.run(std::iter::once("etcdtest").chain(rest))
    };
    etcdtest("env apply examples/shop/environments")?;
    etcdtest("run --package shop --env local --env staging")?;
    etcdtest("report show")?;
    println!(
        "\nThe run is kept. `cargo xtask install` installs `cargo etcdtest`; then:\n  \
         cargo etcdtest runs list     all runs\n  \
         cargo etcdtest runs show     the latest, with its slowest and failed tests\n  \
         cargo etcdtest report show   its reports"
    );
    Ok(())
}
