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

/// How many mistakes of one file are kept.
const MOST: usize = 100;

/// What was wrong has been told to the reader.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told;

/// The result of reading something.
pub(super) type Read<T> = Result<T, Told>;

/// A value with the path by which errors know it.
pub(super) type Node<'a> = (String, Spanned<DeValue<'a>>);

/// Reads a document, and remembers where each value stands and what is wrong.
pub(super) struct Reader<'d> {
    pub(super) document: &'d Document,
    pub(super) places: BTreeMap<String, Range<usize>>,
    mistakes: Vec<Mistake>,
}

/// A table of which all keys are known; its values are taken one by one.
pub(super) struct Fields<'a> {
    /// What the table is, as in "a service".
    what: &'static str,
    path: String,
    place: Range<usize>,
    values: BTreeMap<String, Spanned<DeValue<'a>>>,
    /// It has other keys besides, which have been told: one that is missing is among them.
    misspelt: bool,
}

impl<'a> Fields<'a> {
    /// The value of a key, once.
    pub(super) fn take(&mut self, key: &str) -> Option<Node<'a>> {
        Some((below(&self.path, key), self.values.remove(key)?))
    }

    /// What stands at a key that may be left out; nothing also where that is wrong.
    pub(super) fn optional<'d, T>(
        &mut self,
        reader: &mut Reader<'d>,
        key: &str,
        read: impl FnOnce(&mut Reader<'d>, Node<'a>) -> Read<T>,
    ) -> Option<T> {
        read(reader, self.take(key)?).ok()
    }

    /// What stands at a key that has to be there.
    pub(super) fn required<'d, T>(
        &mut self,
        reader: &mut Reader<'d>,
        key: &str,
        read: impl FnOnce(&mut Reader<'d>, Node<'a>) -> Read<T>,
    ) -> Read<T> {
        match self.take(key) {
            Some(node) => read(reader, node),
            None if self.misspelt => Err(Told),
            None => {
                let message = format!("{} has no `{key}`", self.what);
                let label = format!("`{key}` is missing here");
                Err(reader.tell(reader.document.mistake(message, self.place.clone(), label)))
            }
        }
    }

    /// The one value there is of these keys.
    pub(super) fn take_one(
        &mut self,
        reader: &mut Reader<'_>,
        keys: &[&str],
        help: Option<&str>,
    ) -> Read<(String, Node<'a>)> {
        let found: Vec<_> = keys.iter().filter(|key| self.values.contains_key(**key)).collect();
        if let [key] = found[..]
            && let Some(node) = self.take(key)
        {
            return Ok(((*key).to_owned(), node));
        }
        let (last, others) = keys.split_last().map_or(("", keys), |(last, others)| (*last, others));
        let choice = format!("one of `{}` or `{last}`", others.join("`, `"));
        let mistake = match found[..] {
            [] if self.misspelt => return Err(Told),
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
        };
        Err(reader.tell(mistake.with_help(help.map(str::to_owned))))
    }
}

impl<'d> Reader<'d> {
    /// A reader that has read nothing yet.
    pub(super) fn new(document: &'d Document) -> Self {
        Self { document, places: BTreeMap::new(), mistakes: vec![] }
    }

    /// Where each value stands, by its path.
    ///
    /// # Errors
    /// All mistakes in the order of their places, where there are any.
    pub(super) fn end(mut self) -> Result<BTreeMap<String, Range<usize>>, Vec<Mistake>> {
        self.mistakes.sort_by_key(Mistake::offset);
        if self.mistakes.is_empty() { Ok(self.places) } else { Err(self.mistakes) }
    }

    /// Takes note of a mistake.
    #[expect(clippy::boxed_local, reason = "a document makes its mistakes in boxes")]
    pub(super) fn tell(&mut self, mistake: Box<Mistake>) -> Told {
        if self.mistakes.len() < MOST {
            self.mistakes.push(*mistake);
        }
        Told
    }

    /// A mistake about one value: what it is, and what was expected.
    pub(super) fn wrong(&mut self, path: &str, place: Range<usize>, label: impl Into<String>) -> Told {
        self.wrong_as(path, place, label, None)
    }

    /// The same with the next step.
    pub(super) fn wrong_as(
        &mut self,
        path: &str,
        place: Range<usize>,
        label: impl Into<String>,
        help: Option<String>,
    ) -> Told {
        self.tell(self.document.mistake(format!("`{path}` is wrong"), place, label).with_help(help))
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
        let entries = self.table(node, expected)?.into_iter().map(|(key, value)| {
            let key = key.into_inner().into_owned();
            let value = read(self, (below(&path, &key), value))?;
            Ok((key, value))
        });
        all(entries)
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
            for (key, _) in table.iter().filter(|(key, _)| !good(key.get_ref())) {
                let label = "use letters, digits, `-` and `_`";
                self.tell(self.document.mistake("a name cannot be used", key.span(), label));
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
        let (mut values, mut misspelt) = (BTreeMap::new(), false);
        for (key, value) in self.table(node, &format!("a table: {what}"))? {
            if !known.contains(&key.get_ref().as_ref()) {
                let help = suggestion(key.get_ref(), known.iter().copied());
                // Somebody may have written the secret there.
                let hidden = path.starts_with("secrets");
                let name = if hidden { "***".into() } else { key.get_ref().escape_debug().to_string() };
                let message = format!("{what} has no key `{name}`");
                self.tell(self.document.mistake(message, key.span(), "not known here").with_help(help));
                misspelt = true;
                continue;
            }
            values.insert(key.into_inner().into_owned(), value);
        }
        Ok(Fields { what, path, place, values, misspelt })
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
                all(nodes.map(|(index, value)| read(self, (below(&path, &index.to_string()), value))))
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
    pub(super) fn formed(
        &mut self,
        node: Node<'_>,
        expected: &str,
        right: impl Fn(&str) -> bool,
    ) -> Read<String> {
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
        Err(self.wrong_as(&path, place, "not one of the choices", suggestion(&text, words)))
    }

    /// A table as JSON, the table itself being so deep already.
    pub(super) fn json_table(&mut self, node: Node<'_>, depth: usize) -> Read<Map<String, Value>> {
        let path = node.0.clone();
        let table = self.table(node, "a table, `[config]`")?;
        let entries = table.into_iter().map(|(key, value)| {
            let path = below(&path, key.get_ref());
            Ok((key.into_inner().into_owned(), self.json((path, value), depth)?))
        });
        all(entries)
    }

    /// A value as JSON.
    fn json(&mut self, (path, value): Node<'_>, depth: usize) -> Read<Value> {
        let place = value.span();
        let mut wrong =
            |label: &str| self.tell(self.document.mistake("a value cannot be stored", place.clone(), label));
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

/// All that was read, if nothing of it was wrong; what comes after a mistake is read too.
fn all<T, C: FromIterator<T>>(reads: impl Iterator<Item = Read<T>>) -> Read<C> {
    reads.collect::<Vec<_>>().into_iter().collect()
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
