//! The data sets of a file, on their way to the store.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use super::data_sets::DataSets;
use super::error::EnvironmentError;
use super::fault::Fault;
use super::file::EnvironmentFile;
use super::path::below;
use crate::store::StoreError;

/// How large a data set may be, in bytes.
const LARGEST: u64 = 64 << 20;

/// The contents of a file's data sets, by name.
#[derive(Debug)]
pub struct GivenData(BTreeMap<String, Vec<u8>>);

impl GivenData {
    /// Reads them from where the file says.
    ///
    /// # Errors
    /// All files that cannot be read or are too large, each at its place.
    pub fn read(file: &EnvironmentFile) -> Result<Self, EnvironmentError> {
        let (mut contents, mut errors) = (BTreeMap::new(), Vec::new());
        for (name, path) in &file.data {
            match read(path) {
                Ok(content) => drop(contents.insert(name.clone(), content)),
                Err((label, help)) => errors.push(file.mistake(Fault {
                    path: below("data", name),
                    part: String::new(),
                    message: format!("the data set `{name}` cannot be stored"),
                    label,
                    help: Some(help.into()),
                })),
            }
        }
        EnvironmentError::all(errors).map(|()| Self(contents))
    }

    /// The same for many files, in their order.
    ///
    /// # Errors
    /// Those of all.
    pub fn read_all(files: &[EnvironmentFile]) -> Result<Vec<Self>, EnvironmentError> {
        let mut errors = Vec::new();
        let read = files.iter().filter_map(|file| Self::read(file).map_err(|error| errors.push(error)).ok());
        let read = read.collect();
        EnvironmentError::all(errors).map(|()| read)
    }

    /// They, by name.
    pub fn contents(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(name, content)| (name.as_str(), content.as_slice()))
    }

    /// Stores them, and notes in the file's definition where.
    ///
    /// # Errors
    /// As the store fails.
    pub async fn store(self, sets: &DataSets, file: &mut EnvironmentFile) -> Result<(), StoreError> {
        for (name, content) in self.0 {
            let set = sets.put(&file.name, &content).await?;
            file.definition.data.insert(name, set);
        }
        Ok(())
    }
}

/// The content of a file; else what is wrong with it, and the next step.
fn read(path: &Path) -> Result<Vec<u8>, (String, &'static str)> {
    let read = || {
        // What is no file may have no end, or never begin.
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::other("it is no file"));
        }
        let mut content = Vec::new();
        File::open(path)?.take(LARGEST + 1).read_to_end(&mut content)?;
        Ok(content)
    };
    let content = read().map_err(|error| {
        let label = format!("failed to read {}: {error}", path.display());
        (label, "the path is taken from the folder of this file")
    })?;
    if content.len() as u64 > LARGEST {
        let label = format!("{} has more than {} MiB", path.display(), LARGEST >> 20);
        return Err((label, "divide it, or keep it elsewhere and name the place in `[config]`"));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Document;

    /// The error about the data of this file.
    fn refused(folder: &Path, text: &str) -> String {
        let document = Document::new(folder.join("staging.toml"), text);
        let file = EnvironmentFile::parse("staging", document).unwrap();
        let error = miette::Report::new(GivenData::read(&file).unwrap_err());
        format!("{error:?}").split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_cannot_be_stored_is_told_at_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let missing = refused(folder.path(), "[data]\nusers = \"no/such.json\"\n");
        for part in ["the data set `users` cannot be stored", "staging.toml:2:9", "failed to read"] {
            assert!(missing.contains(part), "{missing}");
        }
        assert!(refused(folder.path(), "[data]\nusers = \".\"\n").contains("it is no file"));
        let large = File::create(folder.path().join("large")).unwrap();
        large.set_len(LARGEST + 1).unwrap();
        let large = refused(folder.path(), "[data]\nlarge = \"large\"\n");
        assert!(large.contains("more than 64 MiB") && large.contains("staging.toml:2:9"), "{large}");
    }
}
