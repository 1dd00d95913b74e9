//! The command line: arguments in, a service called, lines printed.

mod cargo_options;
mod exit;
mod filter_options;
mod global;
mod list;
pub mod style;
mod testcase;
mod testcase_text;
mod print;
mod report;
mod run_text;
mod runs;
pub mod style;
mod table;

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use clap::{Parser, Subcommand};

pub use cargo_options::CargoOptions;
pub use exit::{Exit, Failure};
pub use filter_options::FilterOptions;
pub use global::GlobalArgs;

pub use crate::config::Format;
use crate::store::{SharedStore, local::LocalStore};
use crate::testcases::DEFAULT_LIST_TIMEOUT;

/// Run the tests of distributed applications, and manage them, on etcd.
#[derive(Debug, Parser)]
#[command(name = "cargo etcdtest", bin_name = "cargo etcdtest", version)]
struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the tests
    List(list::ListArgs),
    /// Manage test cases
    Testcase(testcase::TestCaseArgs),
    Runs(runs::RunsArgs),
    Report(report::ReportArgs),
}

/// Runs the program with these arguments, the program's own name first, and says what to
/// exit with.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let arguments = with_verb(arguments.into_iter().collect());
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Passed };
            // A closed stream is no reason to fail: there is nobody left to tell.
            let _ = error.print();
            return exit;
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::usage(miette::miette!("failed to start: {error}")).print(),
    };
    match runtime.block_on(run(cli)) {
        Ok(exit) => exit,
        Err(failure) => failure.print(),
    }
}

async fn run(cli: Cli) -> Result<Exit, Failure> {
    let format = cli.global.format.unwrap_or_default();
    match cli.verb {
        Verb::List(args) => list::run(args, format, DEFAULT_LIST_TIMEOUT).await,
        Verb::Testcase(args) => {
            let store: SharedStore = Arc::new(LocalStore::open(Path::new(".etcdtest"))?);
            testcase::run(args, store, format, DEFAULT_LIST_TIMEOUT).await
        }
    let store = std::sync::Arc::new(crate::store::local::LocalStore::open(".etcdtest".as_ref())?);
    let format = cli.global.format.unwrap_or_default();
    match cli.verb {
        Verb::Runs(arguments) => runs::run(arguments, store, format).await,
        Verb::Report(arguments) => report::run(arguments, store, format).await,
    }
}

/// Puts the default verb, `run`, where none was typed, and drops the `etcdtest` that cargo
/// passes as the first argument.
fn with_verb(mut arguments: Vec<OsString>) -> Vec<OsString> {
    if arguments.get(1).is_some_and(|first| first == "etcdtest") {
        arguments.remove(1);
    }
    arguments
}
