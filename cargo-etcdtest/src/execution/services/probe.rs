//! What must answer before a run begins.

use std::time::Duration;

use regex::Regex;

use super::fleet::Ground;
use super::log::Log;
use super::look;
use super::not_ready::{NotReady, Part};
use super::service::ending;
use crate::execution::RunEvent;
use crate::model::{Environment, Probe, ProbeBy};

/// A probe in few words, as its file says it.
fn title(probe: &Probe) -> String {
    match &probe.by {
        ProbeBy::Http { url, .. } => format!("http {url}"),
        ProbeBy::Tcp(address) => format!("tcp {address}"),
        ProbeBy::Dns(host) => format!("dns {host}"),
        ProbeBy::Command(words) => format!("command {}", words.join(" ")),
    }
}

/// Waits until a probe passes, and tells that it did. `written` is the probe as the
/// environment says it, `probe` the same with what its references stand for.
///
/// # Errors
/// It did not in its time.
pub(super) async fn pass(
    ground: &Ground,
    environment: &Environment,
    written: &Probe,
    probe: &Probe,
) -> Result<(), NotReady> {
    let (environment, part) = (environment.name.clone(), Part::Probe(title(written)));
    match tried(ground, probe).await {
        Ok(took) => {
            let _ = ground.events.send(RunEvent::Ready { environment, part, url: None, took });
            Ok(())
        }
        Err(reason) => Err(NotReady { environment, part, reason, lines: Vec::new() }),
    }
}

async fn tried(ground: &Ground, probe: &Probe) -> Result<Duration, String> {
    let limit = probe.timeout;
    match &probe.by {
        ProbeBy::Http { url, status, body } => {
            let body = body.as_deref().map(Regex::new).transpose();
            let body = body.map_err(|_| "its `body` is no regular expression".to_owned())?;
            look::wait_for(limit, || look::http(url, *status, body.as_ref())).await
        }
        ProbeBy::Tcp(address) => look::wait_for(limit, || look::tcp(address)).await,
        ProbeBy::Dns(host) => look::wait_for(limit, || look::dns(host)).await,
        ProbeBy::Command(words) => look::wait_for(limit, || command(ground, words)).await,
    }
}

async fn command(ground: &Ground, words: &[String]) -> Result<(), String> {
    let (program, arguments) = words.split_first().ok_or("it names no program")?;
    let mut command = ground.places.command(program);
    command.args(arguments);
    let (log, _reading) = Log::new(ground.redactor()).map_err(|error| error.to_string())?;
    let streams = log.streams().map_err(|error| error.to_string())?;
    let started = ground.launcher.start_service(&command, &streams).await;
    let mut process = started.map_err(|error| format!("failed to start it: {error}"))?;
    let status = process.wait().await.ok();
    if status.is_some_and(|status| status.success()) {
        return Ok(());
    }
    let last = log.last_lines().pop().map(|line| format!(": {line}")).unwrap_or_default();
    Err(format!("it {}{last}", ending(status)))
}
