//! Reading records: one, or all of a range in pages.

use std::collections::HashMap;

use super::api::{Key, KeyRange, KeyValue, Op, Page, Read, Result, Revision, Store, Txn};
use super::error::StoreError;
use super::records::decode;
use crate::model::Record;

/// How many pairs one page carries.
const PAGE: usize = 1000;

/// How many pairs one page carries where each is a chunk of up to 256 KiB.
const PAGE_OF_CHUNKS: usize = 16;

/// How many others may stand between keys that are read together.
const STRANGERS: usize = 10;

/// Reads one key.
///
/// # Errors
/// As [`Store::read`].
pub async fn get(store: &dyn Store, key: Key) -> Result<Option<KeyValue>> {
    Ok(store.read(Read::key(key)).await?.pairs.pop())
}

/// Reads several keys, at most 100, all of one revision.
///
/// # Errors
/// As [`Store::read`].
pub async fn get_each(store: &dyn Store, keys: &[Key]) -> Result<Vec<Option<KeyValue>>> {
    let (Some(first), Some(last)) = (keys.iter().min(), keys.iter().max()) else { return Ok(Vec::new()) };
    // A server reads neighbours far sooner than as many single keys.
    let all = KeyRange { start: first.clone(), end: Some(last.successor()) };
    let page = store.read(Read { limit: Some(keys.len() + STRANGERS), ..Read::from(all) }).await?;
    if !page.more {
        let mut found: HashMap<Key, KeyValue> =
            page.pairs.into_iter().map(|pair| (pair.key.clone(), pair)).collect();
        return Ok(keys.iter().map(|key| found.remove(key)).collect());
    }
    let then = keys.iter().cloned().map(|key| Op::Get(Read::key(key))).collect();
    let outcome = store.txn(Txn { then, ..Txn::default() }).await?;
    Ok(outcome.pages().map(|mut page| page.pairs.pop()).collect())
}

/// Reads one record, with the pair it came in.
///
/// # Errors
/// As [`Store::read`] and [`decode`].
pub async fn get_record<T: Record>(store: &dyn Store, key: Key) -> Result<Option<(T, KeyValue)>> {
    match get(store, key).await? {
        None => Ok(None),
        Some(pair) => Ok(Some((decode(&pair)?, pair))),
    }
}

/// Reads a whole range in pages, all of one revision, as it is now.
///
/// # Errors
/// As [`Store::read`].
pub async fn list(store: &dyn Store, range: KeyRange) -> Result<Page> {
    list_at(store, range, None).await
}

/// Reads a whole range in pages, all of one revision, as it was at `at`.
///
/// # Errors
/// As [`Store::read`].
pub async fn list_at(store: &dyn Store, range: KeyRange, at: Option<Revision>) -> Result<Page> {
    in_pages(store, Read { limit: Some(PAGE), at, ..Read::from(range) }).await
}

/// Reads a whole range as [`list`] does, piece by piece between these keys, which come in
/// their order. A server looks at all that is left of a range for each page of it: where the
/// keys are known about which there will be many, the pieces should be small.
///
/// # Errors
/// As [`Store::read`].
pub async fn list_split(store: &dyn Store, range: KeyRange, between: &[Key]) -> Result<Page> {
    loop {
        match list_split_once(store, range.clone(), between).await {
            Err(StoreError::Compacted(_)) => {}
            other => return other,
        }
    }
}

async fn list_split_once(store: &dyn Store, range: KeyRange, between: &[Key]) -> Result<Page> {
    let mut whole = Page::default();
    let (mut start, mut at) = (range.start.clone(), None);
    let inside = between.iter().filter(|key| range.contains(key)).cloned().map(Some);
    for end in inside.chain([range.end.clone()]) {
        let piece = KeyRange { start: start.clone(), end: end.clone() };
        let page = in_pages_once(store, Read { limit: Some(PAGE), at, ..Read::from(piece) }).await?;
        at = at.or(Some(page.revision));
        whole.pairs.extend(page.pairs);
        start = end.unwrap_or(start);
    }
    whole.revision = at.unwrap_or_default();
    Ok(whole)
}

/// Reads the keys of a whole range in pages, all of one revision, without their values.
///
/// # Errors
/// As [`Store::read`].
pub async fn list_keys(store: &dyn Store, range: KeyRange) -> Result<Page> {
    in_pages(store, Read { limit: Some(PAGE), keys_only: true, ..Read::from(range) }).await
}

/// Reads a whole range of large values, all of one revision, a few at a time.
///
/// # Errors
/// As [`Store::read`].
pub async fn list_chunks(store: &dyn Store, range: KeyRange) -> Result<Page> {
    in_pages(store, Read { limit: Some(PAGE_OF_CHUNKS), ..Read::from(range) }).await
}

/// A list of what is now begins anew where a compaction took the revision of its first page.
async fn in_pages(store: &dyn Store, read: Read) -> Result<Page> {
    loop {
        match in_pages_once(store, read.clone()).await {
            Err(StoreError::Compacted(_)) if read.at.is_none() => {}
            other => return other,
        }
    }
}

async fn in_pages_once(store: &dyn Store, mut read: Read) -> Result<Page> {
    let mut whole = store.read(read.clone()).await?;
    while whole.more {
        let Some(last) = whole.pairs.last() else { break };
        read.range.start = last.key.successor();
        read.at = Some(read.at.unwrap_or(whole.revision));
        let page = store.read(read.clone()).await?;
        whole.pairs.extend(page.pairs);
        whole.more = page.more;
    }
    Ok(whole)
}
