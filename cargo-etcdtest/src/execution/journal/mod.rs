//! The journal: what a worker has executed and a store elsewhere may not have yet.

mod folder;
mod frames;
mod header;
mod left_behind;
mod writer;

pub use folder::JournalFolder;
pub use header::{Header, StoreName};
pub use left_behind::{LeftBehind, Unreadable};
pub use writer::{Journal, JournalError, Kept};

/// What the name of a journal ends with.
const EXTENSION: &str = ".journal";

/// The first field of a record that holds a result: the others are the result as a block of
/// its own, and keys and values of its output.
const RESULT: &[u8] = b"result";
/// The first field of a record that says which units are stored.
const STORED: &[u8] = b"stored";
