//! Environments as people write them: TOML files called `NAME.toml`.

mod doubts;
mod hidden;
mod literal;
mod probe;
mod reader;
mod secret;
mod service;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use self::hidden::hide_secrets;
pub(super) use self::reader::DEEPEST;
use self::reader::{Node, Read, Reader};
pub use self::secret::SecretInput;
use self::secret::{Secret, beside};
use super::check::check;
use super::error::EnvironmentError;
use super::fault::Fault;
use super::name::check_name;
use crate::document::{Document, DocumentError, Doubt};
use crate::model::{DataSet, Definition, SecretVersion};
use crate::nearest::nearest;

/// The keys that a file may have.
const KEYS: [&str; 10] = [
    "description",
    "labels",
    "extends",
    "capacity",
    "config",
    "secrets",
    "recipients",
    "services",
    "probes",
    "data",
];

/// A checked file.
#[derive(Debug)]
pub struct EnvironmentFile {
    /// The environment's name: the file's without `.toml`.
    pub name: String,
    /// What it says. Dates and times in its config are texts. Of secrets and data it holds
    /// what is stored already; what [`EnvironmentFile::secrets`] and [`EnvironmentFile::data`]
    /// name belongs there once it is stored, before the file is applied.
    pub definition: Definition,
    /// Where the values of its secrets come from, by their names.
    pub secrets: BTreeMap<String, SecretInput>,
    /// The files of its data sets, by their names.
    pub data: BTreeMap<String, PathBuf>,
    /// What of it was probably meant otherwise.
    pub doubts: Vec<Doubt>,
    document: Document,
    places: BTreeMap<String, Range<usize>>,
}

impl EnvironmentFile {
    /// What a file would say of an environment whose definition is known.
    pub fn of(name: &str, definition: Definition) -> Self {
        Self {
            name: name.to_owned(),
            definition,
            secrets: BTreeMap::new(),
            data: BTreeMap::new(),
            doubts: vec![],
            document: Document::new("", ""),
            places: BTreeMap::new(),
        }
    }

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
        Self::parse(&name, Document::read(path, path)?)
    }

    /// Checks what a document says of an environment. What it refers to in an environment
    /// that it extends is checked by [`EnvironmentFile::check`].
    ///
    /// # Errors
    /// All its mistakes; the first alone where it is no TOML.
    pub fn parse(name: &str, document: Document) -> Result<Self, EnvironmentError> {
        let document = hide_secrets(document);
        let mut file = Self { document: document.clone(), ..Self::of(name, Definition::default()) };
        let mut reader = Reader::new(&document);
        for (key, value) in document.table()? {
            let place = key.span();
            let key = key.into_inner();
            // What is wrong with one does not keep the others from being read.
            let _ = file.take(&mut reader, &key, place, (key.to_string(), value));
        }
        file.places = reader.end().map_err(EnvironmentError::mistakes)?;
        if file.definition.extends.is_none() {
            file.check(&file.whole())?;
        }
        Ok(file)
    }

    fn take(&mut self, reader: &mut Reader<'_>, key: &str, place: Range<usize>, node: Node<'_>) -> Read<()> {
        let definition = &mut self.definition;
        match key {
            "description" => definition.description = reader.text(node)?,
            "labels" => definition.labels = reader.each(node, "a table of texts", Reader::text)?,
            "extends" => definition.extends = Some(extends(reader, &self.name, node)?),
            "capacity" => {
                let expected = "a whole number from 1: how many runs may use it at once";
                definition.capacity = Some(reader.number::<NonZeroU32>(node, expected)?);
            }
            "config" => {
                if let DeValue::Table(config) = node.1.get_ref() {
                    self.doubts = doubts::of_config(reader.document, config);
                    reserved(reader, config);
                }
                definition.config = reader.json_table(node, 1)?;
            }
            "secrets" => {
                for (name, secret) in reader.each_named(node, "a table, `[secrets]`", secret::read)? {
                    match secret {
                        Secret::Input(input) => drop(self.secrets.insert(name, input)),
                        Secret::Stored(version) => drop(definition.secrets.insert(name, version)),
                    }
                }
            }
            "recipients" => {
                let mut recipients = reader.list(node, "a list of texts", secret::recipient)?;
                recipients.sort();
                recipients.dedup();
                definition.recipients = recipients;
            }
            "services" => {
                definition.services = reader.each_named(node, "a table, `[services.NAME]`", service::read)?;
            }
            "probes" => {
                definition.probes = reader.list(node, "a list of tables, `[[probes]]`", probe::read)?;
            }
            "data" => {
                for (name, data) in reader.each_named(node, "a table, `[data]`", data)? {
                    match data {
                        Data::File(path) => drop(self.data.insert(name, path)),
                        Data::Stored(set) => drop(definition.data.insert(name, set)),
                    }
                }
            }
            unknown => {
                let help = match nearest(unknown, KEYS) {
                    Some(known) => format!("did you mean `{known}`?"),
                    None => format!("what tests read stands under `[config]`; there is: {}", KEYS.join(", ")),
                };
                let message = format!("unknown key `{}`", unknown.escape_debug());
                let mistake = reader.document.mistake(message, place, "not known here").with_help(help);
                return Err(reader.tell(mistake));
            }
        }
        Ok(())
    }

    /// The definition with something in the place of what is not stored yet.
    pub(super) fn whole(&self) -> Definition {
        let mut definition = self.definition.clone();
        for name in self.secrets.keys() {
            let secret = SecretVersion { environment: self.name.clone(), version: 0, encrypted: false };
            definition.secrets.insert(name.clone(), secret);
        }
        definition
    }

    /// Checks what values say of each other, given the definition with all it inherits.
    ///
    /// # Errors
    /// All mistakes, each at its place where it stands in this file.
    pub fn check(&self, whole: &Definition) -> Result<(), EnvironmentError> {
        let faults = check(&self.name, whole).into_iter();
        EnvironmentError::all(faults.map(|fault| self.mistake(self.as_written(fault, whole))).collect())
    }

    /// A fault of the definition with all it inherits, as one of this file where it is one.
    pub(super) fn as_written(&self, fault: Fault, whole: &Definition) -> Fault {
        fault.after_probes(whole.probes.len().saturating_sub(self.definition.probes.len()))
    }

    /// Whether this value stands in the file.
    pub(super) fn says(&self, path: &str) -> bool {
        self.places.contains_key(path)
    }

    /// A fault as an error that shows its place in the file, if it has one there.
    pub fn mistake(&self, fault: Fault) -> EnvironmentError {
        let Some(place) = self.places.get(&fault.path) else {
            return fault.of(&self.name);
        };
        let part = self.document.written(place.clone()).find(&fault.part);
        let place = match part {
            Some(start) if !fault.part.is_empty() => {
                place.start + start..place.start + start + fault.part.len()
            }
            _ => place.clone(),
        };
        self.document.mistake(fault.message, place, fault.label).with_help(fault.help).into()
    }
}

