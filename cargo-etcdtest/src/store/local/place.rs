//! The folder and the file of a local store.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf, absolute};

use super::{fault, system};
use crate::store::{StoreError, api::Result};

/// The database's name in its folder.
const FILE: &str = "store.db";

/// Makes the folder for what is a project's own and of this machine, which version control
/// ignores; leaves what is there.
///
/// # Errors
/// The disk does not let it.
pub fn make_folder(folder: &Path) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    match fs::File::create_new(folder.join(".gitignore")).and_then(|mut file| file.write_all(b"*\n")) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Makes the folder, which version control ignores, and an empty database file in it that
/// only its owner may read; leaves what is there. Returns the file.
pub(super) fn prepare(folder: &Path) -> Result<PathBuf> {
    let folder = absolute(folder).map_err(|error| fault::file("its path is wrong", folder, &error))?;
    make_folder(&folder).map_err(|error| fault::file("the folder cannot be made", &folder, &error))?;
    if let Some(kind) = system::network_file_system(&folder) {
        return Err(StoreError::Unsupported {
            location: folder.display().to_string(),
            reason: format!(
                "the folder is on a network file system ({kind}), which does not keep several processes \
                 apart; put it on a disk of this machine, or share an etcd with --endpoints"
            ),
        });
    }
    let file = folder.join(FILE);
    system::create_private(&file).map_err(|error| fault::file("the file cannot be opened", &file, &error))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_folder_ignores_itself_and_the_file_is_private() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("a/.etcdtest");
        let file = prepare(&folder).unwrap();
        assert_eq!(fs::read_to_string(folder.join(".gitignore")).unwrap(), "*\n");
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_the_user_wrote_into_the_gitignore_stays() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join(".gitignore"), "mine").unwrap();
        prepare(root.path()).unwrap();
        assert_eq!(fs::read_to_string(root.path().join(".gitignore")).unwrap(), "mine");
    }

    #[test]
    fn a_file_in_the_folders_place_is_named_in_the_error() {
        let root = tempfile::tempdir().unwrap();
        let taken = root.path().join("taken");
        fs::write(&taken, "").unwrap();
        let error = prepare(&taken).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("the store at {} failed: the folder cannot be made", taken.display()))
        );
    }
}
