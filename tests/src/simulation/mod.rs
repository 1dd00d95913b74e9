//! Runs of many workers in virtual time, over a store and a network that a seed decides.
//!
//! What a worker decides and writes is done by the code of every run; simulated are only
//! the store's engine, the network, the machines, and the time that tests take. The same
//! seed gives the same trial, request by request.

mod guard;
mod history;
mod job;
mod judge;
mod lanes;
mod machine;
mod memory;
mod network;
mod said;
mod seeds;
mod slots;
mod trial;
mod trouble;
mod uses;
mod worker;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use guard::Guard;
pub use judge::{Judge, Promise, Wrong};
pub use machine::Machine;
pub use memory::MemoryStore;
pub use network::{Link, Network, Weather};
pub use seeds::{in_parallel, in_virtual_time};
pub use trial::{Trial, Verdict};

/// What a mutex holds, whoever panicked with it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
