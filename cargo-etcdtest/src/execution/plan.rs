//! The order in which a run's units are dealt: pure, without a store.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::batches::batches;
use crate::model::{LatestResult, PlanChunk, PlannedUnit, Repetition, TestCaseId, UnitIndex, Verdict};
use crate::store::encode;

/// How many units one chunk holds at the most: with ids of ordinary length about 200 KiB.
const CHUNK: usize = 2000;
/// How many bytes one chunk holds at the most; escaped in JSON they may become more.
const CHUNK_BYTES: usize = 256 << 10;
/// The largest number of stripes: so many workers can claim at once without meeting.
const MAX_STRIPES: usize = 64;
/// How many units a stripe should hold at least.
const STRIPE: usize = 32;

/// No test takes longer, whatever a record says: sums of estimates must stay durations.
const LONGEST: Duration = Duration::from_hours(24 * 365);

/// All units of a run in the order in which they are dealt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    units: Vec<PlannedUnit>,
    stripes: usize,
}

/// What past results say of a unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// How long it took, as the median of its last results.
    pub duration: Option<Duration>,
    /// Its last result was a failure.
    pub failed: bool,
}

/// What past results say, by test case and environment.
pub type Histories = HashMap<(TestCaseId, String), History>;

/// What decides when a unit is dealt, the most important first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    skipped: bool,
    repetition: Option<Repetition>,
    lot: Option<[u8; 32]>,
    passed: bool,
    longest: Reverse<Duration>,
}

/// A unit's place in an order left to chance.
fn lot(seed: u64, unit: &PlannedUnit) -> [u8; 32] {
    let mut digest = Sha256::new();
    digest.update(seed.to_le_bytes());
    digest.update(unit.test.to_string());
    digest.update([0]);
    digest.update(&unit.environment);
    digest.update(unit.repetition.map_or(0, |repetition| repetition.number).to_le_bytes());
    digest.finalize().into()
}

impl History {
    /// What the latest result of a unit and those before it say.
    pub fn of(latest: &LatestResult) -> Self {
        let ran = latest.recent.iter().filter(|recent| recent.verdict != Verdict::Skipped);
        let mut durations: Vec<Duration> = ran.map(|recent| recent.duration.min(LONGEST)).collect();
        durations.sort_unstable();
        Self {
            duration: durations.get(durations.len() / 2).copied(),
            failed: latest.result.outcome.is_failure(),
        }
    }
}

impl Plan {
    /// Orders units: those that failed last time first, then the longest, then by name;
    /// those that are skipped without a try last. Unknown units count as the median of the
    /// known ones, so that they spread among them.
    ///
    /// Repetitions come one after the other: all tests once, then all again. With a seed the
    /// order is left to chance, but for those; the same seed gives the same order, also
    /// among fewer tests.
    pub fn new(
        units: impl IntoIterator<Item = PlannedUnit>,
        histories: &Histories,
        seed: Option<u64>,
    ) -> Self {
        let mut known: Vec<Duration> = histories.values().filter_map(|history| history.duration).collect();
        known.sort_unstable();
        let median = known.get(known.len() / 2).copied().unwrap_or_default();

        let mut ordered: Vec<(Turn, PlannedUnit)> = units
            .into_iter()
            .map(|mut unit| {
                let key = (unit.test.clone(), unit.environment.clone());
                let history = histories.get(&key).copied().unwrap_or_default();
                unit.estimate = history.duration;
                let turn = Turn {
                    skipped: unit.skip.is_some(),
                    repetition: unit.repetition,
                    lot: seed.map(|seed| lot(seed, &unit)),
                    passed: !history.failed,
                    longest: Reverse(history.duration.unwrap_or(median)),
                };
                (turn, unit)
            })
            .collect();
        ordered.sort_by(|(a_turn, a), (b_turn, b)| {
            a_turn.cmp(b_turn).then_with(|| (&a.test, &a.environment).cmp(&(&b.test, &b.environment)))
        });
        let units: Vec<_> = ordered.into_iter().map(|(_, unit)| unit).collect();
        // Which of several stripes deals first is left to the workers.
        let stripes = if seed.is_some() { 1 } else { (units.len() / STRIPE).clamp(1, MAX_STRIPES) };
        Self { units, stripes }
    }

    /// Puts a plan together again from its chunks, which come in order.
    pub fn from_chunks(chunks: impl IntoIterator<Item = PlanChunk>, stripes: u32) -> Self {
        let units = chunks.into_iter().flat_map(|chunk| chunk.units).collect();
        Self { units, stripes: stripes.max(1) as usize }
    }

    /// The pieces in which it is stored.
    pub fn chunks(&self) -> impl Iterator<Item = PlanChunk> + '_ {
        let mut first = 0;
        batches(&self.units, CHUNK, CHUNK_BYTES, |unit| size(unit)).into_iter().map(move |units| {
            let chunk =
                PlanChunk { first: unit_index(first), units: units.iter().copied().cloned().collect() };
            first += units.len();
            chunk
        })
    }

    /// The SHA-256 over its chunks as they are stored, in hexadecimal.
    pub fn digest(&self) -> String {
        let mut digest = Sha256::new();
        for chunk in self.chunks() {
            digest.update(encode(&chunk));
        }
        hex::encode(digest.finalize())
    }

    /// How many units there are.
    pub fn len(&self) -> usize {
        self.units.len()
    }

    /// Whether there is nothing to run.
    pub fn is_empty(&self) -> bool {
        self.units.is_empty()
    }

    /// Over how many stripes the units are dealt.
    pub fn stripes(&self) -> usize {
        self.stripes
    }

    /// The unit at a place of the plan.
    pub fn unit(&self, index: UnitIndex) -> Option<&PlannedUnit> {
        self.units.get(index.0 as usize)
    }

    /// All units with their places.
    pub fn units(&self) -> impl Iterator<Item = (UnitIndex, &PlannedUnit)> {
        self.units.iter().enumerate().map(|(index, unit)| (unit_index(index), unit))
    }

    /// The unit that a stripe deals after `dealt` others; `None` where it is exhausted.
    pub fn dealt(&self, stripe: usize, dealt: u32) -> Option<UnitIndex> {
        let index = stripe + dealt as usize * self.stripes;
        (index < self.units.len()).then(|| unit_index(index))
    }
}

