//! What the runner and its keeper say to each other.

use std::ffi::{CStr, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, absolute};
use std::process::Command;

use rustix::process::Pid;

use crate::execution::process::Program;

/// The largest request, in bytes.
pub(super) const MAX_REQUEST: usize = 256 << 10;
/// The size of every reply, in bytes.
const REPLY: usize = 13;
/// The largest packet of replies: that a process has ended, and what became of the one that comes
/// after it.
pub(super) const MAX_REPLY: usize = 2 * REPLY;

/// Asks for a process, in a group of its own.
///
/// It travels as the id, the process that it comes after (0 for none), and then texts that
/// each end with a zero byte, which no argument of a process can contain: folder, number of
/// arguments, the arguments, of which the first is the program, and each variable that is not
/// the keeper's own, as `NAME=VALUE`, or `NAME` alone where it is taken away. An id without
/// anything takes the request of that id back.
#[derive(Debug)]
pub(super) struct Request<'a> {
    /// What the answer calls it by.
    pub(super) id: u64,
    /// Start it when this process of the keeper has ended with success, and only then.
    pub(super) after: Option<Pid>,
    /// Where it is started.
    pub(super) folder: &'a CStr,
    /// Its program.
    pub(super) program: &'a CStr,
    /// Its arguments, of which the program is the first.
    pub(super) arguments: Vec<&'a CStr>,
    /// How its variables differ from the keeper's.
    pub(super) variables: Vec<&'a CStr>,
}

/// What the runner asks.
#[derive(Debug)]
pub(super) enum Asked<'a> {
    /// To start a process.
    Start(Request<'a>),
    /// Not to start the process of this id, unless it runs already.
    Withdraw(u64),
}

/// What the keeper tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// The process runs.
    Started { id: u64, pid: i32 },
    /// There is no process, for this reason of the system; one that was taken back or whose
    /// time has not come is `ECANCELED`.
    NotStarted { id: u64, errno: i32 },
    /// A process has ended: one that was asked for, or that one of those left behind.
    Ended { pid: i32, status: i32 },
}

/// What to start, on the runner's side.
pub(super) struct Wanted<'a> {
    pub(super) program: &'a OsStr,
    /// The runner's own where there is none.
    folder: Option<&'a Path>,
    /// Without the program.
    arguments: Vec<&'a OsStr>,
    /// Those that are set or taken away.
    variables: Vec<(&'a OsStr, Option<&'a OsStr>)>,
}

impl<'a> From<&'a Program> for Wanted<'a> {
    fn from(program: &'a Program) -> Self {
        Self {
            program: program.path().as_os_str(),
            folder: Some(program.folder()),
            arguments: program.arguments().collect(),
            variables: program.variables().map(|(name, value)| (name, Some(value))).collect(),
        }
    }
}

impl<'a> From<&'a Command> for Wanted<'a> {
    fn from(command: &'a Command) -> Self {
        Self {
            program: command.get_program(),
            folder: command.get_current_dir(),
            arguments: command.get_args().collect(),
            variables: command.get_envs().collect(),
        }
    }
}

impl Wanted<'_> {
    /// The packet that asks for it.
    ///
    /// # Errors
    /// A part of it contains a zero byte.
    pub(super) fn encode(&self, id: u64, after: Option<Pid>) -> io::Result<Vec<u8>> {
        let mut packet = encode_withdrawal(id).to_vec();
        packet.extend(Pid::as_raw(after).to_le_bytes());
        let mut push = |parts: &[&OsStr]| {
            for part in parts {
                if part.as_bytes().contains(&0) {
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, "a zero byte in an argument"));
                }
                packet.extend(part.as_bytes());
            }
            packet.push(0);
            Ok(())
        };
        // The keeper's own may be any.
        push(&[absolute(self.folder.unwrap_or(Path::new(".")))?.as_os_str()])?;
        push(&[OsStr::new(&(1 + self.arguments.len()).to_string())])?;
        push(&[self.program])?;
        for argument in &self.arguments {
            push(&[argument])?;
        }
        for (name, value) in &self.variables {
            match value {
                Some(value) => push(&[name, OsStr::new("="), value])?,
                None => push(&[name])?,
            }
        }
        Ok(packet)
    }
}

/// The packet that takes a request back.
pub(super) fn encode_withdrawal(id: u64) -> [u8; 8] {
    id.to_le_bytes()
}

