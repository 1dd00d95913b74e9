//! The settings file: `.config/etcdtest.toml` at the workspace root, with a table
//! `[profile.NAME]` for each profile.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use regex::Regex;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::settings::Declaration;
use crate::document::{Document, DocumentError, Mistake};
use crate::nearest::nearest;

/// Where it is, from the workspace root.
pub(super) const PATH: &str = ".config/etcdtest.toml";

/// The profile under all others.
pub(super) const BASE: &str = "default";

/// Passwords in a file that should have none.
static SECRETS: LazyLock<Regex> = LazyLock::new(|| {
    let value = r#"("""[\s\S]*?(?:"""|\z)|'''[\s\S]*?(?:'''|\z)|[^\r\n]*)"#;
    Regex::new(&format!(r#"\bpassword["']?\s*=\s*{value}|\buser["']?\s*=[^\r\n:]*:([^\r\n]*)"#))
        .expect("the pattern is right")
});

/// The settings of one profile, by name.
pub(super) type Profile<'a> = BTreeMap<String, (usize, DeValue<'a>)>;

/// Reads the file; `None` where there is none.
pub(super) fn read(root: &Path) -> Result<Option<Document>, DocumentError> {
    match Document::read(&root.join(PATH), Path::new(PATH)) {
        Ok(document) => Ok(Some(document.hiding(&SECRETS))),
        Err(DocumentError::Unreadable { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// All profiles of the file, each checked, whether chosen or not.
pub(super) fn profiles(document: &Document) -> Result<BTreeMap<String, Profile<'_>>, Box<Mistake>> {
    let mut profiles = BTreeMap::new();
    for (key, value) in document.table()? {
        if key.get_ref() != "profile" {
            let help = "settings stand in `[profile.default]`, or in another profile";
            return Err(document
                .mistake(format!("unknown key `{}`", key.get_ref()), key.span(), "not known here")
                .with_help(help.to_owned()));
        }
        for (name, value) in table(document, value, "a table of profiles")? {
            let content = table(document, value, "a table of settings")?;
            profiles.insert(name.into_inner().into_owned(), profile(document, content)?);
        }
    }
    Ok(profiles)
}

fn table<'a>(
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
    let mut settings = Profile::new();
    for (key, value) in content {
        let name = key.get_ref();
        let Some(declaration) = Declaration::ALL.iter().find(|known| known.name() == *name) else {
            let known: Vec<_> = Declaration::ALL.iter().map(Declaration::name).collect();
            let help = match nearest(name, known.iter().map(String::as_str)) {
                Some(nearest) => format!("did you mean `{nearest}`?"),
                None => format!("there is: {}", known.join(", ")),
            };
            return Err(document
                .mistake(format!("there is no setting `{name}`"), key.span(), "not known")
                .with_help(help));
        };
        if !(declaration.accepts)(value.get_ref()) {
            let message = format!("the setting `{name}` has a wrong value");
            return Err(document.mistake(
                message,
                value.span(),
                format!("expected {}", declaration.expected),
            ));
        }
        settings.insert(name.to_string(), (key.span().start, value.into_inner()));
    }
    Ok(settings)
}
