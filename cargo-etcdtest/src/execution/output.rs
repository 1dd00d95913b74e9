//! What a test prints, bounded in memory.

use std::collections::VecDeque;

use crate::reports::text::left_out_line;

/// How many bytes of each end are kept.
const END: usize = 256 << 10;

/// One stream of an attempt: its head and its tail, and how much there was between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    size: u64,
}

impl Output {
    /// Takes in what was printed next.
    pub fn push(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        let (head, rest) = bytes.split_at(bytes.len().min(END - self.head.len()));
        self.head.extend(head);
        self.tail.extend(&rest[rest.len().saturating_sub(END)..]);
        let excess = self.tail.len().saturating_sub(END);
        self.tail.drain(..excess);
    }

    /// How many bytes were printed.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// How many bytes of the middle were left out.
    pub fn left_out(&self) -> u64 {
        self.size - (self.head.len() + self.tail.len()) as u64
    }

    /// What was kept, with a line in place of what was left out.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.head.clone();
        if self.left_out() > 0 {
            bytes.push(b'\n');
            bytes.extend(left_out_line(self.left_out()).bytes());
        }
        let (front, back) = self.tail.as_slices();
        bytes.extend(front);
        bytes.extend(back);
        bytes
    }

    /// Whether nothing was printed.
    pub fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// The last complete or incomplete lines within the last bytes, as text.
    pub fn end(&self, bytes: usize) -> String {
        let kept = self.bytes();
        String::from_utf8_lossy(&kept[kept.len().saturating_sub(bytes)..]).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_and_tail_are_kept_and_the_middle_is_counted() {
        let mut output = Output::default();
        output.push(b"begin");
        for _ in 0..100 {
            output.push(&vec![b'x'; 100_000]);
        }
        output.push(b"end");
        let bytes = output.bytes();
        assert_eq!(output.size(), 10_000_008);
        assert!(bytes.starts_with(b"beginxxx") && bytes.ends_with(b"xxxend"));
        assert_eq!(output.left_out(), 10_000_008 - 2 * END as u64);
        assert!(String::from_utf8(bytes).unwrap().contains("\n[… 9475720 bytes left out …]\n"));
    }

    #[test]
    fn short_output_is_kept_whole() {
        let mut output = Output::default();
        output.push(&vec![b'a'; END]);
        output.push(&vec![b'b'; END]);
        assert_eq!(output.left_out(), 0);
        assert_eq!(output.bytes().len(), 2 * END);
        assert_eq!(output.end(3), "bbb");
    }
}
