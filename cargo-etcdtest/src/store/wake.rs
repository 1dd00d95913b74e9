//! Waiting until something in the store changes.

use futures::FutureExt;
use futures::future::select_all;

use super::api::{KeyRange, Result, Revision, Store, Watch};

/// Watches several ranges to be woken by any change in them. What it woke decides by reading.
#[derive(Debug)]
pub struct Wake {
    watches: Vec<Watch>,
}

impl Wake {
    /// Is woken by what changes in these ranges from a revision on, that revision included.
    ///
    /// # Errors
    /// As [`Store::watch`].
    pub async fn new(
        store: &dyn Store,
        ranges: impl IntoIterator<Item = KeyRange>,
        from: Revision,
    ) -> Result<Self> {
        let mut watches = Vec::new();
        for range in ranges {
            watches.push(store.watch(range, from).await?);
        }
        Ok(Self { watches })
    }

    /// Waits for a change since the last call, and takes in all that are known. It may be
    /// given up and called again.
    ///
    /// # Errors
    /// As [`Watch::next`].
    pub async fn changed(&mut self) -> Result<()> {
        let (notice, ..) = select_all(self.watches.iter_mut().map(|watch| Box::pin(watch.next()))).await;
        match notice {
            Some(notice) => notice.map(drop)?,
            // A watch ends only with an error, which was told before.
            None => std::future::pending().await,
        }
        for watch in &mut self.watches {
            while let Some(Some(notice)) = watch.next().now_or_never() {
                notice?;
            }
        }
        Ok(())
    }
}
