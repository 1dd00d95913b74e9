//! The `main` of a test binary: it serves the runner, and whoever expects libtest.

use std::env;
use std::ffi::OsString;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::protocol::{ATTEMPT_ARGUMENT, CHECK_ARGUMENT, LIST_VARIABLE, Outcome, ZYGOTE_ARGUMENT};
use crate::registry::{self, Entry};
#[cfg(not(target_os = "linux"))]
use crate::spawn_only as zygote;
#[cfg(target_os = "linux")]
use crate::zygote;
use crate::{attempt, check, panics, run, standalone};

/// What `etcdtest::main!()` calls.
#[doc(hidden)]
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let result = if arguments == [ATTEMPT_ARGUMENT] {
        match attempt::main() {
            Err(error) => Err(format!("failed to take an attempt from the runner: {error}")),
        }
    } else if arguments == [ZYGOTE_ARGUMENT] {
        match zygote::main() {
            Err(error) => Err(format!("failed to fork for the runner: {error}")),
        }
    } else if arguments == [CHECK_ARGUMENT] {
        check::main()
    } else if env::var_os(LIST_VARIABLE).is_some() && arguments.iter().any(|argument| argument == "--list") {
        list()
    } else {
        libtest(arguments)
    };
    result.unwrap_or_else(|message| {
        eprintln!("error: {message}");
        ExitCode::from(101)
    })
}

fn list() -> Result<ExitCode, String> {
    let listing = registry::listing().map_err(|error| error.to_string())?;
    println!("{}", listing.to_line());
    Ok(ExitCode::SUCCESS)
}

fn libtest(arguments: Vec<OsString>) -> Result<ExitCode, String> {
    let entries = registry::entries().map_err(|error| error.to_string())?;
    let arguments = parse(arguments);
    if let Some(name) = arguments.filter.as_ref().filter(|_| arguments.exact && !arguments.list)
        && !entries.iter().any(|(known, _)| known == name)
    {
        return Err(format!("there is no test `{name}` in this binary, and `--exact` asks for it"));
    }
    panics::watch();
    let trials = entries.iter().map(|(_, entry)| trial(entry)).collect();
    Ok(libtest_mimic::run(&arguments, trials).exit_code())
}

fn parse(arguments: Vec<OsString>) -> Arguments {
    // libtest knows both spellings.
    let spelled = |argument| if argument == "--no-capture" { "--nocapture".into() } else { argument };
    let program = env::args_os().next().unwrap_or_default();
    let mut arguments =
        Arguments::from_iter(std::iter::once(program).chain(arguments.into_iter().map(spelled)));
    let threads = || env::var("RUST_TEST_THREADS").ok()?.parse().ok();
    arguments.test_threads = arguments.test_threads.or_else(threads);
    arguments
}

fn trial(entry: &'static Entry) -> Trial {
    let run = || {
        let context = standalone::context(entry).map_err(|failure| Failed::from(failure.0))?;
        match run::in_thread(entry, &context) {
            Outcome::Passed => Ok(Completion::Completed),
            Outcome::Skipped(reason) => Ok(Completion::ignored_with(reason)),
            Outcome::Failed { message, location: None } => Err(message.into()),
            Outcome::Failed { message, location: Some(location) } => {
                Err(format!("panicked at {location}:\n{message}").into())
            }
        }
    };
    Trial::ignorable_test(entry.name(), run).with_ignored_flag(entry.ignore.is_some())
}
