//! What the local store asks of Linux.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{major, minor, statfs};
use rustix::time::{ClockId, clock_gettime};

/// File systems by the magic number of `statfs(2)` that several machines may write at
/// once, or that lock files only within one of them.
const NETWORK: [(u32, &str); 10] = [
    (0x0000_6969, "NFS"),
    (0x0000_517b, "SMB"),
    (0xfe53_4d42, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0x5346_414f, "AFS"),
    (0x6b41_4653, "AFS"),
    (0x7375_7245, "Coda"),
    (0x00c3_6400, "Ceph"),
    (0x0bd0_0bd0, "Lustre"),
    (0x4750_4653, "GPFS"),
];

/// The magic number of every file system in user space; `mountinfo` tells which one it is.
const FUSE: u32 = 0x6573_5546;

/// Network file systems in user space. Others, such as those by which containers and
/// virtual machines see a folder of their host, are on one machine and are let in.
const NETWORK_FUSE: [&str; 10] = [
    "fuse.ceph",
    "fuse.ceph-fuse",
    "fuse.curlftpfs",
    "fuse.davfs",
    "fuse.gcsfuse",
    "fuse.glusterfs",
    "fuse.juicefs",
    "fuse.rclone",
    "fuse.s3fs",
    "fuse.sshfs",
];

/// Milliseconds on a clock that all processes of the machine share, that nobody sets, and
/// that goes on while the machine sleeps; it begins anew when the machine starts.
pub(super) fn now() -> i64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec * 1000 + now.tv_nsec / 1_000_000
}

/// Creates a file that only its owner may read; one that exists is left as it is, but must
/// be writable.
pub(super) fn create_private(path: &Path) -> io::Result<()> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path).map(drop)
}

/// The network file system that a folder is on, if it is on one.
pub(super) fn network_file_system(folder: &Path) -> Option<String> {
    // The magic numbers have 32 bits, whatever the width of the field.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let magic = statfs(folder).ok()?.f_type as u32;
    if magic == FUSE {
        let device = fs::metadata(folder).ok()?.dev();
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let kind = mounted_kind(&mounts, major(device), minor(device))?;
        return NETWORK_FUSE.contains(&kind).then(|| kind.to_owned());
    }
    NETWORK.iter().find(|(number, _)| *number == magic).map(|(_, name)| (*name).to_owned())
}

/// The file system type of a device in the text of `/proc/self/mountinfo`.
fn mounted_kind(mounts: &str, major: u32, minor: u32) -> Option<&str> {
    let device = format!("{major}:{minor}");
    let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some(&device))?;
    mount.split(" - ").nth(1)?.split(' ').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_in_user_space_is_told_by_its_device() {
        let mounts = "22 1 0:21 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n\
                      90 22 0:55 / /home/a/far rw,nosuid shared:7 master:2 - fuse.sshfs a@b: rw\n";
        assert_eq!(mounted_kind(mounts, 0, 55), Some("fuse.sshfs"));
        assert_eq!(mounted_kind(mounts, 0, 21), Some("ext4"));
        assert_eq!(mounted_kind(mounts, 0, 99), None);
    }

    #[test]
    fn a_temporary_folder_is_on_this_machine() {
        assert_eq!(network_file_system(tempfile::tempdir().unwrap().path()), None);
    }
}
