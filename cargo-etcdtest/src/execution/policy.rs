//! The rules by which tests are executed, and how they come together for one test.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{
    MaxFail, OutputWhen, Override, PassOrFail, Retries, Rules, Settings, SlowTimeout, StoreOutput,
};
use crate::model::{Labels, Record};
use crate::testcases::ListedTest;

/// The rules of a run. They are stored with it: whoever works for it goes by the same.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Policy {
    /// How many attempts are executed at once; each worker has its own number.
    #[serde(skip, default = "one")]
    pub lanes: NonZeroUsize,
    /// After how many failures no more tests are begun.
    pub max_fail: MaxFail,
    /// How long all tests together may take.
    #[serde(default, with = "crate::model::seconds::option")]
    pub global_timeout: Option<Duration>,
    /// How many tests may use a resource at once; one, where nothing is said.
    pub resources: BTreeMap<String, NonZeroUsize>,
    /// How long environments are waited for that others have reserved.
    #[serde(with = "crate::model::seconds")]
    pub reserve_timeout: Duration,
    /// How long a reservation outlives a run that is not heard of.
    #[serde(with = "crate::model::seconds")]
    pub reserve_ttl: Duration,
    /// Which output is stored.
    pub store_output: StoreOutput,
    /// Pass output on as it comes; for this worker only.
    #[serde(skip)]
    pub show: bool,
    /// What was given for this very run comes before all else.
    given: Rules,
    /// Then what holds for some tests, the first that says something; then what the test
    /// says itself.
    overrides: Vec<Override>,
    /// Then what holds for all.
    usual: Rules,
}

impl Record for Policy {
    const SCHEMA: u64 = 1;
}

fn one() -> NonZeroUsize {
    NonZeroUsize::MIN
}

/// The rules for one test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestPolicy {
    /// How often a failed attempt is tried again, and after which waits.
    pub retries: Retries,
    /// What it counts as if it passes after a failed attempt.
    pub flaky_result: PassOrFail,
    /// What an attempt counts as that passed and left processes behind.
    pub leaky_result: PassOrFail,
    /// How long an attempt may take.
    pub timeout: Option<Duration>,
    /// After how long, and then how often, an attempt is reported as slow.
    pub slow: Duration,
    /// Time between the request to end and the kill.
    pub grace: Duration,
    /// How many lanes an attempt takes.
    pub threads: usize,
    /// The resource that it needs for itself.
    pub exclusive: Option<String>,
    /// What a worker must have to be dealt it.
    pub needs: Labels,
    /// When the output is shown if it passed.
    pub success_output: OutputWhen,
    /// When the output of a failed attempt is shown.
    pub failure_output: OutputWhen,
}

impl Policy {
    /// The rules that the settings have, executing one test at a time where output is shown
    /// as it comes.
    pub fn new(settings: &Settings, one_at_a_time: bool, show: bool) -> Self {
        let lanes = if one_at_a_time { 1 } else { settings.test_threads.count() };
        let (given, usual) = settings.rules();
        Self {
            lanes: NonZeroUsize::new(lanes).unwrap_or(NonZeroUsize::MIN),
            max_fail: settings.max_fail,
            global_timeout: settings.global_timeout,
            resources: settings.resources.clone(),
            reserve_timeout: settings.reserve_timeout,
            reserve_ttl: settings.reserve_ttl,
            store_output: settings.store_output,
            show,
            given,
            overrides: settings.overrides.clone(),
            usual,
        }
    }

    /// The rules of a run that this worker joins.
    #[must_use]
    pub fn under(&self, rules: Self) -> Self {
        Self { lanes: self.lanes, show: self.show, ..rules }
    }

    /// The rules for a test.
    pub fn of(&self, test: &ListedTest) -> TestPolicy {
        let own = Rules {
            retries: test.code.retries.map(Retries::at_once),
            timeout: test.code.timeout,
            exclusive: test.code.exclusive.clone(),
            needs: Some(test.code.needs.clone()).filter(|needs| !needs.is_empty()),
            ..Rules::default()
        };
        let overrides = self.overrides.iter().filter(|over| over.filter.contains(test));
        let layers: Vec<&Rules> = std::iter::once(&self.given)
            .chain(overrides.map(|over| &over.rules))
            .chain([&own, &self.usual])
            .collect();
        let slow = first(&layers, |rules| rules.slow_timeout)
            .unwrap_or(SlowTimeout::reported(Duration::from_mins(1)));
        TestPolicy {
            retries: first(&layers, |rules| rules.retries).unwrap_or(Retries::at_once(0)),
            flaky_result: first(&layers, |rules| rules.flaky_result).unwrap_or_default(),
            leaky_result: first(&layers, |rules| rules.leaky_result).unwrap_or_default(),
            timeout: timeout(&layers),
            slow: slow.period,
            grace: slow.grace_period,
            threads: first(&layers, |rules| rules.threads_required)
                .map_or(1, |required| required.of(self.lanes)),
            exclusive: first(&layers, |rules| rules.exclusive.clone()),
            needs: first(&layers, |rules| rules.needs.clone()).unwrap_or_default(),
            success_output: first(&layers, |rules| rules.success_output).unwrap_or_default(),
            failure_output: first(&layers, |rules| rules.failure_output).unwrap_or_default(),
        }
    }
}

