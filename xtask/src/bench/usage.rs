//! What a piece of work costs: time on the clock and on the processors.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Result;

/// How long something took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    /// On the clock.
    pub(super) wall: Duration,
    /// On all processors, by this process and all that it waited for, in steps of 10 ms;
    /// `None` where the system does not tell. Servers beside it are not in it.
    pub(super) processor: Option<Duration>,
}

/// Does the work and says what it cost.
pub(super) fn measure(work: impl FnOnce() -> Result<()>) -> Result<Usage> {
    let before = processor();
    let started = Instant::now();
    work()?;
    let wall = started.elapsed();
    let processor = processor().zip(before).map(|(after, before)| after.saturating_sub(before));
    Ok(Usage { wall, processor })
}

/// User and system time of this process and its children until now: fields 14 to 17 of
/// Linux's `stat`, in hundredths of a second.
fn processor() -> Option<Duration> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name, which may hold anything, ends with the last parenthesis; field 3 follows.
    let (_, fields) = stat.rsplit_once(") ")?;
    let ticks: Vec<u64> = fields.split(' ').skip(11).take(4).filter_map(|field| field.parse().ok()).collect();
    (ticks.len() == 4).then(|| Duration::from_millis(10 * ticks.iter().sum::<u64>()))
}
