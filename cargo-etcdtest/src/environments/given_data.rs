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
    /// A file that cannot be read or is too large, at its place.
    pub fn read(file: &EnvironmentFile) -> Result<Self, EnvironmentError> {
        let mut contents = BTreeMap::new();
        for (name, path) in &file.data {
            let content = read(path).map_err(|error| {
                file.mistake(Fault {
                    path: below("data", name),
                    part: String::new(),
                    message: format!("the data set `{name}` cannot be stored"),
                    label: format!("failed to read {}: {error}", path.display()),
                    help: Some("the path is taken from the folder of this file".into()),
                })
            })?;
            if content.len() as u64 > LARGEST {
                return Err(file.mistake(Fault {
                    path: below("data", name),
                    part: String::new(),
                    message: format!("the data set `{name}` cannot be stored"),
                    label: format!("{} has more than {} MiB", path.display(), LARGEST >> 20),
                    help: Some("divide it, or keep it elsewhere and name the place in `[config]`".into()),
                }));
            }
            contents.insert(name.clone(), content);
        }
        Ok(Self(contents))
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

/// The content of a file, as far as that it is seen to be too large.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    // What is no file may have no end, or never begin.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut content = Vec::new();
    File::open(path)?.take(LARGEST + 1).read_to_end(&mut content)?;
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
