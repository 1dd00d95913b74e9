//! Names that must not be mixed up.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A test's identity: package, binary within it, and path within that.
///
/// Written `package::binary::path::name`. The binary is an integration test's name, `lib`
/// for the unit tests of a library, else `bin/NAME`, `example/NAME` or `bench/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TestCaseId {
    /// The cargo package.
    pub package: String,
    /// The binary; [`TestCaseId::ANY_BINARY`] while a hand-written test case has no code yet.
    pub binary: String,
    /// The path in the binary, as libtest writes it.
    pub test: String,
}

/// Why a text is no test case id.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no test case id: write `package::test` or `package::binary::test`")]
pub struct TestCaseIdError(String);

impl TestCaseId {
    /// The binary of a test case that was written before its code exists.
    pub const ANY_BINARY: &str = "-";

    /// An id of these parts.
    pub fn new(package: impl Into<String>, binary: impl Into<String>, test: impl Into<String>) -> Self {
        Self { package: package.into(), binary: binary.into(), test: test.into() }
    }
}

impl fmt::Display for TestCaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.binary == Self::ANY_BINARY {
            write!(f, "{}::{}", self.package, self.test)
        } else {
            write!(f, "{}::{}::{}", self.package, self.binary, self.test)
        }
    }
}

impl FromStr for TestCaseId {
    type Err = TestCaseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || TestCaseIdError(text.to_owned());
        if text.split("::").any(str::is_empty) {
            return Err(wrong());
        }
        let (package, rest) = text.split_once("::").ok_or_else(wrong)?;
        let (binary, path) = rest.split_once("::").unwrap_or((Self::ANY_BINARY, rest));
        Ok(Self::new(package, binary, path))
    }
}

/// A run's id: made by [`RunId::generate`], or any text given with `--run-id`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(String);

impl RunId {
    /// The id that was given.
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// A new id, `20261231-235959-x7k2pq`: sorts by time (UTC), random in its last part.
    pub fn generate() -> Self {
        let now = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S");
        Self(format!("{now}-{}", random_part()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A worker's id: host, process and a random part.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkerId(String);

impl WorkerId {
    /// The id that a record names.
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// A new id, `host-1234-x7k2pq`.
    pub fn generate(host: &str) -> Self {
        Self(format!("{host}-{}-{}", std::process::id(), random_part()))
    }

    /// The id of the same process where it begins to work for its run for the second time, or
    /// more often: `host-1234-x7k2pq.2`.
    #[must_use]
    pub fn again(&self, times: u32) -> Self {
        Self(format!("{}.{times}", self.0))
    }

    /// Whether this is the process of that id, however often it has begun.
    pub fn is_of(&self, process: &Self) -> bool {
        let rest = self.0.strip_prefix(&process.0);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A unit's place in its run's plan, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnitIndex(pub u32);

impl fmt::Display for UnitIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:06}", self.0)
    }
}

/// A unit's fencing token: the revision at which it moved to its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fence(pub i64);

/// Six random letters and digits.
pub(super) fn random_part() -> String {
    std::iter::repeat_with(fastrand::alphanumeric).take(6).collect::<String>().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_as_written() {
        for text in ["shop::checkout", "shop::smoke::orders::paid", "shop::bin/shop::tests::a"] {
            assert_eq!(text.parse::<TestCaseId>().unwrap().to_string(), text);
        }
        for text in ["", "shop", "shop::", "::a", "shop::::a"] {
            assert!(text.parse::<TestCaseId>().is_err(), "{text}");
        }
    }
}
