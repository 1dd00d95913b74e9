//! How many results etcd takes in a second, from `cargo etcdtest` and from a bare client.

use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::projects::Projects;
use super::suites::REPEATED;
use crate::tool;

/// How many results are stored.
pub(super) const RESULTS: usize = 20_000;

/// About how many bytes a result has as JSON.
const BYTES: usize = 300;

/// Rates in results per second, one for each round.
#[derive(Debug, Default)]
pub(super) struct StoreRate {
    /// Of a client that does nothing but put them, 128 in a transaction.
    pub(super) raw: Vec<f64>,
    /// Of a run: by the time that it waited for the store while tests ran.
    pub(super) running: Vec<f64>,
    /// Of a run, with the time in which reports and latest results were written.
    pub(super) whole: Vec<f64>,
}

impl StoreRate {
    /// Does both in turns.
    pub(super) fn measure(
        projects: &Projects,
        arguments: &[String],
        endpoint: &str,
        rounds: usize,
    ) -> Result<Self> {
        let mut rate = Self::default();
        #[expect(clippy::cast_precision_loss, reason = "few thousand are exact")]
        let per_second = |seconds: f64| RESULTS as f64 / seconds;
        let times = (RESULTS / REPEATED).to_string();
        for round in 1..=rounds {
            eprintln!("results per second: round {round} of {rounds}");
            rate.raw.push(per_second(raw(endpoint)?));
            let arguments = arguments.iter().map(String::as_str);
            let told = projects.output(arguments.chain(["--stress", &times, "--format", "json"]))?;
            let spent = told
                .lines()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok())
                .find(|event| event["event"] == "time-spent")
                .context("the runner did not tell where its time went")?;
            let storing = spent["storing"].as_f64().context("it did not tell how long it stored")?;
            let finish = spent["phases"]["finish"].as_f64().unwrap_or_default();
            rate.running.push(per_second(storing));
            rate.whole.push(per_second(storing + finish));
        }
        Ok(rate)
    }
}

/// How long the bare client takes, in seconds.
fn raw(endpoint: &str) -> Result<f64> {
    let client = tool::folder()?.with_file_name("release").join("examples/raw_puts");
    let output = Command::new(client).args([endpoint, &RESULTS.to_string(), &BYTES.to_string()]).output()?;
    if !output.status.success() {
        bail!("the bare client failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let said = String::from_utf8_lossy(&output.stdout);
    said.trim().parse().context("the bare client did not say how long it took")
}
