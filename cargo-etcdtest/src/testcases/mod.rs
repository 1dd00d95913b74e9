//! Test cases: built, listed, selected, and kept in the store.

mod binary;
mod build;
mod cargo_config;
mod discover;
mod filter;
mod group;
mod listing;
mod test_list;

pub use binary::{Binary, BinaryKind};
pub use build::{BuildError, Built, CargoCommand, build};
pub use discover::{DEFAULT_LIST_TIMEOUT, ListError, ListFailure, discover};
pub use filter::{ExpressionError, Filter, RunIgnored, Selected, Selection};
pub use listing::ListingFault;
pub use test_list::{ListedTest, TestList};
