//! What each worker of a run did, and when: each by its own clock, from when it began.

use std::collections::BTreeMap;
use std::time::Duration;

use super::details::RunDetails;
use crate::model::WorkerId;

/// What one worker did of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerLine {
    /// The worker.
    pub worker: WorkerId,
    /// Its machine.
    pub host: String,
    /// To how many units it gave their result.
    pub units: u32,
    /// What it executed, in the order of time.
    pub spans: Vec<Span>,
}

/// One attempt in the time of its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// How long the worker had been at work when it began.
    pub offset: Duration,
    /// How long it took.
    pub duration: Duration,
    /// The lane, from 1.
    pub lane: u32,
}

/// What each worker did, the one that did most first. Units that nobody executed, because
/// they were skipped, are nobody's.
pub fn workers(details: &RunDetails) -> Vec<WorkerLine> {
    let mut lines = BTreeMap::<&WorkerId, WorkerLine>::new();
    for result in details.units.iter().filter_map(|unit| unit.result.as_ref()) {
        for (place, attempt) in
            result.attempts.iter().filter_map(|attempt| Some((attempt.place.as_ref()?, attempt)))
        {
            let line = lines.entry(&result.worker).or_insert_with(|| WorkerLine {
                worker: result.worker.clone(),
                host: place.host.clone(),
                units: 0,
                spans: Vec::new(),
            });
            line.units += u32::from(attempt.number == 1);
            line.spans.push(Span { offset: place.offset, duration: attempt.duration, lane: place.lane });
        }
    }
    let mut lines: Vec<WorkerLine> = lines.into_values().collect();
    for line in &mut lines {
        line.spans.sort_unstable();
    }
    lines.sort_by(|a, b| (b.units, &a.worker).cmp(&(a.units, &b.worker)));
    lines
}

impl WorkerLine {
    /// When the last of its attempts ended.
    pub fn end(&self) -> Duration {
        self.spans.iter().map(Span::end).max().unwrap_or_default()
    }

    /// How many lanes it used.
    pub fn lanes(&self) -> u32 {
        self.spans.iter().map(|span| span.lane).max().unwrap_or_default()
    }

    /// How long its lanes were at work altogether.
    pub fn busy(&self) -> Duration {
        self.spans.iter().map(|span| span.duration).sum()
    }

    /// How busy it was in each of so many equal parts of a time: the share of its lanes, of
    /// 0 to 1.
    pub fn load(&self, of: Duration, parts: u32) -> Vec<f64> {
        let part = of / parts.max(1);
        let lanes = f64::from(self.lanes().max(1));
        let load = |place: u32| {
            let (from, to) = (part * place, part * (place + 1));
            let inside = |span: &Span| span.end().min(to).saturating_sub(span.offset.max(from));
            let busy: Duration = self.spans.iter().map(inside).sum();
            if part.is_zero() { 0.0 } else { (busy.div_duration_f64(part) / lanes).min(1.0) }
        };
        (0..parts).map(load).collect()
    }
}

impl Span {
    fn end(&self) -> Duration {
        self.offset + self.duration
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reports::sample::every_kind;

    #[test]
    fn each_worker_has_its_own_attempts_and_its_own_time() {
        let found = workers(&every_kind());
        let told: Vec<_> = found
            .iter()
            .map(|line| (line.worker.as_str(), line.host.as_str(), line.units, line.spans.len()))
            .collect();
        assert_eq!(told, [("host-1-abc", "host", 5, 7), ("ci-2-7-xyz", "ci-2", 1, 1)]);
        assert_eq!(found[1].end(), Duration::from_secs(10));
    }

    #[test]
    fn the_load_is_the_share_of_the_lanes_that_were_at_work() {
        let span = |offset, duration, lane| Span {
            offset: Duration::from_secs(offset),
            duration: Duration::from_secs(duration),
            lane,
        };
        let line = WorkerLine {
            worker: WorkerId::new("w"),
            host: "h".into(),
            units: 3,
            spans: vec![span(0, 4, 1), span(0, 1, 2), span(5, 1, 1)],
        };
        assert_eq!(line.load(Duration::from_secs(8), 4), [0.75, 0.5, 0.25, 0.0]);
        assert_eq!(line.load(Duration::from_secs(3), 1), [1.0 / 3.0 * 2.0], "what is later is left out");
        assert_eq!(line.load(Duration::ZERO, 2), [0.0, 0.0]);
        assert_eq!(
            (line.end(), line.lanes(), line.busy()),
            (Duration::from_secs(6), 2, Duration::from_secs(6))
        );
    }
}
