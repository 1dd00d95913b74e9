//! Units of one worker that want resources.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use cargo_etcdtest::execution::Asked;
use tokio::time::Instant;

use super::job::Resource;

/// How many want each resource at once: not more than may use it, so that those who would only
/// wait for others of the same worker are not in the queue.
#[derive(Debug, Default)]
pub(super) struct Slots(RefCell<BTreeMap<Resource, Arc<()>>>);

/// A resource that a unit has asked for.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) asked: Asked,
    pub(super) since: Instant,
    /// Counted as long as it is there.
    _slot: Arc<()>,
}

impl Slots {
    /// Whether one more may want it.
    pub(super) fn is_free(&self, resource: Resource) -> bool {
        // One of them is kept here.
        self.0.borrow().get(&resource).is_none_or(|slot| Arc::strong_count(slot) <= resource.capacity.get())
    }

    /// One more wants it.
    pub(super) fn take(&self, resource: Resource, asked: Asked) -> Wanted {
        let slot = self.0.borrow_mut().entry(resource).or_default().clone();
        Wanted { asked, since: Instant::now(), _slot: slot }
    }
}
