//! `cargo etcdtest env check`: an environment's services and probes, and no tests.

use std::num::NonZeroUsize;
use std::sync::Arc;

use serde_json::json;
use tokio::sync::watch;

use super::print::{json_line, print};
use super::run::{listen_to_signals, this_program};
use super::stream::part_json;
use super::style::{Label, painted};
use super::watch::display;
use super::{Exit, Failure, Session};
use crate::config::Format;
use crate::environments::{EnvironmentId, Environments, LOCAL, Secrets};
use crate::execution::{Ground, Launcher, Leave, NotReady, check};
use crate::testcases::usual_program_folder;

/// Starts the services of an environment, tries its probes, and says what is ready and what
/// is not.
///
/// # Errors
/// There is no such environment, or it was interrupted.
pub(super) async fn run(
    environments: &Environments,
    secrets: &Secrets,
    id: EnvironmentId,
    session: &Session,
) -> Result<Exit, Failure> {
    let Session { settings, root } = session;
    let format = settings.format;
    let found = environments.resolve(&[id], LOCAL).await?;
    let secrets = secrets.of(&found).await?;
    let (events, shown) = display(settings, false);
    let (leave, told) = watch::channel(Leave::ToFinish);
    let mut leaving = told.clone();
    let signals = tokio::spawn(listen_to_signals(leave));
    let launcher =
        Arc::new(Launcher::new(&this_program(), None, NonZeroUsize::MIN, events.clone(), secrets.redactor()));
    // Without a project there are no programs of one, and nothing that cargo could say.
    let folder = if root.join("Cargo.toml").exists() { usual_program_folder().await } else { None };
    let built = folder.into_iter().collect();
    let ground = Ground::new(Arc::clone(&launcher), root.to_owned(), built, secrets, events);
    let sets = environments.data_sets();
    let mut not_ready = Vec::new();
    let interrupted = 'checked: {
        for environment in &found {
            tokio::select! {
                found = check(&ground, environment, &sets, &told) => not_ready.extend(found?),
                Ok(_) = leaving.wait_for(|leave| *leave > Leave::ToFinish) => break 'checked true,
            }
        }
        false
    };
    launcher.close().await;
    signals.abort();
    drop((ground, launcher));
    shown.end().await;
    for part in &not_ready {
        print(&match format {
            Format::Human => not_ready_text(part),
            Format::Json => not_ready_json(part),
        })?;
    }
    if interrupted {
        return Err(Failure::interrupted(miette::miette!("interrupted; its services have been stopped")));
    }
    Ok(if not_ready.is_empty() { Exit::Passed } else { Exit::Environment })
}

fn not_ready_text(part: &NotReady) -> String {
    let label = painted(Label::Fail.style(), format_args!("{:>12}", "Not ready"));
    let mut text = format!("{label} {}: {}\n", part.part, part.reason);
    for line in &part.lines {
        text.extend([" ".repeat(15).as_str(), line, "\n"]);
    }
    text
}

fn not_ready_json(part: &NotReady) -> String {
    let mut event = part_json("not-ready", &part.environment, &part.part);
    event["reason"] = json!(part.reason);
    event["lines"] = json!(part.lines);
    json_line(&event)
}
