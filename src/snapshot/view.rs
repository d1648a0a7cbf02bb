//! A worker's pinned snapshot.

use super::Snapshot;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

/// A snapshot pinned inside one worker: cloning touches only the worker's own count, never the shared one.
#[derive(Clone)]
#[expect(clippy::redundant_allocation, reason = "the outer count is the worker's own: that is the point")]
pub struct View(Rc<Arc<Snapshot>>);

impl View {
    /// Pins `snapshot` for this worker.
    pub fn new(snapshot: Arc<Snapshot>) -> Self {
        View(Rc::new(snapshot))
    }
}

impl Deref for View {
    type Target = Snapshot;
    fn deref(&self) -> &Snapshot {
        &self.0
    }
}
