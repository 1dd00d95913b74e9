//! What errors may not show of a file: all that stands under `secrets`.

use std::ops::Range;

use toml::Spanned;
use toml::de::DeValue;

use super::KEYS;
use crate::document::Document;
use crate::nearest::nearest;

/// The document with what stands under `secrets` hidden, also where that is misspelt or the
/// file is no TOML at all.
pub(super) fn hide_secrets(document: Document) -> Document {
    let mut places = Vec::new();
    let parsed = match document.table() {
        Ok(table) => {
            let secret = table.into_iter().filter(|(key, _)| is_secret(key.get_ref()));
            secret.for_each(|(_, value)| values(&document, value, &mut places));
            true
        }
        Err(_) => false,
    };
    lines(document.text(), parsed, &mut places);
    document.hiding(places)
}

/// Whether somebody who wrote this key may have meant `secrets`.
fn is_secret(key: &str) -> bool {
    key.to_lowercase().contains("secret") || nearest(key, KEYS) == Some("secrets")
}

fn values(document: &Document, value: Spanned<DeValue<'_>>, places: &mut Vec<Range<usize>>) {
    let place = value.span();
    match value.into_inner() {
        // A table with a header of its own is not where its values are.
        DeValue::Table(table) if !document.written(place.clone()).starts_with('{') => {
            table.into_iter().for_each(|(_, value)| values(document, value, places));
        }
        DeValue::Array(array) if document.written(place.clone()).starts_with("[[") => {
            array.into_iter().for_each(|value| values(document, value, places));
        }
        _ => places.push(place),
    }
}

/// The lines below a header: of a file that was parsed for the sake of their comments, of
/// any other up to a header that is surely one.
fn lines(text: &str, parsed: bool, places: &mut Vec<Range<usize>>) {
    let (mut hidden, mut top, mut start) = (false, true, 0);
    for line in text.split_inclusive('\n') {
        let words =
            line.trim_start_matches(|letter: char| letter.is_whitespace() || "[\"'\u{feff}".contains(letter));
        let key =
            words.split(|letter: char| !letter.is_alphanumeric() && letter != '-' && letter != '_').next();
        let key = key.unwrap_or_default();
        let header = line.trim_start_matches(['\u{feff}', ' ', '\t']).starts_with('[');
        let shown = if is_secret(key) && (header || top && line.contains('=')) {
            hidden = header || !parsed;
            let end = if header { ']' } else { '=' };
            line.find(end).map_or(0, |end| end + 1)
        } else {
            hidden &= !(header && (parsed || KEYS.contains(&key)));
            if hidden { 0 } else { line.len() }
        };
        top &= !header;
        // An identity is a secret wherever somebody has put it.
        let shown = if line.to_uppercase().contains("AGE-SECRET-KEY") { 0 } else { shown };
        places.push(start + shown..start + line.len());
        start += line.len();
    }
}
