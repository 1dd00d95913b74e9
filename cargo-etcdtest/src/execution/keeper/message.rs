//! What the runner and its keeper say to each other.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::Command;

use rustix::process::Pid;

/// The largest request, in bytes.
pub(super) const MAX_REQUEST: usize = 256 << 10;
/// The size of every reply, in bytes.
pub(super) const REPLY: usize = 13;

/// Asks for a process, in a group of its own.
///
/// It travels as the id, the process that it comes after (0 for none), and then texts that
/// each end with a zero byte, which no argument of a process can contain: program, folder,
/// number of arguments, the arguments, and each variable as `NAME=VALUE`, or `NAME` alone
/// where it is taken away. An id without anything takes the request of that id back.
#[derive(Debug)]
pub(super) struct Request {
    /// What the answer calls it by.
    pub(super) id: u64,
    /// Start it when this process of the keeper has ended with success, and only then.
    pub(super) after: Option<Pid>,
    /// What to start.
    pub(super) command: Command,
}

/// What the runner asks.
#[derive(Debug)]
pub(super) enum Asked {
    /// To start a process.
    Start(Box<Request>),
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

impl Request {
    /// The packet for a process.
    ///
    /// # Errors
    /// A part of it contains a zero byte.
    pub(super) fn encode(id: u64, after: Option<Pid>, command: &Command) -> io::Result<Vec<u8>> {
        let mut packet = Self::withdrawal(id).to_vec();
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
        push(&[command.get_program()])?;
        push(&[command.get_current_dir().map_or(OsStr::new("."), |folder| folder.as_os_str())])?;
        push(&[OsStr::new(&command.get_args().len().to_string())])?;
        for argument in command.get_args() {
            push(&[argument])?;
        }
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => push(&[name, OsStr::new("="), value])?,
                None => push(&[name])?,
            }
        }
        Ok(packet)
    }

    /// The packet that takes a request back.
    pub(super) fn withdrawal(id: u64) -> [u8; 8] {
        id.to_le_bytes()
    }
}

impl Asked {
    /// Reads a packet; `None` where it is none.
    pub(super) fn decode(packet: &[u8]) -> Option<Self> {
        let (id, rest) = packet.split_first_chunk()?;
        let id = u64::from_le_bytes(*id);
        if rest.is_empty() {
            return Some(Self::Withdraw(id));
        }
        let (after, texts) = rest.split_first_chunk()?;
        let after = Pid::from_raw(i32::from_le_bytes(*after));
        let mut texts = texts.strip_suffix(&[0])?.split(|byte| *byte == 0);
        let mut command = Command::new(OsStr::from_bytes(texts.next()?));
        command.current_dir(OsStr::from_bytes(texts.next()?));
        let arguments: usize = std::str::from_utf8(texts.next()?).ok()?.parse().ok()?;
        for _ in 0..arguments {
            command.arg(OsStr::from_bytes(texts.next()?));
        }
        for text in texts {
            // A name may begin with the sign, but does not contain it elsewhere.
            match text.iter().skip(1).position(|byte| *byte == b'=') {
                Some(end) => {
                    command.env(OsStr::from_bytes(&text[..=end]), OsStr::from_bytes(&text[end + 2..]))
                }
                None => command.env_remove(OsString::from_vec(text.to_vec())),
            };
        }
        Some(Self::Start(Box::new(Request { id, after, command })))
    }
}

impl Reply {
    /// The packet.
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

    /// Reads a packet; `None` where it is none.
    pub(super) fn decode(packet: &[u8]) -> Option<Self> {
        let (kind, rest) = packet.split_first()?;
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
        command.args(["", "a b", "c=d"]).current_dir("/tmp");
        command.arg(OsString::from_vec(vec![0xff])).env("A", "b=c").env("EMPTY", "").env_remove("GONE");
        let after = Pid::from_raw(4_711);
        let packet = Request::encode(7, after, &command).unwrap();
        let Some(Asked::Start(read)) = Asked::decode(&packet) else { panic!("{packet:?}") };
        assert_eq!((read.id, read.after), (7, after));
        assert_eq!(format!("{:?}", read.command), format!("{command:?}"));
        assert!(read.command.get_args().eq(command.get_args()));
        assert!(read.command.get_envs().eq(command.get_envs()));
        assert_eq!(read.command.get_current_dir(), command.get_current_dir());
    }

    #[test]
    fn a_withdrawal_reads_back_as_written() {
        let read = Asked::decode(&Request::withdrawal(7));
        assert!(matches!(read, Some(Asked::Withdraw(7))), "{read:?}");
    }

    #[test]
    fn replies_read_back_as_written() {
        let replies = [
            Reply::Started { id: u64::MAX, pid: 4_711 },
            Reply::NotStarted { id: 1, errno: 2 },
            Reply::Ended { pid: i32::MAX, status: 0x8b },
        ];
        for reply in replies {
            assert_eq!(Reply::decode(&reply.encode()), Some(reply));
        }
    }

    #[test]
    fn a_torn_or_foreign_packet_is_none() {
        for packet in [
            &b""[..],
            b"\0\0\0",
            b"\0\0\0\0\0\0\0\0\0",
            b"\0\0\0\0\0\0\0\0\0\0\0\0a\0b\x009\0c\0",
            &[b'Z'; REPLY],
        ] {
            assert!(Asked::decode(packet).is_none(), "{packet:?}");
            assert!(Reply::decode(packet).is_none(), "{packet:?}");
        }
    }
}
