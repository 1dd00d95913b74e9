//! What a secret looks like in a text.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::SHORTEST;
use super::escape::unescaped;
use crate::reports::text::plain;

/// The shortest line of a secret of several lines that is replaced by itself, in bytes.
const SHORTEST_LINE: usize = 8;

/// What a part of a URL must encode.
pub(super) const COMPONENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'!')
    .remove(b'~')
    .remove(b'*')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')');

/// Patterns, each with the number of the secret that it gives away.
#[derive(Default)]
pub(super) struct Forms {
    /// Of texts.
    pub(super) plain: BTreeMap<String, usize>,
    /// Of encoded data.
    pub(super) encoded: BTreeMap<String, usize>,
}

impl Forms {
    /// Adds those of a secret. What another gives away already is left to that.
    pub(super) fn add(&mut self, secret: usize, value: &str) {
        let add = |forms: &mut BTreeMap<String, usize>, form: String| {
            if !form.is_empty() {
                forms.entry(form).or_insert(secret);
            }
        };
        let long = |text: &String| text.len() >= SHORTEST;
        let whole = [value.to_owned()].into_iter().chain(Some(value.trim().to_owned()).filter(long));
        // The first and last line of a key in PEM are no secret.
        let lines = value.lines().map(str::trim);
        let lines = lines.filter(|line| line.len() >= SHORTEST_LINE && !line.starts_with("-----"));
        for text in whole.clone().chain(lines.map(str::to_owned)) {
            (0..3).flat_map(|before| base64(&text, before)).for_each(|form| add(&mut self.encoded, form));
            // A text that happens to hold escapes, a form's way to write blanks, and a URL's way,
            // which what stands before it may make look like another escape.
            let encoded = utf8_percent_encode(&text, COMPONENT).to_string();
            let others = [plain(&text), unescaped(&text), text.replace(' ', "+"), encoded];
            others.into_iter().filter(long).for_each(|form| add(&mut self.plain, form));
            add(&mut self.plain, text);
        }
        for text in whole {
            let digits = text.bytes().flat_map(|byte| [byte >> 4, byte & 0xf]);
            let hexadecimal: String = digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect();
            add(&mut self.encoded, hexadecimal.to_uppercase());
            add(&mut self.encoded, hexadecimal);
            // As `{:?}` writes a list of bytes.
            add(&mut self.encoded, text.bytes().map(|byte| byte.to_string()).collect());
        }
    }
}

/// As base64 writes it after `before` other bytes, 0 to 2: the characters that depend on it
/// alone, and with those at its end if nothing follows.
fn base64(text: &str, before: usize) -> [String; 3] {
    const BITS: usize = 6;
    let bytes = [vec![0; before], text.as_bytes().to_vec()].concat();
    let first = (before * 8).div_ceil(BITS);
    let end = (bytes.len() * 8 / BITS).max(first);
    let encoded = STANDARD.encode(&bytes);
    let tail = encoded.get(first..).unwrap_or_default();
    [encoded.get(first..end).unwrap_or_default(), tail.trim_end_matches('='), tail].map(str::to_owned)
}
