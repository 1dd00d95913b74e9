//! How long units are expected to take: by the plan, and by what was seen in the run so far.

use std::time::Duration;

use super::history::median;
use super::plan::Plan;
use crate::model::{PlannedUnit, UnitIndex, UnitResult};

/// How long a unit is expected to take where nothing at all is known.
const UNKNOWN: Duration = Duration::from_secs(1);
/// How many units are looked at before their pace says something.
const FEW: u32 = 8;

/// How long units take against what the plan says.
#[derive(Debug)]
pub struct Pace {
    /// For each unit what is left of its stripe when it comes next.
    rest: Vec<Rest>,
    /// How long units took of whose length the plan says something, and what it said.
    known: (Duration, Duration, u32),
    /// How long the others took, and how many there were.
    unknown: (Duration, u32),
    /// How long one of those takes until some have been seen.
    typical: Duration,
}

/// The sum over some units.
#[derive(Clone, Copy, Debug, Default)]
struct Rest {
    /// What the plan expects of those it knows.
    known: Duration,
    /// How many it does not know.
    unknown: u32,
}

impl Pace {
    /// What the plan says.
    pub fn new(plan: &Plan) -> Self {
        let typical = median(plan.units().filter_map(|(_, unit)| unit.estimate)).unwrap_or(UNKNOWN);
        let mut rest = vec![Rest::default(); plan.len()];
        for stripe in 0..plan.stripes() {
            let mut later = Rest::default();
            let units: Vec<UnitIndex> = (0..).map_while(|dealt| plan.dealt(stripe, dealt)).collect();
            for index in units.into_iter().rev() {
                if let (Some(unit), Some(rest)) = (plan.unit(index), rest.get_mut(index.0 as usize)) {
                    later.add(unit);
                    *rest = later;
                }
            }
        }
        Self { rest, known: <_>::default(), unknown: <_>::default(), typical }
    }

    /// Takes in how long a unit took.
    pub fn add(&mut self, plan: &Plan, result: &UnitResult) {
        let Some(unit) = plan.unit(result.unit).filter(|_| !result.attempts.is_empty()) else { return };
        let took: Duration = result.attempts.iter().map(|attempt| attempt.duration).sum();
        match unit.estimate {
            Some(estimate) => {
                let (all, expected, units) = self.known;
                self.known = (all + took, expected + estimate, units + 1);
            }
            None => self.unknown = (self.unknown.0 + took, self.unknown.1 + 1),
        }
    }

    /// How long a unit is expected to take.
    pub fn expected(&self, plan: &Plan, unit: UnitIndex) -> Duration {
        match plan.unit(unit) {
            Some(PlannedUnit { skip: Some(_), .. }) | None => Duration::ZERO,
            Some(PlannedUnit { estimate: Some(estimate), .. }) => estimate.mul_f64(self.factor()),
            Some(_) => self.of_unknown(),
        }
    }

    /// How long all units are expected to take that a stripe deals after so many.
    pub fn rest(&self, plan: &Plan, stripe: usize, dealt: u32) -> Duration {
        let next = plan.dealt(stripe, dealt).and_then(|unit| self.rest.get(unit.0 as usize));
        next.map_or(Duration::ZERO, |rest| {
            rest.known.mul_f64(self.factor()) + self.of_unknown().saturating_mul(rest.unknown)
        })
    }

    /// By how much more time units take than the plan says; 1 until a few have been seen.
    fn factor(&self) -> f64 {
        let (took, expected, units) = self.known;
        if units < FEW {
            return 1.0;
        }
        (took.as_secs_f64() / expected.as_secs_f64().max(1e-6)).clamp(1e-3, 1e3)
    }

    fn of_unknown(&self) -> Duration {
        let (took, units) = self.unknown;
        took.checked_div(units).unwrap_or(self.typical)
    }
}

impl Rest {
    fn add(&mut self, unit: &PlannedUnit) {
        match (&unit.skip, unit.estimate) {
            (Some(_), _) => {}
            (None, Some(estimate)) => self.known += estimate,
            (None, None) => self.unknown += 1,
        }
    }
}
