//! Which tests get a line of their own, as people write it.

use clap::ValueEnum;

/// Which events of tests get a line as they happen: each level adds to those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum StatusLevel {
    /// None.
    None,
    /// Tests that failed, in whichever way.
    Fail,
    /// Failed attempts that are followed by another, and what came of such a test.
    Retry,
    /// Tests that take long.
    Slow,
    /// Tests that passed and left processes behind.
    Leak,
    /// All tests that were executed.
    Pass,
    /// Those that were not executed as well.
    Skip,
    /// Everything: at present the same.
    All,
}

/// Which tests are listed at the end of a run: each level adds to those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum FinalStatusLevel {
    /// None.
    None,
    /// Those that failed, in whichever way.
    Fail,
    /// Those that passed after a failed attempt.
    #[value(alias = "retry")]
    Flaky,
    /// Those that took long.
    Slow,
    /// Those that were skipped.
    Skip,
    /// Those that passed.
    Pass,
    /// Everything: at present the same.
    All,
}
