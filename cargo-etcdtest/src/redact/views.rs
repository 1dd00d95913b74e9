//! A stream as it may be read: as it is, without terminal sequences, with escapes undone
//! once and several times, each of these also without what breaks encoded data into pieces.

use super::escape::Unescape;
use super::index::{Found, Index, Search};
use super::strip::Strip;

/// How many layers of escapes are undone: messages quote messages.
const LAYERS: usize = 3;
/// What has been found of encoded data at the end of a whole line is awaited from so many
/// bytes on: else every other line would have to wait for the next.
const WHOLE_LINE: usize = 8;
/// Of what a stream ends in the middle of, at least so many bytes, and so many at the most,
/// have to be there: of a text, and of encoded data.
const BEGUN: (usize, usize) = (4, 8);
const ENCODED_BEGUN: (usize, usize) = (8, 16);

/// What is looked for.
pub(super) struct Patterns {
    /// As it is.
    pub(super) plain: Index,
    /// In encoded data, as [`joined`] makes them.
    pub(super) encoded: Index,
}

/// A byte of a view, and where in the stream stands what it is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) byte: u8,
    pub(super) start: u64,
    pub(super) end: u64,
}

/// All views of one stream.
pub(super) struct Views {
    /// It as it is.
    raw: Chain,
    strip: Strip,
    /// It without terminal sequences, where that is something else.
    shown: Option<Chain>,
    /// Up to where terminal sequences were left out.
    stripped: u64,
    given: Vec<Seen>,
    read: u64,
    last: u8,
    found: Vec<Found>,
}

/// A view, and after it each with one more layer of escapes undone.
#[derive(Clone)]
struct Chain {
    searches: Searches,
    layers: Vec<Layer>,
}

/// A view with escapes undone. Where there are none it rests and costs nothing: then it is the
/// same as the one before it.
#[derive(Clone, Default)]
struct Layer {
    unescape: Unescape,
    searches: Option<Searches>,
    /// Up to where something was changed.
    changed: u64,
    /// What was read last, kept for its memory.
    given: Vec<Seen>,
}

#[derive(Clone)]
struct Searches {
    plain: Search,
    encoded: Search,
}

impl Views {
    pub(super) fn new(patterns: &Patterns) -> Self {
        let searches = Searches { plain: patterns.plain.search(), encoded: patterns.encoded.search() };
        Self {
            raw: Chain { searches, layers: vec![Layer::default(); LAYERS] },
            strip: Strip::default(),
            shown: None,
            stripped: 0,
            given: Vec::new(),
            read: 0,
            last: 0,
            found: Vec::new(),
        }
    }

    /// Takes the next bytes of the stream.
    pub(super) fn take(&mut self, patterns: &Patterns, bytes: &[u8]) {
        for &byte in bytes {
            let seen = Seen { byte, start: self.read, end: self.read + 1 };
            (self.read, self.last) = (seen.end, byte);
            if self.shown.is_some() || Strip::begins(byte) {
                self.show(patterns, seen);
            }
            self.raw.take(patterns, seen, &mut self.found);
        }
    }

    /// Takes a byte that is shown, or belongs to what is left out.
    fn show(&mut self, patterns: &Patterns, seen: Seen) {
        let shown = self.shown.get_or_insert_with(|| self.raw.clone());
        self.strip.take(seen, &mut self.given);
        if self.given != [seen] {
            self.stripped = seen.end;
        }
        for seen in self.given.drain(..) {
            shown.take(patterns, seen, &mut self.found);
        }
        // What was left out is of no more use.
        if self.strip.is_idle() && shown.open_from().is_none_or(|open| open >= self.stripped) {
            self.shown = None;
        }
    }

    /// Takes what was held back, as nothing follows. If the stream was `cut` off, what it ends
    /// in the middle of counts as well, if enough of that is there.
    pub(super) fn end(&mut self, patterns: &Patterns, cut: bool) {
        self.strip.end(&mut self.given);
        if let Some(shown) = &mut self.shown {
            self.given.drain(..).for_each(|seen| shown.take(patterns, seen, &mut self.found));
        }
        for chain in [Some(&mut self.raw), self.shown.as_mut()].into_iter().flatten() {
            chain.end(patterns, &mut self.found);
            let begun = chain.searches().filter(|_| cut).flat_map(|searches| searches.begun(patterns));
            begun.for_each(|begun| note(&mut self.found, begun));
        }
    }

    /// From where on the stream may be the beginning of something.
    pub(super) fn undecided(&self) -> u64 {
        let least = if self.last == b'\n' { WHOLE_LINE } else { 1 };
        let chains = [Some(&self.raw), self.shown.as_ref()].into_iter().flatten();
        let waits = chains.flat_map(|chain| chain.waits_from(least)).chain(self.strip.open_from());
        let from = waits.fold(self.read, u64::min);
        // What was found may become part of more.
        self.found.iter().find(|found| found.end > from).map_or(from, |found| from.min(found.start))
    }

