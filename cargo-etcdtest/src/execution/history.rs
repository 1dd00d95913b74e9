//! What past results say of the units of a run that is being planned.

use std::collections::HashMap;
use std::time::Duration;

use crate::model::{RecentOutcome, TestCaseId, Verdict};

/// Of how many of its last results the length of a test is the median.
const WEIGHED: usize = 9;
/// A failure is of late if it is among so many of the last results.
const LATELY: usize = 3;
/// No test takes longer, whatever a record says: sums of estimates must stay durations.
const LONGEST: Duration = Duration::from_hours(24 * 365);

/// What past results say of a unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// How long it is expected to take: the median of its last results, of those that passed
    /// if there are any, since a failure may come sooner or later than the end of a test.
    pub duration: Option<Duration>,
    /// One of its last few results was a failure.
    pub failed_lately: bool,
}

/// What past results say, by environment and test case. A unit without any is new.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histories(HashMap<String, HashMap<TestCaseId, History>>);

impl History {
    /// What the last results of a unit say, newest first.
    pub fn of(recent: &[RecentOutcome]) -> Self {
        let ran = || recent.iter().filter(|recent| recent.verdict != Verdict::Skipped);
        let failed = |recent: &&RecentOutcome| recent.verdict == Verdict::Failed;
        let length = |recent: &RecentOutcome| recent.duration.min(LONGEST);
        let last = || ran().take(WEIGHED);
        let passed = last().filter(|recent| !failed(recent)).map(length);
        Self {
            duration: median(passed).or_else(|| median(last().map(length))),
            failed_lately: ran().take(LATELY).any(|recent| failed(&recent)),
        }
    }
}

impl Histories {
    /// What they say of a unit; `None` where it is new.
    pub fn of(&self, test: &TestCaseId, environment: &str) -> Option<History> {
        self.0.get(environment)?.get(test).copied()
    }

    /// All of them.
    pub fn values(&self) -> impl Iterator<Item = &History> {
        self.0.values().flat_map(HashMap::values)
    }

    /// Notes what is known of a unit.
    pub fn insert(&mut self, test: TestCaseId, environment: &str, history: History) {
        match self.0.get_mut(environment) {
            Some(tests) => drop(tests.insert(test, history)),
            None => drop(self.0.insert(environment.to_owned(), HashMap::from([(test, history)]))),
        }
    }
}

/// The one in the middle; the longer of two.
pub(super) fn median(durations: impl IntoIterator<Item = Duration>) -> Option<Duration> {
    let mut durations: Vec<Duration> = durations.into_iter().collect();
    let middle = durations.len() / 2;
    (!durations.is_empty()).then(|| *durations.select_nth_unstable(middle).1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RunId;

    /// Of these verdicts and milliseconds, newest first.
    fn history(recent: &[(Verdict, u64)]) -> History {
        let created = jiff::Timestamp::UNIX_EPOCH;
        let outcome = |&(verdict, millis): &(Verdict, u64)| RecentOutcome {
            run: RunId::new("r"),
            created,
            verdict,
            duration: Duration::from_millis(millis),
        };
        History::of(&recent.iter().map(outcome).collect::<Vec<_>>())
    }

    #[test]
    fn its_length_is_the_median_of_the_last_that_passed() {
        use Verdict::{Failed, Flaky, Passed, Skipped};
        let length = |recent: &[_]| history(recent).duration.map(|duration| duration.as_millis());
        assert_eq!(length(&[(Passed, 5), (Passed, 900), (Flaky, 7)]), Some(7));
        assert_eq!(length(&[(Failed, 1), (Failed, 1), (Passed, 30), (Skipped, 0)]), Some(30));
        assert_eq!(length(&[(Failed, 3), (Skipped, 0)]), Some(3), "better than nothing");
        assert_eq!(length(&[(Skipped, 0)]), None);
        let slower: Vec<_> = [[(Passed, 100); 5].as_slice(), &[(Passed, 1); 27]].concat();
        assert_eq!(length(&slower), Some(100), "what was long ago is forgotten");
    }

    #[test]
    fn a_failure_among_the_last_few_results_is_one_of_late() {
        use Verdict::{Failed, Passed, Skipped};
        let failed = |recent: &[_]| history(recent).failed_lately;
        assert!(failed(&[(Passed, 1), (Skipped, 0), (Failed, 1)]));
        assert!(!failed(&[(Passed, 1), (Passed, 1), (Passed, 1), (Failed, 1)]));
    }
}
