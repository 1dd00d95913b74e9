//! What happens in a run, as newline-delimited JSON. `docs/machine-output.md` describes it.

use std::io::{self, Write};
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::progress::Display;
use crate::execution::{AttemptOutput, Part, RunEvent, Unit};
use crate::reports::{AttemptSummary, Counts, UnitSummary, seconds};

/// The machine-readable display.
#[derive(Debug)]
pub(super) struct Stream;

impl Display for Stream {
    fn show(&mut self, event: RunEvent) -> io::Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "{}", to_json(event))?;
        out.flush()
    }
}

fn to_json(event: RunEvent) -> Value {
    match event {
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
        RunEvent::AttemptFailed { unit, attempt, output, of, wait, .. } => {
            let attempt = AttemptSummary::from(&attempt);
            let body = json!({ "attempt": attempt, "of": of, "wait": seconds(wait), "output": output_json(&output) });
            with_unit(&unit, "attempt-failed", body)
        }
        RunEvent::Finished { unit, result, output, .. } => {
            let mut body = json!(UnitSummary::new(&unit.test, &unit.environment, Some(&result)));
            body["output"] = output_json(&output);
            with_unit(&unit, "unit-finished", body)
        }
        RunEvent::Cancelled { reason } => json!({ "event": "run-cancelled", "reason": reason }),
        RunEvent::Notice { text } => json!({ "event": "notice", "text": text }),
        RunEvent::Stalled => json!({ "event": "run-stalled" }),
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
    }
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
    }
}

fn output_json(output: &AttemptOutput) -> Value {
    let mut json = json!({
        "stdout": String::from_utf8_lossy(&output.stdout.bytes()),
        "stderr": String::from_utf8_lossy(&output.stderr.bytes()),
    });
    for log in &output.services {
        json["services"][&log.service] = json!(String::from_utf8_lossy(&log.bytes()));
    }
    json
}
