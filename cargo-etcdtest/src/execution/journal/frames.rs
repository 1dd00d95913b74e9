//! How records stand in a file, so that what a crash tore off and what was damaged since can be
//! told from what was written.
//!
//! A frame is a mark, the length of what follows, a checksum, and then the fields of the record,
//! each with its length before it. Lengths are of 8 bytes, the lowest first; the checksum is the
//! first 8 bytes of the SHA-256 of all that follows it.

use std::ops::Range;

use sha2::{Digest as _, Sha256};

const MARK: [u8; 4] = *b"\n\0et";
const LENGTH: usize = 8;
const CHECKSUM: usize = 8;
/// Where the fields begin.
const HEAD: usize = MARK.len() + LENGTH + CHECKSUM;

/// The records of a file, in order; in between, the ranges of bytes that are none.
#[derive(Debug)]
pub(super) struct Frames<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// A record, as its fields.
pub(super) type Fields<'a> = Vec<&'a [u8]>;

/// The bytes of a record.
pub(super) fn frame<'a>(fields: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut frame = vec![0; HEAD];
    for field in fields {
        frame.extend(length(field));
        frame.extend(field);
    }
    let (head, content) = frame.split_at_mut(HEAD);
    head[..MARK.len()].copy_from_slice(&MARK);
    head[MARK.len()..][..LENGTH].copy_from_slice(&length(content));
    head[HEAD - CHECKSUM..].copy_from_slice(&checksum(content));
    frame
}

/// Whether these bytes may be the beginning of a frame of which the rest was never written.
pub(super) fn is_cut_off(bytes: &[u8]) -> bool {
    let (mark, rest) = bytes.split_at(bytes.len().min(MARK.len()));
    let whole = take_length(rest).is_some_and(|(length, rest)| rest.len() >= length.saturating_add(CHECKSUM));
    MARK.starts_with(mark) && !whole
}

fn length(bytes: &[u8]) -> [u8; LENGTH] {
    (bytes.len() as u64).to_le_bytes()
}

fn checksum(content: &[u8]) -> [u8; CHECKSUM] {
    let digest = Sha256::digest(content);
    std::array::from_fn(|index| digest[index])
}

impl<'a> Frames<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Fields<'a>, Range<usize>>;

    fn next(&mut self) -> Option<Self::Item> {
        let start = self.at;
        let rest = &self.bytes[start..];
        if rest.is_empty() {
            return None;
        }
        if let Some((fields, length)) = first(rest) {
            self.at += length;
            return Some(Ok(fields));
        }
        // The next one that is whole.
        let next = (1..rest.len()).find(|&next| first(&rest[next..]).is_some());
        self.at = start + next.unwrap_or(rest.len());
        Some(Err(start..self.at))
    }
}

/// The record at the beginning of these bytes, and how long its frame is; `None` where there is
/// none that is whole.
fn first(bytes: &[u8]) -> Option<(Fields<'_>, usize)> {
    let rest = bytes.strip_prefix(&MARK)?;
    let (length, rest) = take_length(rest)?;
    let (sum, rest) = rest.split_first_chunk::<CHECKSUM>()?;
    let content = rest.get(..length)?;
    if *sum != checksum(content) {
        return None;
    }
    let (mut fields, mut content) = (Vec::new(), content);
    while !content.is_empty() {
        let (length, rest) = take_length(content)?;
        let (field, rest) = rest.split_at_checked(length)?;
        fields.push(field);
        content = rest;
    }
    Some((fields, HEAD + length))
}

fn take_length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    Some((usize::try_from(u64::from_le_bytes(*length)).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    type Records = Vec<Vec<Vec<u8>>>;

    fn written(records: &Records) -> (Vec<u8>, Vec<usize>) {
        let (mut file, mut ends) = (Vec::new(), vec![0]);
        for fields in records {
            file.extend(frame(fields.iter().map(Vec::as_slice)));
            ends.push(file.len());
        }
        (file, ends)
    }

    fn read(file: &[u8]) -> (Records, Vec<Range<usize>>) {
        let (mut records, mut gaps) = (Vec::new(), Vec::new());
        for found in Frames::new(file) {
            match found {
                Ok(fields) => records.push(fields.into_iter().map(<[u8]>::to_vec).collect()),
                Err(gap) => gaps.push(gap),
            }
        }
        (records, gaps)
    }

    fn records() -> impl Strategy<Value = Records> {
        vec(vec(vec(any::<u8>(), 0..40), 0..4), 1..6)
    }

    proptest! {
        #[test]
        fn a_file_cut_anywhere_keeps_all_records_before_the_cut(records in records()) {
            let (file, ends) = written(&records);
            for cut in 0..=file.len() {
                let whole = ends.iter().rposition(|&end| end <= cut).unwrap();
                let (read, gaps) = read(&file[..cut]);
                prop_assert_eq!(&read, &records[..whole]);
                prop_assert_eq!(is_cut_off(&file[..cut]), cut < ends[1]);
                let torn = (ends[whole] < cut).then_some(ends[whole]..cut);
                prop_assert_eq!(gaps, Vec::from_iter(torn));
            }
        }

        #[test]
        fn a_damaged_byte_costs_its_own_record_and_no_other(records in records(), flip in 1..=u8::MAX) {
            let (file, ends) = written(&records);
            for at in 0..file.len() {
                let mut file = file.clone();
                file[at] ^= flip;
                let hit = ends.iter().rposition(|&end| end <= at).unwrap();
                let (read, gaps) = read(&file);
                let mut left = records.clone();
                left.remove(hit);
                prop_assert_eq!(read, left);
                prop_assert_eq!(gaps, Vec::from_iter(Some(ends[hit]..ends[hit + 1])));
            }
        }

        #[test]
        fn whatever_stands_in_a_file_is_read_to_its_end(file in vec(any::<u8>(), 0..200)) {
            let (_, gaps) = read(&[&MARK[..], &file].concat());
            prop_assert_eq!(gaps.last().map(|gap| gap.end), Some(file.len() + MARK.len()));
        }
    }
}
