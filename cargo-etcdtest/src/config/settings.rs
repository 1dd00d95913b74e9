//! The settings: each declared once.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ColorChoice;
use serde::Serialize;
use toml::de::DeValue;

use super::error::SettingsError;
use super::levels::{FinalStatusLevel, StatusLevel};
use super::load::Sources;
use super::overrides::Override;
use super::rules::{MaxFail, OutputWhen, PassOrFail, Retries, Rules, SlowTimeout};
use super::types::{Format, KeepRuns, StoreOutput, TestThreads, User};
use super::value::Value;
use crate::model::Labels;
use crate::store::etcd::EtcdOptions;
use crate::store::{Secret, StoreOptions};

/// The folder of the local store, from the workspace root.
const LOCAL_STORE: &str = ".etcdtest";

/// The variables that give access to the store and its secrets: no business of a test's.
pub const CREDENTIALS: [&str; 2] = ["ETCDTEST_PASSWORD", "ETCDTEST_AGE_KEY"];

/// What is known of a setting before anybody has set it.
#[derive(Clone, Copy, Debug)]
pub struct Declaration {
    field: &'static str,
    /// What it is for.
    pub meaning: &'static str,
    /// What it is if nobody sets it, as one would write it; empty for none.
    pub default: &'static str,
    /// What is accepted, to be read after "expected".
    pub expected: &'static str,
    /// Whether a value of the settings file is accepted.
    pub(super) accepts: fn(&DeValue<'_>) -> bool,
}

/// A setting as it is, and where it came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Its name, as in the settings file.
    pub name: String,
    /// Its value as one would write it; `***` for a secret, empty for none.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

/// Where the value of a setting came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "from")]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The settings file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The profile.
        profile: String,
    },
    /// An environment variable.
    Variable {
        /// Its name.
        name: String,
    },
    /// A flag of the command line.
    Flag,
}

