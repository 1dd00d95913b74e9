//! Who reserves an environment and who waits for it, as people and programs read it.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::style::{STRONG, painted};
use crate::environments::{Queue, Waiting};
use crate::model::{Holder, Lock};
use crate::reports::text::one_line;

/// How many characters of a name or reason are shown.
const SHOWN: usize = 80;

/// What is waited for: `for environment staging: held by run x of ann@desk for 3m; 2 before
/// this`.
pub(super) fn waiting_text(waiting: &Waiting, now: Timestamp) -> String {
    format!("for environment {}{}", painted(STRONG, &waiting.environment), held_text(waiting, now))
}

/// What a test waits for: `for resource printer: held by worker x of ann@desk for 3m (test y in
/// run z); next in the queue`.
pub(super) fn resource_text(resource: &str, waiting: Option<&Waiting>, now: Timestamp) -> String {
    let held = waiting.map(|waiting| held_text(waiting, now)).unwrap_or_default();
    format!("for resource {}{held}", painted(STRONG, one_line(resource, SHOWN)))
}

/// `: held by run x of ann@desk for 3m; next in the queue`.
fn held_text(waiting: &Waiting, now: Timestamp) -> String {
    let holders: Vec<_> = waiting.holders.iter().map(|lock| holder_text(lock, now)).collect();
    let ahead = match waiting.ahead {
        0 => "next in the queue".to_owned(),
        ahead => format!("{ahead} before this in the queue"),
    };
    format!(": held by {}; {ahead}", holders.join(" and "))
}

/// `run x of ann@desk for 3m`.
pub(super) fn holder_text(lock: &Lock, now: Timestamp) -> String {
    let id = match &lock.holder {
        Holder::Run(run) => format!("run {} of ", one_line(run.as_str(), SHOWN)),
        Holder::Worker(worker) => format!("worker {} of ", one_line(worker, SHOWN)),
        Holder::Person(_) => String::new(),
    };
    let author = one_line(&lock.author, SHOWN);
    let since = lock.held.unwrap_or(lock.since);
    let left = lock.until.map(|until| format!(", {} left", length(now, until))).unwrap_or_default();
    let why = if lock.why.is_empty() { String::new() } else { format!(" ({})", one_line(&lock.why, SHOWN)) };
    format!("{id}{author} for {}{left}{why}", length(since, now))
}

/// Who holds an environment, and how many wait; empty where nobody does.
pub(super) fn queue_text(queue: &Queue, now: Timestamp) -> String {
    let mut parts: Vec<_> = queue.holders().map(|place| holder_text(&place.lock, now)).collect();
    match queue.waiting().count() {
        0 => {}
        waiting => parts.push(format!("{waiting} waiting")),
    }
    parts.join("; ")
}

/// A line for everybody who holds an environment or waits for it.
pub(super) fn queue_lines(queue: &Queue, now: Timestamp) -> Vec<String> {
    let line = |state: &str, lock: &Lock| {
        format!("{state} {} as {}", holder_text(lock, now), one_line(&lock.holder.id(), SHOWN))
    };
    let holders = queue.holders().map(|place| line("reserved by", &place.lock));
    holders.chain(queue.waiting().map(|place| line("waited for by", &place.lock))).collect()
}

/// A holder, for programs.
pub(super) fn holder_json(lock: &Lock) -> Value {
    let run = match &lock.holder {
        Holder::Run(run) => Some(run),
        Holder::Person(_) | Holder::Worker(_) => None,
    };
    json!({
        "holder": lock.holder.id(), "run": run, "author": lock.author, "why": lock.why,
        "since": lock.since, "held": lock.held, "until": lock.until,
    })
}

/// A queue, for programs.
pub(super) fn queue_json(queue: &Queue) -> Value {
    let holders: Vec<_> = queue.holders().map(|place| holder_json(&place.lock)).collect();
    let waiting: Vec<_> = queue.waiting().map(|place| holder_json(&place.lock)).collect();
    json!({ "holders": holders, "waiting": waiting })
}

/// The time between two, in whole seconds. The clocks of two machines differ: what seems
/// to lie ahead is now.
fn length(from: Timestamp, to: Timestamp) -> String {
    let seconds = u64::try_from(to.duration_since(from).as_secs()).unwrap_or(0);
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}
