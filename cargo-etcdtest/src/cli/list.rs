//! `list`: which tests there are. No store is needed for it.

use std::path::Path;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::print::{json_line, print};
use super::style::{FAINT, STRONG, painted};
use super::{CargoOptions, Exit, Failure, FilterOptions};
use crate::config::Format;
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
    print(&match format {
        Format::Human => list_text(&tests),
        Format::Json => list_json(&tests),
    })?;
    if tests.is_empty() {
        anstream::eprintln!("no test is selected, of {}", list.tests.len());
    }
    Ok(Exit::Passed)
}

fn list_text(tests: &[(&ListedTest, Selected)]) -> String {
    let mut lines = Vec::new();
    for binary in tests.chunk_by(|(a, _), (b, _)| a.binary == b.binary) {
        lines.push(format!("{}:\n", painted(STRONG, &binary[0].0.binary)));
        lines.extend(binary.iter().map(|(test, selected)| {
            let name = &test.id.test;
            match (selected, test.code.ignore.as_deref()) {
                (Selected::Run, _) => format!("    {name}\n"),
                (Selected::Ignored, None | Some("")) => {
                    format!("    {}\n", painted(FAINT, format_args!("{name} (ignored)")))
                }
                (Selected::Ignored, Some(why)) => {
                    format!("    {}\n", painted(FAINT, format_args!("{name} (ignored: {why})")))
                }
            }
        }));
    }
    lines.concat()
}

fn list_json(tests: &[(&ListedTest, Selected)]) -> String {
    let document = |(test, selected): &(&ListedTest, Selected)| {
        let runs = *selected == Selected::Run;
        json_line(&json!({ "id": test.id.to_string(), "runs": runs, "code": *test.code }))
    };
    tests.iter().map(document).collect()
}
