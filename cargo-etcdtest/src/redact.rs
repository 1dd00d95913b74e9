//! Secrets in text, replaced by their names: as they are, and as programs write them into
//! JSON, URLs, headers and messages.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use aho_corasick::automaton::Automaton;
use aho_corasick::nfa::noncontiguous::NFA;
use aho_corasick::{AhoCorasick, AhoCorasickKind, Anchored, MatchKind, PatternID};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::reports::text;

/// The shortest secret that is taken, in bytes: anything shorter would be found everywhere.
pub const SHORTEST: usize = 4;
/// The shortest line of a secret of several lines that is replaced by itself, in bytes.
const SHORTEST_LINE: usize = 8;
/// Up to how many bytes of patterns the fastest automaton is built, which takes about a
/// kilobyte for each of them.
const FEW: usize = 16 << 10;

/// What percent-encoding escapes, as programs differ over it: all but letters and digits,
/// all but the unreserved of RFC 3986, `encodeURIComponent`, and the sets of the URL standard
/// for user information, for a path and for a query.
const URL_SETS: [&AsciiSet; 6] = [NON_ALPHANUMERIC, UNRESERVED, COMPONENT, USER, PATH, QUERY];
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
const COMPONENT: &AsciiSet = &UNRESERVED.remove(b'!').remove(b'\'').remove(b'(').remove(b')').remove(b'*');
const QUERY: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'<').add(b'>');
const PATH: &AsciiSet = &QUERY.add(b'?').add(b'`').add(b'{').add(b'}').add(b'^');
const USER: &AsciiSet =
    &PATH.add(b'/').add(b':').add(b';').add(b'=').add(b'@').add(b'[').add(b'\\').add(b']').add(b'|');

/// Replaces secrets by `[secret NAME]`; one without secrets costs nothing.
#[derive(Clone, Default)]
pub struct Redactor(Option<Arc<Patterns>>);

/// A stream on its way through a [`Redactor`]. What may be the beginning of a secret is held
/// back until it is known whether it is one, at the longest as many bytes as the longest
/// form of a secret has, and however long the stream is quiet: a value may come in pieces.
#[derive(Debug, Default)]
pub struct RedactedStream {
    redactor: Redactor,
    held: Vec<u8>,
}

struct Patterns {
    search: AhoCorasick,
    /// What stands in the place of each pattern.
    replacements: Vec<String>,
    /// Follows a text with the longest end of it that is the beginning of a pattern.
    beginnings: NFA,
    /// How long that is, by the automaton's state.
    lengths: Vec<usize>,
    longest: usize,
}

impl Redactor {
    /// A redactor of these secrets, each a name and a value. An empty value is none.
    pub fn new<'a>(secrets: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut patterns = BTreeMap::new();
        for (name, value) in secrets {
            for form in forms(value) {
                patterns.entry(form).or_insert_with(|| format!("[secret {name}]"));
            }
        }
        Self((!patterns.is_empty()).then(|| Arc::new(Patterns::new(patterns))))
    }

    /// Whether there is nothing to replace.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The text without secrets.
    pub fn text(&self, text: String) -> String {
        let Some(patterns) = &self.0 else { return text };
        let text = patterns.without(text);
        patterns.in_plain(&text).unwrap_or(text)
    }

    /// A document without secrets, whether it is a text or not.
    pub fn document(&self, bytes: Vec<u8>) -> Vec<u8> {
        if self.is_empty() {
            return bytes;
        }
        match String::from_utf8(bytes) {
            Ok(text) => self.text(text).into_bytes(),
            Err(binary) => {
                let mut stream = self.stream();
                let mut redacted = stream.push(binary.as_bytes()).into_owned();
                redacted.extend(stream.end());
                redacted
            }
        }
    }

    /// What has come out of a stream, without secrets that only show once terminal sequences
    /// and control characters in them are taken out, as they are wherever it is read.
    pub fn passed(&self, bytes: Vec<u8>) -> Vec<u8> {
        let Some(patterns) = &self.0 else { return bytes };
        patterns.in_plain(&String::from_utf8_lossy(&bytes)).map_or(bytes, String::into_bytes)
    }

    /// A stream to be redacted piece by piece.
    pub fn stream(&self) -> RedactedStream {
        RedactedStream { redactor: self.clone(), held: Vec::new() }
    }
}

/// The values are not shown.
impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Redactor")
    }
}

impl RedactedStream {
    /// Whether there is nothing to replace.
    pub fn is_idle(&self) -> bool {
        self.redactor.is_empty()
    }

    /// As [`Redactor::passed`].
    pub fn passed(&self, bytes: Vec<u8>) -> Vec<u8> {
        self.redactor.passed(bytes)
    }

    /// Takes the next piece, and gives what can be passed on.
    pub fn push<'a>(&mut self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        let Some(patterns) = &self.redactor.0 else { return Cow::Borrowed(bytes) };
        self.held.extend_from_slice(bytes);
        let (passed, held) = patterns.redact(&self.held);
        self.held.drain(..held);
        Cow::Owned(passed)
    }

    /// What was held back, once nothing more comes.
    pub fn end(&mut self) -> Vec<u8> {
        let held = std::mem::take(&mut self.held);
        match &self.redactor.0 {
            Some(patterns) => patterns.search.replace_all_bytes(&held, &patterns.replacements),
            None => held,
        }
    }
}

impl Patterns {
    fn without(&self, text: String) -> String {
        if self.search.is_match(&text) { self.search.replace_all(&text, &self.replacements) } else { text }
    }

