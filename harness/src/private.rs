//! What the macros expand to. No part of it is for people to call.

pub use inventory;

pub use crate::__in_test_builds as in_test_builds;
pub use crate::config::Wrong;
pub use crate::extract::{Check, Declared, Parameter, parameter};
pub use crate::front::main;
pub use crate::prepare::{Kept, Need, Provider, Value, prepared};
pub use crate::registry::{Entry, ShouldPanic};
pub use crate::result::{DescribeBox, DescribeDebug, DescribeError, Described, Failure, fail, finish};
pub use crate::skip::skip;

use crate::protocol::Outcome;
use crate::{registry, run, standalone};

/// Runs the test of this path in a plain libtest binary, with the stand-alone environment.
pub fn twin(path: &str) -> Result<(), Failure> {
    let name = path.split_once("::").map_or(path, |(_, name)| name);
    let entry = registry::find(name).map_err(|error| Failure(error.to_string()))?;
    let (_, entry) = entry.ok_or_else(|| Failure(format!("`{name}` is not in the registry")))?;
    match run::in_place(entry, &standalone::context(entry)?) {
        Outcome::Passed => Ok(()),
        Outcome::Skipped(reason) => {
            println!("skipped: {reason}");
            Ok(())
        }
        Outcome::Failed { message, .. } => Err(Failure(message)),
    }
}

/// Runs the future of an `async` test to its end.
#[cfg(feature = "tokio")]
pub fn block_on<T>(test: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure(format!("failed to start the runtime of an async test: {error}")))?;
    Ok(runtime.block_on(test))
}
