//! Which units a worker claims next: pure, without a store.

use std::cmp::Reverse;
use std::time::Duration;

use super::pace::Pace;
use super::plan::Plan;
use crate::model::{Labels, UnitIndex};

/// The most units one claim takes: bounds the size of the claim record.
const MAX_UNITS: usize = 500;
/// The most stripes one claim takes from: bounds the operations of its transaction.
const MAX_STRIPES: usize = 16;
/// How much time one claim should take, at the most.
const SLICE: Duration = Duration::from_secs(1);

/// Who asks for units.
#[derive(Clone, Debug)]
pub struct Asking<'a> {
    /// What the worker has that not every worker has.
    pub labels: &'a Labels,
    /// How many of its lanes have nothing to do. With none it asks ahead.
    pub idle: usize,
    /// How many lanes all workers of the run have together, as far as is known.
    pub lanes: usize,
}

/// The units to take, and each touched stripe's position after that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// The units, in the order in which they are to be executed.
    pub units: Vec<UnitIndex>,
    /// Stripes, each with how many of its units have been dealt then.
    pub positions: Vec<(usize, u32)>,
}

/// The next units for a worker, given how many units of each stripe have been dealt.
///
/// Each idle lane gets one. Beyond that, only what is expected to take no more time than
/// half of what is left for each lane of the run, and than a second: so the workers end
/// together, however wrong some expectation is. Nothing, where all that this worker may
/// take has been dealt, or where it asks ahead and the next unit takes longer than that.
pub fn choose(plan: &Plan, positions: &[u32], pace: &Pace, asking: &Asking<'_>) -> Choice {
    let Asking { labels, idle, lanes } = asking;
    let mut open: Vec<(usize, u32, usize)> = (0..plan.stripes())
        .filter_map(|stripe| {
            let (dealt, needs) = (positions.get(stripe).copied().unwrap_or_default(), plan.needs(stripe)?);
            let open = labels.satisfy(needs) && plan.dealt(stripe, dealt).is_some();
            open.then_some((stripe, dealt, needs.len()))
        })
        .collect();
    let left = open.iter().map(|&(stripe, dealt, _)| pace.rest(plan, stripe, dealt)).sum();
    let time = time(left, *lanes);

    // What only few workers can take comes first. The units of one row stand side by side in
    // the plan: a stripe that dealt less has a longer unit next. Among equals a random one,
    // so that workers seldom meet.
    fastrand::shuffle(&mut open);
    open.sort_by_key(|&(_, dealt, needs)| (Reverse(needs), dealt));
    let mut choice = Choice::default();
    let mut expected = Duration::ZERO;
    for (stripe, mut dealt, _) in open.into_iter().take(MAX_STRIPES) {
        let before = dealt;
        let mut full = false;
        while let Some(unit) = plan.dealt(stripe, dealt) {
            let longer = expected + pace.expected(plan, unit);
            let wanted = choice.units.len() < *idle || (longer <= time && choice.units.len() < MAX_UNITS);
            if !wanted {
                full = true;
                break;
            }
            expected = longer;
            choice.units.push(unit);
            dealt += 1;
        }
        if dealt > before {
            choice.positions.push((stripe, dealt));
        }
        if full {
            break;
        }
    }
    choice
}

/// How many of these units, which nobody works off, a worker takes at once: at least one, and
/// not more than [`choose`] would take.
pub(super) fn enough(plan: &Plan, pace: &Pace, units: &[UnitIndex], lanes: usize) -> usize {
    let lengths = units.iter().map(|&unit| pace.expected(plan, unit));
    let time = time(lengths.clone().sum(), lanes);
    let mut expected = Duration::ZERO;
    let fit = lengths.take_while(|length| {
        expected += *length;
        expected <= time
    });
    fit.count().clamp(1, MAX_UNITS)
}

