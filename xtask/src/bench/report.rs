//! The figures, for people and for programs.

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};

use super::contest::{Standing, spread};
use super::rows::Measured;
use super::usage::Usage;

/// For people: the middle of all rounds, and the smallest and the largest.
pub(super) fn text(measured: &Measured) -> String {
    let mut text = format!("\n{}", measured.machine.text());
    // Writing into a string cannot fail.
    for standing in &measured.standings {
        let _ = writeln!(text, "\n{}", standing.name);
        for (name, times) in &standing.times {
            let _ = writeln!(text, "  {name:<38} {}{}", seconds(times), processor(times));
        }
        for target in &standing.targets {
            if let Some((median, least, most)) = spread(standing.ratios(target)) {
                let ratio = format!("{median:.2} × ({least:.2} to {most:.2})");
                let line = format!("  {ratio:<24} {} / {}", target.of, target.by);
                let wanted = if target.wanted.is_empty() {
                    String::new()
                } else {
                    format!("; wanted {}", target.wanted)
                };
                let _ = writeln!(text, "{line}{wanted}");
            }
        }
    }
    let _ = writeln!(
        text,
        "\nwhere the time goes, in ms (medians); `storing` overlaps `execute`, `attempts` is a sum"
    );
    for phases in &measured.phases {
        let times = phases.times.iter().filter_map(|(phase, times)| {
            let (median, ..) = spread(times.iter().copied())?;
            Some(format!("{phase} {:.0}", median * 1000.0))
        });
        let _ = writeln!(text, "  {}: {}", phases.name, times.collect::<Vec<_>>().join(", "));
    }
    text
}

fn seconds(times: &[Usage]) -> String {
    let spread = spread(times.iter().map(|usage| usage.wall.as_secs_f64()));
    spread
        .map_or_else(String::new, |(median, least, most)| format!("{median:7.3} s ({least:.3} to {most:.3})"))
}

fn processor(times: &[Usage]) -> String {
    let spread = spread(times.iter().filter_map(|usage| usage.processor).map(|time| time.as_secs_f64()));
    spread.map_or_else(String::new, |(median, ..)| format!(", processors {median:.2} s"))
}

/// For programs: every round, in seconds.
pub(super) fn json(measured: &Measured) -> Value {
    let phases = measured.phases.iter().map(|phases| {
        let times: serde_json::Map<_, _> =
            phases.times.iter().map(|(phase, times)| ((*phase).to_owned(), json!(times))).collect();
        json!({ "name": phases.name, "phases": times })
    });
    json!({
        "machine": measured.machine.json(),
        "contests": measured.standings.iter().map(standing).collect::<Vec<_>>(),
        "phases": phases.collect::<Vec<_>>(),
    })
}

fn standing(standing: &Standing) -> Value {
    let contenders = standing.times.iter().map(|(name, times)| {
        let wall = times.iter().map(|usage| usage.wall.as_secs_f64());
        let processor = times.iter().map(|usage| usage.processor.map(|time| Duration::as_secs_f64(&time)));
        json!({ "name": name, "wall": wall.collect::<Vec<_>>(), "processor": processor.collect::<Vec<_>>() })
    });
    let ratios = standing.targets.iter().map(|target| {
        json!({ "of": target.of, "by": target.by, "wanted": target.wanted, "ratios": standing.ratios(target) })
    });
    json!({
        "name": standing.name,
        "contenders": contenders.collect::<Vec<_>>(),
        "ratios": ratios.collect::<Vec<_>>(),
    })
}
