//! Where the time of a run goes.

use std::time::{Duration, Instant};

/// How long each phase of a run took, in their order: they follow each other without a gap.
#[derive(Clone, Debug)]
pub struct Timings {
    since: Instant,
    phases: Vec<(&'static str, Duration)>,
}

impl Timings {
    /// The first phase begins now.
    pub fn start() -> Self {
        Self { since: Instant::now(), phases: Vec::new() }
    }

    /// The phase that was under way ends now, and the next one begins. One that is gone through
    /// again counts as one.
    pub fn end(&mut self, phase: &'static str) {
        let now = Instant::now();
        let took = now - self.since;
        match self.phases.iter_mut().find(|(name, _)| *name == phase) {
            Some((_, before)) => *before += took,
            None => self.phases.push((phase, took)),
        }
        self.since = now;
    }

    /// The phases that have ended.
    pub fn phases(&self) -> &[(&'static str, Duration)] {
        &self.phases
    }
}
