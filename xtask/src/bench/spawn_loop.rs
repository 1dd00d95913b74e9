//! The least that a process per test costs: a loop that starts them.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result, bail};

use super::projects::Binary;

/// Runs each test of a plain binary in a process of its own, so many at once, and looks at
/// the exit code only. With neither a folder nor a hook to set, the standard library starts
/// processes with `posix_spawn`.
pub(super) fn run(binary: &Binary, at_once: usize) -> Result<()> {
    let next = AtomicUsize::new(0);
    let lane = || -> Result<()> {
        while let Some(test) = binary.tests.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut command = Command::new(&binary.path);
            command.args([test, "--exact"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let status =
                command.status().with_context(|| format!("failed to start {}", binary.path.display()))?;
            if !status.success() {
                bail!("`{test}` of {} ended with {status}", binary.path.display());
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let lanes: Vec<_> = (0..at_once).map(|_| scope.spawn(lane)).collect();
        lanes
            .into_iter()
            .try_for_each(|lane| lane.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}
