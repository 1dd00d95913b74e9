//! The data sets of a run's environments as files, which its tests read.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write as _};
use std::path::Path;

use tempfile::NamedTempFile;

use super::data_sets::{DataError, DataSets};
use crate::model::Environment;

/// Files of data sets, which only this user can read: by environment, then by name.
#[derive(Debug, Default)]
pub struct DataFiles(BTreeMap<String, BTreeMap<String, String>>);

impl DataFiles {
    /// Writes the data sets of these environments, which are resolved, into a folder; each
    /// set once.
    ///
    /// # Errors
    /// As [`DataSets::get`], at the first that cannot be used, and [`DataError::Files`].
    pub async fn fetch(
        sets: &DataSets,
        environments: &[Environment],
        folder: &Path,
    ) -> Result<Self, DataError> {
        let mut fetched = Self::default();
        let mut known = HashMap::new();
        for environment in environments {
            for (name, set) in &environment.definition.data {
                let file: &String = match known.entry((&set.environment, &set.digest)) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(unknown) => {
                        let content = sets.get(name, set).await?;
                        unknown.insert(write(&content, folder).map_err(DataError::Files)?)
                    }
                };
                let files = fetched.0.entry(environment.name.clone()).or_default();
                files.insert(name.clone(), file.clone());
            }
        }
        Ok(fetched)
    }

    /// The files of an environment's data sets, by their names.
    pub fn of(&self, environment: &str) -> BTreeMap<String, String> {
        self.0.get(environment).cloned().unwrap_or_default()
    }
}

/// Writes a file, and says where.
fn write(content: &[u8], folder: &Path) -> io::Result<String> {
    let mut file = NamedTempFile::new_in(folder)?;
    file.write_all(content)?;
    let path = file.into_temp_path().keep()?;
    path.into_os_string().into_string().map_err(|_| io::Error::other("the name of its folder is not UTF-8"))
}