/// How long a claim may take where so much is left for so many lanes.
fn time(left: Duration, lanes: usize) -> Duration {
    let share = u32::try_from(lanes.saturating_mul(2)).unwrap_or(u32::MAX).max(1);
    SLICE.min(left / share)
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;

    use super::*;
    use crate::execution::{Histories, History};
    use crate::model::{Attempt, Fence, Outcome, PlannedUnit, TestCaseId, UnitResult, WorkerId};

    /// So many units that take as long as a log-normal distribution says, in seconds.
    fn skewed(count: usize, random: &mut fastrand::Rng) -> Vec<f64> {
        let normal = |random: &mut fastrand::Rng| (0..12).map(|_| random.f64()).sum::<f64>() - 6.0;
        (0..count).map(|_| (normal(random) * 1.2 - 0.5).exp()).collect()
    }

    fn named(number: usize) -> PlannedUnit {
        PlannedUnit {
            test: TestCaseId::new("p", "b", format!("{number:05}")),
            environment: "local".into(),
            estimate: None,
            repetition: None,
            needs: Labels::default(),
            skip: None,
        }
    }

    /// What workers of one lane each need to execute such units, against the best there is.
    /// `known` says what is expected of a unit that takes so long.
    fn makespan(lengths: &[f64], workers: u32, known: impl Fn(f64) -> Option<f64>) -> f64 {
        let mut histories = Histories::default();
        for (number, &length) in lengths.iter().enumerate() {
            let history =
                History { duration: known(length).map(Duration::from_secs_f64), failed_lately: false };
            histories.insert(named(number).test, "local", history);
        }
        let plan = Plan::new((0..lengths.len()).map(named), &histories, None);
        let length = |unit: UnitIndex| {
            let number: usize = plan.unit(unit).unwrap().test.test.parse().unwrap();
            Duration::from_secs_f64(lengths[number])
        };
        let labels = Labels::default();
        let asking = Asking { labels: &labels, idle: 1, lanes: workers as usize };
        let mut positions = vec![0; plan.stripes()];
        let mut paces: Vec<Pace> = (0..workers).map(|_| Pace::new(&plan)).collect();
        let mut free: BinaryHeap<_> =
            (0..workers as usize).map(|worker| Reverse((Duration::ZERO, worker))).collect();
        let mut end = Duration::ZERO;
        while let Some(Reverse((mut now, worker))) = free.pop() {
            let choice = choose(&plan, &positions, &paces[worker], &asking);
            if choice.units.is_empty() {
                continue;
            }
            for (stripe, dealt) in choice.positions {
                positions[stripe] = dealt;
            }
            for unit in choice.units {
                now += length(unit);
                paces[worker].add(&plan, &result(unit, length(unit)));
            }
            end = end.max(now);
            free.push(Reverse((now, worker)));
        }
        assert!((0..plan.stripes()).all(|stripe| plan.dealt(stripe, positions[stripe]).is_none()));
        let longest = lengths.iter().copied().fold(0.0, f64::max);
        let best = (lengths.iter().sum::<f64>() / f64::from(workers)).max(longest);
        end.as_secs_f64() / best
    }

    fn result(unit: UnitIndex, duration: Duration) -> UnitResult {
        UnitResult {
            unit,
            outcome: Outcome::Passed,
            reason: None,
            attempts: vec![Attempt { duration, ..Attempt::begun(1, Outcome::Passed) }],
            worker: WorkerId::new("w"),
            token: Fence(1),
        }
    }

    #[test]
    fn workers_end_together_however_skewed_the_lengths_are() {
        for seed in 0..20 {
            fastrand::seed(seed);
            let mut random = fastrand::Rng::with_seed(seed);
            let lengths = skewed(400, &mut random);
            let known = makespan(&lengths, 8, Some);
            assert!(known <= 1.05, "{known} with seed {seed}");
            // By up to a half wrong, and on a machine that is three times as slow.
            let noise = std::cell::RefCell::new(random);
            let inexact =
                makespan(&lengths, 8, |length| Some(length / 3.0 * (0.5 + noise.borrow_mut().f64())));
            assert!(inexact <= 1.1, "{inexact} with seed {seed}");
            let longest = lengths.iter().copied().fold(0.0, f64::max);
            let best = (lengths.iter().sum::<f64>() / 8.0).max(longest);
            let unknown = makespan(&lengths, 8, |_| None);
            assert!(unknown <= 1.0 + longest / best + 0.05, "{unknown} with seed {seed}");
        }
    }

    #[test]
    fn a_worker_that_has_enough_to_do_takes_nothing_long_ahead() {
        let mut histories = Histories::default();
        for number in 0..100 {
            let duration = Some(Duration::from_millis(if number < 20 { 5000 } else { 10 }));
            histories.insert(named(number).test, "local", History { duration, failed_lately: false });
        }
        let plan = Plan::new((0..100).map(named), &histories, None);
        let (pace, labels) = (Pace::new(&plan), Labels::default());
        let asks = |idle, positions: &[u32]| {
            choose(&plan, positions, &pace, &Asking { labels: &labels, idle, lanes: 8 }).units.len()
        };
        let (first, later) = (vec![0; plan.stripes()], vec![10; plan.stripes()]);
        assert_eq!(asks(0, &first), 0, "those are for whoever is idle");
        assert_eq!(asks(3, &first), 3);
        assert!(asks(0, &later) > 1, "the short ones do no harm");
    }

    #[test]
    fn what_a_worker_lacks_the_label_for_it_is_not_given() {
        let needs = |number| if number % 2 == 0 { "gpu" } else { "" };
        let units =
            (0..100).map(|number| PlannedUnit { needs: needs(number).parse().unwrap(), ..named(number) });
        let plan = Plan::new(units, &Histories::default(), None);
        let (pace, mut positions) = (Pace::new(&plan), vec![0; plan.stripes()]);
        let mut takes = |labels: &str| {
            let labels: Labels = labels.parse().unwrap();
            let choice = choose(&plan, &positions, &pace, &Asking { labels: &labels, idle: 100, lanes: 1 });
            for (stripe, dealt) in choice.positions {
                positions[stripe] = dealt;
            }
            choice.units.iter().filter(|unit| !plan.unit(**unit).unwrap().needs.is_empty()).count()
                + 1000 * choice.units.len()
        };
        assert_eq!(takes("fast"), 50_000);
        assert_eq!(takes("fast"), 0);
        assert_eq!(takes("fast,gpu"), 50_050);
    }
}