    /// The text as it is shown, without secrets, if there are any in that.
    fn in_plain(&self, text: &str) -> Option<String> {
        if !text.contains(|character: char| character.is_control() && !"\n\t".contains(character)) {
            return None;
        }
        let plain = text::plain(text);
        self.search.is_match(&plain).then(|| self.without(plain))
    }

    fn new(patterns: BTreeMap<String, String>) -> Self {
        let size: usize = patterns.keys().map(String::len).sum();
        let longest = patterns.keys().map(String::len).max().unwrap_or(0);
        let kind = if size <= FEW { AhoCorasickKind::DFA } else { AhoCorasickKind::ContiguousNFA };
        let search = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .kind(Some(kind))
            .build(patterns.keys())
            .expect("sizes of secrets are limited");
        let beginnings = NFA::new(patterns.keys()).expect("sizes of secrets are limited");
        let mut lengths = Vec::new();
        for pattern in patterns.keys() {
            let mut state = start(&beginnings);
            for (index, &byte) in pattern.as_bytes().iter().enumerate() {
                state = beginnings.next_state(Anchored::No, state, byte);
                if lengths.len() <= state.as_usize() {
                    lengths.resize(state.as_usize() + 1, 0);
                }
                lengths[state.as_usize()] = index + 1;
            }
        }
        Self { search, replacements: patterns.into_values().collect(), beginnings, lengths, longest }
    }

    /// What of a text can be passed on, and from where it has to wait for what follows.
    fn redact(&self, text: &[u8]) -> (Vec<u8>, usize) {
        let (mut passed, mut done) = (Vec::with_capacity(text.len()), 0);
        let mut undecided = self.undecided(text, 0);
        for found in self.search.find_iter(text) {
            // It may yet become a longer one, or part of one that begins before it.
            if found.start() >= undecided {
                break;
            }
            passed.extend_from_slice(&text[done..found.start()]);
            passed.extend_from_slice(self.replacement(found.pattern()).as_bytes());
            done = found.end();
            if undecided < done {
                undecided = self.undecided(text, done);
            }
        }
        passed.extend_from_slice(&text[done..undecided]);
        (passed, undecided)
    }

    /// Where, not before `from`, the longest end of the text begins with which a pattern does.
    fn undecided(&self, text: &[u8], from: usize) -> usize {
        let window = &text[from.max(text.len().saturating_sub(self.longest))..];
        let end = window.iter().fold(start(&self.beginnings), |state, &byte| {
            self.beginnings.next_state(Anchored::No, state, byte)
        });
        text.len() - self.lengths.get(end.as_usize()).copied().unwrap_or(0)
    }

    fn replacement(&self, pattern: PatternID) -> &str {
        &self.replacements[pattern.as_usize()]
    }
}

fn start(automaton: &NFA) -> aho_corasick::automaton::StateID {
    automaton.start_state(Anchored::No).expect("it has one")
}

/// What a secret may look like in a text.
fn forms(value: &str) -> Vec<String> {
    let trimmed = Some(value.trim()).filter(|trimmed| trimmed.len() >= SHORTEST);
    let whole = [value, trimmed.unwrap_or(value)];
    let lines = value.lines().map(str::trim);
    // The first and last line of a key in PEM are no secret.
    let lines = lines.filter(|line| line.len() >= SHORTEST_LINE && !line.starts_with("-----"));
    let mut forms = Vec::new();
    for text in whole.into_iter().chain(lines) {
        forms.extend([text.to_owned(), in_json(text).replace('/', "\\/")]);
        // Messages quote messages, and JSON holds JSON.
        for once in [in_debug(text), in_json(text)] {
            forms.extend([in_debug(&once), in_json(&once), once]);
        }
    }
    for text in whole {
        for set in URL_SETS {
            let upper = utf8_percent_encode(text, set).to_string();
            forms.extend([lower_hexadecimal(&upper), upper.replace("%20", "+"), upper]);
        }
        forms.extend((0..3).flat_map(|before| in_base64(text, before)));
    }
    forms.retain(|form| !form.is_empty());
    forms
}

/// As `{:?}` writes it, without the quotation marks.
fn in_debug(text: &str) -> String {
    let quoted = format!("{text:?}");
    quoted[1..quoted.len() - 1].to_owned()
}

/// As JSON writes it, without the quotation marks.
fn in_json(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

/// Percent-encoded bytes in lower case.
fn lower_hexadecimal(encoded: &str) -> String {
    let mut parts = encoded.split('%');
    let mut lower = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (digits, rest) = part.split_at(part.len().min(2));
        lower.extend(["%", &digits.to_ascii_lowercase(), rest]);
    }
    lower
}

/// As base64 writes it after `before` other bytes, 0 to 2: the characters that depend on it
/// alone, and with those at its end if nothing follows.
fn in_base64(text: &str, before: usize) -> Vec<String> {
    const BITS: usize = 6;
    let bytes = [vec![0; before], text.as_bytes().to_vec()].concat();
    let (first, end) = ((before * 8).div_ceil(BITS), bytes.len() * 8 / BITS);
    let mut forms = Vec::new();
    for engine in [STANDARD, URL_SAFE] {
        let encoded = engine.encode(&bytes);
        if end > first {
            forms.extend([
                encoded[first..end].to_owned(),
                encoded[first..].trim_end_matches('=').to_owned(),
                encoded[first..].to_owned(),
            ]);
        }
    }
    forms
}

#[cfg(test)]
mod tests;
