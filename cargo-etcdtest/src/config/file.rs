//! The settings file: `.config/etcdtest.toml` at the workspace root, with a table
//! `[profile.NAME]` for each profile.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::LazyLock;

use regex::Regex;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::overrides::{self, Override};
use super::settings::Declaration;
use crate::document::{Document, DocumentError, Mistake};
use crate::nearest::nearest;

/// Where it is, from the workspace root.
pub(super) const PATH: &str = ".config/etcdtest.toml";

/// The profile under all others.
pub(super) const BASE: &str = "default";

/// The key in a profile of rules for some tests only.
const OVERRIDES: &str = "overrides";

/// Passwords in a file that should have none.
static SECRETS: LazyLock<Regex> = LazyLock::new(|| {
    let value = r#"("""[\s\S]*?(?:"""|\z)|'''[\s\S]*?(?:'''|\z)|[^\r\n]*)"#;
    Regex::new(&format!(r#"\bpassword["']?\s*=\s*{value}|\buser["']?\s*=[^\r\n:]*:([^\r\n]*)"#))
        .expect("the pattern is right")
});

/// The document without the passwords that it should not have.
fn hide_passwords(document: Document) -> Document {
    let found = SECRETS.captures_iter(document.text());
    let places: Vec<_> = found
        .flat_map(|found| found.iter().skip(1).flatten().map(|group| group.range()).collect::<Vec<_>>())
        .collect();
    document.hiding(places)
}

/// What the file says, each part checked, whether used or not.
#[derive(Debug, Default)]
pub(super) struct Content<'a> {
    /// The profiles by name.
    pub(super) profiles: BTreeMap<String, Profile<'a>>,
    /// How many tests may use a resource at once.
    pub(super) resources: BTreeMap<String, NonZeroUsize>,
}

/// One profile.
#[derive(Debug, Default)]
pub(super) struct Profile<'a> {
    /// Its settings by name, each with its place.
    pub(super) settings: BTreeMap<String, (usize, DeValue<'a>)>,
    /// Its rules for some tests only.
    pub(super) overrides: Vec<Override>,
}

/// Reads the file; `None` where there is none.
pub(super) fn read(root: &Path) -> Result<Option<Document>, DocumentError> {
    match Document::read(&root.join(PATH), Path::new(PATH)) {
        Ok(document) => Ok(Some(hide_passwords(document))),
        Err(DocumentError::Unreadable { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// All that the file says.
pub(super) fn content(document: &Document) -> Result<Content<'_>, Box<Mistake>> {
    let mut content = Content::default();
    for (key, value) in document.table()? {
        match key.get_ref().as_ref() {
            "profile" => {
                for (name, value) in table(document, value, "a table of profiles")? {
                    let settings = table(document, value, "a table of settings")?;
                    content.profiles.insert(name.into_inner().into_owned(), profile(document, settings)?);
                }
            }
            "resources" => {
                for (name, value) in table(document, value, "a table of resources")? {
                    let capacity =
                        value.get_ref().as_integer().and_then(|number| number.as_str().parse().ok());
                    let capacity = capacity.ok_or_else(|| {
                        let message = format!("the resource `{}` has a wrong capacity", name.get_ref());
                        document.mistake(message, value.span(), "expected a whole number, 1 or more")
                    })?;
                    content.resources.insert(name.into_inner().into_owned(), capacity);
                }
            }
            unknown => {
                let help = "settings stand in `[profile.default]`, or in another profile";
                return Err(document
                    .mistake(format!("unknown key `{unknown}`"), key.span(), "not known here")
                    .with_help(help.to_owned()));
            }
        }
    }
    Ok(content)
}

/// A name that does not exist, with the nearest that does.
pub(super) fn unknown<'a>(
    document: &Document,
    what: &str,
    key: &Spanned<std::borrow::Cow<'_, str>>,
    known: impl Iterator<Item = &'a str> + Clone,
) -> Box<Mistake> {
    let name = key.get_ref();
    let help = match nearest(name, known.clone()) {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None => format!("there is: {}", known.collect::<Vec<_>>().join(", ")),
    };
    document.mistake(format!("there is no {what} `{name}`"), key.span(), "not known").with_help(help)
}

pub(super) fn table<'a>(
    document: &Document,
    value: Spanned<DeValue<'a>>,
    expected: &str,
) -> Result<DeTable<'a>, Box<Mistake>> {
    let place = value.span();
    match value.into_inner() {
        DeValue::Table(table) => Ok(table),
        _ => Err(document.mistake(format!("expected {expected}"), place, "this is no table")),
    }
}

fn profile<'a>(document: &Document, content: DeTable<'a>) -> Result<Profile<'a>, Box<Mistake>> {
    let mut profile = Profile::default();
    for (key, value) in content {
        let name = key.get_ref();
        if name == OVERRIDES {
            profile.overrides = overrides::read(document, value)?;
            continue;
        }
        let Some(declaration) = Declaration::ALL.iter().find(|known| known.name() == *name) else {
            let known: Vec<_> = Declaration::ALL.iter().map(Declaration::name).collect();
            let known = known.iter().map(String::as_str).chain([OVERRIDES]);
            return Err(unknown(document, "setting", &key, known));
        };
        if !(declaration.accepts)(value.get_ref()) {
            let message = format!("the setting `{name}` has a wrong value");
            return Err(document.mistake(
                message,
                value.span(),
                format!("expected {}", declaration.expected),
            ));
        }
        profile.settings.insert(name.to_string(), (key.span().start, value.into_inner()));
    }
    Ok(profile)
}
