//! What a test may return, and how an error of any type is told.

use std::convert::Infallible;
use std::error::Error;
use std::fmt::{self, Debug, Write};

/// What a test returns: `()`, or `Result<(), E>` with any `E: Debug`.
#[diagnostic::on_unimplemented(
    message = "a test cannot return `{Self}`",
    label = "not a result that a test can have",
    note = "a test returns `()` or `Result<(), E>` where `E: Debug`"
)]
pub trait TestResult {
    /// What went wrong.
    type Error;

    /// The result as a `Result`.
    ///
    /// # Errors
    /// The test's own error.
    fn into_result(self) -> Result<(), Self::Error>;
}

impl TestResult for () {
    type Error = Infallible;

    fn into_result(self) -> Result<(), Infallible> {
        Ok(())
    }
}

impl<E: Debug> TestResult for Result<(), E> {
    type Error = E;

    fn into_result(self) -> Self {
        self
    }
}

/// Why a test failed, in words.
#[doc(hidden)]
pub struct Failure(pub(crate) String);

/// libtest shows the error of a test by `Debug`.
impl Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Turns the result of a test into words, which `describe` finds for the error.
#[doc(hidden)]
pub fn finish<R: TestResult>(result: R, describe: impl FnOnce(&R::Error) -> String) -> Result<(), Failure> {
    result.into_result().map_err(|error| Failure(describe(&error)))
}

/// What the macro makes of a description.
#[doc(hidden)]
pub fn fail(description: String) -> Failure {
    Failure(description)
}

/// An error to be described by the first of three ways that fits its type: the compiler
/// takes the impl with the most references. The chain of an `anyhow::Error`, which is no
/// `Error` itself, is in its `Debug`.
#[doc(hidden)]
pub struct Described<'a, E>(pub &'a E);

/// First: a type that is an error.
#[doc(hidden)]
pub trait DescribeError {
    fn describe(&self) -> String;
}

impl<E: Error> DescribeError for &&Described<'_, E> {
    fn describe(&self) -> String {
        chain(self.0)
    }
}

/// Second: a box of an error.
#[doc(hidden)]
pub trait DescribeBox {
    fn describe(&self) -> String;
}

impl DescribeBox for &Described<'_, Box<dyn Error>> {
    fn describe(&self) -> String {
        chain(&**self.0)
    }
}

impl DescribeBox for &Described<'_, Box<dyn Error + Send>> {
    fn describe(&self) -> String {
        chain(&**self.0)
    }
}

impl DescribeBox for &Described<'_, Box<dyn Error + Send + Sync>> {
    fn describe(&self) -> String {
        chain(&**self.0)
    }
}

/// Last: all else. The bound stands at the method, so that a type without it is told once,
/// by [`TestResult`].
#[doc(hidden)]
pub trait DescribeDebug<E> {
    fn describe(&self) -> String
    where
        E: Debug;
}

impl<E> DescribeDebug<E> for Described<'_, E> {
    fn describe(&self) -> String
    where
        E: Debug,
    {
        format!("{:?}", self.0)
    }
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n  caused by: {cause}");
        source = cause.source();
    }
    text
}
