//! `watch`: a run, live, from anywhere.

use clap::Args;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::lines::Lines;
use super::progress::{Progress, show};
use super::run::exit_of_summary;
use super::stream::Stream;
use super::{Exit, Failure};
use crate::config::{Format, Settings};
use crate::execution::{EventSink, RunError, follow, tell_over};
use crate::model::{Run, RunId};
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
    let (events, shown) = display(settings, false);
    let result = follow(store, id, &events).await;
    drop(events);
    shown.end().await;
    match result {
        Ok((summary, _)) => Ok(exit_of_summary(&summary)),
        Err(RunError::Store(error)) => Err(error.into()),
        Err(error) => Err(Failure::usage(miette::miette!("{error}"))),
    }
}

/// Says of a run that is over what came of it, and exits with that.
pub(super) async fn show_over(run: &Run, settings: &Settings) -> Exit {
    let (events, shown) = display(settings, false);
    tell_over(run, &events);
    drop(events);
    shown.end().await;
    exit_of_summary(&run.summary.unwrap_or_default())
}

/// Has events be shown as the settings say, until nobody tells any more. `quiet` is whether the output
/// of tests is shown already, as it comes.
pub(super) fn display(settings: &Settings, quiet: bool) -> (EventSink, Shown) {
    let (events, heard) = mpsc::unbounded_channel();
    let (not_over, over) = std::sync::mpsc::channel();
    let (format, lines) = (settings.format, Lines::of(settings));
    let display = tokio::task::spawn_blocking(move || match format {
        Format::Human => show(heard, &over, &mut Progress::new(lines, quiet)),
        Format::Json => show(heard, &over, &mut Stream::default()),
    });
    (events, Shown { not_over, display })
}

/// A display of events at work.
#[derive(Debug)]
pub(super) struct Shown {
    not_over: std::sync::mpsc::Sender<()>,
    display: JoinHandle<()>,
}

impl Shown {
    /// Waits until all has been shown, now that there are no more events. A display that failed has
    /// said so.
    pub(super) async fn end(self) {
        drop(self.not_over);
        let _ = self.display.await;
    }
}
