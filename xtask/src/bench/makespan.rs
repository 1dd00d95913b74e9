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

/// How long the workers took.
#[derive(Debug)]
pub(super) struct Makespan {
    /// The least that is possible: the longest test, or an equal share for each worker.
    pub(super) least: f64,
    /// Each way to share the tests out, with its rounds.
    pub(super) ways: Vec<(&'static str, Vec<Round>)>,
}

/// One round, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Round {
    /// From the first test's beginning to the last one's end.
    pub(super) makespan: f64,
    /// What each worker was without a test of it, on average.
    pub(super) without: Without,
}

/// When a worker is without a test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Without {
    /// Until all workers were at work for the first time: they start one after the other.
    pub(super) first: f64,
    /// From then on, until the end of the time in which all were at work.
    pub(super) between: f64,
    /// After that: no test was left for somebody.
    pub(super) last: f64,
}

impl Round {
    /// By when each test began and ended, in microseconds of one clock.
    fn of(tests: &[(u64, u64)], workers: usize) -> Self {
        let mut changes: Vec<(u64, isize)> =
            tests.iter().flat_map(|&(began, ended)| [(began, 1), (ended, -1)]).collect();
        // Who ends at the moment at which another one begins is not at work beside it.
        changes.sort_unstable();
        let mut at_work = 0_isize;
        let mut without = vec![];
        for pair in changes.windows(2) {
            let [(from, change), (to, _)] = [pair[0], pair[1]];
            at_work += change;
            let idle = workers.saturating_sub(at_work.unsigned_abs());
            let time = Duration::from_micros(to - from).as_secs_f64();
            #[expect(clippy::cast_precision_loss, reason = "there are few workers")]
            without.push((idle == 0 && time > 0.0, time * idle as f64 / workers as f64));
        }
        let all = |(all, _): &(bool, f64)| *all;
        let first = without.iter().position(all).unwrap_or(without.len());
        let last = without.iter().rposition(all).map_or(without.len(), |last| last + 1);
        let sum = |part: &[(bool, f64)]| part.iter().map(|(_, without)| without).sum();
        let began = tests.iter().map(|(began, _)| *began).min().unwrap_or_default();
        let ended = tests.iter().map(|(_, ended)| *ended).max().unwrap_or_default();
        Self {
            makespan: Duration::from_micros(ended - began).as_secs_f64(),
            without: Without {
                first: sum(&without[..first]),
                between: sum(&without[first..last]),
                last: sum(&without[last..]),
            },
        }
    }
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
                let done = run(projects, way, round, durations.len()).with_context(|| way.name.to_owned())?;
                if round > 0 {
                    times.push(done);
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

/// Runs all workers at once.
fn run(projects: &Projects, way: &Way, round: usize, tests: usize) -> Result<Round> {
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
    Ok(Round::of(&times, WORKERS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_workers_are_without_a_test_is_told_apart_by_when_that_is() {
        let seconds = |from: u64, to: u64| (from * 1_000_000, to * 1_000_000);
        // One begins 4 s later, and has nothing for 2 s; the other one has nothing to do for the last 3 s.
        let round = Round::of(&[seconds(0, 10), seconds(4, 6), seconds(8, 13)], 2);
        assert_eq!(round, Round { makespan: 13.0, without: Without { first: 2.0, between: 1.0, last: 1.5 } });
        let alone = Round::of(&[seconds(0, 1)], 2);
        assert_eq!(alone, Round { makespan: 1.0, without: Without { first: 0.5, between: 0.0, last: 0.0 } });
    }
}
