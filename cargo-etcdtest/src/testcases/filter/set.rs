//! A set of tests, written as a filter expression.

use serde::{Deserialize, Serialize};

use super::expression::Expression;
use super::parser::{self, ExpressionError};
use crate::testcases::test_list::ListedTest;

/// The tests that a filter expression means.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TestSet {
    written: String,
    expression: Expression,
}

impl TestSet {
    /// Reads an expression.
    ///
    /// # Errors
    /// It is not one; the error points at the place.
    pub fn parse(expression: &str) -> Result<Self, ExpressionError> {
        Ok(Self { written: expression.to_owned(), expression: parser::parse(expression)? })
    }

    /// Whether a test is one of them.
    pub fn contains(&self, test: &ListedTest) -> bool {
        self.expression.matches(test)
    }
}

impl TryFrom<String> for TestSet {
    type Error = ExpressionError;

    fn try_from(written: String) -> Result<Self, ExpressionError> {
        Self::parse(&written)
    }
}

impl From<TestSet> for String {
    fn from(set: TestSet) -> Self {
        set.written
    }
}
