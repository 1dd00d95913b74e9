//! Where the time of `cargo etcdtest` goes.

use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::Value;

/// The phases as they follow each other.
const ORDER: [&str; 8] = ["open", "build", "list", "register", "plan", "create", "execute", "finish"];

/// The times of one kind of run, in seconds.
#[derive(Debug)]
pub(super) struct Phases {
    /// Which run.
    pub(super) name: &'static str,
    /// Each phase with its rounds; first what the runner does not see of itself: the time
    /// before its first line and after its last.
    pub(super) times: Vec<(&'static str, Vec<f64>)>,
}

impl Phases {
    /// Runs it so often. `run` gives what the runner tells of itself, in lines of JSON.
    pub(super) fn measure(
        name: &'static str,
        rounds: usize,
        run: impl Fn() -> Result<String>,
    ) -> Result<Self> {
        let mut times = vec![("outside", Vec::new())];
        times.extend(ORDER.map(|phase| (phase, Vec::new())));
        times.extend([("storing", Vec::new()), ("attempts", Vec::new())]);
        for _ in 0..rounds {
            let started = Instant::now();
            let told = run()?;
            let wall = started.elapsed().as_secs_f64();
            let events = || told.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let spent = events()
                .find(|event| event["event"] == "time-spent")
                .context("the runner did not tell where its time went")?;
            let of = |phase: &str| spent["phases"][phase].as_f64().unwrap_or_default();
            let attempts: f64 = events()
                .filter(|event| event["event"] == "unit-finished")
                .flat_map(|event| event["attempts"].as_array().cloned().unwrap_or_default())
                .filter_map(|attempt| attempt["duration"].as_f64())
                .sum();
            let seen: f64 = ORDER.iter().map(|phase| of(phase)).sum();
            for (phase, times) in &mut times {
                times.push(match *phase {
                    "outside" => wall - seen,
                    "storing" => spent["storing"].as_f64().unwrap_or_default(),
                    "attempts" => attempts,
                    phase => of(phase),
                });
            }
        }
        Ok(Self { name, times })
    }
}
