//! Watches: each reads the log from where it stands, whenever the store may have changed.

use tokio::sync::{mpsc, watch};

use super::history::{self, Changes};
use super::threads::Threads;
use crate::store::api::{KeyRange, Notice, Result, Revision};

/// How many notices may wait for their reader; more stay in the log.
pub(super) const WAITING: usize = 64;

/// Delivers the changes of a range from a revision on, until the watch is dropped.
pub(super) async fn deliver(
    threads: Threads,
    mut changed: watch::Receiver<()>,
    range: KeyRange,
    mut next: Revision,
    notices: mpsc::Sender<Result<Notice>>,
) {
    loop {
        changed.borrow_and_update();
        let range = range.clone();
        let read = threads.read(move |connection| history::changes(connection, &range, next)).await;
        let Changes { notices: ready, next: then, more } = match read {
            Ok(read) => read,
            Err(error) => {
                // The watch may have been dropped meanwhile.
                let _ = notices.send(Err(error)).await;
                return;
            }
        };
        next = then;
        for notice in ready {
            if notices.send(Ok(notice)).await.is_err() {
                return;
            }
        }
        if more {
            continue;
        }
        tokio::select! {
            Ok(()) = changed.changed() => {}
            () = notices.closed() => return,
        }
    }
}
