//! Values of a TOML document, each read as what it has to be.

use std::collections::BTreeMap;
use std::ops::Range;
use std::str::FromStr;
use std::time::Duration;

use serde_json::{Map, Number, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::super::path::below;
use crate::document::{Document, Mistake};
use crate::nearest::suggestion;

/// The deepest nesting: well below what readers of JSON accept.
pub(in super::super) const DEEPEST: usize = 64;

/// The result of reading something.
pub(super) type Read<T> = Result<T, Box<Mistake>>;

/// A value with the path by which errors know it.
pub(super) type Node<'a> = (String, Spanned<DeValue<'a>>);

/// Reads a document, and remembers where each value stands.
pub(super) struct Reader<'d> {
    pub(super) document: &'d Document,
    pub(super) places: BTreeMap<String, Range<usize>>,
}

/// A table of which all keys are known; its values are taken one by one.
pub(super) struct Fields<'a> {
    /// What the table is, as in "a service".
    what: &'static str,
    path: String,
    place: Range<usize>,
    values: BTreeMap<String, Spanned<DeValue<'a>>>,
}

impl<'a> Fields<'a> {
    /// The value of a key, once.
    pub(super) fn take(&mut self, key: &str) -> Option<Node<'a>> {
        Some((below(&self.path, key), self.values.remove(key)?))
    }

    /// The one value there is of these keys.
    pub(super) fn take_one(&mut self, reader: &Reader<'_>, keys: &[&str]) -> Read<(String, Node<'a>)> {
        let found: Vec<_> = keys.iter().filter(|key| self.values.contains_key(**key)).collect();
        if let [key] = found[..]
            && let Some(node) = self.take(key)
        {
            return Ok(((*key).to_owned(), node));
        }
        let (last, others) = keys.split_last().map_or(("", keys), |(last, others)| (*last, others));
        let choice = format!("one of `{}` or `{last}`", others.join("`, `"));
        Err(match found[..] {
            [] => reader.document.mistake(
                format!("`{}` does not say enough", self.path),
                self.place.clone(),
                format!("expected {choice}"),
            ),
            [.., second] => {
                let place = self.values.get(*second).map_or(self.place.clone(), Spanned::span);
                reader.document.mistake(
                    format!("`{}` says too much", self.path),
                    place,
                    format!("expected only {choice}"),
                )
            }
        })
    }

    /// The value of a key that has to be there.
    pub(super) fn require(&mut self, reader: &Reader<'_>, key: &str) -> Read<Node<'a>> {
        self.take(key).ok_or_else(|| {
            let message = format!("{} has no `{key}`", self.what);
            reader.document.mistake(message, self.place.clone(), format!("`{key}` is missing here"))
        })
    }
}