/// Declares the settings: the typed struct, the struct of what flags said, the table of
/// declarations, and how all are resolved.
macro_rules! settings {
    ($($(#[doc = $meaning:literal])+ $field:ident: $type:ty = $default:literal,)+) => {
        /// All settings, resolved.
        #[derive(Clone, Debug)]
        pub struct Settings {
            $($(#[doc = $meaning])+ pub $field: $type,)+
            /// Each setting with its value and where that came from, in the order of the fields.
            pub origins: Vec<Setting>,
            /// What holds for some tests only; the first that says something of a test wins.
            pub overrides: Vec<Override>,
            /// How many tests may use a resource at once; one, where nothing is said.
            pub resources: BTreeMap<String, NonZeroUsize>,
        }

        /// What the flags said of each setting; `None` where there was no flag.
        #[derive(Clone, Debug, Default)]
        pub struct Flags {
            /// The profile of the settings file to use.
            pub profile: Option<String>,
            $($(#[doc = $meaning])+ pub $field: Option<<$type as Value>::Flag>,)+
        }

        impl Declaration {
            /// Every setting there is.
            pub const ALL: &[Self] = &[$(Self {
                field: stringify!($field),
                meaning: concat!($($meaning),+).trim_ascii(),
                default: $default,
                expected: <$type as Value>::EXPECTED,
                accepts: |value| <$type as Value>::read(value).is_some(),
            }),+];
        }

        impl Settings {
            /// Asks the sources for each setting.
            pub(super) fn resolve(flags: Flags, sources: &Sources<'_>) -> Result<Self, SettingsError> {
                let mut declarations = Declaration::ALL.iter();
                let mut origins = Vec::new();
                $(
                    let declaration = declarations.next().expect("there is one for each field");
                    let ($field, origin) = sources.resolve::<$type>(declaration, flags.$field)?;
                    origins.push(Setting { name: declaration.name(), value: $field.show(), origin });
                )+
                Ok(Self { $($field,)+ origins, overrides: Vec::new(), resources: BTreeMap::new() })
            }
        }
    };
}

settings! {
    /// Endpoints of the etcd cluster; without any, the store is the project's own `.etcdtest/`
    endpoints: Vec<String> = "",
    /// User of the etcd cluster
    user: Option<User> = "",
    /// Password of that user, unless it was written with the name; never in the file
    password: Option<Secret> = "",
    /// Certificate authority to trust, PEM
    cacert: Option<PathBuf> = "",
    /// Client certificate, PEM
    cert: Option<PathBuf> = "",
    /// Key of the client certificate, PEM
    key: Option<PathBuf> = "",
    /// File with the age identity that decrypts secrets
    identity: Option<PathBuf> = "",
    /// The age identity itself, `AGE-SECRET-KEY-1…`; never in the file
    age_key: Option<Secret> = "",
    /// Prefix of all keys, for several projects in one cluster
    namespace: Option<String> = "",
    /// How long a store that does not answer is waited for
    store_timeout: Duration = "2m",
    /// Environment that tests run against if none is chosen
    default_environment: String = "local",
    /// How long environments are waited for that others have reserved
    reserve_timeout: Duration = "30m",
    /// How long a reservation outlives a run that died or cannot reach the store
    reserve_ttl: Duration = "1m",
    /// What this machine has that tests may need: they run only where it is
    labels: Labels = "",
    /// How many tests run at once
    test_threads: TestThreads = "num-cpus",
    /// How often a failed test is tried again, and after which waits
    retries: Retries = "0",
    /// What a test counts as that passed after a failed attempt
    flaky_result: PassOrFail = "pass",
    /// What a test counts as that passed and left processes behind
    leaky_result: PassOrFail = "pass",
    /// How long an attempt may take; without, as long as it likes
    timeout: Option<Duration> = "",
    /// After how long a running test is shown as slow, and after how many such periods it is ended
    slow_timeout: SlowTimeout = "1m",
    /// How long the tests of a run may take altogether; without, as long as they like
    global_timeout: Option<Duration> = "",
    /// How long a test binary may take to list its tests
    list_timeout: Duration = "1m",
    /// After how many failed tests no more are begun
    max_fail: MaxFail = "1",
    /// Which tests get a line as things happen to them
    status_level: StatusLevel = "pass",
    /// Which tests are listed at the end of a run
    final_status_level: FinalStatusLevel = "fail",
    /// When the output of a test that passed is shown
    success_output: OutputWhen = "never",
    /// When the output of a test that failed is shown
    failure_output: OutputWhen = "immediate-final",
    /// Whose output is stored: that of failed attempts, of all, or none
    store_output: StoreOutput = "failed",
    /// Where the JUnit report of each run is written to, besides the store
    junit: Option<PathBuf> = "",
    /// How many of the newest runs stay when the end of a run deletes old ones, or `all`
    gc_keep_runs: KeepRuns = "100",
    /// How old the other runs must be for that
    gc_older_than: Duration = "14days",
    /// When to use colours
    color: ColorChoice = "auto",
    /// How data is printed
    format: Format = "human",
}

impl Declaration {
    /// Its name: the key in the settings file.
    pub fn name(&self) -> String {
        self.field.replace('_', "-")
    }

    /// The environment variable that sets it.
    pub fn variable(&self) -> String {
        format!("ETCDTEST_{}", self.field.to_uppercase())
    }
}

impl Settings {
    /// The password that goes with the user: one written with the name comes first.
    pub fn password(&self) -> Option<&Secret> {
        self.user.as_ref().and_then(|user| user.password.as_ref()).or(self.password.as_ref())
    }

    /// The rules for all tests: those that were given for this very run, by flag or variable,
    /// and those of the file and the defaults.
    pub fn rules(&self) -> (Rules, Rules) {
        let (mut given, mut usual) = (Rules::default(), Rules::default());
        let mut of = |name: &str, say: &dyn Fn(&mut Rules)| {
            let origin = self.origins.iter().find(|setting| setting.name == name).map(|known| &known.origin);
            let given_now = matches!(origin, Some(Origin::Flag | Origin::Variable { .. }));
            say(if given_now { &mut given } else { &mut usual });
        };
        of("retries", &|rules| rules.retries = Some(self.retries));
        of("flaky-result", &|rules| rules.flaky_result = Some(self.flaky_result));
        of("leaky-result", &|rules| rules.leaky_result = Some(self.leaky_result));
        of("timeout", &|rules| rules.timeout = self.timeout);
        of("slow-timeout", &|rules| rules.slow_timeout = Some(self.slow_timeout));
        of("success-output", &|rules| rules.success_output = Some(self.success_output));
        of("failure-output", &|rules| rules.failure_output = Some(self.failure_output));
        (given, usual)
    }

    /// The store that is meant: the etcd cluster, or the folder `.etcdtest/` below `root`.
    pub fn store_options(&self, root: &Path) -> StoreOptions {
        let usual = EtcdOptions::default();
        let etcd = EtcdOptions {
            endpoints: self.endpoints.clone(),
            user: self.user.as_ref().map(|user| user.name.clone()),
            password: self.password().cloned(),
            cacert: self.cacert.clone(),
            cert: self.cert.clone(),
            key: self.key.clone(),
            // Keys begin with a slash: `team` and `team/` mean the same.
            namespace: self.namespace.as_deref().unwrap_or_default().trim_end_matches('/').to_owned(),
            connect_timeout: usual.connect_timeout.min(self.store_timeout),
            request_timeout: usual.request_timeout.min(self.store_timeout),
        };
        StoreOptions { etcd, local: root.join(LOCAL_STORE) }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line, profile } => {
                write!(f, "{}:{line} (profile {profile})", path.display())
            }
            Self::Variable { name } => f.write_str(name),
            Self::Flag => f.write_str("flag"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_lists_every_setting_as_it_is_declared() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/settings.md");
        let document = std::fs::read_to_string(path).unwrap();
        let line = |declaration: &Declaration| {
            let (name, variable) = (declaration.name(), declaration.variable());
            let default = match declaration.default {
                "" => "none".to_owned(),
                default => format!("`{default}`"),
            };
            format!("| `{name}` | `{variable}` | {default} | {} |", declaration.meaning)
        };
        let expected: Vec<_> = Declaration::ALL.iter().map(line).collect();
        let listed: Vec<_> =
            document.lines().filter(|line| line.contains("`ETCDTEST_") && line.starts_with('|')).collect();
        assert_eq!(listed, expected, "\n{}\n", expected.join("\n"));
    }

    #[test]
    fn a_slash_at_the_end_of_the_namespace_makes_no_other_namespace() {
        let root = tempfile::tempdir().unwrap();
        let namespace = |given: &str| {
            let flags = Flags { namespace: Some(given.to_owned()), ..Flags::default() };
            Settings::load(flags, root.path(), []).unwrap().store_options(root.path()).etcd.namespace
        };
        assert_eq!(["/team/a", "/team/a/", "/"].map(namespace), ["/team/a", "/team/a", ""]);
    }

    #[test]
    fn a_default_is_written_as_it_is_shown() {
        let root = tempfile::tempdir().unwrap();
        let settings = Settings::load(Flags::default(), root.path(), []).unwrap();
        for (declaration, setting) in Declaration::ALL.iter().zip(&settings.origins) {
            assert_eq!(setting.value, declaration.default, "{}", declaration.name());
        }
    }
}
