//! Who may begin next: pure, without a runtime.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::num::NonZeroUsize;

/// How many wait at the most where lanes are free and more are looked for: those who wait for
/// resources.
const BLOCKED: usize = 500;

/// What something needs for as long as it goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// So many lanes, at most as many as there are.
    pub(super) threads: usize,
    /// This resource.
    pub(super) resource: Option<String>,
}

/// How many use each lane. Now and then it is two: who passed is about to end when the next
/// one begins.
#[derive(Debug)]
pub(super) struct Users(Vec<u32>);

impl Users {
    /// Nobody uses any of so many lanes.
    pub(super) fn new(lanes: NonZeroUsize) -> Self {
        Self(vec![0; lanes.get()])
    }

    /// A lane that fewest use, counted from 0.
    pub(super) fn fewest(&self) -> usize {
        let lanes = self.0.iter().enumerate();
        lanes.min_by_key(|(_, users)| **users).map_or(0, |(lane, _)| lane)
    }

    /// One more uses a lane.
    pub(super) fn add(&mut self, lane: usize) {
        self.0[lane] += 1;
    }

    /// One fewer does.
    pub(super) fn remove(&mut self, lane: usize) {
        self.0[lane] = self.0[lane].saturating_sub(1);
    }
}

/// The lanes of a worker, and those who wait for them.
///
/// They begin in the order of the queue, but for those whose resource is in use, here or
/// elsewhere: they let others pass until it is free. Who waits for lanes lets nobody pass, or it
/// would wait as long as there are smaller ones. So nobody starves.
///
/// Nobody waits for a resource and keeps a lane meanwhile, and who has its resource waits for
/// nothing but lanes, which those give back who use them, before all others. So there is always
/// somebody who goes on, over any number of workers that share resources.
#[derive(Debug)]
pub(super) struct Lanes<T> {
    all: usize,
    /// Below zero where some begin before the lane is free that they wait for.
    free: isize,
    capacities: BTreeMap<String, NonZeroUsize>,
    used: HashMap<String, usize>,
    queue: VecDeque<Waiting<T>>,
}

/// Somebody in the queue.
#[derive(Debug)]
struct Waiting<T> {
    needs: Needs,
    resource: Resource,
    who: T,
}

/// Whether somebody has the resource that it needs, if it needs one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resource {
    /// It takes it when it begins.
    Wanted,
    /// It is among those who use it here, and waits for those who use it elsewhere.
    Kept,
    /// It is its own.
    Had,
}

impl Needs {
    /// A lane, and nothing else.
    pub(super) const LANE: Self = Self { threads: 1, resource: None };
}

impl<T> Lanes<T> {
    /// So many lanes, and resources that several may use at once; any other only one.
    pub(super) fn new(lanes: NonZeroUsize, capacities: BTreeMap<String, NonZeroUsize>) -> Self {
        let (all, used, queue) = (lanes.get(), HashMap::new(), VecDeque::new());
        Self { all, free: all.cast_signed(), capacities, used, queue }
    }

    /// Lets something wait behind all others.
    pub(super) fn push(&mut self, needs: Needs, waiting: T) {
        self.queue.push_back(Waiting { needs, resource: Resource::Wanted, who: waiting });
    }

    /// Lets something wait before all others.
    pub(super) fn push_first(&mut self, needs: Needs, waiting: T) {
        self.queue.push_front(Waiting { needs, resource: Resource::Wanted, who: waiting });
    }

    /// Lets something wait until it is said to be ready, that gave its lanes back and keeps its
    /// resource from others here.
    pub(super) fn push_keeping(&mut self, needs: Needs, waiting: T) {
        if let Some(resource) = &needs.resource {
            *self.used.entry(resource.clone()).or_default() += 1;
        }
        self.queue.push_back(Waiting { needs, resource: Resource::Kept, who: waiting });
    }

