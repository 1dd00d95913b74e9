//! Processes that tests look at, and what is waited for until it is so.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, test_kill_process};

/// After how long it is no more believed that something comes.
const PATIENCE: Duration = Duration::from_mins(5);

/// Looks again and again until there is something to see.
///
/// # Panics
/// There is nothing for a very long time.
#[track_caller]
pub fn eventually<T>(mut look: impl FnMut() -> Option<T>, what: &str) -> T {
    let started = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(started.elapsed() < PATIENCE, "{what} does not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The process whose id is written in the file, once it is.
///
/// # Panics
/// It never is.
#[track_caller]
pub fn process(file: &Path) -> Pid {
    let read = || fs::read_to_string(file).ok()?.trim().parse().ok().and_then(Pid::from_raw);
    eventually(read, &file.display().to_string())
}

/// The state of a process, as `T` for one that is stopped; none where it is gone.
pub fn state(process: Pid) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero())).ok()?;
    stat.rsplit(')').next()?.trim().chars().next()
}

/// Whether it is gone, or a zombie that nobody has waited for yet.
pub fn has_ended(process: Pid) -> bool {
    test_kill_process(process).is_err() || matches!(state(process), None | Some('Z'))
}
