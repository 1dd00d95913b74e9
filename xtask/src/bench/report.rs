//! The figures, for people and for programs.

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};

use super::contest::{Standing, spread};
use super::makespan::{Round, WORKERS, Without};
use super::rows::Measured;
use super::scale::Scale;
use super::store_rate::StoreRate;
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
    if !measured.phases.is_empty() {
        let _ = writeln!(
            text,
            "\nwhere the time goes, in ms (medians); `storing` overlaps `execute`, `attempts` is a sum"
        );
    }
    for phases in &measured.phases {
        let times = phases.times.iter().filter_map(|(phase, times)| {
            let (median, ..) = spread(times.iter().copied())?;
            Some(format!("{phase} {:.0}", median * 1000.0))
        });
        let _ = writeln!(text, "  {}: {}", phases.name, times.collect::<Vec<_>>().join(", "));
    }
    if let Some(makespan) = &measured.makespan {
        let _ = writeln!(
            text,
            "\n{WORKERS} workers, durations log-normal: {:.2} s at the least from the first test's beginning to \
             the last one's end",
            makespan.least
        );
        for (name, rounds) in &makespan.ways {
            let times = || rounds.iter().map(|round| round.makespan);
            let ratios = spread_text(times().map(|time| time / makespan.least), 3, " ×");
            let _ = writeln!(text, "  {name:<38} {}; {ratios}", spread_text(times(), 2, " s"));
            let without = |when: fn(&Without) -> f64| {
                spread(rounds.iter().map(|round| when(&round.without))).map_or(0.0, |(median, ..)| median)
            };
            let _ = writeln!(
                text,
                "    each worker without a test: {:.2} s until all had begun, {:.2} s between tests, {:.2} s at the end",
                without(|without| without.first),
                without(|without| without.between),
                without(|without| without.last)
            );
        }
        let _ = writeln!(text, "  wanted of etcdtest: ≤ 1.05 ×");
    }
    scales(&mut text, &measured.scales);
    if let Some(rate) = &measured.store {
        let _ = writeln!(text, "\nresults stored in etcd per second; wanted: ≥ 0.8 × the bare client");
        for (name, rates) in store_rates(rate) {
            let ratios = rates.iter().zip(&rate.bare).map(|(rate, bare)| rate / bare);
            let ratios = spread_text(ratios, 2, " ×");
            let _ = writeln!(text, "  {name:<38} {}; {ratios}", spread_text(rates.iter().copied(), 0, ""));
        }
    }
    text
}

/// What a unit costs, against the smallest run; and memory.
fn scales(text: &mut String, scales: &[Scale]) {
    let cost = |scale: &Scale, of: fn(&Usage) -> Option<Duration>| {
        let (median, ..) = spread(scale.rounds.iter().filter_map(of).map(|time| time.as_secs_f64()))?;
        Some(median / f64::from(u32::try_from(scale.units).ok()?))
    };
    let Some(first) = scales.first() else { return };
    let _ = writeln!(text, "\nmany units, etcd; wanted: ≤ 1.2 × the time of the first for each, ≤ 300 MiB");
    for scale in scales {
        let ratio = |of: fn(&Usage) -> Option<Duration>| {
            let ratio = cost(scale, of).zip(cost(first, of)).map(|(cost, first)| cost / first);
            ratio.map_or("unknown".to_owned(), |ratio| format!("{ratio:.2} × each"))
        };
        let memory =
            scale.memory.iter().max().map_or("unknown".to_owned(), |bytes| format!("{} MiB", bytes >> 20));
        let _ = writeln!(
            text,
            "  {:>7} units {}, {}{}, {}; {memory}",
            scale.units,
            seconds(&scale.rounds),
            ratio(|usage| Some(usage.wall)),
            processor(&scale.rounds),
            ratio(|usage| usage.processor)
        );
    }
}

fn store_rates(rate: &StoreRate) -> [(&'static str, &Vec<f64>); 2] {
    [("bare client, 128 puts a transaction", &rate.bare), ("etcdtest, a worker without tests", &rate.worker)]
}

/// The middle of some values, their smallest, and their largest.
fn spread_text(values: impl Iterator<Item = f64>, digits: usize, unit: &str) -> String {
    spread(values).map_or_else(String::new, |(median, least, most)| {
        format!("{median:.digits$}{unit} ({least:.digits$} to {most:.digits$})")
    })
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
        "makespan": measured.makespan.as_ref().map(|makespan| {
            let round = |Round { makespan, without: Without { first, between, last } }: &Round| {
                json!({ "makespan": makespan, "without": { "first": first, "between": between, "last": last } })
            };
            let ways: serde_json::Map<_, _> = makespan
                .ways
                .iter()
                .map(|(name, rounds)| ((*name).to_owned(), rounds.iter().map(round).collect()))
                .collect();
            json!({ "workers": WORKERS, "least": makespan.least, "ways": ways })
        }),
        "scale": measured.scales.iter().map(|scale| {
            let mut figures = usages(&scale.rounds);
            (figures["units"], figures["memory"]) = (json!(scale.units), json!(scale.memory));
            figures
        }).collect::<Vec<_>>(),
        "store": measured.store.as_ref().map(|rate| {
            let rates = store_rates(rate).map(|(name, rates)| (name.to_owned(), json!(rates)));
            Value::Object(rates.into_iter().collect())
        }),
    })
}

fn standing(standing: &Standing) -> Value {
    let contenders = standing.times.iter().map(|(name, times)| {
        let mut figures = usages(times);
        figures["name"] = json!(name);
        figures
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

fn usages(rounds: &[Usage]) -> Value {
    let wall = rounds.iter().map(|usage| usage.wall.as_secs_f64());
    let processor = rounds.iter().map(|usage| usage.processor.map(|time| Duration::as_secs_f64(&time)));
    json!({ "wall": wall.collect::<Vec<_>>(), "processor": processor.collect::<Vec<_>>() })
}
