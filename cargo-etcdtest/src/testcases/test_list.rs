//! The tests that binaries have.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::binary::Binary;
use crate::model::{Code, TestCaseId};

/// All tests of some binaries.
#[derive(Clone, Debug, Default)]
pub struct TestList {
    /// The tests, in the order of their ids.
    pub tests: Vec<ListedTest>,
    /// The binaries that were listed, also those without a test.
    pub binaries: Vec<Arc<Binary>>,
    /// For each package with a binary, the names of all test binaries its manifest has,
    /// listed this time or not.
    pub targets: BTreeMap<String, BTreeSet<String>>,
    /// What is odd, but no reason to stop.
    pub warnings: Vec<String>,
}

/// One test.
#[derive(Clone, Debug)]
pub struct ListedTest {
    /// Who it is.
    pub id: TestCaseId,
    /// What its code says: large, and shared by all copies.
    pub code: Arc<Code>,
    /// Whether it takes parameters that are read from the environment.
    pub typed: bool,
    /// Where it is.
    pub binary: Arc<Binary>,
}

impl TestList {
    /// A digest over ids and what the code says, in hexadecimal: equal for two builds that
    /// have the same tests.
    pub fn digest(&self) -> String {
        #[derive(Serialize)]
        struct Entry<'a>(&'a TestCaseId, &'a Code);

        let mut digest = Sha256::new();
        for test in &self.tests {
            let entry = serde_json::to_vec(&Entry(&test.id, &test.code));
            digest.update(entry.expect("a test case is plain data"));
            digest.update(b"\n");
        }
        hex::encode(digest.finalize())
    }
}
