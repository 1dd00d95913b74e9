//! Who may begin next: pure, without a runtime.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::num::NonZeroUsize;

/// What something needs for as long as it goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// So many lanes, at most as many as there are.
    pub(super) threads: usize,
    /// This resource.
    pub(super) resource: Option<String>,
}

/// What somebody holds who has begun.
#[derive(Debug)]
pub(super) struct Held {
    resource: Option<String>,
    lanes: Vec<u32>,
}

impl Held {
    /// The first of its lanes, from 1.
    pub(super) fn lane(&self) -> u32 {
        self.lanes.first().map_or(1, |lane| lane + 1)
    }
}

/// The lanes of a worker, and those who wait for them.
///
/// They begin in the order of the queue, but for those whose resource is in use: they let
/// others pass until it is free. Who waits for lanes lets nobody pass, or it would wait as
/// long as there are smaller ones. So nobody starves.
#[derive(Debug)]
pub(super) struct Lanes<T> {
    /// The lanes that nobody has, numbered from 0.
    free: BTreeSet<u32>,
    capacities: BTreeMap<String, NonZeroUsize>,
    used: HashMap<String, usize>,
    queue: VecDeque<(Needs, T)>,
}

impl<T> Lanes<T> {
    /// So many lanes, and resources that several may use at once; any other only one.
    pub(super) fn new(lanes: NonZeroUsize, capacities: BTreeMap<String, NonZeroUsize>) -> Self {
        let lanes = u32::try_from(lanes.get()).unwrap_or(u32::MAX);
        Self { free: (0..lanes).collect(), capacities, used: HashMap::new(), queue: VecDeque::new() }
    }

    /// Lets something wait behind all others.
    pub(super) fn push(&mut self, needs: Needs, waiting: T) {
        self.queue.push_back((needs, waiting));
    }

    /// Lets something wait before all others.
    pub(super) fn push_first(&mut self, needs: Needs, waiting: T) {
        self.queue.push_front((needs, waiting));
    }

    /// The next that may begin: it holds what it needs until that is given back.
    pub(super) fn begin(&mut self) -> Option<(Held, T)> {
        let index = self.queue.iter().position(|(needs, _)| self.has_resource(needs))?;
        if self.queue[index].0.threads > self.free.len() {
            return None;
        }
        let (needs, next) = self.queue.remove(index)?;
        let lanes: Vec<u32> = self.free.iter().copied().take(needs.threads).collect();
        self.free.retain(|lane| !lanes.contains(lane));
        if let Some(resource) = &needs.resource {
            *self.used.entry(resource.clone()).or_default() += 1;
        }
        Some((Held { resource: needs.resource, lanes }, next))
    }

    /// Takes back what something held.
    pub(super) fn give_back(&mut self, held: Held) {
        self.free.extend(held.lanes);
        if let Some(used) = held.resource.as_ref().and_then(|resource| self.used.get_mut(resource)) {
            *used -= 1;
        }
    }

    /// How many lanes are free.
    pub(super) fn idle(&self) -> usize {
        self.free.len()
    }

    /// Those who wait, the first first.
    pub(super) fn waiting(&self) -> impl ExactSizeIterator<Item = &T> {
        self.queue.iter().map(|(_, waiting)| waiting)
    }

    /// Sends away who waits and is not wanted any more.
    pub(super) fn retain(&mut self, wanted: impl Fn(&T) -> bool) {
        self.queue.retain(|(_, waiting)| wanted(waiting));
    }

    fn has_resource(&self, needs: &Needs) -> bool {
        needs.resource.as_ref().is_none_or(|resource| {
            let used = self.used.get(resource).copied().unwrap_or_default();
            used < self.capacities.get(resource).map_or(1, |capacity| capacity.get())
        })
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

    /// What begins now, as `name@lane`, and is kept in `held`.
    fn begun(lanes: &mut Lanes<&'static str>, held: &mut Vec<(Held, &'static str)>) -> Vec<String> {
        let begun: Vec<_> = std::iter::from_fn(|| lanes.begin()).collect();
        let told = begun.iter().map(|(held, name)| format!("{name}@{}", held.lane())).collect();
        held.extend(begun);
        told
    }

