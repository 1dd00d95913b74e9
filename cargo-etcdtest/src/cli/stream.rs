//! What happens in a run, as newline-delimited JSON. `docs/machine-output.md` describes it.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::progress::Display;
use crate::execution::{AttemptOutput, RunEvent, Unit};

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
        RunEvent::Started { run, units, tests, environments } => json!({
            "event": "run-started", "run": run, "units": units, "tests": tests, "environments": environments,
        }),
        RunEvent::AttemptStarted { unit, attempt } => {
            with_unit(&unit, "attempt-started", json!({ "attempt": attempt }))
        }
        RunEvent::Slow { unit, elapsed } => {
            with_unit(&unit, "attempt-slow", json!({ "elapsed_seconds": elapsed.as_secs_f64() }))
        }
        RunEvent::AttemptFailed { unit, attempt, output, of } => {
            let body = json!({ "attempt": attempt, "attempts": of, "output": output_json(&output) });
            with_unit(&unit, "attempt-failed", body)
        }
        RunEvent::Finished { unit, result, output } => {
            let body =
                json!({ "verdict": result.verdict(), "result": result, "output": output_json(&output) });
            with_unit(&unit, "unit-finished", body)
        }
        RunEvent::Cancelled { reason } => json!({ "event": "run-cancelled", "reason": reason }),
        RunEvent::Stalled => json!({ "event": "run-stalled" }),
        RunEvent::StoreAway => json!({ "event": "store-away" }),
        RunEvent::Ended { run, summary, cancelled } => json!({
            "event": "run-ended", "run": run, "summary": summary, "cancelled": cancelled,
        }),
    }
}

fn with_unit(unit: &Unit, event: &str, mut body: Value) -> Value {
    let Value::Object(fields) = &mut body else { return body };
    fields.insert("event".into(), event.into());
    fields.insert("unit".into(), unit.index.0.into());
    fields.insert("test".into(), unit.test.to_string().into());
    fields.insert("environment".into(), unit.environment.clone().into());
    body
}

fn output_json(output: &AttemptOutput) -> Value {
    json!({
        "stdout": String::from_utf8_lossy(&output.stdout.bytes()),
        "stderr": String::from_utf8_lossy(&output.stderr.bytes()),
    })
}
