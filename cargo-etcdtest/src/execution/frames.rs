//! Frames out of a socket, however its bytes arrive.

use std::io;

use etcdtest::protocol::{Frame, MAX_FRAME};

/// How many bytes are read at once.
pub(super) const CHUNK: usize = 16 << 10;

/// Bytes that came and are not yet taken as frames.
#[derive(Debug, Default)]
pub(super) struct Frames {
    pending: Vec<u8>,
    taken: usize,
}

impl Frames {
    /// Reads once.
    ///
    /// # Errors
    /// What reading says.
    pub(super) fn read(&mut self, read: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> io::Result<usize> {
        let mut buffer = [0; CHUNK];
        let length = read(&mut buffer)?;
        self.pending.drain(..std::mem::take(&mut self.taken));
        self.pending.extend(&buffer[..length]);
        Ok(length)
    }

    /// The next whole frame; `None` where more must be read.
    ///
    /// # Errors
    /// What came is no frame.
    pub(super) fn take(&mut self) -> Option<io::Result<Frame>> {
        let (length, rest) = self.pending[self.taken..].split_first_chunk()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        if length > MAX_FRAME {
            return Some(Err(io::Error::new(io::ErrorKind::InvalidData, "frame too large")));
        }
        let body = rest.get(..length)?;
        self.taken += 4 + length;
        Some(Frame::decode(body))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn frames_are_whole_however_their_bytes_arrive() {
        let sent: Vec<Frame> = (0..20).map(|number| Frame::Json(json!({ "number": number }))).collect();
        let bytes: Vec<u8> = sent.iter().flat_map(|frame| frame.encode().unwrap()).collect();
        for step in [1, 3, 7, bytes.len()] {
            let mut frames = Frames::default();
            let mut received = Vec::new();
            for chunk in bytes.chunks(step) {
                let read = |buffer: &mut [u8]| {
                    buffer[..chunk.len()].copy_from_slice(chunk);
                    Ok(chunk.len())
                };
                assert_eq!(frames.read(read).unwrap(), chunk.len());
                while let Some(frame) = frames.take() {
                    received.push(frame.unwrap());
                }
            }
            assert_eq!(received, sent, "{step} bytes at once");
        }
    }

    #[test]
    fn a_frame_that_is_too_large_is_an_error() {
        let mut frames = Frames::default();
        frames
            .read(|buffer| {
                buffer[..4].fill(0xff);
                Ok(4)
            })
            .unwrap();
        assert!(frames.take().unwrap().is_err());
    }
}
