//! Which tests are meant.

mod expression;
mod matcher;
mod parser;
mod selection;
mod set;

pub use parser::ExpressionError;
pub use selection::{Filter, RunIgnored, Selected, Selection};
pub use set::TestSet;
