//! The project's own chores: `cargo xtask demo|test|faults|bench|install|lint|ci`.
//!
//! Each finds, or fetches into `target/tools/`, what a bare machine lacks (`protoc` to
//! build, `etcd` to test), and gives it to the cargo it starts.

mod bench;
mod cargo;
mod demo;
mod etcd;
mod protoc;
mod tool;

use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use cargo::Cargo;

/// Tests that nobody watches are over after this time: more than twice of what they take.
const TEST_LIMIT: Duration = Duration::from_mins(45);

const USAGE: &str = "\
The project's own chores.

Usage: cargo xtask <CHORE> [ARGUMENTS]

  demo [ARGUMENTS]   run the example's tests; ARGUMENTS go to each `cargo etcdtest`,
                     for example `--endpoints 127.0.0.1:2379`
  test [ARGUMENTS]   run all tests, with real etcd; ARGUMENTS go to `cargo test`
  faults             the long trials: a run in which compares of the protocol are left out,
                     and runs of real processes that are killed, frozen and cut off
  bench [ROW…] [--quick] [--json FILE]
                     measure `cargo etcdtest` beside its peers; docs/performance.md explains the
                     rows: no-ops, one, sleep, phases, makespan, scale, store
  install            install `cargo etcdtest` from this checkout
  lint               formatting, clippy and documentation, with warnings as errors
  ci                 lint, then test

Variables: PROTOC (the protobuf compiler), ETCDTEST_ETCD_BIN (etcd, with etcdctl beside it)";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let (chore, rest) = arguments.split_first().map_or(("help", arguments), |(chore, rest)| (&**chore, rest));
    let help = rest.iter().any(|argument| matches!(&**argument, "--help" | "-h"));
    match (chore, rest) {
        ("demo", _) if help => {
            println!("{USAGE}");
            Ok(())
        }
        ("demo", rest) => demo::run(rest),
        ("test", rest) => test(rest),
        ("faults", []) => faults(),
        ("bench", rest) => bench::run(rest),
        ("install", []) => Cargo::new()?.run(["install", "--locked", "--path", "cargo-etcdtest"]),
        ("lint", []) => lint(),
        ("ci", []) => lint().and_then(|()| test_unattended()),
        ("help" | "--help" | "-h", []) => {
            println!("{USAGE}");
            Ok(())
        }
        _ => bail!("`cargo xtask {}` is no chore\n\n{USAGE}", arguments.join(" ")),
    }
}

fn test(arguments: &[String]) -> Result<()> {
    // `cargo xtask test -- NAME` and `cargo xtask test NAME` both reach `cargo test`.
    let arguments = arguments.strip_prefix(&["--".to_owned()]).unwrap_or(arguments);
    tested()?.run(["test", "--workspace"].into_iter().chain(arguments.iter().map(String::as_str)))
}

/// Cargo with what the tests need.
fn tested() -> Result<Cargo> {
    let etcd = etcd::folder()?;
    println!("etcd: {}", etcd.display());
    let mut cargo = Cargo::new()?;
    cargo.env(etcd::VARIABLE, etcd);
    Ok(cargo)
}

/// Tests as nobody watches them: the same cases of properties each time, as little said beside
/// the tests' names as can be, and an end to it.
fn test_unattended() -> Result<()> {
    let mut cargo = tested()?;
    for (name, value) in
        [("RUST_BACKTRACE", "0"), ("PROPTEST_RNG_SEED", "1"), ("PROPTEST_MAX_SHRINK_TIME", "20000")]
    {
        cargo.env(name, value);
    }
    cargo.run(["test", "--workspace", "--no-run", "--quiet"])?;
    cargo.run_within(TEST_LIMIT, ["test", "--workspace", "--no-fail-fast"])
}

/// The tests that make the tables are too long for every day. The tables come last, whatever was
/// said before.
fn faults() -> Result<()> {
    let folder = tool::root().join("target/tables");
    if folder.exists() {
        fs::remove_dir_all(&folder).context("failed to remove the tables of an earlier time")?;
    }
    let tests = ["simulation_mutations", "faults"];
    let ended =
        tests.map(|name| test(&["--test", name, "--", "--ignored", "--nocapture"].map(str::to_owned)));
    for table in ["compares", "faults"] {
        if let Ok(table) = fs::read_to_string(folder.join(table).with_extension("txt")) {
            println!("\n{table}");
        }
    }
    ended.into_iter().collect()
}

fn lint() -> Result<()> {
    let mut cargo = Cargo::new()?;
    cargo.run(["fmt", "--all", "--check"])?;
    cargo.run(["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    cargo.env("RUSTDOCFLAGS", "-D warnings");
    cargo.run(["doc", "--quiet", "--workspace", "--no-deps"])
}
