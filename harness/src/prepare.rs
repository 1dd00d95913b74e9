//! What is set up once for all tests of a binary.

use std::any::{Any, TypeId, type_name};
use std::fmt;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use crate::extract::{Extract, Parameter};
use crate::result::Failure;
use crate::skip::{Skip, skip};
use crate::{Context, panics, registry};

/// What a function under [`#[etcdtest::prepare]`](macro@crate::prepare) returned. Every test
/// of the binary can take it as a parameter, `catalog: &Prepared<Catalog>`, and read it as
/// what it is, a `Catalog`.
pub struct Prepared<T>(T);

impl<T> Deref for Prepared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: fmt::Debug> fmt::Debug for Prepared<T> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A type that a test takes prepared.
#[doc(hidden)]
pub struct Need {
    pub(crate) id: TypeId,
    pub(crate) ty: &'static str,
}

impl Need {
    fn of<T: 'static>() -> Self {
        Self { id: TypeId::of::<T>(), ty: type_name::<T>() }
    }
}

/// A `Prepared<T>` of any type.
#[doc(hidden)]
pub type Value = Box<dyn Any + Send + Sync>;

/// A function that prepares, as the macro writes it.
#[doc(hidden)]
pub struct Provider {
    /// Module path with the crate's name, and function.
    pub path: &'static str,
    pub id: fn() -> TypeId,
    pub ty: fn() -> &'static str,
    pub run: fn() -> Result<Value, Failure>,
    /// Where what it returned is kept.
    pub kept: &'static Kept,
    pub file: &'static str,
    pub line: u32,
}

inventory::collect!(Provider);

/// What a function returned when it ran, once in the process.
#[doc(hidden)]
pub struct Kept(OnceLock<Result<Value, Cause>>);

/// Why there is no value.
enum Cause {
    Failed(String),
    Skipped(String),
}

impl Kept {
    #[expect(clippy::new_without_default, reason = "a static is made of it, which `Default` cannot do")]
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }
}

impl Provider {
    fn name(&self) -> &'static str {
        registry::without_crate(self.path)
    }

    fn value(&self) -> &'static Result<Value, Cause> {
        self.kept.0.get_or_init(|| {
            let failed = |why: &str| Cause::Failed(format!("prepare `{}` failed: {why}", self.name()));
            let payload = match catch_unwind(AssertUnwindSafe(self.run)) {
                Ok(returned) => return returned.map_err(|failure| failed(&failure.0)),
                Err(payload) => payload,
            };
            if let Some(Skip(reason)) = payload.downcast_ref() {
                return Err(Cause::Skipped(reason.clone()));
            }
            let message = panics::message(&*payload);
            Err(failed(&match panics::location(&*payload) {
                Some(location) => format!("panicked at {location}: {message}"),
                None => message,
            }))
        })
    }
}

/// What prepares a value of this type.
pub(crate) fn provider(id: TypeId) -> Option<&'static Provider> {
    inventory::iter::<Provider>.into_iter().find(|provider| (provider.id)() == id)
}

/// Runs every function that a test of this binary needs, one at each step, as the tests in the
/// order of their names need them first, and gives its name.
#[cfg(target_os = "linux")]
pub(crate) fn all() -> impl Iterator<Item = &'static str> {
    // Where the tests cannot be listed, each attempt says why.
    let entries = registry::entries().unwrap_or_default();
    let mut needed = Vec::new();
    for need in entries.iter().flat_map(|(_, entry)| entry.needed()) {
        if !needed.contains(&need.id) {
            needed.push(need.id);
        }
    }
    needed.into_iter().filter_map(provider).map(|provider| {
        provider.value();
        provider.name()
    })
}

impl<'a, T: Send + Sync + 'static> Extract<'a> for &'a Prepared<T> {
    fn extract(_: &'a Context, _: Parameter) -> Result<Self, Failure> {
        // With two functions for a type, or none, no test starts.
        registry::entries().map_err(|wrong| Failure(wrong.to_string()))?;
        let missing = || Failure(format!("nothing prepares a `{}`", type_name::<T>()));
        match provider(TypeId::of::<T>()).ok_or_else(missing)?.value() {
            Ok(value) => value.downcast_ref().ok_or_else(missing),
            Err(Cause::Failed(why)) => Err(Failure(why.clone())),
            Err(Cause::Skipped(why)) => skip(why.clone()),
        }
    }

    fn need() -> Option<Need> {
        Some(Need::of::<T>())
    }
}

/// What the macro calls with what the function returned.
#[doc(hidden)]
pub fn prepared<T: Send + Sync + 'static>(value: T) -> Value {
    Box::new(Prepared(value))
}
