//! Which tests are meant.

mod expression;
mod matcher;
mod parser;
mod selection;

pub use parser::ExpressionError;
pub use selection::{Filter, RunIgnored, Selected, Selection};
