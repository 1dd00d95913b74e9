//! What the local store asks of Unix systems other than Linux.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::time::{ClockId, clock_gettime};

/// Milliseconds on a clock that all processes of the machine share and nobody sets; it
/// begins anew when the machine starts.
pub(super) fn now() -> i64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec * 1000 + now.tv_nsec / 1_000_000
}

/// Creates a file that only its owner may read; one that exists is left as it is, but must
/// be writable.
pub(super) fn create_private(path: &Path) -> io::Result<()> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path).map(drop)
}

/// The network file system that a folder is on, if it is on one: not known here.
pub(super) fn network_file_system(_folder: &Path) -> Option<String> {
    None
}
