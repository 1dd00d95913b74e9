//! How attempts are started: by their binary's zygote, or else by the keeper.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use etcdtest::protocol::ATTEMPT_ARGUMENT;
use futures::future::join_all;
use rustix::process::Pid;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::client::{Keeper, LAST_WORK};
use super::orphans::end_all_children;
use super::zygote::{Forked, Zygotes};
use crate::execution::launcher::Origin;
use crate::execution::process::{Program, Started};
use crate::model::TestKind;

/// Keepers with their zygotes.
#[derive(Debug)]
pub(in crate::execution) struct Starter {
    /// One for each lane: it has nothing to do when the lane's test ends but to start the next.
    keepers: Vec<Keeper>,
    zygotes: Zygotes,
}

impl Starter {
    /// A starter whose keepers are this program, and remove this folder at their ends.
    pub(in crate::execution) fn new(program: &Path, folder: Option<&Path>, lanes: NonZeroUsize) -> Self {
        let known = Arc::default();
        let keeper = |_| Keeper::new(program.to_owned(), folder.map(Path::to_owned), Arc::clone(&known));
        Self { keepers: (0..lanes.get()).map(keeper).collect(), zygotes: Zygotes::default() }
    }

    /// Starts the first keeper; others are started as they are needed.
    ///
    /// # Errors
    /// What the system said.
    pub(in crate::execution) async fn begin(&self) -> io::Result<()> {
        self.keepers[0].life().await.map(drop)
    }

    /// Starts an attempt in a group of its own, and says what its user should know.
    ///
    /// # Errors
    /// What the system said.
    pub(in crate::execution) async fn start(
        &self,
        origin: Origin,
        program: &Program,
        streams: [BorrowedFd<'_>; 3],
        notice: impl Fn(String),
    ) -> io::Result<Started> {
        let keeper = self.keeper(origin);
        if origin.kind == TestKind::Plain {
            return keeper.spawn(&program.into(), streams).await;
        }
        match self.zygotes.fork(keeper, program, streams).await? {
            Forked::Child(started, notices) => {
                notices.into_iter().for_each(notice);
                return Ok(started);
            }
            Forked::Refused(reason) => reason.into_iter().for_each(notice),
        }
        keeper.spawn(&(&program.clone().arg(ATTEMPT_ARGUMENT)).into(), streams).await
    }

    /// Starts a service, as a plain test of the first lane is.
    ///
    /// # Errors
    /// What the system said.
    pub(in crate::execution) async fn start_service(
        &self,
        command: &Command,
        streams: [BorrowedFd<'_>; 3],
    ) -> io::Result<Started> {
        self.keepers[0].spawn(&command.into(), streams).await
    }

    /// Starts the process of a plain test the moment that another one of its lane ends with
    /// success; `None` where that does not come to pass soon.
    ///
    /// # Errors
    /// What the system said.
    pub(in crate::execution) async fn start_after(
        &self,
        first: Pid,
        origin: Origin,
        program: &Program,
        streams: [BorrowedFd<'_>; 3],
    ) -> io::Result<Option<Started>> {
        self.keeper(origin).spawn_after(first, &program.into(), streams).await
    }

    /// Ends what this attempt has left to its keeper, and says whether there was anything.
    pub(in crate::execution) async fn end_left_by(&self, origin: Origin, attempt: &str) -> bool {
        self.keeper(origin).end_left_by(attempt).await
    }

    /// Kills whatever was started and still runs.
    pub(in crate::execution) async fn close(&self) {
        let orphaned = join_all(self.keepers.iter().map(Keeper::close)).await;
        if orphaned.contains(&true) {
            let _ = timeout(LAST_WORK, spawn_blocking(end_all_children)).await;
        }
    }

    /// Who starts it. What zygotes have forked is left to the keeper of the zygotes.
    fn keeper(&self, origin: Origin) -> &Keeper {
        match origin.kind {
            TestKind::Annotated => &self.keepers[0],
            TestKind::Plain => &self.keepers[origin.lane % self.keepers.len()],
        }
    }
}
