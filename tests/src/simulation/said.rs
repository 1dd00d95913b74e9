//! What the units of a worker are told.

use cargo_etcdtest::execution::Leave;
use tokio::sync::watch;

/// One channel for each who hears: a single one would wake them in a random order.
#[derive(Debug, Default)]
pub(super) struct Said {
    all: Vec<watch::Sender<Leave>>,
    ends: bool,
}

impl Said {
    /// For one more.
    pub(super) fn hear(&mut self) -> watch::Receiver<Leave> {
        self.all.retain(|say| !say.is_closed());
        let (say, hear) = watch::channel(if self.ends { Leave::ToEnd } else { Leave::ToFinish });
        self.all.push(say);
        hear
    }

    /// All are to end.
    pub(super) fn end(&mut self) {
        self.ends = true;
        for say in &self.all {
            say.send_replace(Leave::ToEnd);
        }
    }
}
