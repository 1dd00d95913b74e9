//! A process that a keeper was asked for and did not tell of before it died: it may have started it.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::io::ioctl_fionread;
use rustix::process::Pid;
use rustix::time::{ClockId, clock_gettime};

use super::orphans::{Described, Held, children};

/// When something was, in hundredths of a second since the system was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(u64);

impl Moment {
    pub(super) fn now() -> Self {
        let now = clock_gettime(ClockId::Boottime);
        let hundredths = now.tv_sec * 100 + now.tv_nsec / 10_000_000;
        Self(u64::try_from(hundredths).unwrap_or_default())
    }
}

/// What a keeper was asked for.
#[derive(Debug)]
pub(super) struct Lost<'a> {
    pub(super) program: &'a OsStr,
    pub(super) streams: [BorrowedFd<'a>; 3],
    /// When.
    pub(super) since: Moment,
}

impl Lost<'_> {
    /// The process, if it was started: this process's child now, though it may have ended. Those
    /// that are `known` are others.
    ///
    /// # Errors
    /// It has begun, and how it ended the system does not tell.
    pub(super) fn find(&self, known: &HashSet<Pid>) -> io::Result<Option<Pid>> {
        let held = Held::of(&self.streams);
        let mut children: Vec<Described> = children().filter(|child| !known.contains(&child.id)).collect();
        children.sort_by_key(|child| child.started);
        let holds = |child: &&Described| held.is_open_in(child.id);
        let may_be = |child: &&Described| self.may_be(child);
        // A test prints before it begins. What it has left behind may hold its streams as well.
        let begun = ioctl_fionread(self.streams[1]).is_ok_and(|printed| printed > 0);
        let holder = children.iter().filter(may_be).find(holds);
        let ended = || children.iter().find(may_be).filter(|_| begun);
        let found = holder.or_else(ended).or_else(|| children.iter().find(holds));
        if found.is_none() && begun {
            let lost =
                "it was begun, but the runner's keeper was killed just then, and how it ended is not known";
            return Err(io::Error::other(lost));
        }
        Ok(found.map(|child| child.id))
    }

    /// Whether it would look like this, had it not been changed by what it runs.
    fn may_be(&self, child: &Described) -> bool {
        let name = Path::new(self.program).file_name().unwrap_or_default().as_bytes();
        child.group == child.id.as_raw_nonzero().get()
            && Described::this().is_some_and(|this| this.session == child.session)
            && child.started >= self.since.0
            && name.starts_with(&child.name)
    }
}
