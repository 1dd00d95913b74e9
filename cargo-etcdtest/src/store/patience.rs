//! Waiting for a store that does not answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::{Instant, sleep};

use super::api::Result;
use super::error::StoreError;

/// How long a store that does not answer is waited for: up to a limit, and beyond it for as long
/// as there is something to do without the store. Clones are of the same mind.
#[derive(Clone, Debug)]
pub struct Patience {
    limit: Duration,
    busy: Arc<AtomicBool>,
}

/// A wait that has begun.
pub(super) struct Wait {
    patience: Patience,
    began: Instant,
    pauses: ExponentialBackoff,
}

/// The pauses between tries through an outage of the store, without end.
pub fn pauses() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_secs(2))
        .with_jitter()
        .without_max_times()
}

impl Patience {
    /// The limit.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// Says whether there is something to do without the store from now on.
    pub fn set_busy(&self, busy: bool) {
        self.busy.store(busy, Ordering::Relaxed);
    }

    /// Tries something until it succeeds or fails for good, for as long as the patience lasts.
    ///
    /// # Errors
    /// That of the last try.
    pub async fn lasts<T, F: Future<Output = Result<T>>>(&self, attempt: impl Fn() -> F) -> Result<T> {
        let mut wait = self.clone().begin();
        loop {
            match attempt().await {
                Err(error) if error.is_transient() => wait.after(error).await?,
                done => return done,
            }
        }
    }

    /// A wait that begins now.
    pub(super) fn begin(self) -> Wait {
        Wait { patience: self, began: Instant::now(), pauses: pauses().build() }
    }
}

impl From<Duration> for Patience {
    fn from(limit: Duration) -> Self {
        Self { limit, busy: Arc::default() }
    }
}

impl From<&Patience> for Patience {
    fn from(patience: &Patience) -> Self {
        patience.clone()
    }
}

impl Wait {
    /// Pauses before the next try; gives the error back where there is to be none.
    pub(super) async fn after(&mut self, error: StoreError) -> Result<()> {
        let pause = self.pauses.next().unwrap_or_default();
        let over = self.began.elapsed() + pause > self.patience.limit;
        if over && !self.patience.busy.load(Ordering::Relaxed) {
            return Err(error);
        }
        sleep(pause).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    fn away() -> StoreError {
        StoreError::Unavailable { location: "here".into(), reason: "away".into() }
    }

    #[tokio::test(start_paused = true)]
    async fn it_lasts_as_long_as_there_is_something_to_do_and_then_ends_at_once() {
        let patience = Patience::from(Duration::from_secs(5));
        patience.set_busy(true);
        let began = Instant::now();
        let other = patience.clone();
        let worked = async {
            sleep(Duration::from_mins(10)).await;
            other.set_busy(false);
        };
        let (waited, ()) = tokio::join!(patience.lasts(|| async { Err::<(), _>(away()) }), worked);
        assert!(waited.unwrap_err().is_transient());
        let waited = began.elapsed();
        let longest = Duration::from_mins(10) + Duration::from_secs(4);
        assert!(Duration::from_mins(10) <= waited && waited <= longest, "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_comes_back_within_the_limit_was_waited_for() {
        let (patience, tries) = (Patience::from(Duration::from_secs(5)), AtomicU32::new(0));
        let third = || async {
            let number = tries.fetch_add(1, Ordering::Relaxed);
            if number < 2 { Err(away()) } else { Ok(number) }
        };
        assert_eq!(patience.lasts(third).await.unwrap(), 2);
        let denied = || async { Err::<(), _>(StoreError::LeaseNotFound) };
        assert!(
            matches!(patience.lasts(denied).await, Err(StoreError::LeaseNotFound)),
            "nothing to wait for"
        );
    }
}
