//! What can go wrong with reservations.

use std::time::Duration;

use miette::Diagnostic;

use super::queue::Waiting;
use crate::model::{Holder, Lock};
use crate::store::StoreError;

/// Why something could not be reserved, or is not reserved any more.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum ReservationError {
    /// Any number of runs may use the environment.
    #[error("the environment `{name}` has no capacity: any number of runs may use it at once")]
    #[diagnostic(help("write `capacity = 1` into its file and apply it"))]
    NoCapacity {
        /// The environment.
        name: String,
    },
    /// The same holder is in the queue already, or there is a run of its id.
    #[error("there is a {0} already")]
    Exists(Holder),
    /// A person waits for nobody but themselves.
    #[error("you have {} the environment `{name}` already", if .lock.held.is_some() { "reserved" } else { "asked for" })]
    #[diagnostic(help("`cargo etcdtest env release {name}` gives it back; after that reserve it anew"))]
    AlreadyYours {
        /// The environment.
        name: String,
        /// The reservation.
        lock: Box<Lock>,
    },
    /// It was waited for long enough.
    #[error("{}", waited(.waiting.as_deref(), &format!("the environment {{}} was not free within {}", humantime::format_duration(*.timeout))))]
    #[diagnostic(help(
        "wait longer with --reserve-timeout, or take it away: `cargo etcdtest env release NAME --force`"
    ))]
    TimedOut {
        /// How long.
        timeout: Duration,
        /// What was waited for, if that was known.
        waiting: Option<Box<Waiting>>,
    },
    /// Somebody ended the wait.
    #[error("{}", waited(.waiting.as_deref(), "interrupted while waiting for the environment {}"))]
    Interrupted {
        /// What was waited for, if that was known.
        waiting: Option<Box<Waiting>>,
    },
    /// Somebody took it away.
    #[error("the environment `{environment}` was taken away by {by}")]
    #[diagnostic(help("ask them; `cargo etcdtest env show {environment}` shows who holds it now"))]
    TakenAway {
        /// The environment.
        environment: String,
        /// Who: `user@host`.
        by: String,
    },
    /// Its lease has ended.
    #[error("the reservation of {} was lost: this process did not reach the store in time", list(.environments))]
    #[diagnostic(help(
        "results stored before that are kept; run the tests again. `reserve-ttl` says how long a reservation \
         outlives its holder"
    ))]
    Lost {
        /// The environments.
        environments: Vec<String>,
    },
    /// The store does not let leases live so long.
    #[error("the store keeps no reservation for longer than {}", humantime::format_duration(*.longest))]
    #[diagnostic(help("say a shorter time with --for"))]
    TooLong {
        /// How long it does.
        longest: Duration,
    },
    /// Nothing of it is the caller's.
    #[error("you have not reserved the environment `{name}`: it is {}", held_by(.holders))]
    #[diagnostic(help("--force takes it away from whoever holds it"))]
    NotYours {
        /// The environment.
        name: String,
        /// Who has.
        holders: Vec<Lock>,
    },
    /// There is nothing to give back.
    #[error("nobody has reserved the environment `{name}`")]
    #[diagnostic(help("`cargo etcdtest env list` shows who holds which environment"))]
    Nobody {
        /// The environment.
        name: String,
    },
    /// Nobody in the queue is called so.
    #[error("there is no `{holder}` in the queue for the environment `{name}`")]
    NoHolder {
        /// The environment.
        name: String,
        /// What was asked for.
        holder: String,
        /// Who is there.
        #[help]
        help: String,
    },
    /// Which holder is meant is not clear.
    #[error("the environment `{name}` is {}", held_by(.holders))]
    #[diagnostic(help("say which one is to lose it with --holder: {}", ids(.holders)))]
    Several {
        /// The environment.
        name: String,
        /// Who holds it.
        holders: Vec<Lock>,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A message about an environment that was waited for, and who holds it.
fn waited(waiting: Option<&Waiting>, message: &str) -> String {
    match waiting {
        Some(waiting) => {
            let name = format!("`{}`", waiting.environment);
            format!("{}: it is {}", message.replace("{}", &name), held_by(&waiting.holders))
        }
        None => message.replace(" {}", ""),
    }
}

/// `held by run x of ann@desk and run y of bob@desk`.
fn held_by(holders: &[Lock]) -> String {
    if holders.is_empty() {
        return "nobody holds it".into();
    }
    let names: Vec<_> = holders.iter().map(|lock| format!("{} of {}", lock.holder, lock.author)).collect();
    format!("held by {}", names.join(" and "))
}

fn ids(holders: &[Lock]) -> String {
    holders.iter().map(|lock| lock.holder.id()).collect::<Vec<_>>().join(" or ")
}

fn list(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
