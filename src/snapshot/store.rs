//! Publication: one pointer, swapped.

use super::Snapshot;
use arc_swap::ArcSwap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

/// Holds the current snapshot. The builder publishes; workers and the admin read.
///
/// Each worker is woken by a [`Notify`] of its own: tokio's `watch` spreads its receivers over several lists and
/// wakes one that comes back while it still walks them again, which made two or three wake-ups of every push.
pub struct Store {
    current: ArcSwap<Snapshot>,
    watches: Mutex<Vec<Arc<Notify>>>,
}

impl Default for Store {
    fn default() -> Self {
        Store { current: ArcSwap::from_pointee(Snapshot::default()), watches: Mutex::default() }
    }
}

impl Store {
    /// Makes `snapshot` the current one and wakes the workers. The caller keeps the `Arc` until it is its
    /// only owner, so that no worker ever drops a large table.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        self.current.store(snapshot);
        for watch in self.watches.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            watch.notify_one();
        }
    }

    /// The current snapshot.
    pub fn load(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Who waits on it is told once of publications since it waited last. For as long as the store lives.
    pub fn watch(&self) -> Arc<Notify> {
        let watch = Arc::new(Notify::new());
        self.watches.lock().unwrap_or_else(PoisonError::into_inner).push(watch.clone());
        watch
    }
}
