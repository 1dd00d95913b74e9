//! The parameters of a test.

use serde_core::de::DeserializeOwned;

use crate::config::Wrong;
use crate::prepare::Need;
use crate::result::Failure;
use crate::{Context, Environment};

/// What a test can take as a parameter: [`&Context`](Context), [`&Environment`](Environment),
/// [`&Prepared<T>`](crate::Prepared), or any owned type that can be deserialized from the environment's config. The latter
/// reads the config key of the parameter's own name; where there is none, the whole config.
#[diagnostic::on_unimplemented(
    message = "a test cannot take a `{Self}`",
    label = "not a type that a test can take",
    note = "a test takes `&etcdtest::Context`, `&etcdtest::Environment`, `&etcdtest::Prepared<…>`, and owned types with `#[derive(serde::Deserialize)]`, which are read from the environment"
)]
pub trait Extract<'a>: Sized {
    /// Reads the parameter, or says what the environment lacks for it.
    #[doc(hidden)]
    fn extract(context: &'a Context, parameter: Parameter) -> Result<Self, Failure>;

    /// What has to be prepared for the parameter.
    #[doc(hidden)]
    fn need() -> Option<Need> {
        None
    }

    /// For what is read from the environment's config: what keeps the parameter of this name
    /// from being read.
    #[doc(hidden)]
    const CHECK: Option<Check> = None;
}

/// Looks for all that is wrong with what a parameter of this name reads.
#[doc(hidden)]
pub type Check = fn(&Environment, &str) -> Vec<Wrong>;

/// A parameter as it stands in the source.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Parameter {
    pub name: &'static str,
    pub ty: &'static str,
}

impl<'a> Extract<'a> for &'a Context {
    fn extract(context: &'a Context, _: Parameter) -> Result<Self, Failure> {
        Ok(context)
    }
}

impl<'a> Extract<'a> for &'a Environment {
    fn extract(context: &'a Context, _: Parameter) -> Result<Self, Failure> {
        Ok(context.environment())
    }
}

#[diagnostic::do_not_recommend]
impl<'a, T: DeserializeOwned> Extract<'a> for T {
    fn extract(context: &'a Context, Parameter { name, ty }: Parameter) -> Result<Self, Failure> {
        context.environment().parameter(name, ty).map_err(|error| Failure(error.to_string()))
    }

    const CHECK: Option<Check> = Some(Environment::check_parameter::<T>);
}

/// How a parameter of a type is read. The macro asks here alone, so that a wrong type is told
/// once.
#[doc(hidden)]
pub const fn parameter<'a, T: Extract<'a>>() -> Extractor<'a, T> {
    Extractor { extract: T::extract, need: T::need, check: T::CHECK }
}

/// What a type can do as a parameter.
#[doc(hidden)]
pub struct Extractor<'a, T> {
    extract: fn(&'a Context, Parameter) -> Result<T, Failure>,
    need: fn() -> Option<Need>,
    check: Option<Check>,
}

/// A parameter of a test, as its entry in the registry keeps it.
#[doc(hidden)]
#[derive(Debug)]
pub struct Declared {
    pub(crate) parameter: Parameter,
    /// What has to be prepared for it.
    pub(crate) need: fn() -> Option<Need>,
    /// Whether the environment has what it reads.
    pub(crate) check: Option<Check>,
}

impl<'a, T> Extractor<'a, T> {
    pub fn extract(&self, context: &'a Context, name: &'static str, ty: &'static str) -> Result<T, Failure> {
        (self.extract)(context, Parameter { name, ty })
    }

    pub const fn declared(&self, name: &'static str, ty: &'static str) -> Declared {
        Declared { parameter: Parameter { name, ty }, need: self.need, check: self.check }
    }
}
