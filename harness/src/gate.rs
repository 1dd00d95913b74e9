//! Tests exist in test builds only, like those of the compiler.
#![allow(unexpected_cfgs, reason = "the compile tests of this crate are built with `--cfg trybuild`")]

/// Keeps its items in test builds of the crate that uses it.
#[cfg(not(trybuild))]
#[doc(hidden)]
#[macro_export]
macro_rules! __in_test_builds {
    ($($item:item)*) => { $(#[cfg(test)] $item)* };
}

/// The compile tests are built as plain programs, which are no test builds: there the gate
/// stands open.
#[cfg(trybuild)]
#[doc(hidden)]
#[macro_export]
macro_rules! __in_test_builds {
    ($($item:item)*) => { $($item)* };
}
