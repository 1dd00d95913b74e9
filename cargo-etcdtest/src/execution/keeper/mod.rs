//! Keepers: small processes that start and reap everything a run starts, so that nothing is
//! left behind when the runner is killed, and nothing is lost when a test kills what it should
//! not.
//!
//! There is one for each lane. Were there one for all, it would always have run just before it is
//! woken by the end of a test; the system takes such a process for tied to its processor, and
//! lets it wait there behind another test while the processor that came free stands idle.
//!
//! The runner executes itself once more, with [`ARGUMENT`] alone and a `SOCK_SEQPACKET`
//! socket as standard input; each message is one packet, and a request carries the
//! descriptors of the process's three streams.

mod channel;
mod client;
mod lost;
mod message;
mod orphans;
mod serve;
mod spawn;
mod starter;
mod zygote;

pub(in crate::execution) use orphans::end_holders;
pub use serve::serve_as_keeper;
pub(in crate::execution) use starter::Starter;

/// The only argument of a process that is to be a keeper.
const ARGUMENT: &str = "--etcdtest-keeper";
