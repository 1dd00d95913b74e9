//! Processes that nobody waits for any more, found and ended by what `/proc` says.

use std::collections::HashSet;
use std::fs;
use std::os::fd::BorrowedFd;

use rustix::fs::fstat;
use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, getpgid, getpgrp, getpid, kill_process, kill_process_group, wait,
};

/// Kills all children with their groups, and those that come to this process as its
/// children when their parents end, until none is left.
pub(super) fn end_all_children() {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => continue,
            Ok(None) => {}
            Err(_) => return,
        }
        for child in children() {
            if let Ok(group) = getpgid(Some(child))
                && group != getpgrp()
            {
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = kill_process(child, Signal::KILL);
        }
        let _ = wait(WaitOptions::empty());
    }
}

/// This process's children.
fn children() -> Vec<Pid> {
    let parent = getpid().as_raw_nonzero().to_string();
    processes()
        .filter(|process| {
            let stat = fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero()));
            // The name, in brackets, may contain anything; then come state and parent.
            stat.is_ok_and(|stat| {
                let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
                fields.split_whitespace().nth(1) == Some(&parent)
            })
        })
        .collect()
}

/// Kills every other process that holds one of these pipes or sockets, in or out of any
/// group, and says whether there was one.
pub(in crate::execution) fn end_holders(streams: &[BorrowedFd<'_>]) -> bool {
    let inodes = streams.iter().filter_map(|stream| fstat(stream).ok()).map(|stat| stat.st_ino);
    let names: HashSet<String> =
        inodes.flat_map(|inode| [format!("pipe:[{inode}]"), format!("socket:[{inode}]")]).collect();
    let holds = |process: &Pid| {
        let open = fs::read_dir(format!("/proc/{}/fd", process.as_raw_nonzero()));
        open.into_iter().flatten().flatten().any(|entry| {
            fs::read_link(entry.path())
                .is_ok_and(|target| target.to_str().is_some_and(|target| names.contains(target)))
        })
    };
    let holders = processes().filter(|process| *process != getpid()).filter(holds);
    // All of them, not just the first.
    holders.filter(|holder| kill_process(*holder, Signal::KILL).is_ok()).count() > 0
}

fn processes() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
}