    /// What was found before this place: in order, and apart from each other.
    pub(super) fn found_before(&mut self, place: u64) -> impl Iterator<Item = Found> {
        let count = self.found.partition_point(|found| found.end <= place);
        self.found.drain(..count)
    }
}

impl Chain {
    /// Takes a byte of its first view.
    fn take(&mut self, patterns: &Patterns, seen: Seen, found: &mut Vec<Found>) {
        // The layers have to know what was searched before.
        unescape(&self.searches, &mut self.layers, patterns, seen, found);
        self.searches.step(patterns, seen, found);
    }

    /// Takes what waits for more, as nothing follows.
    fn end(&mut self, patterns: &Patterns, found: &mut Vec<Found>) {
        for number in 0..self.layers.len() {
            let (layer, above) = self.layers[number..].split_first_mut().expect("it is one of them");
            layer.unescape.end(&mut layer.given);
            let Some(searches) = &mut layer.searches else { continue };
            for seen in layer.given.drain(..) {
                unescape(searches, above, patterns, seen, found);
                searches.step(patterns, seen, found);
            }
        }
    }

    /// The searches of all its views.
    fn searches(&self) -> impl Iterator<Item = &Searches> {
        let layers = self.layers.iter().filter_map(|layer| layer.searches.as_ref());
        [&self.searches].into_iter().chain(layers)
    }

    /// From where on it waits for more: of encoded data, if it knows so many bytes of that.
    fn waits_from(&self, least: usize) -> impl Iterator<Item = u64> {
        let escapes = self.layers.iter().filter_map(|layer| layer.unescape.open_from());
        escapes.chain(self.searches().flat_map(move |searches| {
            let encoded = Some(&searches.encoded).filter(|search| search.open_length() >= least);
            [searches.plain.open_from(), encoded.and_then(Search::open_from)].into_iter().flatten()
        }))
    }

    /// From where on anything of it may become something.
    fn open_from(&self) -> Option<u64> {
        self.waits_from(1).min()
    }
}

/// Has the first of the layers read a byte of the view before it, which is searched so.
fn unescape(
    before: &Searches,
    layers: &mut [Layer],
    patterns: &Patterns,
    seen: Seen,
    found: &mut Vec<Found>,
) {
    let Some((layer, above)) = layers.split_first_mut() else { return };
    if layer.searches.is_none() && !Unescape::begins(seen.byte) {
        // The layers above rest as well: they would wait for the same.
        return;
    }
    let searches = layer.searches.get_or_insert_with(|| before.clone());
    layer.unescape.take(seen, &mut layer.given);
    if layer.given != [seen] {
        layer.changed = seen.end;
    }
    for seen in layer.given.drain(..) {
        unescape(searches, above, patterns, seen, found);
        searches.step(patterns, seen, found);
    }
    // What it has changed is of no more use.
    let is_useless = searches.open_from().is_none_or(|open| open >= layer.changed);
    let above_rests = above.first().is_none_or(|above| above.searches.is_none());
    if is_useless && above_rests && layer.unescape.open_from().is_none() {
        layer.searches = None;
    }
}

impl Searches {
    fn step(&mut self, patterns: &Patterns, seen: Seen, found: &mut Vec<Found>) {
        self.plain.step(&patterns.plain, seen, |one| note(found, one));
        if let Some(byte) = joined(seen.byte) {
            self.encoded.step(&patterns.encoded, Seen { byte, ..seen }, |one| note(found, one));
        }
    }

    fn open_from(&self) -> Option<u64> {
        [self.plain.open_from(), self.encoded.open_from()].into_iter().flatten().min()
    }

    /// What a stream ends in the middle of.
    fn begun(&self, patterns: &Patterns) -> impl Iterator<Item = Found> {
        let plain = self.plain.begun(&patterns.plain, BEGUN.0, BEGUN.1);
        let encoded = self.encoded.begun(&patterns.encoded, ENCODED_BEGUN.0, ENCODED_BEGUN.1);
        [plain, encoded].into_iter().flatten()
    }
}

/// A byte of encoded data, which may be broken into lines, its bytes apart from each other,
/// and its base64 made for URLs.
pub(super) fn joined(byte: u8) -> Option<u8> {
    match byte {
        b' ' | b'\n' | b'\r' | b'\t' | b',' | b':' => None,
        b'-' => Some(b'+'),
        b'_' => Some(b'/'),
        other => Some(other),
    }
}

/// Adds what was found. What overlaps becomes one, and has the name of the longest.
fn note(all: &mut Vec<Found>, found: Found) {
    let from = all.partition_point(|other| other.end <= found.start);
    let to = all.partition_point(|other| other.start < found.end);
    let size = |found: &Found| (found.end - found.start, std::cmp::Reverse(found.name));
    let longest = all[from..to].iter().copied().chain([found]).max_by_key(size);
    let start = all[from..to].iter().map(|other| other.start).fold(found.start, u64::min);
    let end = all[from..to].iter().map(|other| other.end).fold(found.end, u64::max);
    let name = longest.map_or(found.name, |longest| longest.name);
    all.splice(from..to, [Found { start, end, name }]);
}
