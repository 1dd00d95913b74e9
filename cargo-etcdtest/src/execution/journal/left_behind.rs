//! A journal whose worker is no more.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use super::frames::{Fields, Frames, frame, is_cut_off};
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
    file: File,
    header: Header,
    content: Content,
}

/// What is in a journal besides its header.
#[derive(Debug, Default)]
struct Content {
    /// The results that are not noted as stored.
    results: BTreeMap<UnitIndex, Executed>,
    /// How many bytes of its middle are damaged.
    damaged: usize,
    /// Where its last whole record ends.
    end: usize,
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
        let mut file = match File::options().read(true).write(true).open(path) {
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
        let Some((header, content)) = read else {
            // Its worker died before there was anything in it, or is just beginning.
            if !bytes.is_empty() {
                let _ = fs::remove_file(path);
            }
            return Ok(None);
        };
        let left = Self { path: path.to_owned(), file, header, content };
        if left.count() == 0 && left.damaged() == 0 {
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
        self.content.results.len()
    }

    /// How many bytes of it are damaged: a record that was torn off at its end is not.
    pub fn damaged(&self) -> usize {
        self.content.damaged
    }

    /// The results that the store may lack, one for each unit.
    pub(in crate::execution) fn results(&self) -> impl Iterator<Item = &Executed> {
        self.content.results.values()
    }

    /// As if its worker had held this lock.
    #[cfg(test)]
    pub(in crate::execution) fn hold_to(&mut self, lock: (String, i64)) {
        self.header.locks.push(lock);
    }

    /// Notes that the store has these units' results.
    pub(in crate::execution) fn settle(&mut self, units: &[UnitIndex]) {
        for unit in units {
            self.content.results.remove(unit);
        }
        let units = serde_json::to_vec(units).expect("numbers can be written");
        let note = frame([STORED, &units]);
        let end = self.content.end as u64;
        let file = &mut self.file;
        let written = file.set_len(end).and_then(|()| file.seek(SeekFrom::Start(end)));
        // Without it the store is asked for them again.
        if written.and_then(|_| file.write_all(&note)).is_ok() {
            self.content.end += note.len();
        }
    }

    /// Removes it.
    pub fn discard(self) {
        // One that stays is found again.
        let _ = fs::remove_file(&self.path);
    }
}

/// What stands in a journal; `None` where it was cut off before it said whose it is.
fn read(bytes: &[u8]) -> Result<Option<(Header, Content)>, String> {
    let key = &Key::from("in it");
    let (mut header, mut content, mut torn) = (None, Content::default(), 0..0);
    for found in Frames::new(bytes) {
        let fields = match found {
            Ok(fields) => fields,
            Err(range) => {
                torn = range;
                continue;
            }
        };
        // What follows it shows that it is not torn off at the end.
        content.damaged += std::mem::take(&mut torn).len();
        match (&header, fields.as_slice()) {
            (None, [whose]) => {
                header = Some(decode_value::<Header>(key, whose).map_err(|error| error.to_string())?);
            }
            (None, _) => return Err("it does not say whose it is".into()),
            (Some(_), [RESULT, ..]) => {
                let executed = result(&fields, key)?;
                // Of a unit that was executed again the newest counts.
                content.results.insert(executed.result.unit, executed);
            }
            (Some(_), [STORED, units]) => {
                let units: Vec<UnitIndex> =
                    serde_json::from_slice(units).map_err(|error| error.to_string())?;
                for unit in units {
                    content.results.remove(&unit);
                }
            }
            (Some(_), _) => return Err("it is of a newer version: update cargo-etcdtest".into()),
        }
    }
    content.end = bytes.len() - torn.len();
    match header {
        None if !is_cut_off(bytes) => Err("no record in it is whole".into()),
        header => Ok(header.map(|header| (header, content))),
    }
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
