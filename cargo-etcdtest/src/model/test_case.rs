//! Test cases: what the code says of a test, and what people wrote by hand.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Labels, Record, TestCaseId};

/// A test case as stored under `/testcases/{package}/{binary}/{test}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TestCase {
    /// Who it is.
    pub id: TestCaseId,
    /// What its code says; `None` while it is only written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// What people wrote by hand; wins over what the code says, part by part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written: Option<Description>,
    /// Since when its code is gone from the binary that had it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vanished: Option<Timestamp>,
}

impl Record for TestCase {
    const SCHEMA: u64 = 1;
}

/// The parts of a test case that a person reads and filters by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Description {
    /// What it shows, in a paragraph.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// What is done, one by one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<String>,
    /// What then holds.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub expected: String,
    /// Tags to filter by.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// The person or team that answers for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

/// What the code of a test says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Code {
    /// How it is run.
    pub kind: TestKind,
    /// What its doc comment and arguments say.
    #[serde(flatten)]
    pub description: Description,
    /// Longest time an attempt may take.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "super::seconds::option")]
    pub timeout: Option<Duration>,
    /// How often a failed attempt is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
    /// Patterns of the environments it may run in; none means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub environments: Vec<String>,
    /// A resource that only one test at a time may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclusive: Option<String>,
    /// What a worker must have to run it.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub needs: Labels,
    /// Why it is ignored; an empty text where no reason was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ignore: Option<String>,
    /// Source file, relative to the workspace root; none for a plain `#[test]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Line in that file, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
}

/// How a test is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TestKind {
    /// `#[etcdtest::test]` in a binary with `etcdtest::main!()`.
    Annotated,
    /// A test of a binary that speaks libtest's command line.
    Plain,
}

/// Where a test case stands between paper and code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TestCaseState {
    /// Its code exists.
    Implemented,
    /// It is written by hand only.
    Written,
    /// Its code existed once.
    Vanished,
}

impl TestCase {
    /// Where it stands.
    pub fn state(&self) -> TestCaseState {
        match (&self.code, &self.vanished) {
            (None, _) => TestCaseState::Written,
            (Some(_), None) => TestCaseState::Implemented,
            (Some(_), Some(_)) => TestCaseState::Vanished,
        }
    }

    /// What a person reads: the hand-written parts, and the code's where nothing is written.
    pub fn description(&self) -> Description {
        let code = self.code.as_ref().map(|code| code.description.clone()).unwrap_or_default();
        let Some(written) = self.written.clone() else { return code };
        Description {
            description: or(written.description, code.description),
            steps: or(written.steps, code.steps),
            expected: or(written.expected, code.expected),
            tags: or(written.tags, code.tags),
            owner: or(written.owner, code.owner),
        }
    }
}

fn or<T: Default + PartialEq>(first: T, second: T) -> T {
    if first == T::default() { second } else { first }
}
