//! A journal whose worker is no more.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use super::frames::{Fields, Frames};
use super::header::Header;
use super::{RESULT, STORED};
use crate::execution::executed::Executed;
use crate::model::{Block, UnitIndex};
use crate::store::{Key, decode_value};

/// A journal that its worker left behind. It stays locked for as long as this lives, so that only
/// one process at a time sends it.
#[derive(Debug)]
pub struct LeftBehind {
    path: PathBuf,
    header: Header,
    results: BTreeMap<UnitIndex, Executed>,
    damaged: usize,
    _lock: File,
}

/// A journal that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the journal {path} cannot be read: {reason}")]
pub struct Unreadable {
    path: PathBuf,
    reason: String,
}

impl Unreadable {
    pub(super) fn new(path: &Path, reason: &impl ToString) -> Self {
        Self { path: path.to_owned(), reason: reason.to_string() }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl LeftBehind {
    /// Reads a journal; `None` where its worker lives, or somebody else sends it. One that holds
    /// nothing goes, and is `None` too.
    ///
    /// # Errors
    /// It cannot be read, or not by this version.
    pub(super) fn open(path: &Path) -> Result<Option<Self>, Unreadable> {
        let unreadable = |reason: &dyn ToString| Unreadable::new(path, &reason.to_string());
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(&error)),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(unreadable(&error)),
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
        let read = read(&bytes).map_err(|reason| unreadable(&reason))?;
        let Some((header, Read { results, damaged })) = read else { return Ok(None) };
        let left = Self { path: path.to_owned(), header, results, damaged, _lock: file };
        if left.results.is_empty() && left.damaged == 0 {
            left.discard();
            return Ok(None);
        }
        Ok(Some(left))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whose it is.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// How many results are in it that the store may lack.
    pub fn count(&self) -> usize {
        self.results.len()
    }

    /// How many bytes of it are damaged: a record that was torn off at its end is not.
    pub fn damaged(&self) -> usize {
        self.damaged
    }

    /// The results that the store may lack, one for each unit.
    pub(in crate::execution) fn results(&self) -> impl Iterator<Item = &Executed> {
        self.results.values()
    }

    /// Removes it.
    pub fn discard(self) {
        // One that stays is found again.
        let _ = fs::remove_file(&self.path);
    }
}

struct Read {
    results: BTreeMap<UnitIndex, Executed>,
    damaged: usize,
}

/// What stands in a journal; `None` where it does not even say whose it is, having no record.
fn read(bytes: &[u8]) -> Result<Option<(Header, Read)>, String> {
    let key = &Key::from("in it");
    let (mut header, mut results, mut damaged, mut gap) = (None, BTreeMap::new(), 0, 0);
    for found in Frames::new(bytes) {
        let fields = match found {
            Ok(fields) => fields,
            Err(range) => {
                gap = range.len();
                continue;
            }
        };
        // What follows a gap shows that it is none at the end.
        damaged += std::mem::take(&mut gap);
        match (&header, fields.as_slice()) {
            (None, [whose]) => {
                header = Some(decode_value::<Header>(key, whose).map_err(|error| error.to_string())?);
            }
            (None, _) => return Err("it does not say whose it is".into()),
            (Some(_), [RESULT, ..]) => {
                let executed = result(&fields, key)?;
                // Of a unit that was executed again the newest counts.
                results.insert(executed.result.unit, executed);
            }
            (Some(_), [STORED, units]) => {
                let units: Vec<UnitIndex> =
                    serde_json::from_slice(units).map_err(|error| error.to_string())?;
                for unit in units {
                    results.remove(&unit);
                }
            }
            (Some(_), _) => return Err("it is of a newer version: update cargo-etcdtest".into()),
        }
    }
    Ok(header.map(|header| (header, Read { results, damaged })))
}

fn result(fields: &Fields<'_>, key: &Key) -> Result<Executed, String> {
    let incomplete = || "a result in it is incomplete".to_owned();
    let [_, block, output @ ..] = fields.as_slice() else { return Err(incomplete()) };
    let block: Block = decode_value(key, block).map_err(|error| error.to_string())?;
    let result = block.results.into_iter().next().ok_or_else(incomplete)?;
    let (pairs, rest) = output.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(incomplete());
    }
    let output = pairs.iter().map(|[key, value]| (Key::new(*key), value.to_vec())).collect();
    Ok(Executed { result, output })
}
