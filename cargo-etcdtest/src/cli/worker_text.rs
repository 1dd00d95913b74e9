//! What each worker of a run did, drawn over its time.

use std::fmt::Write as _;

use super::run_text::units;
use super::style::{FAINT, STRONG, painted, seconds};
use crate::reports::{RunDetails, WorkerLine, text, workers};

/// How many characters the time of the worker that took longest has.
const WIDTH: u32 = 40;
/// How many levels there are above idle.
const STEPS: u8 = 8;
/// From idle to all lanes at work.
const LEVELS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A line for each worker; nothing where none is known. With `lanes`, below it one for each
/// of its lanes. Each line begins when its worker began, and all have the same scale.
pub(super) fn workers_text(details: &RunDetails, lanes: bool) -> String {
    let workers = workers(details);
    let Some(longest) = workers.iter().map(WorkerLine::end).max() else { return String::new() };
    let name = |line: &WorkerLine| text::one_line(line.worker.as_str(), usize::MAX);
    let widest = workers.iter().map(|line| name(line).chars().count()).max().unwrap_or_default();
    let bar = |line: &WorkerLine| -> String { line.load(longest, WIDTH).into_iter().map(level).collect() };
    let mut text = format!("\n{}\n", painted(STRONG, "Workers"));
    for line in &workers {
        let _ = writeln!(
            text,
            "  {:<widest$} {} {:>9} {}",
            name(line),
            painted(FAINT, format_args!("▕{}▏", bar(line))),
            seconds(line.end()),
            format_args!("{} on {}, {}", units(line.units), text::one_line(&line.host, 80), used(line)),
        );
        for lane in 1..=if lanes { line.lanes() } else { 0 } {
            let spans = line.spans.iter().filter(|span| span.lane == lane);
            let spans = spans.map(|span| crate::reports::Span { lane: 1, ..*span }).collect();
            let alone = WorkerLine { spans, ..line.clone() };
            let _ =
                writeln!(text, "  {:>widest$} {}", lane, painted(FAINT, format_args!("▕{}▏", bar(&alone))));
        }
    }
    text
}

/// `2 lanes 93 % busy`.
fn used(line: &WorkerLine) -> String {
    let lanes = line.lanes();
    let all = line.end().as_secs_f64() * f64::from(lanes);
    let busy = if all > 0.0 { (line.busy().as_secs_f64() / all * 100.0).round() } else { 0.0 };
    let words = if lanes == 1 { "lane" } else { "lanes" };
    format!("{lanes} {words} {busy} % busy")
}

/// How a share of the lanes is drawn; the least of one is seen.
fn level(load: f64) -> char {
    let above = |step: &u8| load > f64::from(*step) / f64::from(STEPS);
    LEVELS[(0..STEPS).filter(above).count()]
}
