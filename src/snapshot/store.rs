//! Publication: one pointer, swapped.

use super::Snapshot;
use arc_swap::ArcSwap;
use std::sync::Arc;
use tokio::sync::watch;

/// Holds the current snapshot. The builder publishes; workers and the admin read.
pub struct Store {
    current: ArcSwap<Snapshot>,
    generation: watch::Sender<u64>,
}

impl Default for Store {
    fn default() -> Self {
        Store { current: ArcSwap::from_pointee(Snapshot::default()), generation: watch::Sender::new(0) }
    }
}

impl Store {
    /// Makes `snapshot` the current one and wakes the workers. The caller keeps the `Arc` until it is its
    /// only owner, so that no worker ever drops a large table.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        let generation = snapshot.generation;
        self.current.store(snapshot);
        self.generation.send_replace(generation);
    }

    /// The current snapshot.
    pub fn load(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// A receiver that sees each new generation number (intermediate ones may be skipped).
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }
}
