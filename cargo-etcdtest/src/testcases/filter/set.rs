//! A set of tests, written as a filter expression.

use super::expression::Expression;
use super::parser::{self, ExpressionError};
use crate::testcases::test_list::ListedTest;

/// The tests that a filter expression means.
#[derive(Clone, Debug)]
pub struct TestSet(Expression);

impl TestSet {
    /// Reads an expression.
    ///
    /// # Errors
    /// It is not one; the error points at the place.
    pub fn parse(expression: &str) -> Result<Self, ExpressionError> {
        parser::parse(expression).map(Self)
    }

    /// Whether a test is one of them.
    pub fn contains(&self, test: &ListedTest) -> bool {
        self.0.matches(test)
    }
}
