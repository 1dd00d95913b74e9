//! The store: one trait, two engines, the layout of keys and the form of records.

mod api;
mod clock;
mod commit;
mod compress;
mod connect;
pub mod copy;
mod error;
pub mod etcd;
pub mod gc;
pub mod keys;
mod lease;
pub mod local;
mod patience;
mod read;
mod records;
mod secret;
mod wake;

pub use api::*;
pub use commit::{Commit, commit};
pub use compress::{
    CHUNK, compress, decode_block, decode_output, decompress, encode_block, encode_data, encode_output,
};
pub use connect::{StoreOptions, connect};
pub use error::StoreError;
pub use lease::LeaseKeeper;
pub use patience::{Patience, pauses};
pub use read::{get, get_each, get_record, list, list_at, list_chunks, list_keys, list_split};
pub use records::{decode, decode_value, encode};
pub use secret::Secret;
pub use wake::Wake;
