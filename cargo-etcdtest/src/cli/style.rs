//! How verdicts and times look, the same in every verb.

use std::time::Duration;

use anstyle::{AnsiColor, Style};
use jiff::{Timestamp, tz::TimeZone};

use crate::model::{Attempt, Outcome, RunSummary, UnitResult};

/// What is emphasised: headings, names.
pub const STRONG: Style = Style::new().bold();
/// What steps back: units, reasons, what was left out.
pub const FAINT: Style = Style::new().dimmed();
/// What somebody should look at.
pub const WARNING: Style = AnsiColor::Yellow.on_default().bold();

/// A verdict as people see it: a word of at most seven letters, and its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    /// Passed at the first attempt.
    Pass,
    /// Passed after a failed attempt.
    Flaky,
    /// Failed with a panic or an error.
    Fail,
    /// Took too long.
    Timeout,
    /// Its process died.
    Crash,
    /// Not run on purpose.
    Skip,
    /// Without a result: the run has not come to it, or was cancelled before.
    NotRun,
}

impl Label {
    /// The label of a unit's result.
    pub fn of_result(result: &UnitResult) -> Self {
        match result.outcome {
            Outcome::Passed if result.attempts.len() > 1 => Self::Flaky,
            outcome => outcome.into(),
        }
    }

    /// How many there are of each in a run, in the order in which they are told.
    pub fn counts(summary: &RunSummary) -> [(u32, Self); 7] {
        [
            (summary.passed, Self::Pass),
            (summary.flaky, Self::Flaky),
            (summary.failed, Self::Fail),
            (summary.timed_out, Self::Timeout),
            (summary.crashed, Self::Crash),
            (summary.skipped, Self::Skip),
            (summary.not_run, Self::NotRun),
        ]
    }

    /// What units with it are, after their number: `2 timed out`.
    pub fn participle(self) -> &'static str {
        match self {
            Self::Pass => "passed",
            Self::Flaky => "flaky",
            Self::Fail => "failed",
            Self::Timeout => "timed out",
            Self::Crash => "crashed",
            Self::Skip => "skipped",
            Self::NotRun => "not run",
        }
    }

    /// The word, in capitals.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Flaky => "FLAKY",
            Self::Fail => "FAIL",
            Self::Timeout => "TIMEOUT",
            Self::Crash => "CRASH",
            Self::Skip => "SKIP",
            Self::NotRun => "NOT RUN",
        }
    }

    /// The colour.
    pub fn style(self) -> Style {
        let colour = match self {
            Self::Pass => AnsiColor::Green,
            Self::Flaky | Self::NotRun => AnsiColor::Yellow,
            Self::Fail | Self::Timeout | Self::Crash => AnsiColor::Red,
            Self::Skip => AnsiColor::Cyan,
        };
        colour.on_default().bold()
    }

    /// The word in its colour, set to the right of `width` columns.
    pub fn painted(self, width: usize) -> String {
        let style = self.style();
        format!("{style}{:>width$}{style:#}", self.word())
    }
}

impl From<Outcome> for Label {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Passed => Self::Pass,
            Outcome::Failed => Self::Fail,
            Outcome::Skipped => Self::Skip,
            Outcome::TimedOut => Self::Timeout,
            Outcome::Crashed => Self::Crash,
        }
    }
}

impl From<&Attempt> for Label {
    fn from(attempt: &Attempt) -> Self {
        attempt.outcome.into()
    }
}

/// A text in a style.
pub fn painted(style: Style, text: impl std::fmt::Display) -> String {
    format!("{style}{text}{style:#}")
}

/// A duration as `1.234s`.
pub fn seconds(duration: Duration) -> String {
    format!("{:.3}s", duration.as_secs_f64())
}

/// A time as people read it, in a time zone: `2026-12-31 23:59:59`.
pub fn local_time(time: Timestamp, zone: &TimeZone) -> String {
    time.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// How long ago a time was, roughly: `just now`, `5 min ago`, `3 h ago`, `12 days ago`.
pub fn ago(time: Timestamp, now: Timestamp) -> String {
    let (minute, hour, day) = (60, 3600, 86_400);
    match now.duration_since(time).as_secs() {
        // The clocks of two machines differ: the near future is now too.
        ..60 => "just now".into(),
        seconds if seconds < hour => format!("{} min ago", seconds / minute),
        seconds if seconds < 2 * day => format!("{} h ago", seconds / hour),
        seconds => format!("{} days ago", seconds / day),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_people_say_them() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let since = |seconds: i64| ago(at(1_000_000), at(1_000_000 + seconds));
        assert_eq!([-5, 59].map(since), ["just now", "just now"]);
        assert_eq!(
            [60, 3599, 3600, 172_800].map(since),
            ["1 min ago", "59 min ago", "1 h ago", "2 days ago"]
        );
        assert_eq!(local_time(at(0), &TimeZone::fixed(jiff::tz::offset(2))), "1970-01-01 02:00:00");
        assert_eq!(seconds(Duration::from_micros(1_234_567)), "1.235s");
    }

    #[test]
    fn a_label_is_a_word_in_its_colour() {
        assert_eq!(Label::Fail.painted(7), "\u{1b}[1m\u{1b}[31m   FAIL\u{1b}[0m");
    }
}
