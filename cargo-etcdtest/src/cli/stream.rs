//! What happens in a run, as newline-delimited JSON. `docs/machine-output.md` describes it.

use std::collections::HashMap;
use std::io::{self, Write};
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::progress::Display;
use super::reservation_text::holder_json;
use crate::environments::Waiting;
use crate::execution::{AttemptOutput, Part, RunEvent, Unit};
use crate::model::UnitIndex;
use crate::reports::{AttemptSummary, Counts, UnitSummary, seconds};

/// The machine-readable display. A program may rely on what it reads, so results are printed
/// once they are stored.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// Results that are not stored yet.
    waiting: HashMap<UnitIndex, RunEvent>,
    /// Lines to be written.
    unwritten: Vec<u8>,
}

impl Display for Stream {
    fn show(&mut self, event: RunEvent) -> io::Result<()> {
        match event {
            RunEvent::Finished { ref unit, .. } => {
                self.waiting.insert(unit.index, event);
            }
            RunEvent::Stored { units } => {
                for line in units.iter().filter_map(|unit| to_json(self.waiting.remove(unit)?)) {
                    writeln!(self.unwritten, "{line}")?;
                }
            }
            event => {
                if let Some(line) = to_json(event) {
                    writeln!(self.unwritten, "{line}")?;
                }
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().lock().write_all(&std::mem::take(&mut self.unwritten))
    }
}

/// The line of an event; none for one that says nothing by itself.
fn to_json(event: RunEvent) -> Option<Value> {
    Some(match event {
        RunEvent::Stored { .. } => return None,
        RunEvent::Waiting(Waiting { environment, holders, ahead }) => {
            let holders: Vec<_> = holders.iter().map(holder_json).collect();
            json!({
                "event": "reservation-waiting", "environment": environment, "holders": holders,
                "ahead": ahead,
            })
        }
        RunEvent::Reserved { environments, waited } => json!({
            "event": "reservation-held", "environments": environments, "waited": seconds(waited),
        }),
        RunEvent::Started { run, units, tests, environments, shuffle } => json!({
            "event": "run-started", "run": run, "units": units, "tests": tests, "environments": environments,
            "shuffle": shuffle,
        }),
        RunEvent::Ready { environment, part, url, took } => {
            ready_json(&environment, &part, url.as_deref(), took)
        }
        RunEvent::AttemptStarted { unit, attempt } => {
            with_unit(&unit, "attempt-started", json!({ "number": attempt }))
        }
        RunEvent::Slow { unit, elapsed } => {
            with_unit(&unit, "attempt-slow", json!({ "elapsed": seconds(elapsed) }))
        }
        RunEvent::ResourceWaiting { unit, resource, waiting } => {
            let ahead = waiting.as_ref().map(|waiting| waiting.ahead);
            let holders = waiting.iter().flat_map(|waiting| &waiting.holders);
            let holders: Vec<_> = holders.map(holder_json).collect();
            let body = json!({ "resource": resource, "holders": holders, "ahead": ahead });
            with_unit(&unit, "resource-waiting", body)
        }
        RunEvent::AttemptFailed { unit, attempt, output, of, wait, .. } => {
            let attempt = AttemptSummary::from(&attempt);
            let mut body = json!({ "attempt": attempt, "of": of, "wait": seconds(wait) });
            put_output(&mut body, &output);
            with_unit(&unit, "attempt-failed", body)
        }
        RunEvent::Finished { unit, result, output, .. } => {
            let mut body = json!(UnitSummary::new(&unit.test, &unit.environment, Some(&result)));
            put_output(&mut body, &output);
            with_unit(&unit, "unit-finished", body)
        }
        RunEvent::Cancelled { reason } => json!({ "event": "run-cancelled", "reason": reason }),
        RunEvent::Notice { text } => json!({ "event": "notice", "text": text }),
        RunEvent::TakenOver { unit, worker } => {
            with_unit(&unit, "unit-taken-over", json!({ "worker": worker }))
        }
        RunEvent::Superseded { units } => json!({ "event": "units-superseded", "units": units }),
        RunEvent::Leaving { others } => json!({ "event": "worker-leaving", "others": others }),
        RunEvent::Queued { run } => json!({ "event": "run-queued", "run": run }),
        RunEvent::Stalled { run, reason } => {
            json!({ "event": "run-stalled", "run": run, "reason": reason })
        }
        RunEvent::StoreAway => json!({ "event": "store-away" }),
        RunEvent::Spent { timings, storing } => {
            let phases = timings.phases().iter();
            let phases: Map<_, _> =
                phases.map(|&(phase, took)| (phase.to_owned(), json!(seconds(took)))).collect();
            json!({ "event": "time-spent", "phases": phases, "storing": seconds(storing) })
        }
        RunEvent::Ended { run, summary, cancelled } => json!({
            "event": "run-ended", "run": run, "duration": seconds(summary.duration),
            "counts": Counts::from(summary), "cancelled": cancelled,
        }),
    })
}

/// An event about a unit: its name, and which unit, before what there is to say.
fn with_unit(unit: &Unit, event: &str, body: Value) -> Value {
    let mut whole = json!({
        "event": event, "unit": unit.index, "id": unit.test.to_string(), "environment": unit.environment,
    });
    if let Some(repetition) = unit.repetition {
        whole["repetition"] = json!(repetition);
    }
    if let (Value::Object(whole), Value::Object(body)) = (&mut whole, body) {
        whole.extend(body);
    }
    whole
}

/// A part of an environment that is ready.
pub(super) fn ready_json(environment: &str, part: &Part, url: Option<&str>, took: Duration) -> Value {
    let mut event = part_json("ready", environment, part);
    if let Some(url) = url {
        event["url"] = json!(url);
    }
    event["duration"] = json!(seconds(took));
    event
}

/// An event about a part of an environment.
pub(super) fn part_json(event: &str, environment: &str, part: &Part) -> Value {
    match part {
        Part::Definition => json!({ "event": event, "environment": environment }),
        Part::Service(name) => json!({ "event": event, "environment": environment, "service": name }),
        Part::Probe(text) => json!({ "event": event, "environment": environment, "probe": text }),
        Part::Data(name) => json!({ "event": event, "environment": environment, "data": name }),
    }
}

/// What an attempt printed, and its services meanwhile.
fn put_output(body: &mut Value, output: &AttemptOutput) {
    body["output"] = String::from_utf8_lossy(&output.printed.bytes()).into();
    for log in &output.services {
        body["services"][&log.service] = String::from_utf8_lossy(&log.bytes()).into();
    }
}
