//! The flags with which tests are selected.

use clap::Args;

use super::Failure;
use crate::testcases::{ExpressionError, Filter, RunIgnored, Selection};

/// Which tests are meant.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Which tests")]
pub struct FilterOptions {
    /// Parts of test names, or whole ids `package::binary::name`
    #[arg(value_name = "FILTER")]
    patterns: Vec<String>,
    /// Leave out tests with this in their name
    #[arg(long, value_name = "FILTER")]
    skip: Vec<String>,
    /// Names must be equal to FILTER
    #[arg(long)]
    exact: bool,
    /// Tests in this set, in nextest's language, with `tag()` and `owner()`
    #[arg(short = 'E', long = "filterset", alias = "filter-expr", value_name = "EXPR")]
    expressions: Vec<String>,
    /// Tests with this tag
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Tests of this owner
    #[arg(long = "owner", value_name = "OWNER")]
    owners: Vec<String>,
    /// What to do with ignored tests
    #[arg(long, value_name = "WHICH", default_value = "default")]
    run_ignored: RunIgnored,
}

impl FilterOptions {
    /// The parts of names that were typed.
    pub(super) fn patterns(&self) -> &[String] {
        &self.patterns
    }

    /// The filter that they ask for.
    ///
    /// # Errors
    /// An expression cannot be read.
    pub fn filter(self) -> Result<Filter, Failure> {
        let Self { patterns, skip, exact, expressions, tags, owners, run_ignored } = self;
        Ok(Filter::new(Selection { patterns, skip, exact, expressions, tags, owners, run_ignored })?)
    }
}

impl From<ExpressionError> for Failure {
    fn from(error: ExpressionError) -> Self {
        Self::usage(error)
    }
}
