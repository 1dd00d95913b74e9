//! How attempts are started: by their binary's zygote, or else by the keeper.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::Command;

use etcdtest::protocol::ATTEMPT_ARGUMENT;
use rustix::process::Pid;

use super::client::Keeper;
use super::zygote::{Forked, Zygotes};
use crate::execution::process::{Started, with_arguments};
use crate::model::TestKind;

/// A keeper with its zygotes.
#[derive(Debug)]
pub(in crate::execution) struct Starter {
    keeper: Keeper,
    zygotes: Zygotes,
}

impl Starter {
    /// A starter whose keeper is this program, and removes this folder at its end.
    pub(in crate::execution) fn new(keeper: PathBuf, folder: Option<PathBuf>) -> Self {
        Self { keeper: Keeper::new(keeper, folder), zygotes: Zygotes::default() }
    }

    /// Starts the keeper.
    ///
    /// # Errors
    /// What the system said.
    pub(in crate::execution) async fn begin(&self) -> io::Result<()> {
        self.keeper.life().await.map(drop)
    }

    /// Starts an attempt in a group of its own, and says what its user should know.
    ///
    /// # Errors
    /// What the system said.
    pub(in crate::execution) async fn start(
        &self,
        kind: TestKind,
        command: &Command,
        streams: &[OwnedFd; 3],
        notice: impl Fn(String),
    ) -> io::Result<Started> {
        let streams = streams.each_ref().map(AsFd::as_fd);
        if kind == TestKind::Plain {
            return self.keeper.spawn(command, streams).await;
        }
        match self.zygotes.fork(&self.keeper, command, streams).await? {
            Forked::Child(started, notices) => {
                notices.into_iter().for_each(notice);
                return Ok(started);
            }
            Forked::Refused(reason) => reason.into_iter().for_each(notice),
        }
        self.keeper.spawn(&with_arguments(command, [ATTEMPT_ARGUMENT]), streams).await
    }

    /// Starts the process of a plain test the moment that another one ends with success;
    /// `None` where that does not come to pass soon.
    ///
    /// # Errors
    /// What the system said.
    pub(in crate::execution) async fn start_after(
        &self,
        first: Pid,
        command: &Command,
        streams: &[OwnedFd; 3],
    ) -> io::Result<Option<Started>> {
        self.keeper.spawn_after(first, command, streams.each_ref().map(AsFd::as_fd)).await
    }

    /// Ends what this attempt has left to the keeper, and says whether there was anything.
    pub(in crate::execution) async fn end_left_by(&self, attempt: &str) -> bool {
        self.keeper.end_left_by(attempt).await
    }

    /// Kills whatever was started and still runs.
    pub(in crate::execution) async fn close(&self) {
        self.keeper.close().await;
    }
}
