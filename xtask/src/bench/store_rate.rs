//! How many results etcd takes in a second, from a worker and as bare puts.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::tool;

/// How many results are stored.
const RESULTS: u32 = 20_000;

/// Rates in results per second, one for each round.
#[derive(Debug, Default)]
pub(super) struct StoreRate {
    /// Of a client that does nothing but put them, 128 in a transaction.
    pub(super) bare: Vec<f64>,
    /// Of a worker that claims units and stores their results, without a test being run.
    pub(super) worker: Vec<f64>,
}

impl StoreRate {
    /// Does both in turns.
    pub(super) fn measure(endpoint: &str, rounds: usize) -> Result<Self> {
        let mut rate = Self::default();
        for round in 0..=rounds {
            eprintln!("results per second: round {round} of {rounds}");
            let [worker, bare] = seconds(endpoint)?.map(|seconds| f64::from(RESULTS) / seconds);
            if round > 0 {
                rate.worker.push(worker);
                rate.bare.push(bare);
            }
        }
        Ok(rate)
    }
}

/// How long the worker and the bare client take, in seconds.
fn seconds(endpoint: &str) -> Result<[f64; 2]> {
    let example = tool::folder()?.with_file_name("release").join("examples/results_per_second");
    let output = Command::new(example).args([endpoint, &RESULTS.to_string()]).output()?;
    if !output.status.success() {
        bail!("storing results failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let (worker, bare) = said.trim().split_once(' ').context("it was not told how long that took")?;
    Ok([worker.parse()?, bare.parse()?])
}