/// About how many bytes a unit takes in a chunk.
fn size(unit: &PlannedUnit) -> usize {
    let TestCaseId { package, binary, test } = &unit.test;
    let texts = [package, binary, test, &unit.environment].map(String::len).iter().sum::<usize>();
    texts + unit.skip.as_ref().map_or(0, String::len) + 100
}

fn unit_index(index: usize) -> UnitIndex {
    UnitIndex(u32::try_from(index).expect("a plan has fewer than four thousand million units"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(test: &str, skip: bool) -> PlannedUnit {
        PlannedUnit {
            test: TestCaseId::new("p", "b", test),
            environment: "local".into(),
            estimate: None,
            repetition: None,
            skip: skip.then(|| "why".into()),
        }
    }

    fn histories(known: &[(&str, u64, bool)]) -> Histories {
        let history = |&(test, millis, failed): &(&str, u64, bool)| {
            let history = History { duration: Some(Duration::from_millis(millis)), failed };
            ((TestCaseId::new("p", "b", test), "local".into()), history)
        };
        known.iter().map(history).collect()
    }

    #[test]
    fn failed_first_then_longest_with_unknown_ones_in_the_middle_and_skipped_ones_last() {
        let units = ["short", "long", "broken", "new", "off"].map(|name| unit(name, name == "off"));
        let known = histories(&[
            ("short", 1, false),
            ("middle", 5, false),
            ("long", 900, false),
            ("broken", 2, true),
        ]);
        let plan = Plan::new(units, &known, None);
        let names: Vec<&str> = plan.units().map(|(_, unit)| unit.test.test.as_str()).collect();
        assert_eq!(names, ["broken", "long", "new", "short", "off"]);
    }

    fn names(plan: &Plan) -> Vec<String> {
        plan.units().map(|(_, unit)| unit.test.test.clone()).collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_order_also_among_fewer_tests() {
        let units = |step| (0..100).step_by(step).map(|n| unit(&format!("t{n}"), n == 0));
        let known = histories(&[("t7", 900, true)]);
        let plan = Plan::new(units(1), &known, Some(7));
        assert_eq!(plan, Plan::new(units(1).collect::<Vec<_>>().into_iter().rev(), &known, Some(7)));
        assert_ne!(names(&plan), names(&Plan::new(units(1), &known, Some(8))));
        assert_eq!(names(&plan).last().unwrap(), "t0", "what is skipped comes last");
        let few = Plan::new(units(3), &known, Some(7));
        let among: Vec<_> = names(&plan).into_iter().filter(|name| names(&few).contains(name)).collect();
        assert_eq!(among, names(&few));
        let dealt: Vec<_> = (0..).map_while(|n| plan.dealt(0, n)).collect();
        assert!(dealt.into_iter().eq(plan.units().map(|(index, _)| index)), "one stripe deals them all");
    }

    #[test]
    fn repetitions_come_one_after_the_other() {
        let repeated = |number| Repetition { number, of: 2 };
        let units = [1, 2].into_iter().flat_map(|number| {
            ["a", "b"].map(|name| PlannedUnit { repetition: Some(repeated(number)), ..unit(name, false) })
        });
        for seed in [None, Some(1), Some(2)] {
            let plan = Plan::new(units.clone(), &histories(&[("b", 900, false)]), seed);
            let numbers: Vec<_> = plan.units().map(|(_, unit)| unit.repetition.unwrap().number).collect();
            assert_eq!(numbers, [1, 1, 2, 2]);
        }
    }

    #[test]
    fn every_unit_is_dealt_by_exactly_one_stripe_and_the_plan_reads_back_from_its_chunks() {
        let plan = Plan::new((0..5000).map(|n| unit(&format!("t{n}"), false)), &Histories::new(), None);
        let mut dealt: Vec<UnitIndex> = (0..plan.stripes())
            .flat_map(|stripe| (0..).map_while(|n| plan.dealt(stripe, n)).collect::<Vec<_>>())
            .collect();
        dealt.sort_unstable();
        assert!(dealt.into_iter().eq(plan.units().map(|(index, _)| index)));
        let stripes = u32::try_from(plan.stripes()).unwrap();
        assert_eq!(Plan::from_chunks(plan.chunks(), stripes), plan);
    }

    #[test]
    fn chunks_stay_within_what_the_store_takes_however_long_the_names_are() {
        let plan = Plan::new(
            (0..3000).map(|n| unit(&format!("{n}{}", "x".repeat(1000)), true)),
            &Histories::new(),
            None,
        );
        let chunks: Vec<PlanChunk> = plan.chunks().collect();
        assert!(chunks.iter().all(|chunk| encode(chunk).len() <= 512 << 10));
        let firsts = chunks.iter().map(|chunk| plan.unit(chunk.first).unwrap());
        assert!(firsts.eq(chunks.iter().map(|chunk| &chunk.units[0])));
    }
}
