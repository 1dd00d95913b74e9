//! Results: what came of a unit, attempt by attempt.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{EnvironmentVersion, Fence, Record, RunId, UnitIndex, WorkerId};

/// How an attempt or a unit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It did what it promises.
    Passed,
    /// It panicked or returned an error.
    Failed,
    /// It was not run, or asked to be skipped.
    Skipped,
    /// It took longer than its timeout.
    TimedOut,
    /// Its process ended without saying how the test went.
    Crashed,
}

/// What a run, a unit or an attempt comes to, for counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Passed at the first attempt.
    Passed,
    /// Passed after a failed attempt.
    Flaky,
    /// Failed, timed out or crashed.
    Failed,
    /// Not run.
    Skipped,
}

/// The final outcome of a unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UnitResult {
    /// Its place in the plan.
    pub unit: UnitIndex,
    /// The outcome of its last attempt; `Failed` for a flaky test where those count so.
    pub outcome: Outcome,
    /// Why it was skipped, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Every try, in order; none where it was skipped without a try.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "attempts")]
    pub attempts: Vec<Attempt>,
    /// Who executed it.
    pub worker: WorkerId,
    /// The fencing token under which it was executed.
    pub token: Fence,
}

/// Reads attempts, mostly one, with room for no more: there may be a hundred thousand such lists.
fn attempts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Attempt>, D::Error> {
    struct Attempts;

    impl<'de> Visitor<'de> for Attempts {
        type Value = Vec<Attempt>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of attempts")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut attempts = list.next_element()?.map_or_else(Vec::new, |first| vec![first]);
            while let Some(attempt) = list.next_element()? {
                attempts.push(attempt);
            }
            Ok(attempts)
        }
    }

    deserializer.deserialize_seq(Attempts)
}

/// One try at a unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// Its number, from 1.
    pub number: u32,
    /// How it ended.
    pub outcome: Outcome,
    /// When it began, by the worker's clock.
    pub started: Timestamp,
    /// How long it took.
    #[serde(with = "super::seconds")]
    pub duration: Duration,
    /// The panic message, the error with its chain, the signal, or the skip's reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// `file:line:column` of the panic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// The exit code of its process, if it exited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The signal that ended its process, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// It left processes behind, or its streams open, which were then ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaky: bool,
    /// Where it was executed; `None` where nothing began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// The steps that it went through.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
    /// What is stored of it under `/logs`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub output: Vec<StoredOutput>,
}

/// Where and when an attempt was executed, as its worker saw it: the clocks of two machines
/// are never compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The worker's machine.
    pub host: String,
    /// The first of the lanes that it took, from 1.
    pub lane: u32,
    /// How long the worker had been at work when it began.
    #[serde(with = "super::seconds")]
    pub offset: Duration,
}

/// A step of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Its name.
    pub name: String,
    /// Whether it succeeded; `None` where the attempt ended inside it.
    pub ok: Option<bool>,
    /// How long it took, as far as is known.
    #[serde(with = "super::seconds")]
    pub duration: Duration,
}

/// A stream or attachment of an attempt that is stored under `/logs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredOutput {
    /// `output`, `services/NAME` for what a service wrote, or `attachments/NAME`.
    pub name: String,
    /// Its size in bytes, before compression and with what was left out.
    pub size: u64,
    /// Bytes left out of its middle.
    #[serde(default)]
    pub left_out: u64,
    /// In how many chunks it is stored.
    pub chunks: usize,
}

/// Results of one worker, stored together under `/execution/{run}/results/…`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Block {
    /// The results.
    pub results: Vec<UnitResult>,
}

impl Record for Block {
    const SCHEMA: u64 = 1;
}

/// The newest result of a test case in an environment, with those before it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatestResult {
    /// The run it came from.
    pub run: RunId,
    /// When that run was created; the newest run wins.
    pub created: Timestamp,
    /// What it ran against.
    pub environment: EnvironmentVersion,
    /// The code it ran, as a git commit id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// The result itself.
    pub result: UnitResult,
    /// The last outcomes, newest first, this one included.
    pub recent: Vec<RecentOutcome>,
}

