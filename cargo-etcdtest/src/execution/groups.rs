//! The process groups of the attempts under way, which stop and go on together.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt;
use rustix::process::{Pid, Signal, getpid, kill_process, kill_process_group};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::timeout;

/// How long a start may take until nobody waits for it who is to be stopped.
const START: Duration = Duration::from_secs(1);

/// All groups of a run, and how long they have been stopped by Ctrl-Z.
#[derive(Debug, Default)]
pub(super) struct Groups {
    state: Mutex<State>,
    /// How many processes are being started, whose groups are not known yet.
    starting: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct State {
    live: HashSet<Pid>,
    stopped_since: Option<Instant>,
    stopped: Duration,
}

/// A process that is being started.
#[derive(Debug)]
pub(super) struct Starting<'a>(&'a Groups);

/// A clock that stands still while the groups are stopped.
#[derive(Debug)]
pub(super) struct Clock {
    groups: Arc<Groups>,
    started: Instant,
    stopped_before: Duration,
}

impl Groups {
    /// A process is being started: whoever stops the groups waits until its group is known, or
    /// it would run on.
    pub(super) fn starting(&self) -> Starting<'_> {
        self.starting.send_modify(|count| *count += 1);
        Starting(self)
    }

    /// A group that has just been started.
    pub(super) fn enter(&self, group: Pid) {
        let mut state = self.locked();
        state.live.insert(group);
        if state.stopped_since.is_some() {
            let _ = kill_process_group(group, Signal::STOP);
        }
    }

    /// A group that has ended.
    pub(super) fn leave(&self, group: Pid) {
        self.locked().live.remove(&group);
    }

    /// A clock that starts now.
    pub(super) fn clock(self: &Arc<Self>) -> Clock {
        Clock { groups: Arc::clone(self), started: Instant::now(), stopped_before: self.stopped() }
    }

    /// Stops the groups, then this process, whenever the terminal says so; and lets the
    /// groups go on when this process does.
    ///
    /// # Errors
    /// Signals cannot be listened to.
    pub(super) async fn follow_the_terminal(&self) -> std::io::Result<()> {
        let mut stop = signal(SignalKind::from_raw(Signal::TSTP.as_raw()))?;
        let mut go_on = signal(SignalKind::from_raw(Signal::CONT.as_raw()))?;
        while stop.recv().await.is_some() {
            // One of earlier says nothing of this time.
            while go_on.recv().now_or_never().flatten().is_some() {}
            self.stop();
            let _ = timeout(START, self.starting.subscribe().wait_for(|count| *count == 0)).await;
            let _ = kill_process(getpid(), Signal::STOP);
            go_on.recv().await;
            self.go_on();
        }
        Ok(())
    }

    fn stop(&self) {
        let mut state = self.locked();
        state.stopped_since.get_or_insert_with(Instant::now);
        state.signal(Signal::STOP);
    }

    fn go_on(&self) {
        let mut state = self.locked();
        if let Some(since) = state.stopped_since.take() {
            state.stopped += since.elapsed();
        }
        state.signal(Signal::CONT);
    }

    fn stopped(&self) -> Duration {
        let state = self.locked();
        state.stopped + state.stopped_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.0.starting.send_modify(|count| *count -= 1);
    }
}

impl State {
    fn signal(&self, signal: Signal) {
        for group in &self.live {
            let _ = kill_process_group(*group, signal);
        }
    }
}

impl Clock {
    /// The time since its start in which the groups were not stopped.
    pub(super) fn elapsed(&self) -> Duration {
        let stopped = self.groups.stopped().saturating_sub(self.stopped_before);
        self.started.elapsed().saturating_sub(stopped)
    }

    /// Waits until so much time has passed on it.
    pub(super) async fn reach(&self, time: Duration) {
        while let Some(rest) = time.checked_sub(self.elapsed())
            && !rest.is_zero()
        {
            tokio::time::sleep(rest).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_stands_still_while_the_groups_are_stopped() {
        let groups = Arc::new(Groups::default());
        let clock = groups.clock();
        groups.stop();
        let stopped_at = clock.elapsed();
        std::thread::sleep(Duration::from_millis(20));
        assert!(clock.elapsed() <= stopped_at + Duration::from_millis(1));
        groups.go_on();
        assert!(clock.started.elapsed() >= clock.elapsed() + Duration::from_millis(19));
    }
}
