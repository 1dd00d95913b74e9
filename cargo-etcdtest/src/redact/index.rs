//! Patterns, found in a stream wherever they are, however they overlap.

use std::collections::{BTreeMap, VecDeque};

use aho_corasick::automaton::{Automaton, StateID};
use aho_corasick::nfa::noncontiguous::NFA;
use aho_corasick::{Anchored, MatchKind};

use super::views::Seen;

/// Patterns with what each of them stands for.
pub(super) struct Index {
    automaton: NFA,
    /// What a pattern stands for, by its number.
    names: Vec<usize>,
    /// By the automaton's state.
    beginnings: Vec<Beginning>,
    start: StateID,
    /// With which bytes patterns begin.
    first: [bool; 256],
}

/// The longest end of what was read that is the beginning of a pattern.
#[derive(Clone, Copy, Default)]
struct Beginning {
    length: usize,
    /// The length of a pattern that begins so, and what that stands for.
    of: usize,
    name: usize,
}

/// A search on its way through a stream.
#[derive(Clone)]
pub(super) struct Search {
    state: StateID,
    /// Where each byte stands of what may be the beginning of a pattern.
    open: VecDeque<Seen>,
}

/// Something that was found: where it stands in the stream, and what it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) name: usize,
}

impl Index {
    pub(super) fn new(patterns: &BTreeMap<String, usize>) -> Self {
        let automaton = NFA::builder().match_kind(MatchKind::Standard).build(patterns.keys());
        let automaton = automaton.expect("sizes of secrets are limited");
        let start = automaton.start_state(Anchored::No).expect("it has one");
        let (mut beginnings, mut first) = (Vec::new(), [false; 256]);
        for (pattern, &name) in patterns {
            let mut state = start;
            for (index, &byte) in pattern.as_bytes().iter().enumerate() {
                first[usize::from(byte)] |= index == 0;
                state = automaton.next_state(Anchored::No, state, byte);
                if beginnings.len() <= state.as_usize() {
                    beginnings.resize(state.as_usize() + 1, Beginning::default());
                }
                beginnings[state.as_usize()] = Beginning { length: index + 1, of: pattern.len(), name };
            }
        }
        Self { automaton, names: patterns.values().copied().collect(), beginnings, start, first }
    }

    pub(super) fn search(&self) -> Search {
        Search { state: self.start, open: VecDeque::new() }
    }

    fn beginning(&self, state: StateID) -> Beginning {
        self.beginnings.get(state.as_usize()).copied().unwrap_or_default()
    }
}

impl Search {
    /// Takes the next byte, and tells what ends with it.
    pub(super) fn step(&mut self, index: &Index, seen: Seen, mut found: impl FnMut(Found)) {
        if self.state == index.start && !index.first[usize::from(seen.byte)] {
            return;
        }
        self.state = index.automaton.next_state(Anchored::No, self.state, seen.byte);
        self.open.push_back(seen);
        self.open.drain(..self.open.len() - index.beginning(self.state).length);
        if !index.automaton.is_match(self.state) {
            return;
        }
        for number in 0..index.automaton.match_len(self.state) {
            let pattern = index.automaton.match_pattern(self.state, number);
            let length = index.automaton.pattern_len(pattern);
            let start = self.open[self.open.len() - length].start;
            found(Found { start, end: seen.end, name: index.names[pattern.as_usize()] });
        }
    }

    /// From where on it waits for more.
    pub(super) fn open_from(&self) -> Option<u64> {
        self.open.front().map(|seen| seen.start)
    }

    /// For how many bytes it knows what they may become.
    pub(super) fn open_length(&self) -> usize {
        self.open.len()
    }

    /// What it waits for, where that is known to so many bytes, or to the half of it if that
    /// is less, but to `least` at least.
    pub(super) fn begun(&self, index: &Index, least: usize, enough: usize) -> Option<Found> {
        let Beginning { length, of, name } = index.beginning(self.state);
        let (start, end) = (self.open.front()?.start, self.open.back()?.end);
        (length >= (of / 2).clamp(least, enough)).then_some(Found { start, end, name })
    }
}
