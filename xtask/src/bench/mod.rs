//! How fast `cargo etcdtest` is, beside its peers: `cargo xtask bench`.
//!
//! Everything is measured in one run, in turns, and told as ratios: what a machine does
//! beside it slows all of them. Nothing is asserted.

mod contest;
mod etcd_server;
mod machine;
mod makespan;
mod phases;
mod projects;
mod report;
mod rows;
mod scale;
mod spawn_loop;
mod store_rate;
mod suites;
mod usage;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use rows::Row;

/// What was asked for.
#[derive(Debug, Default)]
struct Options {
    /// What to measure; everything where nothing is named.
    rows: Vec<Row>,
    /// Few rounds: a look, not a measurement.
    quick: bool,
    /// Where all figures go.
    json: Option<PathBuf>,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self::default();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--quick" => options.quick = true,
                "--json" => options.json = Some(arguments.next().context("--json needs a file")?.into()),
                name => {
                    let Some((_, row)) = Row::ALL.iter().find(|(known, _)| *known == name) else {
                        let known: Vec<_> = Row::ALL.iter().map(|(name, _)| *name).collect();
                        let known = known.join(", ");
                        bail!("`cargo xtask bench` knows no `{name}`, only `--quick`, `--json FILE`, {known}")
                    };
                    options.rows.push(*row);
                }
            }
        }
        if options.rows.is_empty() {
            options.rows = Row::ALL.map(|(_, row)| row).to_vec();
        }
        Ok(options)
    }
}

/// Measures, prints, and writes the figures where they are wanted.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let options = Options::parse(arguments)?;
    let bench = rows::Bench::prepare(options.rows, options.quick)?;
    let measured = bench.measure()?;
    print!("{}", report::text(&measured));
    if let Some(file) = options.json {
        let figures = serde_json::to_string_pretty(&report::json(&measured))?;
        std::fs::write(&file, figures + "\n")
            .with_context(|| format!("failed to write {}", file.display()))?;
    }
    Ok(())
}
