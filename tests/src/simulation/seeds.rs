//! Trials by their seeds.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::runtime::Builder;
use tokio::task::LocalSet;

/// Has something happen in virtual time, on this thread alone. All that is drawn at random
/// comes from the seed.
///
/// # Panics
/// There is no runtime to be had.
pub fn in_virtual_time<T>(seed: u64, trial: impl Future<Output = T>) -> T {
    fastrand::seed(seed);
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime without a reactor needs nothing");
    LocalSet::new().block_on(&runtime, trial)
}

/// Carries trials out on all processors, the seeds from 0 on, until one says that no more
/// are wanted.
pub fn in_parallel(seeds: u64, trial: impl Fn(u64) -> bool + Sync) {
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds || !trial(seed) {
                        next.store(seeds, Ordering::Relaxed);
                        return;
                    }
                }
            });
        }
    });
}
