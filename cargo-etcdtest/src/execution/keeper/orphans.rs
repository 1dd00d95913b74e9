//! Processes that nobody waits for any more, found and ended by what `/proc` says.

use std::collections::HashSet;
use std::fs;
use std::os::fd::BorrowedFd;

use rustix::fs::fstat;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, kill_process_group, wait};

/// Kills all children with their groups, and those that come to this process as its
/// children when their parents end, until none is left.
pub(super) fn end_all_children() {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => continue,
            Ok(None) => {}
            Err(_) => return,
        }
        let own = Described::this().map(|this| this.group);
        for child in children() {
            if let Some(group) = Pid::from_raw(child.group)
                && own.is_some_and(|own| own != child.group)
            {
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = kill_process(child.id, Signal::KILL);
        }
        let _ = wait(WaitOptions::empty());
    }
}

/// Whether a process was started with this variable, or inherited it; `None` while that is not to be
/// seen, as it is becoming another program just now.
pub(super) fn has_variable(process: Pid, name: &str, value: &str) -> Option<bool> {
    let variables = fs::read(format!("/proc/{}/environ", process.as_raw_nonzero()));
    let is_meant = |variable: &[u8]| {
        variable.strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b"="))
            == Some(value.as_bytes())
    };
    match variables {
        Ok(none) if none.is_empty() && Described::of(process).is_some_and(|it| it.is_between_programs) => {
            None
        }
        Ok(variables) => Some(variables.split(|byte| *byte == 0).any(is_meant)),
        Err(_) => Some(false),
    }
}

/// A process as the system describes it.
#[derive(Debug)]
pub(super) struct Described {
    pub(super) id: Pid,
    /// The beginning of the name of its program's file, in bytes at most 15.
    pub(super) name: Vec<u8>,
    parent: i32,
    /// Groups and sessions begun outside of a container are 0 to who is in it.
    pub(super) group: i32,
    pub(super) session: i32,
    /// When it was started, in hundredths of a second since the system was.
    pub(super) started: u64,
    /// It runs, and has no place for its variables: the system is loading its next program, or
    /// taking down its last one.
    is_between_programs: bool,
}

impl Described {
    pub(super) fn this() -> Option<Self> {
        Self::of(getpid())
    }

    fn of(id: Pid) -> Option<Self> {
        let stat = fs::read(format!("/proc/{}/stat", id.as_raw_nonzero())).ok()?;
        // The name, in brackets, may contain anything.
        let begin = stat.iter().position(|byte| *byte == b'(')? + 1;
        let end = stat.iter().rposition(|byte| *byte == b')')?;
        // Counted from 1, these are the fields from the third on: see proc_pid_stat(5).
        let mut fields = std::str::from_utf8(stat.get(end + 1..)?).ok()?.split_whitespace();
        let state = fields.next()?;
        let mut number = || fields.next()?.parse::<i32>().ok();
        let (parent, group, session) = (number()?, number()?, number()?);
        let started = fields.nth(15)?.parse().ok()?;
        let variables_end = fields.nth(28)?;
        let is_between_programs = !["Z", "X"].contains(&state) && variables_end == "0";
        let name = stat.get(begin..end)?.to_vec();
        Some(Self { id, name, parent, group, session, started, is_between_programs })
    }
}

/// This process's children, those that have ended and were not waited for too.
pub(super) fn children() -> impl Iterator<Item = Described> {
    let parent = getpid().as_raw_nonzero().get();
    processes().filter_map(Described::of).filter(move |process| process.parent == parent)
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
pub(super) struct Held(HashSet<String>);

impl Held {
    pub(super) fn of(streams: &[BorrowedFd<'_>]) -> Self {
        let inodes = streams.iter().filter_map(|stream| fstat(stream).ok()).map(|stat| stat.st_ino);
        Self(inodes.flat_map(|inode| [format!("pipe:[{inode}]"), format!("socket:[{inode}]")]).collect())
    }

    pub(super) fn is_open_in(&self, process: Pid) -> bool {
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
