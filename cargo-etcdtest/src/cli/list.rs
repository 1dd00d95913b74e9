//! `list`: which tests there are. No store is needed for it.

use std::io::{self, BufWriter, Write};

use clap::Args;
use serde_json::json;

use super::{CargoOptions, Exit, Failure, Format};
use crate::testcases::{DEFAULT_LIST_TIMEOUT, ListedTest};

/// Arguments of `list`.
#[derive(Debug, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    cargo: CargoOptions,
}

/// Builds, lists and prints.
///
/// # Errors
/// The build or the listing failed.
pub(super) async fn run(args: ListArgs, format: Format) -> Result<Exit, Failure> {
    let list = args.cargo.list_tests(DEFAULT_LIST_TIMEOUT).await?;
    for warning in &list.warnings {
        anstream::eprintln!("warning: {warning}");
    }
    let tests: Vec<&ListedTest> = list.tests.iter().collect();
    // A reader that has seen enough closes the stream: no reason to fail.
    let _ = print(&tests, format);
    Ok(if tests.is_empty() { Exit::NothingToRun } else { Exit::Passed })
}

fn print(tests: &[&ListedTest], format: Format) -> io::Result<()> {
    let mut out = BufWriter::new(anstream::stdout().lock());
    match format {
        Format::Human => {
            for binary in tests.chunk_by(|a, b| a.id.package == b.id.package && a.id.binary == b.id.binary) {
                writeln!(out, "{}::{}", binary[0].id.package, binary[0].id.binary)?;
                for test in binary {
                    let ignored = if test.code.ignore.is_some() { " (ignored)" } else { "" };
                    writeln!(out, "    {}{ignored}", test.id.test)?;
                }
            }
        }
        Format::Json => {
            for test in tests {
                writeln!(out, "{}", json!({ "id": test.id.to_string(), "code": test.code }))?;
            }
        }
    }
    out.flush()
}