impl LatestResult {
    /// How many recent outcomes are kept: what a plan weighs, and no more, as every run writes
    /// them anew for each of its tests.
    pub const RECENT: usize = 10;
}

impl Record for LatestResult {
    const SCHEMA: u64 = 1;
}

/// What later runs need of a [`LatestResult`]: each reads those of all its tests, twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastResults {
    /// The run that the latest result came from.
    pub run: RunId,
    /// The last outcomes, newest first.
    pub recent: Vec<RecentOutcome>,
}

impl Record for PastResults {
    const SCHEMA: u64 = LatestResult::SCHEMA;
}

/// One of the last outcomes of a test case in an environment. In a record it is an array of
/// its fields: every run reads and writes several of them for each test.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "RecentFields")]
pub struct RecentOutcome {
    /// The run.
    pub run: RunId,
    /// When that run was created.
    pub created: Timestamp,
    /// What came of it.
    pub verdict: Verdict,
    /// How long its last attempt took.
    pub duration: Duration,
}

type RecentFields = (RunId, Timestamp, Verdict, Seconds);

/// A duration as [`seconds`](super::seconds) has it.
#[derive(Serialize, Deserialize)]
struct Seconds(#[serde(with = "super::seconds")] Duration);

impl From<RecentFields> for RecentOutcome {
    fn from((run, created, verdict, Seconds(duration)): RecentFields) -> Self {
        Self { run, created, verdict, duration }
    }
}

impl Serialize for RecentOutcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { run, created, verdict, duration } = self;
        (run, created, verdict, Seconds(*duration)).serialize(serializer)
    }
}

impl Outcome {
    /// Whether it counts against the run.
    pub fn is_failure(self) -> bool {
        matches!(self, Self::Failed | Self::TimedOut | Self::Crashed)
    }
}

impl Attempt {
    /// An attempt that begins now, and of which nothing is known but how it will have ended
    /// if nothing else becomes known.
    pub fn begun(number: u32, outcome: Outcome) -> Self {
        Self {
            number,
            outcome,
            started: Timestamp::now(),
            duration: Duration::ZERO,
            message: None,
            location: None,
            exit_code: None,
            signal: None,
            leaky: false,
            place: None,
            steps: Vec::new(),
            output: Vec::new(),
        }
    }
}

impl UnitResult {
    /// The most bytes one result should take in a record.
    const LARGEST: usize = 256 << 10;

    /// Where it is too large for a record: leaves out steps and most of the messages, of the
    /// last attempt only if that of the others is not enough.
    pub fn shorten(&mut self) {
        let is_bare = |attempt: &Attempt| attempt.steps.is_empty() && attempt.message.is_none();
        if self.attempts.iter().all(is_bare) {
            return;
        }
        let last = self.attempts.len().saturating_sub(1);
        for range in [0..last, last..self.attempts.len()] {
            if self.size() <= Self::LARGEST {
                return;
            }
            for attempt in &mut self.attempts[range] {
                attempt.steps.clear();
                if let Some(message) = &mut attempt.message {
                    message.truncate(message.floor_char_boundary(500));
                }
            }
        }
    }

    /// How many bytes it takes in a record.
    pub fn size(&self) -> usize {
        serde_json::to_vec(self).map_or(0, |json| json.len())
    }

    /// What it comes to.
    pub fn verdict(&self) -> Verdict {
        match self.outcome {
            Outcome::Passed if self.attempts.len() > 1 => Verdict::Flaky,
            Outcome::Passed => Verdict::Passed,
            Outcome::Skipped => Verdict::Skipped,
            Outcome::Failed | Outcome::TimedOut | Outcome::Crashed => Verdict::Failed,
        }
    }

    /// How long its last attempt took.
    pub fn duration(&self) -> Duration {
        self.attempts.last().map_or(Duration::ZERO, |attempt| attempt.duration)
    }
}
