//! What is right in form and was probably meant otherwise.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::super::path::below;
use crate::document::{Document, Doubt};

/// What stands at the top of a file, and is a value like any other under `[config]`.
const AT_THE_TOP: [&str; 4] = ["capacity", "extends", "probes", "recipients"];

/// What of this `[config]` was probably meant otherwise.
pub(super) fn of_config(document: &Document, config: &DeTable<'_>) -> Vec<Doubt> {
    let mut doubts = Vec::new();
    for (key, value) in config {
        let name = key.get_ref().as_ref();
        if AT_THE_TOP.contains(&name) {
            let message = format!("`config.{name}` is a value that tests read, and nothing else");
            let help = format!(
                "`{name}` of the environment itself stands at the top of the file, before all tables"
            );
            doubts.push(doubt(document, message, key.span(), "under `[config]`", help));
        }
        of_value(document, &below("config", name), value, &mut doubts);
    }
    doubts
}

fn of_value(document: &Document, path: &str, value: &Spanned<DeValue<'_>>, doubts: &mut Vec<Doubt>) {
    match value.get_ref() {
        DeValue::String(text) if text.contains("{port}") => {
            let message = format!("`{{port}}` in `{path}` stays as it is");
            let help = "where the port of a service is meant, write `${services.NAME.port}` or `${services.NAME.url}`";
            doubts.push(doubt(document, message, value.span(), "only a service has a port of its own", help));
        }
        DeValue::Array(values) => {
            for (index, value) in values.iter().enumerate() {
                of_value(document, &below(path, &index.to_string()), value, doubts);
            }
        }
        DeValue::Table(table) => {
            for (key, value) in table {
                of_value(document, &below(path, key.get_ref()), value, doubts);
            }
        }
        _ => {}
    }
}

fn doubt(
    document: &Document,
    message: String,
    place: Range<usize>,
    label: &str,
    help: impl Into<String>,
) -> Doubt {
    Doubt(document.mistake(message, place, label).with_help(help.into()))
}