impl Reader<'_> {
    /// A mistake about one value: what it is, and what was expected.
    pub(super) fn wrong(&self, path: &str, place: Range<usize>, label: impl Into<String>) -> Box<Mistake> {
        self.document.mistake(format!("`{path}` is wrong"), place, label)
    }

    fn note(&mut self, path: &str, place: Range<usize>) {
        self.places.insert(path.to_owned(), place);
    }

    /// A table of any keys.
    pub(super) fn table<'a>(&mut self, (path, value): Node<'a>, expected: &str) -> Read<DeTable<'a>> {
        let place = value.span();
        match value.into_inner() {
            DeValue::Table(table) => {
                self.note(&path, place);
                Ok(table)
            }
            other => Err(self.wrong(&path, place, unlike(expected, &other))),
        }
    }

    /// A table whose values are read one by one, by name.
    pub(super) fn each<'a, T>(
        &mut self,
        node: Node<'a>,
        expected: &str,
        mut read: impl FnMut(&mut Self, Node<'a>) -> Read<T>,
    ) -> Read<BTreeMap<String, T>> {
        let path = node.0.clone();
        let mut values = BTreeMap::new();
        for (key, value) in self.table(node, expected)? {
            let key = key.into_inner().into_owned();
            let value = read(self, (below(&path, &key), value))?;
            values.insert(key, value);
        }
        Ok(values)
    }

    /// The same for a table whose keys are names that references and stored keys can hold.
    pub(super) fn each_named<'a, T>(
        &mut self,
        node: Node<'a>,
        expected: &str,
        read: impl FnMut(&mut Self, Node<'a>) -> Read<T>,
    ) -> Read<BTreeMap<String, T>> {
        const LONGEST: usize = 100;
        if let DeValue::Table(table) = node.1.get_ref() {
            let allowed = |letter: char| letter.is_alphanumeric() || "-_".contains(letter);
            let good = |name: &str| !name.is_empty() && name.len() <= LONGEST && name.chars().all(allowed);
            if let Some((key, _)) = table.iter().find(|(key, _)| !good(key.get_ref())) {
                let label = "use letters, digits, `-` and `_`";
                return Err(self.document.mistake("a name cannot be used", key.span(), label));
            }
        }
        self.each(node, expected, read)
    }

    /// A table of known keys.
    pub(super) fn fields<'a>(
        &mut self,
        node: Node<'a>,
        what: &'static str,
        known: &[&str],
    ) -> Read<Fields<'a>> {
        let (path, place) = (node.0.clone(), node.1.span());
        let mut values = BTreeMap::new();
        for (key, value) in self.table(node, &format!("a table: {what}"))? {
            if !known.contains(&key.get_ref().as_ref()) {
                let help = suggestion(key.get_ref(), known.iter().copied());
                // Somebody may have written the secret there.
                let hidden = path.starts_with("secrets");
                let name = if hidden { "***".into() } else { key.get_ref().escape_debug().to_string() };
                let message = format!("{what} has no key `{name}`");
                return Err(self.document.mistake(message, key.span(), "not known here").with_help(help));
            }
            values.insert(key.into_inner().into_owned(), value);
        }
        Ok(Fields { what, path, place, values })
    }

    /// A text.
    pub(super) fn text(&mut self, (path, value): Node<'_>) -> Read<String> {
        let place = value.span();
        match value.into_inner() {
            DeValue::String(text) => {
                self.note(&path, place);
                Ok(text.into_owned())
            }
            other => Err(self.wrong(&path, place, unlike("a text", &other))),
        }
    }

    /// A text that says something.
    pub(super) fn filled(&mut self, node: Node<'_>) -> Read<String> {
        let (path, place) = (node.0.clone(), node.1.span());
        let text = self.text(node)?;
        if text.trim().is_empty() { Err(self.wrong(&path, place, "it is empty")) } else { Ok(text) }
    }

    /// A list.
    pub(super) fn list<'a, T>(
        &mut self,
        (path, value): Node<'a>,
        expected: &str,
        mut read: impl FnMut(&mut Self, Node<'a>) -> Read<T>,
    ) -> Read<Vec<T>> {
        let place = value.span();
        match value.into_inner() {
            DeValue::Array(array) => {
                self.note(&path, place);
                let nodes = array.into_iter().enumerate();
                nodes.map(|(index, value)| read(self, (below(&path, &index.to_string()), value))).collect()
            }
            other => Err(self.wrong(&path, place, unlike(expected, &other))),
        }
    }

    /// A list of texts.
    pub(super) fn texts(&mut self, node: Node<'_>) -> Read<Vec<String>> {
        self.list(node, "a list of texts", Self::text)
    }

    /// True or false.
    pub(super) fn truth(&mut self, (path, value): Node<'_>) -> Read<bool> {
        let place = value.span();
        match value.into_inner() {
            DeValue::Boolean(truth) => {
                self.note(&path, place);
                Ok(truth)
            }
            other => Err(self.wrong(&path, place, unlike("true or false", &other))),
        }
    }

    /// A program with its arguments.
    pub(super) fn command(&mut self, node: Node<'_>) -> Read<Vec<String>> {
        let (path, place) = (node.0.clone(), node.1.span());
        let command = self.list(node, "a list: a program and its arguments", Self::text)?;
        match command.first().map(|program| program.trim().is_empty()) {
            Some(false) => Ok(command),
            _ => Err(self.wrong(&path, place, "expected a program and its arguments, such as `[\"date\"]`")),
        }
    }

    /// A text of a certain form, as far as that can be seen before references are replaced.
    fn formed(&mut self, node: Node<'_>, expected: &str, right: impl Fn(&str) -> bool) -> Read<String> {
        let (path, place) = (node.0.clone(), node.1.span());
        let text = self.filled(node)?;
        if text.contains("${") || right(&text) {
            return Ok(text);
        }
        Err(self.wrong(&path, place, format!("expected {expected}")))
    }

    /// A URL of HTTP.
    pub(super) fn url(&mut self, node: Node<'_>) -> Read<String> {
        self.formed(node, "a URL that begins with `http://` or `https://`", |text| {
            text.starts_with("http://") || text.starts_with("https://")
        })
    }

    /// A host with a port.
    pub(super) fn socket(&mut self, node: Node<'_>) -> Read<String> {
        self.formed(node, "a host and a port, such as `localhost:5432`", |text| {
            let parts = text.rsplit_once(':');
            parts.is_some_and(|(host, port)| {
                !host.is_empty() && (port == "{port}" || port.parse::<u16>().is_ok())
            })
        })
    }

    /// A regular expression.
    pub(super) fn pattern(&mut self, node: Node<'_>) -> Read<String> {
        // What stands for a service's port is no repetition.
        let right = |text: &str| regex::Regex::new(&text.replace("{port}", "0")).is_ok();
        self.formed(node, "a regular expression", right)
    }

    /// A duration of more than 0.
    pub(super) fn duration(&mut self, (path, value): Node<'_>) -> Read<Duration> {
        const EXPECTED: &str = "a duration of more than 0, such as `500ms`, `30s` or `5m`";
        let place = value.span();
        let DeValue::String(text) = value.get_ref() else {
            return Err(self.wrong(&path, place, unlike(EXPECTED, value.get_ref())));
        };
        match humantime::parse_duration(text) {
            Ok(duration) if !duration.is_zero() => {
                self.note(&path, place);
                Ok(duration)
            }
            _ => Err(self.wrong(&path, place, format!("expected {EXPECTED}"))),
        }
    }

    /// A whole number, read into a type that allows only what is right.
    pub(super) fn number<T: FromStr>(&mut self, (path, value): Node<'_>, expected: &str) -> Read<T> {
        let place = value.span();
        let number = match value.get_ref() {
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        };
        match number.and_then(|number| number.to_string().parse().ok()) {
            Some(number) => {
                self.note(&path, place);
                Ok(number)
            }
            None => Err(self.wrong(&path, place, format!("expected {expected}"))),
        }
    }

    /// One of the words that are allowed.
    pub(super) fn choice<T: Copy>(&mut self, node: Node<'_>, choices: &[(&str, T)]) -> Read<T> {
        let (path, place) = (node.0.clone(), node.1.span());
        let text = self.text(node)?;
        if let Some((_, choice)) = choices.iter().find(|(word, _)| *word == text) {
            return Ok(*choice);
        }
        let words = choices.iter().map(|(word, _)| *word);
        Err(self.wrong(&path, place, "not one of the choices").with_help(suggestion(&text, words)))
    }

    /// A table as JSON, the table itself being so deep already.
    pub(super) fn json_table(&mut self, node: Node<'_>, depth: usize) -> Read<Map<String, Value>> {
        let path = node.0.clone();
        let table = self.table(node, "a table, `[config]`")?;
        let entries = table.into_iter().map(|(key, value)| {
            let path = below(&path, key.get_ref());
            Ok((key.into_inner().into_owned(), self.json((path, value), depth)?))
        });
        entries.collect()
    }

    /// A value as JSON.
    fn json(&mut self, (path, value): Node<'_>, depth: usize) -> Read<Value> {
        let place = value.span();
        let wrong = |label: &str| self.document.mistake("a value cannot be stored", place.clone(), label);
        if depth > DEEPEST {
            return Err(wrong(&format!("nested deeper than {DEEPEST} levels")));
        }
        let json = match value.get_ref() {
            DeValue::String(text) => text.as_ref().into(),
            DeValue::Boolean(value) => (*value).into(),
            DeValue::Datetime(time) => time.to_string().into(),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => number.into(),
                Err(_) => return Err(wrong("expected a whole number of 64 bits")),
            },
            DeValue::Float(number) => match number.as_str().parse().ok().and_then(Number::from_f64) {
                Some(number) => Value::Number(number),
                None => return Err(wrong("expected a finite number")),
            },
            DeValue::Array(_) => {
                return self
                    .list((path, value), "a list", |reader, node| reader.json(node, depth + 1))
                    .map(Value::Array);
            }
            DeValue::Table(_) => return self.json_table((path, value), depth + 1).map(Value::Object),
        };
        self.note(&path, place);
        Ok(json)
    }
}

/// What was expected, and what is there instead; never its value.
fn unlike(expected: &str, value: &DeValue<'_>) -> String {
    let found = match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    format!("expected {expected}, this is {found}")
}