/// What the first layer says that says something.
fn first<T>(layers: &[&Rules], say: impl Fn(&Rules) -> Option<T>) -> Option<T> {
    layers.iter().find_map(|rules| say(rules))
}

/// The time limit of the first layer that has one, as `timeout` or as so many slow periods.
/// A slow timeout replaces those of the layers below it with their limits.
fn timeout(layers: &[&Rules]) -> Option<Duration> {
    let mut replaced = false;
    layers.iter().find_map(|rules| {
        let slow = rules.slow_timeout.filter(|_| !replaced);
        replaced |= slow.is_some();
        rules.timeout.into_iter().chain(slow.and_then(|slow| slow.limit())).min()
    })
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use std::sync::Arc;

    use super::*;
    use crate::config::Flags;
    use crate::testcases::{BinaryKind, sample};

    fn policy(file: &str, flags: Flags, variables: &[(&str, &str)]) -> Policy {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join(".config")).unwrap();
        std::fs::write(root.path().join(".config/etcdtest.toml"), file).unwrap();
        let variables = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let mut policy = Policy::new(&Settings::load(flags, root.path(), variables).unwrap(), false, false);
        policy.lanes = NonZeroUsize::new(4).unwrap();
        policy
    }

    fn test(name: &str) -> ListedTest {
        sample::test(&sample::binary("smoke", BinaryKind::Test), name)
    }

    const FILE: &str = r#"
        [profile.default]
        retries = 1
        slow-timeout = { period = "10s", terminate-after = 6, grace-period = "1s" }
        [[profile.default.overrides]]
        filter = "test(payments)"
        retries = 5
        timeout = "2m"
        threads-required = 9
        [[profile.ci.overrides]]
        filter = "test(payments::card)"
        retries = { backoff = "fixed", count = 7, delay = "1s" }
        success-output = "final"
        [[profile.ci.overrides]]
        filter = "test(endless)"
        slow-timeout = "5m"
    "#;

    #[test]
    fn a_flag_comes_before_an_override_before_the_test_before_the_profile() {
        let ci = || Flags { profile: Some("ci".into()), ..Flags::default() };
        let retries = |flags, name: &str, own| {
            let mut test = test(name);
            Arc::make_mut(&mut test.code).retries = own;
            policy(FILE, flags, &[]).of(&test).retries.count
        };
        assert_eq!(retries(Flags::default(), "orders", None), 1);
        assert_eq!(retries(Flags::default(), "orders", Some(3)), 3);
        assert_eq!(retries(Flags::default(), "payments::card", Some(3)), 5);
        assert_eq!(retries(ci(), "payments::card", Some(3)), 7, "the chosen profile comes first");
        assert_eq!(retries(ci(), "payments::cash", Some(3)), 5);
        let flag = || Flags { retries: Some(Retries::at_once(0)), ..ci() };
        assert_eq!(retries(flag(), "payments::card", Some(3)), 0);
        let by_variable = policy(FILE, ci(), &[("ETCDTEST_RETRIES", "2")]);
        assert_eq!(by_variable.of(&test("payments::card")).retries.count, 2);
    }

    #[test]
    fn each_rule_is_taken_from_the_first_place_that_has_it() {
        let ci = Flags { profile: Some("ci".into()), ..Flags::default() };
        let rules = policy(FILE, ci, &[]).of(&test("payments::card"));
        assert_eq!(rules.success_output, OutputWhen::Final);
        assert_eq!(rules.failure_output, OutputWhen::ImmediateFinal);
        assert_eq!(rules.timeout, Some(Duration::from_mins(2)));
        assert_eq!((rules.slow, rules.grace), (Duration::from_secs(10), Duration::from_secs(1)));
        assert_eq!(rules.threads, 4, "all there are");
    }

    #[test]
    fn a_time_limit_is_a_timeout_or_so_many_slow_periods() {
        let limit = |name: &str, own| {
            let mut test = test(name);
            Arc::make_mut(&mut test.code).timeout = own;
            policy(FILE, Flags { profile: Some("ci".into()), ..Flags::default() }, &[]).of(&test).timeout
        };
        assert_eq!(limit("orders", None), Some(Duration::from_mins(1)));
        assert_eq!(limit("orders", Some(Duration::from_hours(1))), Some(Duration::from_hours(1)));
        assert_eq!(limit("endless", None), None, "its own slow timeout has no limit");
    }
}
