//! `env reserve` and `env release`: an environment for a person.

use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use super::interrupts::Interrupts;
use super::print::{json_line, print};
use super::reservation_text::{holder_json, waiting_text};
use super::run::duration;
use super::style::{STRONG, WARNING, painted};
use super::{Exit, Failure, Session};
use crate::author::author;
use crate::config::{Format, Settings};
use crate::environments::{EnvironmentId, Environments, ReservationError, Reservations, Waiting, Wanted};
use crate::model::{Holder, Lock};
use crate::store::SharedStore;

/// Arguments of `env reserve`.
#[derive(Debug, Args)]
pub(super) struct ReserveArgs {
    /// The environment
    #[arg(value_name = "NAME")]
    name: String,
    /// For how long, from when it is free
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    time: Duration,
    /// Why, for those who wait meanwhile
    #[arg(long, value_name = "TEXT", default_value = "")]
    why: String,
    /// How long it is waited for where others have reserved it
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(super) reserve_timeout: Option<Duration>,
}

/// Arguments of `env release`.
#[derive(Debug, Args)]
pub(super) struct ReleaseArgs {
    /// The environment
    #[arg(value_name = "NAME")]
    name: String,
    /// Take it away from whoever holds it: a run ends its tests then
    #[arg(long)]
    force: bool,
    /// Which holder is to lose it, where there are several: an id that `env show` shows
    #[arg(long, value_name = "ID", requires = "force")]
    holder: Option<String>,
}

/// Reserves an environment for whoever types the command.
///
/// # Errors
/// It has no capacity, it was not free in time, or the store failed.
pub(super) async fn reserve(
    args: ReserveArgs,
    store: SharedStore,
    session: &Session,
) -> Result<Exit, Failure> {
    let ReserveArgs { name, time, why, .. } = args;
    let settings = &session.settings;
    let chain = Environments::new(store.clone()).chain(&EnvironmentId::current(&name)).await?;
    let capacity = chain.resolve().definition.capacity;
    let capacity = capacity.ok_or_else(|| ReservationError::NoCapacity { name: name.clone() })?;
    let why = session.without_secrets(&why, [EnvironmentId::current(&name)], &store).await?;
    let wanted = Wanted {
        holder: Holder::person(&author()),
        author: author(),
        why,
        environments: vec![(name.clone(), capacity)],
        ttl: settings.reserve_ttl,
        timeout: settings.reserve_timeout,
    };
    let mut interrupts = Interrupts::listen().map_err(|error| Failure::usage(miette::miette!("{error}")))?;
    let on_wait = |waiting: &Waiting| {
        let label = painted(WARNING, "Waiting");
        anstream::eprintln!("{label} {}", waiting_text(waiting, Timestamp::now()));
    };
    let reservations = Reservations::new(store, settings.store_timeout);
    let reservation = reservations.reserve(&wanted, interrupts.next(), on_wait).await?;
    let lock = reservation.keep_for(time).await?;
    print(&match settings.format {
        Format::Human => {
            let time = humantime::format_duration(time);
            format!(
                "{} is yours for {time}: `cargo etcdtest env release {name}` gives it back\n",
                painted(STRONG, &name)
            )
        }
        Format::Json => {
            let mut line = holder_json(&lock);
            line["name"] = json!(name);
            json_line(&line)
        }
    })?;
    Ok(Exit::Passed)
}

/// Gives back what whoever types the command has reserved, or takes it away from others.
///
/// # Errors
/// There is nothing to give back or take away, or the store failed.
pub(super) async fn release(
    args: ReleaseArgs,
    store: SharedStore,
    settings: &Settings,
) -> Result<Exit, Failure> {
    let ReleaseArgs { name, force, holder } = args;
    let reservations = Reservations::new(store.clone(), settings.store_timeout);
    let released = if force {
        reservations.take_away(&name, holder.as_deref(), &author()).await.map(|lock| vec![lock])
    } else {
        reservations.release(&name, &author()).await
    };
    if let Err(ReservationError::Nobody { .. }) = &released {
        // A queue outlives its environment; where there is neither, the name is wrong.
        Environments::new(store).get(&name).await?;
    }
    for lock in released? {
        print(&released_text(&name, &lock, settings.format))?;
    }
    Ok(Exit::Passed)
}

fn released_text(name: &str, lock: &Lock, format: Format) -> String {
    match format {
        Format::Human => format!("{} released: {} of {}\n", painted(STRONG, name), lock.holder, lock.author),
        Format::Json => {
            let mut line = holder_json(lock);
            line["name"] = json!(name);
            json_line(&line)
        }
    }
}