impl<'a> Asked<'a> {
    /// Reads a packet; `None` where it is none.
    pub(super) fn decode(packet: &'a [u8]) -> Option<Self> {
        let (id, rest) = packet.split_first_chunk()?;
        let id = u64::from_le_bytes(*id);
        if rest.is_empty() {
            return Some(Self::Withdraw(id));
        }
        let (after, mut rest) = rest.split_first_chunk()?;
        let after = Pid::from_raw(i32::from_le_bytes(*after));
        let mut text = || {
            let text = CStr::from_bytes_until_nul(rest).ok()?;
            rest = &rest[text.count_bytes() + 1..];
            Some(text)
        };
        let folder = text()?;
        let count: usize = text()?.to_str().ok()?.parse().ok()?;
        let mut arguments = Vec::new();
        for _ in 0..count {
            arguments.push(text()?);
        }
        let program = *arguments.first()?;
        let variables = std::iter::from_fn(&mut text).collect();
        rest.is_empty().then_some(Self::Start(Request { id, after, folder, program, arguments, variables }))
    }
}

impl Reply {
    /// Its part of a packet.
    pub(super) fn encode(self) -> [u8; REPLY] {
        let (kind, id, value) = match self {
            Self::Started { id, pid } => (b'S', id, pid),
            Self::NotStarted { id, errno } => (b'N', id, errno),
            Self::Ended { pid, status } => (b'E', u64::from(pid.cast_unsigned()), status),
        };
        let mut packet = [kind; REPLY];
        packet[1..9].copy_from_slice(&id.to_le_bytes());
        packet[9..].copy_from_slice(&value.to_le_bytes());
        packet
    }

    /// Reads the replies of a packet.
    pub(super) fn decode_all(packet: &[u8]) -> impl Iterator<Item = Self> {
        packet.chunks(REPLY).filter_map(Self::decode)
    }

    fn decode(part: &[u8]) -> Option<Self> {
        let (kind, rest) = part.split_first()?;
        let (id, value) = rest.split_first_chunk()?;
        let (id, value) = (u64::from_le_bytes(*id), i32::from_le_bytes(value.try_into().ok()?));
        Some(match kind {
            b'S' => Self::Started { id, pid: value },
            b'N' => Self::NotStarted { id, errno: value },
            b'E' => Self::Ended { pid: i32::try_from(id).ok()?, status: value },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_reads_back_as_written() {
        let mut command = Command::new("/bin/test");
        command.args(["", "a b", "c=d"]).arg(OsStr::from_bytes(&[0xff])).current_dir("/tmp");
        command.env("A", "b=c").env("EMPTY", "").env_remove("GONE");
        let after = Pid::from_raw(4_711);
        let packet = Wanted::from(&command).encode(7, after).unwrap();
        let Some(Asked::Start(read)) = Asked::decode(&packet) else { panic!("{packet:?}") };
        assert_eq!((read.id, read.after), (7, after));
        assert_eq!((read.folder, read.program), (c"/tmp", c"/bin/test"));
        assert_eq!(read.arguments, [c"/bin/test", c"", c"a b", c"c=d", c"\xff"]);
        assert_eq!(read.variables, [c"A=b=c", c"EMPTY=", c"GONE"]);
    }

    #[test]
    fn a_process_without_a_folder_is_started_where_the_runner_is() {
        let packet = Wanted::from(&Command::new("test")).encode(7, None).unwrap();
        let Some(Asked::Start(read)) = Asked::decode(&packet) else { panic!("{packet:?}") };
        let here = std::env::current_dir().unwrap();
        assert_eq!(OsStr::from_bytes(read.folder.to_bytes()), here);
    }

    #[test]
    fn a_withdrawal_reads_back_as_written() {
        let packet = encode_withdrawal(7);
        let read = Asked::decode(&packet);
        assert!(matches!(read, Some(Asked::Withdraw(7))), "{read:?}");
    }

    #[test]
    fn replies_read_back_as_written() {
        let replies = [
            Reply::Started { id: u64::MAX, pid: 4_711 },
            Reply::NotStarted { id: 1, errno: 2 },
            Reply::Ended { pid: i32::MAX, status: 0x8b },
        ];
        let packet: Vec<u8> = replies.iter().flat_map(|reply| reply.encode()).collect();
        assert_eq!(Reply::decode_all(&packet).collect::<Vec<_>>(), replies);
    }

    #[test]
    fn a_torn_or_foreign_packet_is_none() {
        for packet in [
            &b""[..],
            b"\0\0\0",
            b"\0\0\0\0\0\0\0\0\0",
            b"\0\0\0\0\0\0\0\0\0\0\0\0a\x009\0c\0",
            b"\0\0\0\0\0\0\0\0\0\0\0\0a\x001\0c\0torn",
            &[b'Z'; REPLY],
        ] {
            assert!(Asked::decode(packet).is_none(), "{packet:?}");
            assert_eq!(Reply::decode_all(packet).count(), 0, "{packet:?}");
        }
    }
}
