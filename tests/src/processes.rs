//! Processes that tests look at, and what is waited for until it is so.

use std::fs;
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::{Pid, test_kill_process};

/// After how long it is no more believed that something comes, on a loaded machine.
pub const PATIENCE: Duration = Duration::from_mins(2);

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

/// Waits for what must come.
///
/// # Panics
/// It does not come for a very long time.
pub async fn in_time<T>(what: &str, comes: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, comes).await.unwrap_or_else(|_| panic!("{what} does not come"))
}

/// Waits for the end of a process; `None` where it does not come by then.
///
/// # Panics
/// It was waited for before.
pub fn end_of(child: &mut Child, until: Instant) -> Option<ExitStatus> {
    loop {
        let ended = child.try_wait().expect("it was started");
        if ended.is_some() || Instant::now() > until {
            return ended;
        }
        std::thread::sleep(Duration::from_millis(1));
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

/// A process and all that it has started, one a line: id, state, and what it was started as.
pub fn family(process: u32) -> String {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let looked_at = ids.filter_map(|id| {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        let mut fields = stat.rsplit(')').next()?.split_whitespace();
        let (state, parent) = (fields.next()?, fields.next()?.parse::<u32>().ok()?);
        let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        Some((id, parent, format!("{id} {state} {line}")))
    });
    let all: Vec<_> = looked_at.collect();
    let mut members = vec![process];
    let mut lines = Vec::new();
    while let Some(member) = members.pop() {
        members.extend(all.iter().filter(|(_, parent, _)| *parent == member).map(|(id, ..)| *id));
        lines.extend(all.iter().filter(|(id, ..)| *id == member).map(|(.., line)| line.as_str()));
    }
    if lines.is_empty() { format!("{process}, which has ended") } else { lines.join("\n") }
}