    /// Lets the one that kept its resource, and is this one, begin before all others.
    pub(super) fn make_ready(&mut self, is: impl Fn(&T) -> bool) {
        let kept = |next: &Waiting<T>| next.resource == Resource::Kept && is(&next.who);
        if let Some(ready) = self.queue.iter().position(kept).and_then(|index| self.queue.remove(index)) {
            self.queue.push_front(Waiting { resource: Resource::Had, ..ready });
        }
    }

    /// The next that may begin: it holds what it needs until that is given back.
    pub(super) fn begin(&mut self) -> Option<(Needs, T)> {
        let index = self.queue.iter().position(|next| self.may_begin(next))?;
        if self.queue[index].needs.threads.cast_signed() > self.free {
            return None;
        }
        let Waiting { needs, resource, who } = self.queue.remove(index)?;
        self.free -= needs.threads.cast_signed();
        if let (Resource::Wanted, Some(resource)) = (resource, &needs.resource) {
            *self.used.entry(resource.clone()).or_default() += 1;
        }
        Some((needs, who))
    }

    /// The first of all that wait, where it needs a lane alone and is `wanted`: it begins as
    /// the next lane comes free, whatever else waits.
    pub(super) fn begin_early(&mut self, wanted: impl FnOnce(&T) -> bool) -> Option<(Needs, T)> {
        let first = self.queue.front()?;
        if first.needs != Needs::LANE || !wanted(&first.who) {
            return None;
        }
        self.free -= 1;
        self.queue.pop_front().map(|first| (first.needs, first.who))
    }

    /// Takes back what something held.
    pub(super) fn give_back(&mut self, needs: &Needs) {
        self.free += needs.threads.cast_signed();
        give_back(&mut self.used, needs);
    }

    /// How many lanes are free.
    pub(super) fn idle(&self) -> usize {
        self.free.max(0).unsigned_abs()
    }

    /// Whether more are to be looked for: a lane is free or soon will be, and nobody may be there
    /// for it.
    pub(super) fn is_short(&self) -> bool {
        self.queue.len() < if self.idle() > 0 { BLOCKED } else { self.all }
    }

    /// Those who wait, the first first.
    pub(super) fn waiting(&self) -> impl ExactSizeIterator<Item = &T> {
        self.queue.iter().map(|next| &next.who)
    }

    /// Whether any of them waits for nothing but lanes.
    pub(super) fn is_any_ready(&self) -> bool {
        self.queue.iter().any(|next| self.may_begin(next))
    }

    /// Sends away who waits and is not wanted any more, and takes back what it kept.
    pub(super) fn retain(&mut self, wanted: impl Fn(&T) -> bool) {
        let used = &mut self.used;
        self.queue.retain(|next| {
            let wanted = wanted(&next.who);
            if !wanted && next.resource != Resource::Wanted {
                give_back(used, &next.needs);
            }
            wanted
        });
    }

    /// Whether it has all that it needs but lanes.
    fn may_begin(&self, next: &Waiting<T>) -> bool {
        match (next.resource, &next.needs.resource) {
            (Resource::Had, _) | (Resource::Wanted, None) => true,
            (Resource::Kept, _) => false,
            (Resource::Wanted, Some(resource)) => {
                let used = self.used.get(resource).copied().unwrap_or_default();
                used < self.capacities.get(resource).map_or(1, |capacity| capacity.get())
            }
        }
    }
}

