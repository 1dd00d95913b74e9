//! What a zygote and the process that started it say to each other.

use serde_json::json;

use super::{Frame, number64, text, texts};

/// The only argument of a binary that is to wait and fork one child per attempt.
///
/// Its standard input is a stream socket, the control socket. It says first
/// [`ZygoteEvent::Ready`] or [`ZygoteEvent::Refused`], then answers every [`Fork`]. The end
/// of the stream ends it, and with it the process groups of all children that still run.
pub const ZYGOTE_ARGUMENT: &str = "--etcdtest-zygote";

/// Asks a zygote for a child, which then takes one [`Start`](super::Start) as a process
/// started with [`ATTEMPT_ARGUMENT`](super::ATTEMPT_ARGUMENT) does.
///
/// The message that carries the frame's first byte carries three descriptors (`SCM_RIGHTS`):
/// the child's event socket, its standard output and its standard error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fork {
    /// What the answers call this child by; chosen by who asks, never used twice.
    pub id: u64,
}

/// What a zygote tells.
#[derive(Clone, Debug, PartialEq)]
pub enum ZygoteEvent {
    /// First: it waits for a [`Fork`].
    Ready {
        /// Its resident memory, in KiB.
        memory_kib: u64,
        /// What its user should know: what makes each fork slow, and why.
        notices: Vec<String>,
    },
    /// First, and last: it cannot fork, and exits with 0. Attempts are then to be started
    /// as processes of their own.
    Refused {
        /// Why, and what to do about it.
        reason: String,
    },
    /// The child runs, the leader of a process group of its own. It says so itself before it
    /// looks for an attempt, and also when the zygote has died meanwhile: a request that was
    /// not answered at the end of the stream has started nothing.
    Forked {
        /// As in [`Fork`].
        id: u64,
        /// The child's process id.
        pid: i32,
    },
    /// There is no child: the attempt is to be started as a process of its own. The zygote
    /// goes on.
    ForkFailed {
        /// As in [`Fork`].
        id: u64,
        /// What the system said, or that a thread has been started meanwhile.
        reason: String,
    },
    /// The child has ended, and its process id is free again. Without
    /// [`Forked`](Self::Forked) before it, it ended before it could say that.
    Exited {
        /// As in [`Fork`].
        id: u64,
        /// The status as `waitpid` gives it: exit code, or signal and core.
        status: i32,
    },
}

/// The length of a frame about a process.
pub(crate) const ABOUT_PROCESS: usize = 17;

/// What [`Frame::Process`] travels as.
pub(crate) fn about_process(kind: u8, id: u64, number: i32) -> [u8; ABOUT_PROCESS] {
    let mut bytes = [13, 0, 0, 0, kind, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    bytes[5..13].copy_from_slice(&id.to_le_bytes());
    bytes[13..].copy_from_slice(&number.to_le_bytes());
    bytes
}

impl Fork {
    /// Reads it from the bytes of its frame, which are known to be no others.
    #[cfg(target_os = "linux")]
    pub(crate) fn decode(bytes: &[u8; ABOUT_PROCESS]) -> Self {
        let mut id = [0; 8];
        id.copy_from_slice(&bytes[5..13]);
        Self { id: u64::from_le_bytes(id) }
    }

    /// The frame that carries it.
    pub fn to_frame(self) -> Frame {
        Frame::Process { kind: b'F', id: self.id, number: 0 }
    }

    /// Reads it from a frame; `None` where the frame is something else.
    pub fn from_frame(frame: &Frame) -> Option<Self> {
        match *frame {
            Frame::Process { kind: b'F', id, .. } => Some(Self { id }),
            _ => None,
        }
    }
}

impl ZygoteEvent {
    /// The frame that carries it.
    pub fn to_frame(&self) -> Frame {
        Frame::Json(match self {
            Self::Forked { id, pid } => return Frame::Process { kind: b'B', id: *id, number: *pid },
            Self::Exited { id, status } => return Frame::Process { kind: b'X', id: *id, number: *status },
            Self::Ready { memory_kib, notices } => {
                json!({ "ready": { "memory_kib": memory_kib, "notices": notices } })
            }
            Self::Refused { reason } => json!({ "refused": { "reason": reason } }),
            Self::ForkFailed { id, reason } => json!({ "fork_failed": { "id": id, "reason": reason } }),
        })
    }

    /// Reads it from a frame; `None` where the frame is no event of this version.
    pub fn from_frame(frame: &Frame) -> Option<Self> {
        let event = match frame {
            Frame::Process { kind: b'B', id, number } => return Some(Self::Forked { id: *id, pid: *number }),
            Frame::Process { kind: b'X', id, number } => {
                return Some(Self::Exited { id: *id, status: *number });
            }
            Frame::Json(event) => event,
            _ => return None,
        };
        let (kind, body) = event.as_object()?.iter().next()?;
        let body = body.as_object()?;
        match kind.as_str() {
            "ready" => Some(Self::Ready {
                memory_kib: number64(body, "memory_kib")?,
                notices: texts(body, "notices")?,
            }),
            "refused" => Some(Self::Refused { reason: text(body, "reason")? }),
            "fork_failed" => {
                Some(Self::ForkFailed { id: number64(body, "id")?, reason: text(body, "reason")? })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_zygote_hears_and_says_reads_back_as_written() {
        let fork = Fork { id: u64::MAX };
        assert_eq!(Fork::from_frame(&fork.to_frame()), Some(fork));
        let events = [
            ZygoteEvent::Ready { memory_kib: 1_800, notices: vec!["slow".into()] },
            ZygoteEvent::Refused { reason: "3 threads".into() },
            ZygoteEvent::Forked { id: 1, pid: 4_711 },
            ZygoteEvent::ForkFailed { id: 2, reason: "no memory".into() },
            ZygoteEvent::Exited { id: 3, status: 0x8b },
        ];
        for event in events {
            assert_eq!(ZygoteEvent::from_frame(&event.to_frame()), Some(event));
        }
    }

    #[test]
    fn what_neither_side_knows_is_not_taken_for_something_else() {
        let frames = [
            Frame::Process { kind: b'Y', id: 1, number: 0 },
            Frame::Json(json!({ "fork_failed": { "reason": "no memory" } })),
            Frame::Passed,
            Frame::Json(json!({ "later": {} })),
            Frame::Json(json!([])),
            Frame::Attachment { name: "fork".into(), bytes: vec![] },
        ];
        for frame in frames {
            assert_eq!(Fork::from_frame(&frame), None, "{frame:?}");
            assert_eq!(ZygoteEvent::from_frame(&frame), None, "{frame:?}");
        }
    }
}
