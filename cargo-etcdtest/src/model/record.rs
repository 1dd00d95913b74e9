//! What makes plain data a record of the store.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A kind of record with the newest schema that this version writes and reads.
pub trait Record: Serialize + DeserializeOwned {
    /// The schema number that is written. Older ones are read: fields that were added
    /// since have defaults.
    const SCHEMA: u64;
}
