//! Spreading accepted connections over the workers.

use super::Command;
use crate::listener::Handoff;
use crate::model::Address;
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tokio::sync::mpsc;

/// Connections per worker, and the way to each.
pub struct Loads {
    counts: Vec<AtomicUsize>,
    workers: Vec<mpsc::UnboundedSender<Command>>,
}

impl Loads {
    pub(super) fn new(workers: Vec<mpsc::UnboundedSender<Command>>) -> Self {
        Loads { counts: workers.iter().map(|_| AtomicUsize::new(0)).collect(), workers }
    }

    /// Connections over all workers.
    pub fn total(&self) -> usize {
        self.counts.iter().map(|count| count.load(Relaxed)).sum()
    }

    /// Takes one connection off a worker's count.
    fn leave(&self, worker: usize) {
        if let Some(count) = self.counts.get(worker) {
            count.fetch_sub(1, Relaxed);
        }
    }

    fn enter(&self, worker: usize) {
        if let Some(count) = self.counts.get(worker) {
            count.fetch_add(1, Relaxed);
        }
    }
}

/// One worker's part in the spreading.
pub(super) struct Place {
    pub(super) index: usize,
    pub(super) loads: Arc<Loads>,
}

impl Handoff for Place {
    fn place(&self, address: &Address, stream: std::net::TcpStream) -> Result<(), std::net::TcpStream> {
        let counts = self.loads.counts.iter().map(|count| count.load(Relaxed));
        let least = counts.enumerate().min_by_key(|(index, count)| (*count, *index != self.index));
        let Some((target, _)) = least.filter(|(index, _)| *index != self.index) else { return Err(stream) };
        let Some(worker) = self.loads.workers.get(target) else { return Err(stream) };
        // Counted at once, or a burst would all go to the same worker.
        self.loads.enter(target);
        worker.send(Command::Adopt { address: address.clone(), stream }).map_err(|refused| {
            self.loads.leave(target);
            match refused.0 {
                Command::Adopt { stream, .. } => stream,
                _ => unreachable!("the command just made"),
            }
        })
    }

    fn enter(&self) -> Box<dyn Any> {
        self.loads.enter(self.index);
        Box::new(self.adopted())
    }
}

impl Place {
    /// The guard of a connection that `place` has counted already.
    pub(super) fn adopted(&self) -> Counted {
        Counted { index: self.index, loads: self.loads.clone() }
    }
}

/// A counted connection.
pub(super) struct Counted {
    index: usize,
    loads: Arc<Loads>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.loads.leave(self.index);
    }
}
