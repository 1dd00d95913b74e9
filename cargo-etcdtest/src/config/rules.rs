//! The rules by which tests are run, as people write them.

use std::fmt;
use std::num::{NonZeroU32, NonZeroUsize};
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::model::Labels;

/// Time between the request to end and the kill, where nothing else is said.
const GRACE: Duration = Duration::from_secs(10);

/// What one place says of how a test is run; nothing where it leaves that to others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rules {
    /// How often a failed attempt is tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<Retries>,
    /// What a test counts as that passed after a failed attempt.
    pub flaky_result: Option<PassOrFail>,
    /// What a test counts as that passed and left processes behind.
    pub leaky_result: Option<PassOrFail>,
    /// How long an attempt may take.
    #[serde(with = "crate::model::seconds::option", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// When an attempt is slow, and perhaps ended for it.
    pub slow_timeout: Option<SlowTimeout>,
    /// How many of the lanes an attempt takes.
    pub threads_required: Option<ThreadsRequired>,
    /// The resource that it needs for itself.
    pub exclusive: Option<String>,
    /// What a worker must have to be dealt it.
    pub needs: Option<Labels>,
    /// When the output of a test that passed is shown.
    pub success_output: Option<OutputWhen>,
    /// When the output of a failed attempt is shown.
    pub failure_output: Option<OutputWhen>,
}

/// How often, and after which waits, a failed attempt is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RetriesWritten", into = "RetriesWritten")]
pub struct Retries {
    /// How often.
    pub count: u32,
    /// How the wait grows.
    pub backoff: Backoff,
    /// The first wait.
    pub delay: Duration,
    /// The longest wait.
    pub max_delay: Option<Duration>,
    /// Waits are shortened at random, by up to a half, so that tests do not meet again.
    pub jitter: bool,
}

/// How the wait before a retry grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backoff {
    /// Not at all.
    #[default]
    Fixed,
    /// It doubles each time.
    Exponential,
}

/// When a running attempt is slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "SlowWritten", into = "SlowWritten")]
pub struct SlowTimeout {
    /// After how long, and then how often, it is reported.
    pub period: Duration,
    /// After how many such periods it is ended.
    pub terminate_after: Option<NonZeroU32>,
    /// Time between the request to end and the kill.
    pub grace_period: Duration,
}

/// What something doubtful counts as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PassOrFail {
    /// As passed.
    #[default]
    Pass,
    /// As failed.
    Fail,
}

/// After how many failures no more tests are begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum MaxFail {
    /// After so many.
    After(NonZeroU32),
    /// All tests run, however many fail.
    All,
}

/// When the output of a test is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OutputWhen {
    /// When the attempt ends.
    Immediate,
    /// At the end of the run.
    Final,
    /// Both.
    ImmediateFinal,
    /// Not at all.
    #[default]
    Never,
}

/// How many of the lanes a test takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ThreadsRequired {
    /// So many, or all if there are fewer.
    Count(NonZeroUsize),
    /// As many as the machine has cores.
    Cores,
    /// All of them.
    All,
}

