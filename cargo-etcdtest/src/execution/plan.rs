//! The order in which a run's units are dealt: pure, without a store.

use std::cmp::Reverse;
use std::ops::Range;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::batches::batches;
use super::history::{Histories, median};
use crate::model::{Labels, PlanChunk, PlannedUnit, Repetition, Run, TestCaseId, UnitIndex};
use crate::store::encode;

/// How many units one chunk holds at the most: with ids of ordinary length about 200 KiB.
const CHUNK: usize = 2000;
/// How many bytes one chunk holds at the most; escaped in JSON they may become more.
const CHUNK_BYTES: usize = 256 << 10;
/// How many stripes there are about at the most: so many workers can claim at once without
/// meeting, and so few that one transaction can compare them all.
const MAX_STRIPES: usize = 64;
/// How many units a stripe should hold at least.
const STRIPE: usize = 32;

/// All units of a run in the order in which they are dealt.
///
/// Units that need the same labels of a worker stand together, those that need most first,
/// and are dealt over stripes of their own. So what a worker cannot take is never in the way
/// of what it can.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    units: Vec<PlannedUnit>,
    groups: Vec<Group>,
}

/// Where the units stand that need the same labels.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    units: Range<usize>,
    stripes: Range<usize>,
}

/// What decides when a unit is dealt, the most important first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    fewer_needs: Reverse<usize>,
    needs: Labels,
    skipped: bool,
    repetition: Option<Repetition>,
    lot: Option<[u8; 32]>,
    settled: bool,
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

impl Plan {
    /// Orders units: those first that failed lately or are new, then the longest, then by
    /// name; those that are skipped without a try last. One of unknown length counts as the
    /// median of the known ones, so that they spread among them.
    ///
    /// Repetitions come one after the other: all tests once, then all again. With a seed the
    /// order is left to chance, but for those; the same seed gives the same order, also
    /// among fewer tests.
    pub fn new(
        units: impl IntoIterator<Item = PlannedUnit>,
        histories: &Histories,
        seed: Option<u64>,
    ) -> Self {
        let typical = median(histories.values().filter_map(|history| history.duration)).unwrap_or_default();
        let mut ordered: Vec<(Turn, PlannedUnit)> = units
            .into_iter()
            .map(|mut unit| {
                if unit.skip.is_some() {
                    // Anybody can do that.
                    unit.needs = Labels::default();
                }
                let history = histories.of(&unit.test, &unit.environment);
                unit.estimate = history.and_then(|history| history.duration);
                let turn = Turn {
                    fewer_needs: Reverse(unit.needs.len()),
                    needs: unit.needs.clone(),
                    skipped: unit.skip.is_some(),
                    repetition: unit.repetition,
                    lot: seed.map(|seed| lot(seed, &unit)),
                    settled: history.is_some_and(|history| !history.failed_lately),
                    longest: Reverse(unit.estimate.unwrap_or(typical)),
                };
                (turn, unit)
            })
            .collect();
        ordered.sort_by(|(a_turn, a), (b_turn, b)| {
            a_turn.cmp(b_turn).then_with(|| (&a.test, &a.environment).cmp(&(&b.test, &b.environment)))
        });
        // Which of several stripes deals first is left to the workers.
        let all = ordered.len().max(1);
        let stripes = |units: usize| (units / STRIPE).min(MAX_STRIPES * units / all).max(1);
        let units = ordered.into_iter().map(|(_, unit)| unit).collect();
        Self::grouped(units, |_, units| if seed.is_some() { 1 } else { stripes(units) })
    }

    /// Puts a plan together again from its chunks, which come in order, and the number of
    /// stripes of each group.
    pub fn from_chunks(chunks: impl IntoIterator<Item = PlanChunk>, stripes: &[u32]) -> Self {
        let units = chunks.into_iter().flat_map(|chunk| chunk.units).collect();
        Self::grouped(units, |group, _| stripes.get(group).map_or(1, |&stripes| stripes.max(1) as usize))
    }

