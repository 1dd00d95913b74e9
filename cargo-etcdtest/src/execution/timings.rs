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

    /// The phase that was under way ends now, and the next one begins.
    pub fn end(&mut self, phase: &'static str) {
        let now = Instant::now();
        self.phases.push((phase, now - self.since));
        self.since = now;
    }

    /// The phases that have ended.
    pub fn phases(&self) -> &[(&'static str, Duration)] {
        &self.phases
    }
}
