//! The keeper: the one small process that starts and reaps everything a run starts, so that
//! nothing is left behind when the runner is killed, and nothing is lost when a test kills
//! what it should not.
//!
//! The runner executes itself once more, with [`ARGUMENT`] alone and a `SOCK_SEQPACKET`
//! socket as standard input; each message is one packet, and a request carries the
//! descriptors of the process's three streams.

mod client;
mod lost;
mod message;
mod orphans;
mod serve;
mod starter;
mod zygote;

pub(in crate::execution) use orphans::end_holders;
pub use serve::serve_as_keeper;
pub(in crate::execution) use starter::Starter;

/// The only argument of a process that is to be the keeper.
const ARGUMENT: &str = "--etcdtest-keeper";
