//! Which tests get a line on the screen: the one place that decides.

use super::style::Label;
use crate::config::{FinalStatusLevel, Settings, StatusLevel};
use crate::model::UnitResult;

/// What of tests is shown, as the settings say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lines {
    as_it_happens: StatusLevel,
    at_the_end: FinalStatusLevel,
}

impl Lines {
    /// As these settings say.
    pub(super) fn of(settings: &Settings) -> Self {
        Self { as_it_happens: settings.status_level, at_the_end: settings.final_status_level }
    }

    /// Whether something of this level is told as it happens.
    pub(super) fn tell(self, level: StatusLevel) -> bool {
        level <= self.as_it_happens
    }

    /// Whether a result is told as it comes.
    pub(super) fn tell_result(self, result: &UnitResult) -> bool {
        let last = result.attempts.last();
        self.tell(match Label::of_result(result) {
            Label::Fail | Label::Timeout | Label::Crash => StatusLevel::Fail,
            Label::Flaky => StatusLevel::Retry,
            Label::Pass if last.is_some_and(|last| last.leaky) => StatusLevel::Leak,
            Label::Skip | Label::NotRun if last.is_none() => StatusLevel::Skip,
            Label::Pass | Label::Skip | Label::NotRun => StatusLevel::Pass,
        })
    }

    /// Whether a result is listed at the end, of a test that was reported as `slow` or not.
    pub(super) fn list(self, result: &UnitResult, slow: bool) -> bool {
        let level = match Label::of_result(result) {
            Label::Fail | Label::Timeout | Label::Crash => FinalStatusLevel::Fail,
            Label::Flaky => FinalStatusLevel::Flaky,
            _ if slow => FinalStatusLevel::Slow,
            Label::Skip | Label::NotRun => FinalStatusLevel::Skip,
            Label::Pass => FinalStatusLevel::Pass,
        };
        level <= self.at_the_end
    }
}
