//! The store: one trait, two engines, the layout of keys and the form of records.

mod api;
mod compress;
mod error;
pub mod keys;
pub mod local;
mod read;
mod records;

pub use api::*;
pub use compress::{CHUNK, compress, decode_block, decode_output, decompress, encode_block, encode_output};
pub use error::StoreError;
pub use read::{get, get_record, list, list_at, list_chunks};
pub use records::{decode, decode_value, encode};