    /// The groups of units that stand in their order; `stripes` says how many the group of
    /// this number gets that has so many units.
    fn grouped(units: Vec<PlannedUnit>, stripes: impl Fn(usize, usize) -> usize) -> Self {
        let mut groups: Vec<Group> = Vec::new();
        let (mut unit, mut stripe) = (0, 0);
        for alike in units.chunk_by(|a, b| a.needs == b.needs) {
            let stripes = stripes(groups.len(), alike.len());
            groups.push(Group { units: unit..unit + alike.len(), stripes: stripe..stripe + stripes });
            (unit, stripe) = (unit + alike.len(), stripe + stripes);
        }
        Self { units, groups }
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

    /// The record of a run of this plan, of which all else stands in `run`.
    pub fn record(&self, run: Run) -> Run {
        let units = u32::try_from(self.len()).unwrap_or(u32::MAX);
        Run { units, stripes: self.stripes_by_group(), plan_digest: self.digest(), ..run }
    }

    /// How many units there are.
    pub fn len(&self) -> usize {
        self.units.len()
    }

    /// Whether there is nothing to run.
    pub fn is_empty(&self) -> bool {
        self.units.is_empty()
    }

    /// Over how many stripes all units are dealt.
    pub fn stripes(&self) -> usize {
        self.groups.last().map_or(0, |group| group.stripes.end)
    }

    /// Over how many stripes the units of each group are dealt, as a run's record has it.
    pub fn stripes_by_group(&self) -> Vec<u32> {
        let stripes = self.groups.iter().map(|group| group.stripes.len());
        stripes.map(|stripes| u32::try_from(stripes).unwrap_or(u32::MAX)).collect()
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
        let group = self.group(stripe)?;
        let place = (stripe - group.stripes.start) + dealt as usize * group.stripes.len();
        (place < group.units.len()).then(|| unit_index(group.units.start + place))
    }

    /// How many units a stripe deals after `dealt` others.
    pub fn left(&self, stripe: usize, dealt: u32) -> usize {
        let Some(Group { units, stripes }) = self.group(stripe) else { return 0 };
        let all = (units.len().saturating_sub(stripe - stripes.start)).div_ceil(stripes.len());
        all.saturating_sub(dealt as usize)
    }

    /// What a worker must have to be dealt the units of a stripe.
    pub fn needs(&self, stripe: usize) -> Option<&Labels> {
        self.group(stripe).map(|group| &self.units[group.units.start].needs)
    }

    fn group(&self, stripe: usize) -> Option<&Group> {
        let group = self.groups.partition_point(|group| group.stripes.end <= stripe);
        self.groups.get(group)
    }
}

/// About how many bytes a unit takes in a chunk.
fn size(unit: &PlannedUnit) -> usize {
    let TestCaseId { package, binary, test } = &unit.test;
    let texts = [package, binary, test, &unit.environment].map(String::len).iter().sum::<usize>();
    texts + unit.skip.as_ref().map_or(0, String::len) + unit.needs.to_string().len() + 100
}

fn unit_index(index: usize) -> UnitIndex {
    UnitIndex(u32::try_from(index).expect("a plan has fewer than four thousand million units"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execution::History;

    fn unit(test: &str, skip: bool) -> PlannedUnit {
        PlannedUnit {
            test: TestCaseId::new("p", "b", test),
            environment: "local".into(),
            estimate: None,
            repetition: None,
            needs: Labels::default(),
            skip: skip.then(|| "why".into()),
        }
    }

    fn histories(known: &[(&str, u64, bool)]) -> Histories {
        let mut histories = Histories::default();
        for &(test, millis, failed_lately) in known {
            let history = History { duration: Some(Duration::from_millis(millis)), failed_lately };
            histories.insert(TestCaseId::new("p", "b", test), "local", history);
        }
        histories
    }

    #[test]
    fn new_and_broken_first_then_longest_with_unknown_ones_in_the_middle_and_skipped_ones_last() {
        let all = ["short", "long", "broken", "new", "was_off", "off"];
        let units = all.map(|name| unit(name, name == "off"));
        let mut known = histories(&[
            ("short", 1, false),
            ("middle", 5, false),
            ("long", 900, false),
            ("broken", 2, true),
        ]);
        known.insert(TestCaseId::new("p", "b", "was_off"), "local", History::default());
        let plan = Plan::new(units, &known, None);
        assert_eq!(names(&plan), ["new", "broken", "long", "was_off", "short", "off"]);
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
        let plan = Plan::new((0..5000).map(|n| unit(&format!("t{n}"), false)), &Histories::default(), None);
        let mut dealt: Vec<UnitIndex> = (0..plan.stripes())
            .flat_map(|stripe| (0..).map_while(|n| plan.dealt(stripe, n)).collect::<Vec<_>>())
            .collect();
        dealt.sort_unstable();
        assert!(dealt.into_iter().eq(plan.units().map(|(index, _)| index)));
        assert_eq!(Plan::from_chunks(plan.chunks(), &plan.stripes_by_group()), plan);
    }

    #[test]
    fn units_with_needs_have_stripes_of_their_own_and_come_first() {
        let needs = |number: usize| match number % 5 {
            0 => "gpu",
            1 => "gpu,fast",
            _ => "",
        };
        let units = (0..1000).map(|number| PlannedUnit {
            needs: needs(number).parse().unwrap(),
            ..unit(&format!("{}{number}", needs(number)), number % 7 == 0)
        });
        for seed in [None, Some(1)] {
            let plan = Plan::new(units.clone(), &Histories::default(), seed);
            let mut dealt = Vec::new();
            for stripe in 0..plan.stripes() {
                let places = (0..1000).filter(|place| plan.dealt(stripe, *place).is_some()).count();
                assert_eq!((plan.left(stripe, 0), plan.left(stripe, 1)), (places, places - 1));
                for index in (0..).map_while(|place| plan.dealt(stripe, place)) {
                    assert_eq!(Some(&plan.unit(index).unwrap().needs), plan.needs(stripe));
                    dealt.push(index);
                }
            }
            assert_eq!((plan.dealt(plan.stripes(), 0), plan.needs(plan.stripes())), (None, None));
            dealt.sort_unstable();
            assert!(dealt.into_iter().eq(plan.units().map(|(index, _)| index)));
            assert_eq!(plan.needs(0).unwrap().to_string(), "fast,gpu");
            assert!(plan.units().all(|(_, unit)| unit.skip.is_none() || unit.needs.is_empty()));
            assert_eq!(Plan::from_chunks(plan.chunks(), &plan.stripes_by_group()), plan);
        }
    }

    #[test]
    fn chunks_stay_within_what_the_store_takes_however_long_the_names_are() {
        let plan = Plan::new(
            (0..3000).map(|n| unit(&format!("{n}{}", "x".repeat(1000)), true)),
            &Histories::default(),
            None,
        );
        let chunks: Vec<PlanChunk> = plan.chunks().collect();
        assert!(chunks.iter().all(|chunk| encode(chunk).len() <= 512 << 10));
        let firsts = chunks.iter().map(|chunk| plan.unit(chunk.first).unwrap());
        assert!(firsts.eq(chunks.iter().map(|chunk| &chunk.units[0])));
    }
}
