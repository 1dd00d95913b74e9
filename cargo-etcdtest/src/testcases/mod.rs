//! Test cases: built, listed, selected, and kept in the store.

mod binary;
mod build;
mod cargo_config;
mod catalog;
mod discover;
mod filter;
mod group;
mod listing;
mod question;
#[cfg(test)]
pub(crate) mod sample;
mod sync;
mod test_list;

pub use binary::{Binary, BinaryKind};
pub use build::{BuildError, Built, CargoCommand, build, usual_program_folder};
pub use catalog::{Catalog, CatalogError, StoredTestCase};
pub use discover::{ListError, ListFailure, discover};
pub use filter::{ExpressionError, Filter, RunIgnored, Selected, Selection, TestSet};
pub use listing::ListingFault;
pub use question::{Question, ask_what_lacks};
pub use sync::SyncCounts;
pub use test_list::{ListedTest, TestList};
