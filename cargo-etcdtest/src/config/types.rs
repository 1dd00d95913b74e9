//! The values of settings that are types of their own.

use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::store::Secret;

/// A user of the etcd cluster, written `NAME` or `NAME:PASSWORD`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name, not empty.
    pub name: String,
    /// The password, if it was written with the name.
    pub password: Option<Secret>,
}

/// How many tests run at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TestThreads {
    /// As many as the machine has cores.
    Cores,
    /// So many fewer than the machine has cores, but at least one.
    CoresLess(NonZeroUsize),
    /// So many.
    Exactly(NonZeroUsize),
}

/// How many runs a store keeps, however old they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepRuns {
    /// The newest so many.
    Newest(NonZeroUsize),
    /// All.
    All,
}

/// Whose output is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoreOutput {
    /// That of failed attempts.
    #[default]
    Failed,
    /// That of all attempts.
    All,
    /// None.
    None,
}

/// How data is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Human,
    /// JSON, stable and documented; newline-delimited where there is more than one document.
    Json,
}

/// Why a text is no user.
#[derive(Debug, thiserror::Error)]
#[error("expected a name, or a name and a password with a colon between")]
pub struct UserError;

/// Why a text is no number of threads.
#[derive(Debug, thiserror::Error)]
#[error("expected a number, `num-cpus`, or a negative number to leave so many cores free")]
pub struct TestThreadsError;

/// Why a text is no number of runs.
#[derive(Debug, thiserror::Error)]
#[error("expected a number from 1, or `all`")]
pub struct KeepRunsError;

impl KeepRuns {
    /// The number; `None` for all.
    pub fn count(self) -> Option<NonZeroUsize> {
        match self {
            Self::Newest(count) => Some(count),
            Self::All => None,
        }
    }
}

impl FromStr for KeepRuns {
    type Err = KeepRunsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "all" => Ok(Self::All),
            _ => text.parse().map(Self::Newest).map_err(|_| KeepRunsError),
        }
    }
}

impl fmt::Display for KeepRuns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newest(count) => count.fmt(f),
            Self::All => f.write_str("all"),
        }
    }
}

impl FromStr for User {
    type Err = UserError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, password) = match text.split_once(':') {
            Some((name, password)) => (name, Some(Secret::new(password))),
            None => (text, None),
        };
        if name.is_empty() { Err(UserError) } else { Ok(Self { name: name.to_owned(), password }) }
    }
}

impl TestThreads {
    /// The number on this machine.
    pub fn count(self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        match self {
            Self::Cores => cores,
            Self::CoresLess(fewer) => cores.saturating_sub(fewer.get()).max(1),
            Self::Exactly(count) => count.get(),
        }
    }
}

impl FromStr for TestThreads {
    type Err = TestThreadsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |digits: &str| digits.parse().map_err(|_| TestThreadsError);
        match text.strip_prefix('-') {
            _ if text == "num-cpus" => Ok(Self::Cores),
            Some(fewer) => number(fewer).map(Self::CoresLess),
            None => number(text).map(Self::Exactly),
        }
    }
}

impl fmt::Display for TestThreads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cores => f.write_str("num-cpus"),
            Self::CoresLess(fewer) => write!(f, "-{fewer}"),
            Self::Exactly(count) => count.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_counted_as_nextest_does() {
        let cores = TestThreads::Cores.count();
        assert_eq!("num-cpus".parse::<TestThreads>().unwrap().count(), cores);
        assert_eq!("3".parse::<TestThreads>().unwrap().count(), 3);
        assert_eq!("-1".parse::<TestThreads>().unwrap().count(), (cores - 1).max(1));
        assert_eq!("-999999".parse::<TestThreads>().unwrap().count(), 1);
        for wrong in ["0", "-0", "", "-", "--1", "two", "1.5"] {
            assert!(wrong.parse::<TestThreads>().is_err(), "{wrong}");
        }
    }
}
