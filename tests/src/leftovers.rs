//! What a program leaves behind: processes, known by a variable that they all inherit, and
//! files in a folder for temporary files of their own.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::processes::PATIENCE;

/// The variable that marks them.
const MARK: &str = "HOSTILE_MARK";

/// A mark that one program and all that it starts carry.
#[derive(Debug)]
pub struct Leftovers {
    mark: String,
    folder: TempDir,
}

impl Leftovers {
    /// A mark that nobody carries yet.
    pub fn new() -> Self {
        let mark = format!("{:016x}", fastrand::u64(..));
        Self { mark, folder: tempfile::tempdir().expect("make a folder") }
    }

    /// Marks a program before it is started.
    pub fn mark<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env(MARK, &self.mark).env("TMPDIR", self.folder.path())
    }

    /// The processes that run now: ids, and what they were started as.
    pub fn processes(&self) -> Vec<(i32, String)> {
        let mark = format!("{MARK}={}", self.mark);
        let entries = fs::read_dir("/proc").expect("there is a /proc").flatten();
        let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let carries = |id: &i32| {
            let variables = fs::read(format!("/proc/{id}/environ"));
            variables.is_ok_and(|all| all.split(|byte| *byte == 0).any(|one| one == mark.as_bytes()))
        };
        let line = |id: i32| {
            let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            (id, OsStr::from_bytes(&line).to_string_lossy().replace('\0', " "))
        };
        ids.filter(carries).map(line).collect()
    }

    /// The temporary files there are now.
    pub fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.folder.path()).expect("there is the folder").flatten();
        entries.map(|entry| entry.path()).collect()
    }

    /// Fails where a program that has ended by itself left anything.
    #[track_caller]
    pub fn assert_none(&self) {
        assert_eq!((self.processes(), self.files()), (vec![], vec![]));
    }

    /// Fails where anything stays that a killed program left.
    #[track_caller]
    pub fn assert_none_stay(&self) {
        let started = Instant::now();
        while started.elapsed() < PATIENCE && !(self.processes().is_empty() && self.files().is_empty()) {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.assert_none();
    }
}

impl Default for Leftovers {
    fn default() -> Self {
        Self::new()
    }
}