/// Why a text is no value of its type.
#[derive(Debug, thiserror::Error)]
#[error("expected {0}")]
pub struct RuleError(&'static str);

/// A duration as it is written: `30s`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct Written(Duration);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum RetriesWritten {
    Count(u32),
    Table(RetriesTable),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RetriesTable {
    backoff: Backoff,
    count: u32,
    delay: Option<Written>,
    max_delay: Option<Written>,
    #[serde(default)]
    jitter: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum SlowWritten {
    Period(Written),
    Table(SlowTable),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct SlowTable {
    period: Written,
    terminate_after: Option<NonZeroU32>,
    grace_period: Option<Written>,
}

impl Retries {
    /// So many, without a wait.
    pub const fn at_once(count: u32) -> Self {
        Self { count, backoff: Backoff::Fixed, delay: Duration::ZERO, max_delay: None, jitter: false }
    }

    /// The wait before a retry, the first being number 1. `random` is from 0 to 1.
    pub fn wait(&self, retry: u32, random: f64) -> Duration {
        let wait = match self.backoff {
            Backoff::Fixed => self.delay,
            Backoff::Exponential => {
                self.delay.saturating_mul(1_u32.checked_shl(retry.saturating_sub(1)).unwrap_or(u32::MAX))
            }
        };
        let wait = self.max_delay.map_or(wait, |longest| wait.min(longest));
        if self.jitter { wait.mul_f64(1.0 - random.clamp(0.0, 1.0) / 2.0) } else { wait }
    }
}

impl SlowTimeout {
    /// Reported after this time, and never ended.
    pub const fn reported(period: Duration) -> Self {
        Self { period, terminate_after: None, grace_period: GRACE }
    }

    /// After how long an attempt is ended.
    pub fn limit(&self) -> Option<Duration> {
        self.terminate_after.map(|periods| self.period.saturating_mul(periods.get()))
    }
}

impl MaxFail {
    /// Whether so many failures are enough.
    pub fn is_reached(self, failures: u32) -> bool {
        match self {
            Self::After(count) => failures >= count.get(),
            Self::All => false,
        }
    }
}

impl ThreadsRequired {
    /// The number, of so many lanes.
    pub fn of(self, lanes: NonZeroUsize) -> usize {
        let wanted = match self {
            Self::Count(count) => count.get(),
            Self::Cores => super::TestThreads::Cores.count(),
            Self::All => lanes.get(),
        };
        wanted.min(lanes.get())
    }
}

impl OutputWhen {
    /// Whether it is shown when the attempt ends.
    pub fn is_immediate(self) -> bool {
        matches!(self, Self::Immediate | Self::ImmediateFinal)
    }

    /// Whether it is shown at the end of the run.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Final | Self::ImmediateFinal)
    }
}

/// Reads a duration of more than 0.
pub(super) fn duration(text: &str) -> Option<Duration> {
    humantime::parse_duration(text).ok().filter(|duration| !duration.is_zero())
}

impl TryFrom<String> for Written {
    type Error = RuleError;

    fn try_from(text: String) -> Result<Self, RuleError> {
        duration(&text).map(Self).ok_or(RuleError("a duration of more than 0"))
    }
}

impl TryFrom<RetriesWritten> for Retries {
    type Error = RuleError;

    fn try_from(written: RetriesWritten) -> Result<Self, RuleError> {
        let table = match written {
            RetriesWritten::Count(count) => return Ok(Self::at_once(count)),
            RetriesWritten::Table(table) => table,
        };
        let RetriesTable { backoff, count, delay, max_delay, jitter } = table;
        match (backoff, delay) {
            (Backoff::Exponential, None) => return Err(RuleError("a `delay` with exponential backoff")),
            (Backoff::Fixed, _) if max_delay.is_some() => {
                return Err(RuleError("no `max-delay` with fixed backoff"));
            }
            (Backoff::Fixed, None) if jitter => return Err(RuleError("a `delay` with `jitter`")),
            _ => {}
        }
        let delay = delay.map_or(Duration::ZERO, |delay| delay.0);
        let max_delay = max_delay.map(|longest| longest.0);
        if max_delay.is_some_and(|longest| longest < delay) {
            return Err(RuleError("a `max-delay` that is not shorter than `delay`"));
        }
        Ok(Self { count, backoff, delay, max_delay, jitter })
    }
}

impl TryFrom<SlowWritten> for SlowTimeout {
    type Error = RuleError;

    fn try_from(written: SlowWritten) -> Result<Self, RuleError> {
        Ok(match written {
            SlowWritten::Period(period) => Self::reported(period.0),
            SlowWritten::Table(SlowTable { period, terminate_after, grace_period }) => Self {
                period: period.0,
                terminate_after,
                grace_period: grace_period.map_or(GRACE, |grace| grace.0),
            },
        })
    }
}

impl From<Written> for String {
    fn from(Written(duration): Written) -> Self {
        humantime::format_duration(duration).to_string()
    }
}

impl From<Retries> for RetriesWritten {
    fn from(retries: Retries) -> Self {
        let Retries { count, backoff, delay, max_delay, jitter } = retries;
        if retries == Retries::at_once(count) {
            return Self::Count(count);
        }
        let delay = (!delay.is_zero()).then_some(Written(delay));
        Self::Table(RetriesTable { backoff, count, delay, max_delay: max_delay.map(Written), jitter })
    }
}

impl From<SlowTimeout> for SlowWritten {
    fn from(slow: SlowTimeout) -> Self {
        let SlowTimeout { period, terminate_after, grace_period } = slow;
        let (period, grace_period) = (Written(period), Some(Written(grace_period)));
        Self::Table(SlowTable { period, terminate_after, grace_period })
    }
}

/// Has serde write and read a type as its text.
macro_rules! as_text {
    ($($type:ty),+) => {
        $(
            impl TryFrom<String> for $type {
                type Error = RuleError;

                fn try_from(text: String) -> Result<Self, RuleError> {
                    text.parse()
                }
            }

            impl From<$type> for String {
                fn from(value: $type) -> Self {
                    value.to_string()
                }
            }
        )+
    };
}

as_text!(MaxFail, ThreadsRequired);

impl FromStr for MaxFail {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        match text {
            "all" => Ok(Self::All),
            _ => text.parse().map(Self::After).map_err(|_| RuleError("a number from 1, or `all`")),
        }
    }
}

impl FromStr for ThreadsRequired {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        match text {
            "num-cpus" => Ok(Self::Cores),
            "num-test-threads" => Ok(Self::All),
            _ => text
                .parse()
                .map(Self::Count)
                .map_err(|_| RuleError("a number from 1, `num-cpus` or `num-test-threads`")),
        }
    }
}

impl FromStr for SlowTimeout {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let table = || {
            let table = toml::de::ValueDeserializer::parse(text).ok()?;
            Self::deserialize(table).ok()
        };
        duration(text).map(Self::reported).or_else(table).ok_or(RuleError("a duration, or a table"))
    }
}

impl FromStr for Retries {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let value = toml::de::ValueDeserializer::parse(text).ok();
        value.and_then(|value| Self::deserialize(value).ok()).ok_or(RuleError("a number, or a table"))
    }
}

