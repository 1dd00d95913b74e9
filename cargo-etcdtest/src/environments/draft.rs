//! An environment as text, to be changed in an editor.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;
use serde_json::{Map, Value};
use tempfile::NamedTempFile;

use super::error::EnvironmentError;
use super::file::EnvironmentFile;
use crate::document::Document;
use crate::model::Environment;

/// The text of an environment in a file of its own, which goes away with the draft unless
/// it is kept. Only its owner can read it.
#[derive(Debug)]
pub struct Draft {
    name: String,
    file: NamedTempFile,
}

/// What a file says of an environment, in its order.
#[derive(Serialize)]
struct Text<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    description: &'a str,
    config: Map<String, Value>,
}

impl Draft {
    /// A draft that says what the environment is.
    ///
    /// # Errors
    /// Where it cannot be written as TOML, or the file cannot be made.
    pub fn new(environment: &Environment) -> Result<Self, EnvironmentError> {
        let text = environment.to_toml()?;
        let write = || {
            let prefix = format!("{}-", environment.name);
            let mut file = tempfile::Builder::new().prefix(&prefix).suffix(".toml").tempfile()?;
            file.write_all(text.as_bytes())?;
            Ok(file)
        };
        let name = environment.name.clone();
        match write() {
            Ok(file) => Ok(Self { name, file }),
            Err(source) => Err(EnvironmentError::Draft { name, source }),
        }
    }

    /// Opens it in an editor, a command line such as `code --wait`, and waits for its end.
    ///
    /// # Errors
    /// [`EnvironmentError::Editor`].
    pub fn open(&self, editor: &str) -> Result<(), EnvironmentError> {
        let failed = |reason: String| EnvironmentError::Editor { editor: editor.to_owned(), reason };
        let words = shlex::split(editor).filter(|words| !words.is_empty());
        let words = words.ok_or_else(|| failed("is no command".into()))?;
        let status = Command::new(&words[0]).args(&words[1..]).arg(self.file.path()).status();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(failed(format!("ended with {status}"))),
            Err(error) => Err(failed(format!("did not start: {error}"))),
        }
    }

    /// What it says now.
    ///
    /// # Errors
    /// As [`EnvironmentFile::read`].
    pub fn read(&self) -> Result<EnvironmentFile, EnvironmentError> {
        // Read by its path: many editors write a new file and move it there.
        let document = Document::read(self.file.path(), Path::new(&format!("{}.toml", self.name)))?;
        EnvironmentFile::parse(self.name.clone(), document)
    }

    /// Keeps the file and says where.
    ///
    /// # Errors
    /// [`EnvironmentError::Draft`].
    pub fn keep(self) -> Result<PathBuf, EnvironmentError> {
        let name = self.name;
        self.file
            .into_temp_path()
            .keep()
            .map_err(|error| EnvironmentError::Draft { name, source: error.error })
    }
}

impl Environment {
    /// As a file says it.
    ///
    /// # Errors
    /// [`EnvironmentError::NotWritable`].
    pub fn to_toml(&self) -> Result<String, EnvironmentError> {
        let text = Text { description: &self.description, config: self.config.clone() };
        toml::to_string_pretty(&text).map_err(|error| EnvironmentError::NotWritable {
            name: self.name.clone(),
            reason: error.to_string(),
        })
    }
}

/// The editor that the user chose: `VISUAL`, else `EDITOR`, else `vi`.
pub fn editor() -> String {
    ["VISUAL", "EDITOR"]
        .iter()
        .find_map(|variable| std::env::var(variable).ok().filter(|editor| !editor.trim().is_empty()))
        .unwrap_or_else(|| "vi".into())
}
