//! The journal that a worker writes.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::frames::frame;
use super::header::Header;
use super::{EXTENSION, RESULT, STORED};
use crate::execution::executed::Executed;
use crate::model::{Block, UnitIndex};
use crate::store::{encode, local};

/// The results of a worker that a store elsewhere may not have yet, in a file that only its owner
/// may read, and that stays locked for as long as the worker lives.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: File,
    /// It could not be written: what stands after a torn record might not be found.
    broken: bool,
    /// The units with results that are not stored yet.
    unsent: HashSet<UnitIndex>,
}

/// Results that stay behind in a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// How many.
    pub results: usize,
    /// The file.
    pub path: PathBuf,
}

/// A journal cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("results are safe only once they are stored: failed to write the journal {path}: {source}")]
pub struct JournalError {
    path: PathBuf,
    source: io::Error,
}

impl Journal {
    /// Begins a journal in a folder below the project's folder for what is its own.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn begin(own: &Path, folder: &Path, header: &Header) -> Result<Self, JournalError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            |source| JournalError { path, source }
        };
        local::make_folder(own).and_then(|()| fs::create_dir_all(folder)).map_err(failed(folder))?;
        let file = tempfile::Builder::new().prefix("worker-").suffix(EXTENSION).tempfile_in(folder);
        let kept = file.and_then(|file| file.keep().map_err(io::Error::from));
        let (mut file, path) = kept.map_err(failed(folder))?;
        // Locked before anything is in it: nobody takes it for one that was left behind.
        file.lock().and_then(|()| file.write_all(&frame([&*encode(header)]))).map_err(failed(&path))?;
        let state = State { file, broken: false, unsent: HashSet::new() };
        Ok(Self { path, state: Mutex::new(state) })
    }

    /// Notes a result before anybody is told of it.
    ///
    /// # Errors
    /// It cannot be written. That is said once; nothing is written after it.
    pub(in crate::execution) fn note(&self, executed: &Executed) -> Result<(), JournalError> {
        let block = encode(&Block { results: vec![executed.result.clone()] });
        let output = executed.output.iter().flat_map(|(key, value)| [key.as_bytes(), value]);
        let mut state = self.state();
        if !state.broken {
            self.write(&mut state, [RESULT, &block].into_iter().chain(output))?;
            state.unsent.insert(executed.result.unit);
        }
        Ok(())
    }

    /// Notes that the store has these units' results, or never will.
    pub(in crate::execution) fn settle(&self, units: &[UnitIndex]) {
        let mut state = self.state();
        for unit in units {
            state.unsent.remove(unit);
        }
        if !state.broken {
            let units = serde_json::to_vec(units).expect("numbers can be written");
            // Without it they are sent again, for nothing.
            let _ = self.write(&mut state, [STORED, &units]);
        }
    }

    /// Brings what was written to the disk, where it outlives the machine's end too.
    pub(in crate::execution) fn sync(&self) {
        // What the disk does not take now is as safe as it was before.
        let _ = self.state().file.sync_data();
        let _ = self.path.parent().map(|folder| File::open(folder)?.sync_all());
    }

    /// Ends it with its run, or with its worker: the file goes where nothing is left to be stored,
    /// and always where the run is over. What it keeps is on the disk then.
    pub fn end(&self, run_is_over: bool) -> Option<Kept> {
        let results = self.state().unsent.len();
        if run_is_over || results == 0 {
            // One that stays is found to hold nothing, and goes then.
            let _ = fs::remove_file(&self.path);
            return None;
        }
        self.sync();
        Some(Kept { results, path: self.path.clone() })
    }

    fn write<'a>(
        &self,
        state: &mut State,
        fields: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<(), JournalError> {
        state.file.write_all(&frame(fields)).map_err(|source| {
            state.broken = true;
            JournalError { path: self.path.clone(), source }
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::model::{Fence, Outcome, UnitResult, WorkerId};

    #[test]
    fn a_disk_that_is_full_is_told_once_and_holds_nothing_up() {
        let file = File::options().write(true).open("/dev/full").unwrap();
        let state = State { file, broken: false, unsent: HashSet::new() };
        let journal = Journal { path: "/dev/null/journal".into(), state: Mutex::new(state) };
        let (unit, worker) = (UnitIndex(0), WorkerId::new("w"));
        let (attempts, outcome) = (vec![], Outcome::Skipped);
        let result = UnitResult { unit, outcome, reason: None, attempts, worker, token: Fence(1) };
        let executed = Executed { result, output: vec![] };
        let error = journal.note(&executed).unwrap_err().to_string();
        assert!(error.contains("failed to write the journal /dev/null/journal: No space left"), "{error}");
        assert!(journal.note(&executed).is_ok());
        assert_eq!(journal.end(false), None, "it holds nothing");
    }
}
