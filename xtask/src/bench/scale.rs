//! What a test costs where there are many, and how much memory the runner takes for them.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::projects::Projects;
use super::suites::REPEATED;
use super::usage::{Usage, measure};

/// How often the runner's memory is looked at; the system remembers the highest.
const LOOK: Duration = Duration::from_millis(20);

/// Runs of so many units.
#[derive(Debug)]
pub(super) struct Scale {
    /// How many units.
    pub(super) units: usize,
    /// What each round took.
    pub(super) rounds: Vec<Usage>,
    /// How much memory the runner itself took at the most in each round, in bytes; empty where
    /// the system does not tell.
    pub(super) memory: Vec<u64>,
}

impl Scale {
    /// Runs all repeated tests so often that there are so many units.
    pub(super) fn measure(
        projects: &Projects,
        arguments: &[String],
        units: usize,
        rounds: usize,
    ) -> Result<Self> {
        let mut scale = Self { units, rounds: Vec::new(), memory: Vec::new() };
        let times = (units / REPEATED).to_string();
        for round in 1..=rounds {
            eprintln!("{units} units: round {round} of {rounds}");
            let (out, err) = (projects.folder().join("stdout"), projects.folder().join("stderr"));
            let mut command = projects.runner(arguments.iter().map(String::as_str))?;
            command.args(["--stress", &times]);
            command.stdout(fs::File::create(out)?).stderr(fs::File::create(&err)?);
            let mut highest = None;
            let usage = measure(|| {
                let mut child = command.spawn().context("failed to start `cargo etcdtest`")?;
                let status = loop {
                    highest = memory(child.id()).max(highest);
                    if let Some(status) = child.try_wait()? {
                        break status;
                    }
                    sleep(LOOK);
                };
                if !status.success() {
                    bail!("`cargo etcdtest` ended with {status}:\n{}", fs::read_to_string(&err)?);
                }
                Ok(())
            })?;
            scale.rounds.push(usage);
            scale.memory.extend(highest);
        }
        Ok(scale)
    }
}

/// The most that a process had in memory until now.
fn memory(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
}
