//! How soon many workers are done with tests of very different durations.

use std::fs;
use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::projects::Projects;
use super::suites::{LOG, skewed};

/// How many workers there are, each with one lane.
pub(super) const WORKERS: usize = 8;

/// The times from the first test's beginning to the last one's end, in seconds.
#[derive(Debug)]
pub(super) struct Makespan {
    /// The least that is possible: the longest test, or an equal share for each worker.
    pub(super) least: f64,
    /// Each way to share the tests out, with its rounds.
    pub(super) ways: Vec<(&'static str, Vec<f64>)>,
}

/// One way to share the tests out.
pub(super) struct Way {
    /// What it is called.
    pub(super) name: &'static str,
    /// The arguments of cargo for a worker, counted from 0, in a round.
    pub(super) arguments: Box<dyn Fn(usize, usize) -> Vec<String>>,
}

impl Makespan {
    /// Has each way do it once unmeasured, so that it may learn the durations, then in turns.
    pub(super) fn measure(projects: &Projects, ways: &[Way], rounds: usize) -> Result<Self> {
        let durations: Vec<Duration> = skewed().into_iter().map(Duration::from_millis).collect();
        let longest = durations.iter().max().copied().unwrap_or_default();
        let share = durations.iter().sum::<Duration>() / u32::try_from(WORKERS)?;
        let mut times: Vec<_> = ways.iter().map(|way| (way.name, Vec::new())).collect();
        for round in 0..=rounds {
            eprintln!("makespan: round {round} of {rounds}");
            for (way, (_, times)) in ways.iter().zip(&mut times) {
                let seconds =
                    run(projects, way, round, durations.len()).with_context(|| way.name.to_owned())?;
                if round > 0 {
                    times.push(seconds);
                }
            }
        }
        Ok(Self { least: longest.max(share).as_secs_f64(), ways: times })
    }
}

/// Workers that are under way, ended with this.
struct Workers(Vec<(Child, PathBuf)>);

impl Drop for Workers {
    fn drop(&mut self) {
        for (child, _) in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs all workers at once, and says how long it was from the first test's beginning to
/// the last one's end.
fn run(projects: &Projects, way: &Way, round: usize, tests: usize) -> Result<f64> {
    let log = projects.folder().join("makespan.log");
    if log.exists() {
        fs::remove_file(&log)?;
    }
    let mut workers = Workers(Vec::new());
    for worker in 0..WORKERS {
        let arguments = (way.arguments)(round, worker);
        let said = projects.folder().join(format!("worker-{worker}"));
        let mut command = projects.command(arguments.iter().map(String::as_str));
        let file = fs::File::create(&said)?;
        command.env(LOG, &log).stdout(file.try_clone()?).stderr(file);
        workers.0.push((command.spawn().context("failed to start cargo")?, said));
    }
    for (child, said) in &mut workers.0 {
        let status = child.wait()?;
        if !status.success() {
            let said = fs::read_to_string(said).unwrap_or_default();
            let tail: Vec<_> = said.lines().rev().take(20).collect();
            bail!("a worker ended with {status}:\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
    }
    let mut times = Vec::new();
    for line in fs::read_to_string(&log).context("no test said when it ran")?.lines() {
        let (began, ended) = line.split_once(' ').context("a line of the log is damaged")?;
        times.push((began.parse::<u64>()?, ended.parse::<u64>()?));
    }
    if times.len() != tests {
        bail!("{} tests ran, not {tests}", times.len());
    }
    let first = times.iter().map(|(began, _)| *began).min().unwrap_or_default();
    let last = times.iter().map(|(_, ended)| *ended).max().unwrap_or_default();
    Ok(Duration::from_micros(last - first).as_secs_f64())
}
