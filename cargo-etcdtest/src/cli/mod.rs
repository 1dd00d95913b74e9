//! The command line: arguments in, a service called, lines printed.

mod cargo_options;
mod confirm;
mod env;
mod env_check;
mod env_text;
mod exit;
mod filter_options;
mod global;
mod interrupts;
mod lines;
mod list;
mod needs;
mod print;
mod progress;
mod report;
mod requirements;
mod reservation;
mod reservation_text;
mod run;
mod run_text;
mod runs;
mod session;
mod store;
mod store_copy;
mod store_gc;
mod store_sync;
mod stream;
pub mod style;
mod table;
mod testcase;
mod testcase_text;
mod verb;
mod watch;
mod worker;
mod worker_text;

use std::ffi::OsString;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

pub use cargo_options::CargoOptions;
pub use exit::{Exit, Failure};
pub use filter_options::FilterOptions;
pub use global::GlobalArgs;
pub use session::Session;

use crate::config::{Declaration, Flags, Format};

use worker::MachineArgs;

/// Run the tests of distributed applications, and manage them, on etcd.
///
/// Without a verb, `cargo etcdtest` runs the tests: see `cargo etcdtest run --help`.
#[derive(Debug, Parser)]
#[command(name = "cargo etcdtest", bin_name = "cargo etcdtest", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run tests, the default
    Run(Box<run::RunArgs>),
    /// List the tests
    List(Box<list::ListArgs>),
    /// Manage test cases
    Testcase(Box<testcase::TestCaseArgs>),
    Env(env::EnvArgs),
    /// Show runs
    Runs(runs::RunsArgs),
    /// Show and export reports
    Report(report::ReportArgs),
    /// Work for runs that others began
    Worker(Box<worker::WorkerArgs>),
    /// Follow a run live
    Watch(watch::WatchArgs),
    Store(store::StoreArgs),
}

/// Runs the program with these arguments, the program's own name first, and says what to
/// exit with.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    exit::draw_with_color();
    let arguments = verb::insert_default(arguments.into_iter().collect());
    let cli = match parse(&arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Passed };
            // A closed stream is no reason to fail: there is nobody left to tell.
            let _ = error.print();
            return exit;
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::usage(miette::miette!("failed to start: {error}")).print(),
    };
    let exit = runtime.block_on(run(cli, &arguments)).unwrap_or_else(Failure::print);
    // What still goes on is for nobody any more.
    runtime.shutdown_background();
    exit
}

/// Whether these arguments, the program's own name first, are understood; nothing is done.
///
/// # Errors
/// What is wrong with them, and where the help or the version is asked for.
pub fn check(arguments: impl IntoIterator<Item = OsString>) -> Result<(), clap::Error> {
    parse(&verb::insert_default(arguments.into_iter().collect())).map(drop)
}

fn parse(arguments: &[OsString]) -> Result<Cli, clap::Error> {
    let mut command = with_defaults(Cli::command());
    let matches = command.try_get_matches_from_mut(arguments)?;
    Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

/// Has the help of a flag tell what the setting is that it stands for, if nobody sets it.
fn with_defaults(command: clap::Command) -> clap::Command {
    let described = command.mut_args(|argument| {
        let named = |declaration: &&Declaration| argument.get_long() == Some(&*declaration.name());
        let own = !argument.get_action().takes_values() || !argument.get_default_values().is_empty();
        match (Declaration::ALL.iter().find(named), argument.get_help()) {
            (Some(Declaration { default, .. }), Some(help)) if !own && !default.is_empty() => {
                let help = format!("{help} [default: {default}]");
                argument.help(help)
            }
            _ => argument,
        }
    });
    described.mut_subcommands(with_defaults)
}

async fn run(cli: Cli, arguments: &[OsString]) -> Result<Exit, Failure> {
    let global = &cli.global;
    match cli.verb {
        Verb::Run(args) => run::run(*args, global, arguments).await,
        Verb::List(args) => {
            let Session { settings, .. } = Session::new(global, Flags::default(), args.manifest_path())?;
            list::run(*args, settings.format, settings.list_timeout).await
        }
        Verb::Testcase(args) => {
            let session = Session::new(global, Flags::default(), args.manifest_path())?;
            let settings = &session.settings;
            testcase::run(*args, session.store().await?, settings.format, settings.list_timeout).await
        }
        Verb::Env(args) => {
            let session = Session::new(global, args.flags(), None)?;
            env::run(args, session.store().await?, &session).await
        }
        Verb::Runs(args) => {
            let machine = args.machine();
            let flags = machine.map(MachineArgs::flags).unwrap_or_default();
            let session = Session::new(global, flags, machine.and_then(MachineArgs::manifest_path))?;
            runs::run(args, &session).await
        }
        Verb::Report(args) => {
            let session = Session::new(global, Flags::default(), None)?;
            report::run(args, session.store().await?, session.settings.format).await
        }
        Verb::Worker(args) => {
            let session = Session::new(global, args.machine().flags(), args.machine().manifest_path())?;
            worker::run(*args, &session).await
        }
        Verb::Watch(args) => {
            let session = Session::new(global, Flags::default(), None)?;
            watch::run(args, session.store().await?, &session.settings).await
        }
        Verb::Store(args) => store::run(args, &Session::new(global, Flags::default(), None)?).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_no_runs_cannot_be_asked_for() {
        let typed = ["x", "runs", "list", "--limit", "0"].map(OsString::from);
        assert!(parse(&typed).unwrap_err().to_string().contains("--limit"));
    }

    #[test]
    fn the_help_of_a_flag_tells_the_default_of_its_setting() {
        let mut command = with_defaults(Cli::command());
        command.build();
        command.clone().debug_assert();
        let help = |path: &[&str]| {
            let mut command = &mut command.clone();
            for verb in path {
                command = command.find_subcommand_mut(verb).unwrap();
            }
            command.render_help().to_string()
        };
        let run = help(&["run"]);
        for default in ["num-cpus", "0", "failed", "human", "auto"] {
            assert!(run.contains(&format!("[default: {default}]")), "{default}: {run}");
        }
        assert!(help(&["report", "export"]).contains("[default: junit]"), "its own `--format`");
    }
}
