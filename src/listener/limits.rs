//! How many connections may be open: over all listeners, and on one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// A number of open connections that is not passed, exact over all workers.
#[derive(Debug)]
pub struct Ceiling {
    limit: u32,
    open: Arc<AtomicU32>,
}

/// A connection's place below a ceiling; free again when dropped.
#[derive(Debug)]
pub struct Seat(Arc<AtomicU32>);

impl Ceiling {
    /// At most `limit`; `open` may have been counted before.
    pub fn new(limit: u32, open: Arc<AtomicU32>) -> Self {
        Ceiling { limit, open }
    }

    /// Takes a place; `None`: there is none.
    pub fn enter(&self) -> Option<Seat> {
        let more = |open: u32| (open < self.limit).then_some(open + 1);
        self.open.fetch_update(Relaxed, Relaxed, more).ok()?;
        Some(Seat(self.open.clone()))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_back_and_outlive_their_ceiling() {
        let open = Arc::new(AtomicU32::new(0));
        let two = Ceiling::new(2, open.clone());
        let (first, second) = (two.enter().unwrap(), two.enter().unwrap());
        assert!(two.enter().is_none());
        drop(first);
        // A new version of the listener, with another limit, goes on counting.
        let one = Ceiling::new(1, open.clone());
        drop(two);
        assert!(one.enter().is_none());
        drop(second);
        assert!(one.enter().is_some());
        assert_eq!(open.load(Relaxed), 0, "the last one was given back at once");
        assert!(Ceiling::new(0, open).enter().is_none());
    }
}
