//! Environments as people write them: TOML files called `NAME.toml`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Number, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::EnvironmentError;
use super::name::check_name;
use crate::document::{Document, DocumentError, Mistake};
use crate::model::Definition;
use crate::nearest::nearest;

/// The deepest nesting: well below what readers of JSON accept.
const DEEPEST: usize = 64;

/// The keys that a file may have.
const KEYS: [&str; 2] = ["description", "config"];

/// What a file may already have under `secrets`, which its mistakes do not show.
static SECRETS: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?m)^\s*\[+\s*secrets[^\n]*\n((?:[^\[\n][^\n]*\n?|\n)*)|^\s*secrets\b[^=\n]*=([^\n]*)")
        .expect("the pattern is right")
});

/// A checked file.
#[derive(Clone, Debug, PartialEq)]
pub struct EnvironmentFile {
    /// The environment's name: the file's without `.toml`.
    pub name: String,
    /// What it says. Dates and times in its config are texts.
    pub definition: Definition,
}

impl EnvironmentFile {
    /// Reads a file; `name` is the environment's, where it is not the file's.
    ///
    /// # Errors
    /// Where it cannot be read, has a name that no environment can have, or is wrong.
    pub fn read(path: &Path, name: Option<&str>) -> Result<Self, EnvironmentError> {
        let name = match name {
            Some(name) => name.to_owned(),
            None => name_of(path).ok_or_else(|| EnvironmentError::NotToml { path: path.to_owned() })?,
        };
        check_name(&name)?;
        Self::parse(name, Document::read(path, path)?)
    }

    /// Checks what a document says of an environment.
    ///
    /// # Errors
    /// At its first mistake.
    pub fn parse(name: String, document: Document) -> Result<Self, EnvironmentError> {
        let document = &document.hiding(&SECRETS);
        let mut file = Self { name, definition: Definition::default() };
        for (key, value) in document.table()? {
            let place = value.span();
            match (key.get_ref().as_ref(), value.into_inner()) {
                ("description", DeValue::String(text)) => file.definition.description = text.into_owned(),
                ("description", _) => {
                    return Err(document
                        .mistake("the description is no text", place, "expected a text")
                        .into());
                }
                ("config", DeValue::Table(table)) => file.definition.config = config(document, table, 1)?,
                ("config", _) => {
                    let label = "expected a table, `[config]`";
                    return Err(document.mistake("the config is no table", place, label).into());
                }
                (unknown, _) => return Err(unknown_key(document, unknown, key.span()).into()),
            }
        }
        Ok(file)
    }
}

/// Reads files, and all `NAME.toml` of folders, in the order given. Nothing is written
/// anywhere until all are right.
///
/// # Errors
/// As [`EnvironmentFile::read`], for a folder without such files, and for two files of one
/// name.
pub fn read_files(paths: &[PathBuf]) -> Result<Vec<EnvironmentFile>, EnvironmentError> {
    let mut seen = BTreeMap::<String, PathBuf>::new();
    let mut files = Vec::new();
    for path in paths {
        let kind = std::fs::metadata(path)
            .map_err(|source| DocumentError::Unreadable { path: path.clone(), source })?;
        let found = if kind.is_dir() { files_in(path)? } else { vec![path.clone()] };
        for path in found {
            let file = EnvironmentFile::read(&path, None)?;
            if let Some(first) = seen.insert(file.name.clone(), path.clone()) {
                return Err(EnvironmentError::Twice { name: file.name, first, second: path });
            }
            files.push(file);
        }
    }
    Ok(files)
}

