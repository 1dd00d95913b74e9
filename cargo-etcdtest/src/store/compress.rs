//! What is stored compressed: blocks of results, and output and data sets in chunks.

use std::io::Read as _;

use super::api::{Key, KeyValue, Result};
use super::error::StoreError;
use super::keys;
use super::records::{decode_value, encode};
use crate::model::{Block, Fence, RunId, UnitIndex};

/// How many bytes one chunk of output, of a data set or of a report may take in the store.
pub const CHUNK: usize = 256 * 1024;

/// How many bytes of output or data go into one chunk: zstd may make what cannot be compressed
/// longer by 1/256, and a chunk is never longer than [`CHUNK`].
const PIECE: usize = 255 * 1024;

/// No value of ours is longer than this once it is decompressed; a longer one is damaged,
/// or made to fill the memory.
const LONGEST: u64 = 64 * 1024 * 1024;

/// How a zstd frame begins.
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Compresses bytes into one zstd frame.
pub fn compress(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, zstd::DEFAULT_COMPRESSION_LEVEL).expect("memory can be read and written")
}

/// The bytes of a stored value; one that is not compressed is taken as it is.
///
/// # Errors
/// [`StoreError::Record`] where the frame is damaged or holds more than 64 MiB.
pub fn decompress(key: &Key, value: &[u8]) -> Result<Vec<u8>> {
    if !value.starts_with(&MAGIC) {
        return Ok(value.to_vec());
    }
    let wrong = |reason: String| StoreError::Record { key: key.clone(), reason };
    let mut bytes = Vec::new();
    zstd::Decoder::with_buffer(value)
        .and_then(|decoder| decoder.take(LONGEST + 1).read_to_end(&mut bytes))
        .map_err(|error| wrong(format!("it cannot be decompressed: {error}")))?;
    if bytes.len() as u64 > LONGEST {
        return Err(wrong("it holds more than 64 MiB".into()));
    }
    Ok(bytes)
}

/// The value to store for a block of results.
pub fn encode_block(block: &Block) -> Vec<u8> {
    compress(&encode(block))
}

/// Reads a block of results back.
///
/// # Errors
/// As [`decompress`] and [`super::decode`].
pub fn decode_block(pair: &KeyValue) -> Result<Block> {
    decode_value(&pair.key, &decompress(&pair.key, &pair.value)?)
}

/// The keys and values under which a stream or attachment of an attempt is stored, in
/// order; none where there is nothing to store.
pub fn encode_output(
    run: &RunId,
    unit: UnitIndex,
    token: Fence,
    attempt: u32,
    name: &str,
    content: &[u8],
) -> Vec<(Key, Vec<u8>)> {
    pieces(content, |chunk| keys::log_chunk(run, unit, token.0, attempt, name, chunk))
}

/// The keys and values under which a data set of an environment is stored, in order.
pub fn encode_data(environment: &str, digest: &str, content: &[u8]) -> Vec<(Key, Vec<u8>)> {
    pieces(content, |chunk| keys::data_chunk(environment, digest, chunk))
}

fn pieces(content: &[u8], key: impl Fn(usize) -> Key) -> Vec<(Key, Vec<u8>)> {
    content.chunks(PIECE).enumerate().map(|(chunk, piece)| (key(chunk), compress(piece))).collect()
}

/// Puts a stream, an attachment or a data set together again from its chunks, in the order of their keys.
///
/// # Errors
/// As [`decompress`].
pub fn decode_output(chunks: &[KeyValue]) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    for chunk in chunks {
        content.extend(decompress(&chunk.key, &chunk.value)?);
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Outcome, UnitResult, WorkerId};
    use crate::store::Revision;

    fn pair(key: Key, value: Vec<u8>) -> KeyValue {
        KeyValue { key, value, created: Revision(1), modified: Revision(1), version: 1, lease: None }
    }

    #[test]
    fn a_block_reads_back_compressed_or_not() {
        let result = UnitResult {
            unit: UnitIndex(3),
            outcome: Outcome::Skipped,
            reason: Some("not today".into()),
            attempts: vec![],
            worker: WorkerId::new("w"),
            token: Fence(7),
        };
        let block = Block { results: vec![result; 100] };
        let value = encode_block(&block);
        assert!(value.len() < encode(&block).len() / 10);
        assert_eq!(decode_block(&pair("/b".into(), value)).unwrap(), block);
        assert_eq!(decode_block(&pair("/b".into(), encode(&block))).unwrap(), block);
    }

    #[test]
    fn a_damaged_block_names_its_key() {
        let mut value = encode_block(&Block { results: vec![] });
        value.truncate(value.len() - 1);
        let error = decode_block(&pair("/b/1".into(), value)).unwrap_err().to_string();
        assert!(error.starts_with("the record /b/1 cannot be read: it cannot be decompressed"), "{error}");
        let bomb = compress(&vec![0; 65 * 1024 * 1024]);
        let error = decode_block(&pair("/b".into(), bomb)).unwrap_err().to_string();
        assert!(error.ends_with("it holds more than 64 MiB"), "{error}");
    }

    #[test]
    fn output_that_cannot_be_compressed_stays_within_the_chunk_and_reads_back() {
        let mut random = fastrand::Rng::with_seed(1);
        let content: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(600_000).collect();
        let run = RunId::new("r");
        let chunks = encode_output(&run, UnitIndex(0), Fence(1), 1, "output", &content);
        assert_eq!(chunks.len(), 3);
        assert!(chunks.iter().all(|(_, value)| value.len() <= CHUNK));
        assert!(chunks.is_sorted());
        let pairs: Vec<KeyValue> = chunks.into_iter().map(|(key, value)| pair(key, value)).collect();
        assert_eq!(decode_output(&pairs).unwrap(), content);
        assert_eq!(encode_output(&run, UnitIndex(0), Fence(1), 1, "output", b""), vec![]);
    }
}