/// One fewer uses the resource, if there is one.
fn give_back(used: &mut HashMap<String, usize>, needs: &Needs) {
    if let Some(used) = needs.resource.as_ref().and_then(|resource| used.get_mut(resource)) {
        *used = used.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lanes(count: usize, waiting: &[(&'static str, usize, &str)]) -> Lanes<&'static str> {
        let capacities = BTreeMap::from([("pool".to_owned(), NonZeroUsize::new(2).unwrap())]);
        let mut lanes = Lanes::new(NonZeroUsize::new(count).unwrap(), capacities);
        for (name, threads, resource) in waiting {
            lanes.push(needs(*threads, resource), *name);
        }
        lanes
    }

    fn needs(threads: usize, resource: &str) -> Needs {
        Needs { threads, resource: (!resource.is_empty()).then(|| resource.to_owned()) }
    }

    fn begun(lanes: &mut Lanes<&'static str>) -> Vec<&'static str> {
        std::iter::from_fn(|| lanes.begin()).map(|(_, name)| name).collect()
    }

    #[test]
    fn they_begin_in_order_as_lanes_come_free() {
        let mut lanes = lanes(2, &[("a", 1, ""), ("b", 1, ""), ("c", 1, ""), ("d", 1, "")]);
        assert_eq!(begun(&mut lanes), ["a", "b"]);
        lanes.give_back(&needs(1, ""));
        assert_eq!(begun(&mut lanes), ["c"]);
        assert_eq!(lanes.idle(), 0);
    }

    #[test]
    fn who_needs_many_lanes_is_not_passed_by_smaller_ones() {
        let mut lanes = lanes(3, &[("a", 1, ""), ("wide", 3, ""), ("b", 1, "")]);
        assert_eq!(begun(&mut lanes), ["a"]);
        lanes.give_back(&needs(1, ""));
        assert_eq!(begun(&mut lanes), ["wide"]);
        lanes.give_back(&needs(3, ""));
        assert_eq!(begun(&mut lanes), ["b"]);
    }

    #[test]
    fn a_resource_is_used_by_as_many_as_it_takes_and_others_pass_meanwhile() {
        let wanted = [("a", 1, "db"), ("b", 1, "db"), ("c", 1, "pool"), ("d", 1, "pool"), ("e", 1, "pool")];
        let mut lanes = lanes(8, &[&wanted[..], &[("f", 1, "")]].concat());
        assert_eq!(begun(&mut lanes), ["a", "c", "d", "f"]);
        lanes.give_back(&needs(1, "pool"));
        assert_eq!(begun(&mut lanes), ["e"]);
        lanes.give_back(&needs(1, "db"));
        assert_eq!(begun(&mut lanes), ["b"]);
    }

    #[test]
    fn who_waits_for_a_resource_elsewhere_keeps_no_lane_and_has_the_next_when_it_is_ready() {
        let mut lanes = lanes(1, &[("a", 1, "db"), ("b", 1, "db"), ("c", 1, ""), ("d", 1, "")]);
        assert_eq!(begun(&mut lanes), ["a"]);
        lanes.give_back(&needs(1, "db"));
        lanes.push_keeping(needs(1, "db"), "a");
        assert_eq!(begun(&mut lanes), ["c"], "b would wait behind a");
        lanes.make_ready(|next| *next == "b");
        lanes.make_ready(|next| *next == "a");
        lanes.give_back(&Needs::LANE);
        assert_eq!(begun(&mut lanes), ["a"]);
        lanes.give_back(&needs(1, "db"));
        assert_eq!(begun(&mut lanes), ["b"]);
    }

    #[test]
    fn more_are_looked_for_as_long_as_lanes_may_come_free_and_not_too_many_wait() {
        let mut lanes = lanes(2, &[("a", 1, "db"), ("b", 1, "db")]);
        assert_eq!(begun(&mut lanes), ["a"]);
        assert!(lanes.is_short(), "b leaves a lane free");
        (1..BLOCKED).for_each(|_| lanes.push(needs(1, "db"), "b"));
        assert!(!lanes.is_short(), "enough wait for what a has");
        lanes.retain(|_| false);
        lanes.push(needs(1, ""), "c");
        assert_eq!(begun(&mut lanes), ["c"]);
        assert!(lanes.is_short(), "the next may be had ahead");
        lanes.push(needs(1, ""), "d");
        lanes.push(needs(1, ""), "e");
        assert!(!lanes.is_short());
    }

    #[test]
    fn who_is_sent_away_keeps_nothing() {
        let wanted = [("a", 1, "db"), ("b", 1, "db"), ("c", 1, "pool"), ("d", 1, "pool"), ("e", 1, "pool")];
        let mut lanes = lanes(3, &wanted);
        assert_eq!(begun(&mut lanes), ["a", "c", "d"]);
        for (name, resource) in [("a", "db"), ("c", "pool"), ("d", "pool")] {
            lanes.give_back(&needs(1, resource));
            lanes.push_keeping(needs(1, resource), name);
        }
        lanes.make_ready(|next| *next == "a");
        assert!(lanes.is_any_ready());
        lanes.retain(|next| !["a", "c"].contains(next));
        assert_eq!(begun(&mut lanes), ["b", "e"]);
        assert!(!lanes.is_any_ready(), "d waits for others");
    }

    #[test]
    fn who_begins_early_has_the_next_lane() {
        let mut lanes = lanes(2, &[("a", 1, ""), ("b", 1, ""), ("c", 1, ""), ("wide", 2, ""), ("d", 1, "")]);
        assert_eq!(begun(&mut lanes), ["a", "b"]);
        assert!(lanes.begin_early(|next| *next == "d").is_none());
        assert_eq!(lanes.begin_early(|_| true).unwrap().1, "c");
        assert!(lanes.begin_early(|_| true).is_none(), "who needs two lanes does not come early");
        lanes.give_back(&Needs::LANE);
        lanes.give_back(&Needs::LANE);
        assert_eq!(begun(&mut lanes), [""; 0], "one lane is the early one's");
        lanes.give_back(&Needs::LANE);
        assert_eq!(begun(&mut lanes), ["wide"]);
    }

    #[test]
    fn a_lane_that_nobody_uses_is_the_next() {
        let mut users = Users::new(NonZeroUsize::new(2).unwrap());
        let mut begin = || {
            let lane = users.fewest();
            users.add(lane);
            lane
        };
        assert_eq!([begin(), begin(), begin()], [0, 1, 0]);
        users.remove(1);
        assert_eq!(users.fewest(), 1);
    }

    proptest! {
        #[test]
        fn everybody_begins_at_last_and_nothing_is_used_by_too_many(
            wanted in prop::collection::vec((0..=4_usize, prop::option::of(0..3_u8)), 0..40),
            order in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 80),
        ) {
            let mut lanes = Lanes::new(NonZeroUsize::new(4).unwrap(), BTreeMap::new());
            for (threads, resource) in &wanted {
                let resource = resource.map(|name| name.to_string());
                lanes.push(Needs { threads: *threads, resource }, ());
            }
            let (mut ended, mut held): (usize, Vec<Needs>) = (0, Vec::new());
            for (index, waits) in order {
                while let Some((needs, ())) = lanes.begin() {
                    held.push(needs);
                }
                prop_assert!(held.iter().map(|needs| needs.threads).sum::<usize>() <= 4);
                let mut resources: Vec<_> = held.iter().filter_map(|needs| needs.resource.as_ref()).collect();
                resources.sort();
                prop_assert!(resources.windows(2).all(|pair| pair[0] != pair[1]));
                if held.is_empty() {
                    lanes.make_ready(|()| true);
                    continue;
                }
                let needs = held.swap_remove(index.index(held.len()));
                lanes.give_back(&needs);
                if waits && needs.resource.is_some() {
                    lanes.push_keeping(needs, ());
                } else {
                    ended += 1;
                }
            }
            while lanes.waiting().len() > 0 || !held.is_empty() {
                lanes.make_ready(|()| true);
                held.extend(std::iter::from_fn(|| lanes.begin()).map(|(needs, ())| needs));
                prop_assert!(!held.is_empty(), "nobody goes on");
                held.drain(..).for_each(|needs| {
                    lanes.give_back(&needs);
                    ended += 1;
                });
            }
            prop_assert_eq!(ended, wanted.len());
            prop_assert_eq!(lanes.idle(), 4);
        }
    }
}