impl fmt::Display for MaxFail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::After(count) => count.fmt(f),
        }
    }
}

impl fmt::Display for ThreadsRequired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => count.fmt(f),
            Self::Cores => f.write_str("num-cpus"),
            Self::All => f.write_str("num-test-threads"),
        }
    }
}

impl fmt::Display for Retries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::at_once(self.count) {
            return self.count.fmt(f);
        }
        let backoff = match self.backoff {
            Backoff::Fixed => "fixed",
            Backoff::Exponential => "exponential",
        };
        write!(f, "{{ backoff = \"{backoff}\", count = {}", self.count)?;
        for (name, duration) in [("delay", Some(self.delay)), ("max-delay", self.max_delay)] {
            if let Some(duration) = duration.filter(|duration| !duration.is_zero()) {
                write!(f, ", {name} = \"{}\"", humantime::format_duration(duration))?;
            }
        }
        f.write_str(if self.jitter { ", jitter = true }" } else { " }" })
    }
}

impl fmt::Display for SlowTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let period = humantime::format_duration(self.period);
        if *self == Self::reported(self.period) {
            return period.fmt(f);
        }
        write!(f, "{{ period = \"{period}\"")?;
        if let Some(periods) = self.terminate_after {
            write!(f, ", terminate-after = {periods}")?;
        }
        if self.grace_period != GRACE {
            write!(f, ", grace-period = \"{}\"", humantime::format_duration(self.grace_period))?;
        }
        f.write_str(" }")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn waits_stay_or_double_up_to_the_longest_and_jitter_shortens_them_by_up_to_a_half() {
        let waits = |text: &str, random| {
            let retries: Retries = text.parse().unwrap();
            (1..=4).map(|retry| retries.wait(retry, random)).collect::<Vec<_>>()
        };
        assert_eq!(waits("3", 0.5), [seconds(0); 4]);
        assert_eq!(waits("{ backoff = \"fixed\", count = 3, delay = \"2s\" }", 0.5), [seconds(2); 4]);
        let exponential = "{ backoff = \"exponential\", count = 3, delay = \"2s\", max-delay = \"9s\" }";
        assert_eq!(waits(exponential, 0.5), [2, 4, 8, 9].map(seconds));
        let jitter = exponential.replace(" }", ", jitter = true }");
        assert_eq!(waits(&jitter, 1.0), [1000, 2000, 4000, 4500].map(Duration::from_millis));
        assert_eq!(waits(&jitter, 0.0), [2, 4, 8, 9].map(seconds));
        let retries: Retries = exponential.parse().unwrap();
        assert_eq!(retries.wait(u32::MAX, 0.0), seconds(9));
    }

    #[test]
    fn rules_are_read_as_they_are_shown() {
        for text in [
            "0",
            "7",
            "{ backoff = \"fixed\", count = 3, delay = \"1s\", jitter = true }",
            "{ backoff = \"exponential\", count = 3, delay = \"500ms\", max-delay = \"10s\" }",
        ] {
            assert_eq!(text.parse::<Retries>().unwrap().to_string(), text);
        }
        for text in
            ["1m", "{ period = \"30s\", terminate-after = 2 }", "{ period = \"30s\", grace-period = \"1s\" }"]
        {
            assert_eq!(text.parse::<SlowTimeout>().unwrap().to_string(), text);
        }
        for text in ["1", "50", "all"] {
            assert_eq!(text.parse::<MaxFail>().unwrap().to_string(), text);
        }
        for text in ["1", "num-cpus", "num-test-threads"] {
            assert_eq!(text.parse::<ThreadsRequired>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_means_nothing_is_refused() {
        for text in [
            "-1",
            "many",
            "{ count = 3 }",
            "{ backoff = \"linear\", count = 3 }",
            "{ backoff = \"exponential\", count = 3 }",
            "{ backoff = \"fixed\", count = 3, jitter = true }",
            "{ backoff = \"fixed\", count = 3, delay = \"1s\", max-delay = \"2s\" }",
            "{ backoff = \"exponential\", count = 3, delay = \"3s\", max-delay = \"2s\" }",
            "{ backoff = \"fixed\", count = 3, delai = \"1s\" }",
        ] {
            assert!(text.parse::<Retries>().is_err(), "{text}");
        }
        for text in ["0s", "60", "{ period = \"60\" }", "{ period = \"60s\", terminate-after = 0 }"] {
            assert!(text.parse::<SlowTimeout>().is_err(), "{text}");
        }
        for text in ["0", "-1", "none", ""] {
            assert!(text.parse::<MaxFail>().is_err(), "{text}");
            assert!(text.parse::<ThreadsRequired>().is_err(), "{text}");
        }
    }

    #[test]
    fn required_threads_are_never_more_than_there_are() {
        let lanes = NonZeroUsize::new(4).unwrap();
        let of = |text: &str| text.parse::<ThreadsRequired>().unwrap().of(lanes);
        assert_eq!([of("1"), of("3"), of("9"), of("num-test-threads")], [1, 3, 4, 4]);
    }
}
