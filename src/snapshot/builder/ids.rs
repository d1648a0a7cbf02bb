//! Numbers for names, given again only when no kept snapshot can name them.

use super::super::Snapshot;
use std::collections::VecDeque;
use std::sync::Arc;

/// Allocates ids of one kind.
///
/// An id that was in use over generations `from..=to` is free again once no kept snapshot is one of them: one
/// old snapshot pinned by a slow stream holds back its own ids only.
#[derive(Default)]
pub(super) struct Ids {
    /// Generation published last.
    generation: u64,
    /// By id: the first generation that can name it.
    born: Vec<u64>,
    free: Vec<u32>,
    resting: Vec<(u32, u64, u64)>,
}

impl Ids {
    /// A number that nothing names.
    pub(super) fn take(&mut self) -> u32 {
        let first = self.generation + 1;
        if let Some(id) = self.free.pop() {
            if let Some(born) = self.born.get_mut(id as usize) {
                *born = first;
            }
            return id;
        }
        self.born.push(first);
        // Bounded by the resource limits times the names each may hold, far below 2^32.
        u32::try_from(self.born.len() - 1).unwrap_or(u32::MAX)
    }

    /// The next snapshot will not name `id` any more.
    pub(super) fn retire(&mut self, id: u32) {
        let from = self.born.get(id as usize).copied().unwrap_or(0);
        if from > self.generation {
            self.free.push(id);
        } else {
            self.resting.push((id, from, self.generation));
        }
    }

    /// A generation went out.
    pub(super) fn published(&mut self, generation: u64) {
        self.generation = generation;
    }

    /// Frees what none of `kept` (ascending generations) can name.
    pub(super) fn release(&mut self, kept: &VecDeque<Arc<Snapshot>>) {
        let free = &mut self.free;
        self.resting.retain(|&(id, from, to)| {
            let at = kept.partition_point(|snapshot| snapshot.generation < from);
            let named = kept.get(at).is_some_and(|snapshot| snapshot.generation <= to);
            if !named {
                free.push(id);
            }
            named
        });
    }

    /// Ids ever given: the length of tables by id.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.born.len()
    }
}
