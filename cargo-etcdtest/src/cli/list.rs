//! `list`: which tests there are. No store is needed for it.

use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::style::{FAINT, STRONG, painted};
use super::{CargoOptions, Exit, Failure, FilterOptions, Format};
use crate::testcases::{ListedTest, Selected};

/// Arguments of `list`.
#[derive(Debug, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    filter: FilterOptions,
    #[command(flatten)]
    cargo: CargoOptions,
}

impl ListArgs {
    /// The manifest that was named, if one was.
    pub(super) fn manifest_path(&self) -> Option<&Path> {
        self.cargo.manifest_path()
    }
}

/// Builds, lists and prints. Each binary may take `timeout` to list its tests.
///
/// # Errors
/// A filter expression cannot be read, or the build or the listing failed.
pub(super) async fn run(args: ListArgs, format: Format, timeout: Duration) -> Result<Exit, Failure> {
    let filter = args.filter.filter()?;
    let list = args.cargo.list_tests(timeout).await?;
    let tests = list.tests.iter().filter_map(|test| Some((test, filter.select(test)?)));
    let tests: Vec<_> = tests.collect();
    // A reader that has seen enough closes the stream: no reason to fail.
    let _ = print(&tests, format);
    if tests.is_empty() {
        anstream::eprintln!("no test is selected, of {}", list.tests.len());
    }
    Ok(Exit::Passed)
}

fn print(tests: &[(&ListedTest, Selected)], format: Format) -> io::Result<()> {
    let mut out = BufWriter::new(anstream::stdout().lock());
    if format == Format::Json {
        for (test, selected) in tests {
            let runs = *selected == Selected::Run;
            writeln!(out, "{}", json!({ "id": test.id.to_string(), "runs": runs, "code": test.code }))?;
        }
        return out.flush();
    }
    for binary in tests.chunk_by(|(a, _), (b, _)| a.binary == b.binary) {
        writeln!(out, "{}:", painted(STRONG, &binary[0].0.binary))?;
        for (test, selected) in binary {
            let name = &test.id.test;
            match (selected, test.code.ignore.as_deref()) {
                (Selected::Run, _) => writeln!(out, "    {name}")?,
                (Selected::Ignored, None | Some("")) => {
                    writeln!(out, "    {}", painted(FAINT, format_args!("{name} (ignored)")))?;
                }
                (Selected::Ignored, Some(why)) => {
                    writeln!(out, "    {}", painted(FAINT, format_args!("{name} (ignored: {why})")))?;
                }
            }
        }
    }
    out.flush()
}
