//! Processes that nobody waits for any more, found and ended by what `/proc` says.

use std::collections::HashSet;
use std::fs;
use std::os::fd::BorrowedFd;

use rustix::fs::fstat;
use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, getpgid, getpgrp, getpid, getsid, kill_process, kill_process_group, wait,
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

/// Whether a process was started with this variable, or inherited it.
pub(super) fn has_variable(process: Pid, name: &str, value: &str) -> bool {
    let variables = fs::read(format!("/proc/{}/environ", process.as_raw_nonzero()));
    let is_meant = |variable: &[u8]| {
        variable.strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b"="))
            == Some(value.as_bytes())
    };
    variables.is_ok_and(|variables| variables.split(|byte| *byte == 0).any(is_meant))
}

/// The child of this process that a keeper has started with these pipes or sockets and died before
/// it could say so: one that holds them, or, where it has `begun`, that has ended or is about to.
/// Those that are known are others.
pub(super) fn child_started_with(
    streams: &[BorrowedFd<'_>],
    begun: bool,
    known: &HashSet<i32>,
) -> Option<Pid> {
    let held = Held::of(streams);
    let children = children();
    // So it was started; what it has left behind may be otherwise.
    let leads = |child: &&Pid| {
        !known.contains(&child.as_raw_nonzero().get())
            && getpgid(Some(**child)) == Ok(**child)
            && getsid(Some(**child)).is_ok_and(|session| getsid(None) == Ok(session))
    };
    let leaders: Vec<&Pid> = children.iter().filter(leads).collect();
    let holder = leaders.iter().find(|child| held.is_open_in(***child)).copied();
    let ended = || leaders.iter().find(|child| begun && !has_anything_open(***child)).copied();
    let other = || children.iter().find(|child| held.is_open_in(**child));
    holder.or_else(ended).or_else(other).copied()
}

/// Whether a process has a file open that may be looked at: one that has ended has none.
fn has_anything_open(process: Pid) -> bool {
    fs::read_dir(format!("/proc/{}/fd", process.as_raw_nonzero())).is_ok_and(|mut open| open.next().is_some())
}

/// This process's children.
pub(super) fn children() -> Vec<Pid> {
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
    let held = Held::of(streams);
    let holders = processes().filter(|process| *process != getpid() && held.is_open_in(*process));
    // All of them, not just the first.
    holders.filter(|holder| kill_process(*holder, Signal::KILL).is_ok()).count() > 0
}

/// The names by which `/proc` calls pipes and sockets.
struct Held(HashSet<String>);

impl Held {
    fn of(streams: &[BorrowedFd<'_>]) -> Self {
        let inodes = streams.iter().filter_map(|stream| fstat(stream).ok()).map(|stat| stat.st_ino);
        Self(inodes.flat_map(|inode| [format!("pipe:[{inode}]"), format!("socket:[{inode}]")]).collect())
    }

    fn is_open_in(&self, process: Pid) -> bool {
        let open = fs::read_dir(format!("/proc/{}/fd", process.as_raw_nonzero()));
        open.into_iter().flatten().flatten().any(|entry| {
            fs::read_link(entry.path())
                .is_ok_and(|target| target.to_str().is_some_and(|target| self.0.contains(target)))
        })
    }
}

fn processes() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
}
