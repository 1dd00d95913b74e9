//! The flags that select tests, the same in every verb that has tests.

use clap::Args;

use super::Failure;
use crate::testcases::{Filter, RunIgnored, Selection};

/// Which tests.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Tests")]
pub struct FilterArgs {
    /// Parts of test names, or whole ids; any of them
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
    /// Leave out tests whose names contain this
    #[arg(long, value_name = "FILTER")]
    skip: Vec<String>,
    /// Filters must equal the whole name or id
    #[arg(long)]
    exact: bool,
    /// Filter expression, such as `tag(smoke) & !package(shop)`; any of them
    #[arg(short = 'E', long = "filterset", alias = "filter-expr", value_name = "EXPRESSION")]
    expressions: Vec<String>,
    /// Only tests with this tag; any of them
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Only tests of this owner; any of them
    #[arg(long = "owner", value_name = "OWNER")]
    owners: Vec<String>,
    /// Whether to run ignored tests
    #[arg(long, value_name = "WHICH", default_value = "default")]
    run_ignored: RunIgnored,
}

impl FilterArgs {
    /// The filter.
    ///
    /// # Errors
    /// An expression cannot be read.
    pub fn filter(self) -> Result<Filter, Failure> {
        let selection = Selection {
            patterns: self.filters,
            skip: self.skip,
            exact: self.exact,
            expressions: self.expressions,
            tags: self.tags,
            owners: self.owners,
            run_ignored: self.run_ignored,
        };
        Filter::new(selection).map_err(Failure::usage)
    }
}
