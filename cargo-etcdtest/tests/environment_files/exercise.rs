//! All that is done with the file of an environment, from its text to what a run uses.

use std::time::Duration;

use cargo_etcdtest::document::{Document, DocumentError};
use cargo_etcdtest::environments::{Bindings, Chain, EnvironmentError, EnvironmentFile, bind, values};
use cargo_etcdtest::model::{Definition, Environment, Probe, ProbeBy};
use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme};

/// Takes a text all the way, however wrong it is; returns what is said about it, if it is
/// wrong.
///
/// # Panics
/// Where the code does, or an error has no place in the text, or what is written back reads
/// otherwise.
pub(crate) fn exercise(text: &str) -> Option<String> {
    let file = match EnvironmentFile::parse("fuzz", Document::new("fuzz.toml", text)) {
        Ok(file) => file,
        Err(error) => return Some(placed(&error, text)),
    };
    let mut chain = Chain::new(Environment::unstored("fuzz", file.definition.clone(), "me@here"));
    // What it says itself it inherits as well, but for probes, which are not replaced.
    let probe = Probe { by: ProbeBy::Dns("base".into()), timeout: Duration::from_secs(1) };
    let base = Definition { probes: vec![probe], ..file.definition.clone() };
    chain.push(Environment::unstored("base", base, "me@here"));
    let resolved = chain.resolve();
    let known = values(&resolved.definition);
    assert!(chain.origins().keys().all(|path| known.contains_key(path) || path.starts_with("probes.")));
    let bound = bind(&resolved.definition, &Bindings::placeholders("fuzz", &resolved.definition));
    let wrong = file.check(&resolved.definition).err();
    assert!(wrong.is_some() || bound.is_ok(), "{bound:?}");

    let written = resolved.to_toml_with(&chain.origins()).expect("what was TOML can be TOML again");
    let again = EnvironmentFile::parse("fuzz", Document::new("again.toml", written.as_str()));
    if file.secrets.is_empty() && file.definition.extends.is_none() {
        let again = again.unwrap_or_else(|error| panic!("{error}: {written}"));
        assert_eq!(again.definition, resolved.definition, "{written}");
    }
    wrong.map(|error| placed(&error, text))
}

/// The error as people see it.
fn placed(error: &EnvironmentError, text: &str) -> String {
    let one = std::slice::from_ref(error);
    for error in if let EnvironmentError::Several { errors, .. } = error { errors } else { one } {
        assert!(matches!(error, EnvironmentError::File(DocumentError::Mistake(_))), "no place: {error:?}");
        let place = error.labels().and_then(|mut labels| labels.next()).expect("a mistake has a place");
        assert!(place.offset() + place.len() <= text.len(), "{place:?} is not in the text: {error:?}");
    }
    let mut shown = String::new();
    let handler = GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor());
    handler.render_report(&mut shown, error).expect("a text can be written to");
    shown
}