    fn end(lanes: &mut Lanes<&'static str>, held: &mut Vec<(Held, &'static str)>, name: &str) {
        let place = held.iter().position(|(_, known)| *known == name).unwrap();
        lanes.give_back(held.remove(place).0);
    }

    #[test]
    fn they_begin_in_order_as_lanes_come_free() {
        let mut lanes = lanes(2, &[("a", 1, ""), ("b", 1, ""), ("c", 1, ""), ("d", 1, "")]);
        let mut held = Vec::new();
        assert_eq!(begun(&mut lanes, &mut held), ["a@1", "b@2"]);
        assert_eq!(lanes.idle(), 0);
        end(&mut lanes, &mut held, "b");
        assert_eq!(begun(&mut lanes, &mut held), ["c@2"]);
        assert_eq!(lanes.idle(), 0);
    }

    #[test]
    fn who_needs_many_lanes_is_not_passed_by_smaller_ones() {
        let mut lanes = lanes(3, &[("a", 1, ""), ("wide", 3, ""), ("b", 1, "")]);
        let mut held = Vec::new();
        assert_eq!(begun(&mut lanes, &mut held), ["a@1"]);
        end(&mut lanes, &mut held, "a");
        assert_eq!(begun(&mut lanes, &mut held), ["wide@1"]);
        end(&mut lanes, &mut held, "wide");
        assert_eq!(begun(&mut lanes, &mut held), ["b@1"]);
    }

    #[test]
    fn a_resource_is_used_by_as_many_as_it_takes_and_others_pass_meanwhile() {
        let wanted = [("a", 1, "db"), ("b", 1, "db"), ("c", 1, "pool"), ("d", 1, "pool"), ("e", 1, "pool")];
        let mut lanes = lanes(8, &[&wanted[..], &[("f", 1, "")]].concat());
        let mut held = Vec::new();
        assert_eq!(begun(&mut lanes, &mut held), ["a@1", "c@2", "d@3", "f@4"]);
        end(&mut lanes, &mut held, "c");
        assert_eq!(begun(&mut lanes, &mut held), ["e@2"]);
        end(&mut lanes, &mut held, "a");
        assert_eq!(begun(&mut lanes, &mut held), ["b@1"]);
    }

    proptest! {
        #[test]
        fn everybody_begins_at_last_and_nothing_is_used_by_too_many(
            wanted in prop::collection::vec((0..=4_usize, prop::option::of(0..3_u8)), 0..40),
            order in prop::collection::vec(any::<prop::sample::Index>(), 40),
        ) {
            let mut lanes = Lanes::new(NonZeroUsize::new(4).unwrap(), BTreeMap::new());
            for (threads, resource) in &wanted {
                let resource = resource.map(|name| name.to_string());
                lanes.push(Needs { threads: *threads, resource }, ());
            }
            let (mut begun, mut held): (usize, Vec<Held>) = (0, Vec::new());
            for index in order {
                while let Some((one, ())) = lanes.begin() {
                    begun += 1;
                    held.push(one);
                }
                let mut taken: Vec<u32> = held.iter().flat_map(|held| held.lanes.clone()).collect();
                taken.sort_unstable();
                prop_assert!(taken.windows(2).all(|pair| pair[0] < pair[1]) && taken.last() < Some(&4));
                let mut resources: Vec<_> = held.iter().filter_map(|held| held.resource.as_ref()).collect();
                resources.sort();
                prop_assert!(resources.windows(2).all(|pair| pair[0] != pair[1]));
                if !held.is_empty() {
                    lanes.give_back(held.swap_remove(index.index(held.len())));
                }
            }
            prop_assert_eq!(begun, wanted.len());
        }
    }
}
