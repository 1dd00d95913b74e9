//! Secrets in text, replaced by their names: as they are, and as programs write them into
//! JSON, URLs, pages, headers and messages.

mod escape;
mod forms;
mod index;
mod strip;
mod views;

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use self::forms::Forms;
use self::index::Index;
use self::views::{Patterns, Views};

/// The shortest secret that is taken, in bytes: anything shorter would be found everywhere.
pub const SHORTEST: usize = 4;

/// Replaces secrets by `[secret NAME]`; one without secrets costs nothing.
#[derive(Clone, Default)]
pub struct Redactor(Option<Arc<Secrets>>);

/// A stream on its way through a [`Redactor`]. What may be the beginning of a secret is held
/// back until it is known whether it is one, at the longest as many bytes as the longest
/// form of a secret has, and however long the stream is quiet: a value may come in pieces.
#[derive(Default)]
pub struct RedactedStream {
    redactor: Redactor,
    views: Option<Views>,
    held: Vec<u8>,
    /// How much of the stream was passed on.
    passed: u64,
}

struct Secrets {
    patterns: Patterns,
    names: Vec<String>,
}

impl Redactor {
    /// A redactor of these secrets, each a name and a value. An empty value is none.
    pub fn new<'a>(secrets: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let (mut forms, mut names) = (Forms::default(), Vec::new());
        for (name, value) in secrets.into_iter().filter(|(_, value)| !value.is_empty()) {
            forms.add(names.len(), value);
            names.push(name.to_owned());
        }
        if names.is_empty() {
            return Self(None);
        }
        let patterns = Patterns { plain: Index::new(&forms.plain), encoded: Index::new(&forms.encoded) };
        Self(Some(Arc::new(Secrets { patterns, names })))
    }

    /// Whether there is nothing to replace.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The text without secrets.
    pub fn text(&self, text: String) -> String {
        if self.is_empty() {
            return text;
        }
        // Secrets are texts, so what is left of a text is one.
        String::from_utf8(self.document(text.into_bytes()))
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }

    /// A document without secrets, whether it is a text or not.
    pub fn document(&self, bytes: Vec<u8>) -> Vec<u8> {
        if self.is_empty() {
            return bytes;
        }
        let mut stream = self.stream();
        let mut redacted = stream.push(&bytes).into_owned();
        redacted.extend(stream.finish(false));
        redacted
    }

    /// Where secrets are in a text, in order, each with its name.
    pub fn places(&self, text: impl AsRef<[u8]>) -> Vec<(Range<usize>, &str)> {
        let Some(secrets) = &self.0 else { return vec![] };
        let text = text.as_ref();
        let mut views = Views::new(&secrets.patterns);
        views.take(&secrets.patterns, text);
        views.end(&secrets.patterns, false);
        let place = |place: u64| usize::try_from(place).unwrap_or(text.len()).min(text.len());
        let found = views.found_before(u64::MAX);
        found.map(|found| (place(found.start)..place(found.end), &*secrets.names[found.name])).collect()
    }

    /// A stream to be redacted piece by piece.
    pub fn stream(&self) -> RedactedStream {
        let views = self.0.as_ref().map(|secrets| Views::new(&secrets.patterns));
        RedactedStream { redactor: self.clone(), views, held: Vec::new(), passed: 0 }
    }
}

/// The values are not shown.
impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Redactor")
    }
}

/// What is held back is not shown.
impl fmt::Debug for RedactedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RedactedStream")
    }
}

impl RedactedStream {
    /// Takes the next piece, and gives what can be passed on.
    pub fn push<'a>(&mut self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        let (Some(secrets), Some(views)) = (&self.redactor.0, &mut self.views) else {
            return Cow::Borrowed(bytes);
        };
        views.take(&secrets.patterns, bytes);
        self.held.extend_from_slice(bytes);
        let until = views.undecided();
        Cow::Owned(self.pass(until))
    }

    /// What was held back, once nothing more comes, whether the end or a kill was the reason:
    /// so the beginning of a secret at the very end is taken for that secret if it is long
    /// enough.
    pub fn end(&mut self) -> Vec<u8> {
        self.finish(true)
    }

    fn finish(&mut self, cut: bool) -> Vec<u8> {
        let (Some(secrets), Some(mut views)) = (&self.redactor.0, self.views.take()) else { return vec![] };
        views.end(&secrets.patterns, cut);
        self.views = Some(views);
        let passed = self.pass(u64::MAX);
        *self = self.redactor.stream();
        passed
    }

    /// What is held, up to this place of the stream, without secrets.
    fn pass(&mut self, until: u64) -> Vec<u8> {
        let (Some(secrets), Some(views)) = (&self.redactor.0, &mut self.views) else { return vec![] };
        let begin = self.passed;
        let place = |place: u64, held: &[u8]| {
            usize::try_from(place.saturating_sub(begin)).unwrap_or(held.len()).min(held.len())
        };
        let (mut passed, mut done) = (Vec::new(), 0);
        for found in views.found_before(until) {
            let start = place(found.start, &self.held).max(done);
            passed.extend_from_slice(&self.held[done..start]);
            passed.extend(["[secret ", &secrets.names[found.name], "]"].concat().bytes());
            done = place(found.end, &self.held).max(start);
        }
        let until = place(until, &self.held).max(done);
        passed.extend_from_slice(&self.held[done..until]);
        self.held.drain(..until);
        self.passed += until as u64;
        passed
    }
}

#[cfg(test)]
mod tests;
