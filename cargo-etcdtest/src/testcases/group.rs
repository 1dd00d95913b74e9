//! Process groups of the binaries that are being listed.

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};

/// A child that leads a process group of its own; the group is killed when this is dropped
/// before [`Group::ended`].
#[derive(Debug)]
pub(super) struct Group {
    leader: Option<Pid>,
}

impl Group {
    /// Starts a command as the leader of a new group.
    pub(super) fn spawn(command: &mut Command) -> std::io::Result<(Child, Self)> {
        let child = command.process_group(0).spawn()?;
        let leader = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        Ok((child, Self { leader }))
    }

    /// The leader was waited for and left nothing to kill.
    pub(super) fn ended(mut self) {
        self.leader = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.leader {
            // It fails where the whole group is gone already.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}
