//! What the runner said of an attempt.

use std::io;
use std::str::{self, FromStr};

use crate::protocol::{MAX_FRAME, Start};
use crate::system::Socket;

/// What stands before the texts of a [`Start`]: the length of the frame and its kind.
const HEAD: usize = 5;

/// A [`Start`] as it came, read where it stands, since few tests look at much of it.
///
/// Every process of an attempt gets one. Test binaries are seldom optimised: there each generic function
/// of std is compiled by itself, somewhere in the binary, and to enter another part of the binary costs a
/// forked process more than to run it. So this is plain loops over bytes.
pub(crate) struct Told {
    /// The frame.
    bytes: Box<[u8]>,
    /// Where each text ends.
    ends: [usize; 8],
    /// What the process exits with after a pass; 0 where the runner did not say it, which it always does.
    pub(crate) exit_code: i32,
}

/// The texts in their order.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "only a zygote's child writes an id"))]
pub(crate) enum Text {
    Test,
    Run,
    Unit,
    Worker,
    Attempt,
    Token,
    ExitCode,
    Environment,
}

impl Told {
    /// Room for what a runner mostly says.
    pub(crate) fn room() -> Box<[u8]> {
        vec![0; 1 << 10].into_boxed_slice()
    }

    /// Reads it from a socket, into `room` if it fits there.
    ///
    /// # Errors
    /// The socket carries no attempt.
    pub(crate) fn read(socket: &Socket, room: Box<[u8]>) -> io::Result<Self> {
        let mut bytes = room;
        if !socket.fill(&mut bytes, 0, HEAD)? {
            return Err(not_understood());
        }
        let length = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
        if bytes[4] != b'S' || length == 0 || length > MAX_FRAME {
            return Err(not_understood());
        }
        let end = HEAD - 1 + length;
        if end > bytes.len() {
            bytes = vec![0; end].into_boxed_slice();
        }
        if !socket.fill(&mut bytes, HEAD, end)? {
            return Err(not_understood());
        }
        let told = Self::parse(bytes, end);
        if told.exit_code == 0 { Err(not_understood()) } else { Ok(told) }
    }

    /// The same as if it had been read from a socket.
    pub(crate) fn of(start: &Start) -> Self {
        let mut bytes = vec![0; HEAD];
        bytes.extend(start.to_texts());
        let end = bytes.len();
        Self::parse(bytes.into_boxed_slice(), end)
    }

    /// Finds the texts; those that are missing are empty, and so there is no exit code.
    fn parse(bytes: Box<[u8]>, end: usize) -> Self {
        let (mut at, mut text, mut exit_code) = (HEAD, 0, 0);
        let mut ends = [end; 8];
        while at < end && text < Text::Environment as usize {
            let byte = bytes[at];
            if byte == 0 {
                ends[text] = at;
                text += 1;
            } else if text == Text::ExitCode as usize && byte.is_ascii_digit() && exit_code < 1 << 24 {
                // To have std read it is as much code again as all this.
                exit_code = exit_code * 10 + i32::from(byte - b'0');
            }
            at += 1;
        }
        Self { bytes, ends, exit_code }
    }

    fn place(&self, text: Text) -> (usize, usize) {
        let number = text as usize;
        let end = self.ends[number];
        (if number == 0 { HEAD } else { (self.ends[number - 1] + 1).min(end) }, end)
    }

    /// One of the texts; nothing where it is not UTF-8.
    pub(crate) fn text(&self, text: Text) -> &str {
        let (from, to) = self.place(text);
        str::from_utf8(&self.bytes[from..to]).unwrap_or_default()
    }

    /// One of the numbers; 0 where it is none.
    pub(crate) fn number<T: FromStr + Default>(&self, text: Text) -> T {
        self.text(text).parse().unwrap_or_default()
    }

    /// Writes [`Start::id`] and a zero byte; what there is no room for is left out.
    #[cfg(target_os = "linux")]
    pub(crate) fn write_id(&self, to: &mut [u8]) {
        let parts = [(Text::Run, b'/'), (Text::Unit, b'.'), (Text::Token, b'.'), (Text::Attempt, 0)];
        let (mut part, mut written) = (0, 0);
        while part < parts.len() {
            let (text, after) = parts[part];
            let (mut at, end) = self.place(text);
            while at <= end && written < to.len() {
                to[written] = if at < end { self.bytes[at] } else { after };
                at += 1;
                written += 1;
            }
            part += 1;
        }
    }
}

fn not_understood() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the runner said nothing that this version understands")
}

#[cfg(all(test, unix))]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn start() -> Start {
        Start {
            test: "orders::paid".into(),
            environment: "{\"url\":\"a\0b\"}".into(),
            run: "r".into(),
            unit: 4,
            worker: "w".into(),
            attempt: 2,
            token: -9,
            exit_code: 77,
        }
    }

    fn read(bytes: &[u8], room: usize) -> io::Result<Told> {
        let (mut runner, socket) = UnixStream::pair()?;
        runner.write_all(bytes)?;
        drop(runner);
        Told::read(&socket.into(), vec![0; room].into_boxed_slice())
    }

    #[test]
    fn a_start_reads_back_as_written_whether_there_was_room_or_not() {
        let start = start();
        for room in [HEAD, 1 << 10] {
            let told = read(&start.to_frame().encode().unwrap(), room).unwrap();
            let texts = [Text::Test, Text::Run, Text::Worker, Text::Environment].map(|text| told.text(text));
            assert_eq!(texts, ["orders::paid", "r", "w", &start.environment]);
            assert_eq!((told.number(Text::Unit), told.number(Text::Attempt)), (4_u32, 2_u32));
            assert_eq!((told.number(Text::Token), told.exit_code), (-9_i64, 77));
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn an_id_is_written_as_far_as_there_is_room() {
        let told = Told::of(&start());
        for room in [20, 10, 3] {
            let mut id = vec![b'-'; room];
            told.write_id(&mut id);
            let mut whole = [start().id().as_bytes(), b"\0---------------------"].concat();
            whole.truncate(room);
            assert_eq!(id, whole);
        }
    }

    #[test]
    fn what_is_torn_or_foreign_is_an_error_not_a_panic() {
        let whole = start().to_frame().encode().unwrap();
        for cut in 0..whole.len() {
            assert!(read(&whole[..cut], HEAD).is_err(), "{cut}");
        }
        for bytes in [&b"\x02\0\0\0S\0"[..], b"\0\0\0\0S", b"\xff\xff\xff\xffS", b"\x01\0\0\0P"] {
            assert!(read(bytes, HEAD).is_err(), "{bytes:?}");
        }
    }
}
