//! The test harness of `cargo etcdtest`.

mod attempt;
mod config;
mod context;
mod environment;
mod extract;
mod front;
mod gate;
mod panics;
#[doc(hidden)]
pub mod private;
pub mod protocol;
mod registry;
mod result;
mod run;
mod skip;
mod standalone;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

pub use context::Context;
pub use environment::{ConfigError, Environment};
pub use etcdtest_macros::test;
pub use extract::{Extract, Parameter};
pub use result::TestResult;

/// The `main` function of a test binary: `etcdtest::main!();`, once, at the top level of a
/// test target with `harness = false`.
#[macro_export]
macro_rules! main {
    () => {
        fn main() -> ::std::process::ExitCode {
            $crate::private::main()
        }
    };
}