/// The environment files right in a folder, in the order of their names.
fn files_in(folder: &Path) -> Result<Vec<PathBuf>, EnvironmentError> {
    let unreadable = |source| DocumentError::Unreadable { path: folder.to_owned(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if name_of(&path).is_some() && !hidden && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() { Err(EnvironmentError::NoFiles { folder: folder.to_owned() }) } else { Ok(files) }
}

/// The environment's name that a file's name says.
fn name_of(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_string_lossy().into_owned();
    name.strip_suffix(".toml").map(str::to_owned)
}

fn unknown_key(document: &Document, key: &str, place: std::ops::Range<usize>) -> Box<Mistake> {
    let help = match nearest(key, KEYS) {
        Some(known) => format!("did you mean `{known}`?"),
        None => {
            "an environment has `description` and `[config]`; what tests read stands under `[config]`".into()
        }
    };
    document.mistake(format!("unknown key `{key}`"), place, "not known here").with_help(help)
}

fn config(document: &Document, table: DeTable<'_>, depth: usize) -> Result<Map<String, Value>, Box<Mistake>> {
    let entries = table.into_iter();
    entries.map(|(key, value)| Ok((key.into_inner().into_owned(), json(document, value, depth)?))).collect()
}

/// A value of TOML as JSON.
fn json(document: &Document, value: Spanned<DeValue<'_>>, depth: usize) -> Result<Value, Box<Mistake>> {
    let place = value.span();
    let wrong = |label: &str| document.mistake("a value cannot be stored", place.clone(), label);
    if depth > DEEPEST {
        return Err(wrong(&format!("nested deeper than {DEEPEST} levels")));
    }
    Ok(match value.into_inner() {
        DeValue::String(text) => text.into_owned().into(),
        DeValue::Boolean(value) => value.into(),
        DeValue::Datetime(time) => time.to_string().into(),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => number.into(),
            Err(_) => return Err(wrong("expected a whole number of 64 bits")),
        },
        DeValue::Float(number) => match number.as_str().parse().ok().and_then(Number::from_f64) {
            Some(number) => Value::Number(number),
            None => return Err(wrong("expected a finite number")),
        },
        DeValue::Array(array) => {
            array.into_iter().map(|value| json(document, value, depth + 1)).collect::<Result<_, _>>()?
        }
        DeValue::Table(table) => Value::Object(config(document, table, depth + 1)?),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::document::rendered;

    fn parse(text: &str) -> Result<EnvironmentFile, EnvironmentError> {
        EnvironmentFile::parse("staging".into(), Document::new("environments/staging.toml", text))
    }

    #[test]
    fn a_file_becomes_description_and_config() {
        let text = "description = \"the shop\"\n[config]\nurl = \"http://a\"\nports = [1, 0x10]\n\
            ratio = 1_0.5\nday = 2026-01-02\nat = 2026-01-02T03:04:05Z\non = true\n[config.nested]\n\"a b\".c = {}\n";
        let file = parse(text).unwrap();
        assert_eq!(file.definition.description, "the shop");
        let expected = json!({
            "url": "http://a", "ports": [1, 16], "ratio": 10.5, "day": "2026-01-02",
            "at": "2026-01-02T03:04:05Z", "on": true, "nested": { "a b": { "c": {} } },
        });
        assert_eq!(Value::Object(file.definition.config), expected);
    }

    #[test]
    fn an_empty_file_is_an_empty_environment() {
        for text in ["", "\n# nothing\n", "[config]\n", "\u{feff}"] {
            let file = parse(text).unwrap().definition;
            assert!(file.description.is_empty() && file.config.is_empty(), "{text:?}");
        }
    }

    /// One wrong file each, with the name of its snapshot.
    const WRONG: [(&str, &str); 22] = [
        ("unknown_top_level_key", "desciption = \"x\"\n"),
        ("config_outside_the_config_table", "orders_url = \"http://a\"\n"),
        ("secrets_are_not_known", "[config]\na = 1\n[secrets]\ntoken = \"x\"\n"),
        ("extends_is_not_known", "extends = \"base\"\n"),
        ("description_is_a_number", "description = 3\n"),
        ("description_is_a_table", "[description]\nx = 1\n"),
        ("config_is_a_text", "config = \"a\"\n"),
        ("config_is_an_array_of_tables", "[[config]]\na = 1\n"),
        ("not_a_number", "[config]\nx = nan\n"),
        ("infinite", "[config]\nlist = [1.0, [-inf]]\n"),
        ("float_too_large", "[config]\nx = 1e999\n"),
        ("integer_too_large", "[config]\nx = 9223372036854775808\n"),
        ("key_twice", "[config]\na = 1\na = 2\n"),
        ("table_twice", "[config]\na = 1\n[config]\nb = 1\n"),
        ("no_value", "[config]\na =\n"),
        ("no_equals_sign", "[config]\na 1\n"),
        ("text_not_closed", "[config]\na = \"x\nb = 2\n"),
        ("text_without_quotes", "[config]\nurl = http://a\n"),
        ("array_not_closed", "[config]\na = [1, 2\nb = 3\n"),
        ("unknown_escape", "[config]\na = \"\\q\"\n"),
        ("wrong_date", "[config]\nday = 2026-13-01\n"),
        ("json", "{ \"config\": { \"a\": 1 } }\n"),
    ];

    #[test]
    fn each_mistake_is_shown_at_its_place() {
        for (name, text) in WRONG {
            let error = parse(text).expect_err(name);
            assert!(matches!(error, EnvironmentError::File(DocumentError::Mistake(_))), "{name}: {error:?}");
            insta::assert_snapshot!(name, rendered(&error), text);
        }
    }

    #[test]
    fn a_mistake_never_shows_what_stands_under_secrets() {
        for text in [
            "[secrets]\n\ntoken = \"hunter2\"\n",
            "extends = \"a\"\n[secrets.db]\npassword = \"hunter2\"\n[config]\n",
            "secrets = { token = \"hunter2\" }\n",
            "secrets.token = \"hunter2\"\n",
            "[secrets]\ntoken = hunter2\n",
        ] {
            let error = rendered(&parse(text).unwrap_err());
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn nesting_that_could_not_be_read_back_is_refused() {
        let nested = |levels: usize| format!("[config]\n{} = 1\n", vec!["a"; levels].join("."));
        assert!(parse(&nested(DEEPEST)).is_ok());
        assert!(parse(&nested(DEEPEST + 1)).is_err());
        assert!(parse(&nested(50_000)).is_err());
        assert!(parse(&format!("config.a = {}1{}", "[".repeat(50_000), "]".repeat(50_000))).is_err());
    }

    /// What reading these files of a folder fails with, the folder's own path left out.
    fn wrong_files(files: &[(&str, &[u8])], paths: &[&str]) -> String {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        let paths: Vec<_> = paths.iter().map(|path| folder.path().join(path)).collect();
        let error = rendered(&read_files(&paths).unwrap_err());
        error.replace(&format!("{}/", folder.path().display()), "").replace("\n  │ ", " ")
    }

    #[test]
    fn a_folder_gives_its_toml_files_in_order_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.toml", "a.toml", "notes.md", ".hidden.toml"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        std::fs::create_dir(folder.path().join("c.toml")).unwrap();
        let files = read_files(&[folder.path().to_owned()]).unwrap();
        assert_eq!(files.iter().map(|file| file.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn files_that_are_no_environments_are_named() {
        insta::assert_snapshot!("missing_file", wrong_files(&[], &["missing.toml"]));
        let missing_folder = wrong_files(&[], &["missing"]);
        assert!(missing_folder.contains("failed to read missing\n"), "{missing_folder}");
        insta::assert_snapshot!("folder_without_files", wrong_files(&[("notes.md", b"")], &["."]));
        insta::assert_snapshot!("file_of_another_kind", wrong_files(&[("a.yaml", b"")], &["a.yaml"]));
        insta::assert_snapshot!("name_with_a_blank", wrong_files(&[("a b.toml", b"")], &["a b.toml"]));
        insta::assert_snapshot!("file_without_a_name", wrong_files(&[(".toml", b"")], &[".toml"]));
        insta::assert_snapshot!("one_file_twice", wrong_files(&[("a.toml", b"")], &["a.toml", "./a.toml"]));
        insta::assert_snapshot!(
            "file_that_is_not_utf8",
            wrong_files(&[("a.toml", b"[config]\nx = \"\xff\"\n")], &["a.toml"])
        );
    }
}