/// What a file says of a data set.
enum Data {
    /// The file that holds it.
    File(PathBuf),
    /// It stays as it is stored, which a file that was printed from the store says.
    Stored(DataSet),
}

fn data(reader: &mut Reader<'_>, node: Node<'_>) -> Read<Data> {
    if !matches!(node.1.get_ref(), DeValue::Table(_)) {
        let path = reader.filled(node)?;
        return Ok(Data::File(beside(reader.document, &path)));
    }
    let mut fields = reader.fields(node, "a stored data set", &["environment", "digest", "size"])?;
    let environment = fields.required(reader, "environment", Reader::filled);
    let digest = fields.required(reader, "digest", Reader::filled);
    let size = fields.required(reader, "size", |reader, node| reader.number(node, "how many bytes it has"));
    Ok(Data::Stored(DataSet { environment: environment?, digest: digest?, size: size? }))
}

/// Tells of what tests do not read where a file says it.
fn reserved(reader: &mut Reader<'_>, config: &DeTable<'_>) {
    if let Some((key, _)) = config.get_key_value("services") {
        let message = "`config.services` is where tests read of the services of a run";
        let mistake = reader.document.mistake(message, key.span(), "cannot be said here");
        let help = "a service stands under `[services.NAME]`; for a value of your own choose another name";
        reader.tell(mistake.with_help(help.to_owned()));
    }
}

fn extends(reader: &mut Reader<'_>, own: &str, node: Node<'_>) -> Read<String> {
    let (path, place) = (node.0.clone(), node.1.span());
    let name = reader.text(node)?;
    if check_name(&name).is_err() {
        return Err(reader.wrong(&path, place, "this is no name of an environment"));
    }
    if name == own { Err(reader.wrong(&path, place, "this is the environment itself")) } else { Ok(name) }
}

/// Reads files, and all `NAME.toml` of folders, in the order given. Nothing is written
/// anywhere until all are right.
///
/// # Errors
/// All of these: as [`EnvironmentFile::read`], for a folder without such files, and for two
/// files of one name.
pub fn read_files(paths: &[PathBuf]) -> Result<Vec<EnvironmentFile>, EnvironmentError> {
    let mut seen = BTreeMap::<String, PathBuf>::new();
    let (mut files, mut errors) = (Vec::new(), Vec::new());
    for path in paths {
        let found = match files_at(path) {
            Ok(found) => found,
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        for path in found {
            match EnvironmentFile::read(&path, None) {
                Ok(file) => match seen.insert(file.name.clone(), path.clone()) {
                    None => files.push(file),
                    Some(first) => {
                        errors.push(EnvironmentError::Twice { name: file.name, first, second: path });
                    }
                },
                Err(error) => errors.push(error),
            }
        }
    }
    EnvironmentError::all(errors).map(|()| files)
}

/// The file, or the environment files of the folder.
fn files_at(path: &Path) -> Result<Vec<PathBuf>, EnvironmentError> {
    let kind = std::fs::metadata(path)
        .map_err(|source| DocumentError::Unreadable { path: path.to_owned(), source })?;
    if kind.is_dir() { files_in(path) } else { Ok(vec![path.to_owned()]) }
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

#[cfg(test)]
mod tests;
