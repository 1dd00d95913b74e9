//! `watch`: a run, live, from anywhere.

use clap::Args;
use tokio::sync::mpsc;

use super::lines::Lines;
use super::progress::{Progress, show};
use super::run::exit_of_summary;
use super::stream::Stream;
use super::{Exit, Failure};
use crate::config::{Format, Settings};
use crate::execution::{RunError, follow};
use crate::model::RunId;
use crate::reports::{LATEST, resolve_run};
use crate::store::SharedStore;

/// Arguments of `watch`.
#[derive(Debug, Args)]
pub(super) struct WatchArgs {
    /// Id of the run, the beginning of one, or `latest`
    #[arg(value_name = "RUN", default_value = LATEST)]
    run: String,
}

/// Shows a run until it is over, and exits with its outcome.
pub(super) async fn run(args: WatchArgs, store: SharedStore, settings: &Settings) -> Result<Exit, Failure> {
    let id = resolve_run(store.as_ref(), &args.run).await?;
    follow_run(&id, &store, settings).await
}

/// Shows the run of an id until it is over, and exits with its outcome.
pub(super) async fn follow_run(
    id: &RunId,
    store: &SharedStore,
    settings: &Settings,
) -> Result<Exit, Failure> {
    let (events, heard) = mpsc::unbounded_channel();
    let (format, lines) = (settings.format, Lines::of(settings));
    let shown = tokio::task::spawn_blocking(move || match format {
        Format::Human => show(heard, &mut Progress::new(lines, false)),
        Format::Json => show(heard, &mut Stream::default()),
    });
    let result = follow(store, id, &events).await;
    drop(events);
    let _ = shown.await;
    match result {
        Ok((summary, _)) => Ok(exit_of_summary(&summary)),
        Err(RunError::Store(error)) => Err(error.into()),
        Err(error) => Err(Failure::usage(miette::miette!("{error}"))),
    }
}
