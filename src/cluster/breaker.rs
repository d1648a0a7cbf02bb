//! Circuit breakers: counts exact over all workers.
//!
//! A cluster with finite thresholds counts in shared atomics; an unlimited threshold (`u32::MAX`, what Istio
//! sends) costs nothing.

use crate::model::{RetryBudget, Thresholds};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// One resource under a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Upstream connections.
    Connections,
    /// Requests waiting for a connection.
    Pending,
    /// Requests in flight.
    Requests,
    /// Retries in flight.
    Retries,
}

/// A limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the limit of {0:?} is reached")]
pub struct Overflow(pub Level);

/// Shared counts of one cluster and priority. Held by the builder per cluster name.
#[derive(Debug, Default)]
pub struct BreakerState {
    active: [AtomicU32; 4],
}

impl BreakerState {
    /// Takes one unit of `level` unless `limits` forbid it. `Ok(None)` where the level is unlimited.
    ///
    /// # Errors
    /// The limit is reached.
    pub fn acquire(self: &Arc<Self>, level: Level, limits: &Thresholds) -> Result<Option<Permit>, Overflow> {
        let limit = match (level, &limits.retry_budget) {
            (Level::Retries, Some(budget)) => self.retries(budget),
            _ => level.limit(limits),
        };
        // A budget is a share of the requests, which are counted for it.
        let base = limits.retry_budget.is_some() && matches!(level, Level::Pending | Level::Requests);
        if limit == u32::MAX && !base {
            return Ok(None);
        }
        let cell = self.cell(level);
        cell.fetch_update(Relaxed, Relaxed, |now| (now < limit).then_some(now + 1))
            .map_err(|_| Overflow(level))?;
        Ok(Some(Permit { state: self.clone(), level }))
    }

    /// Retries that `budget` allows now.
    fn retries(&self, budget: &RetryBudget) -> u32 {
        let requests = u64::from(self.active(Level::Requests)) + u64::from(self.active(Level::Pending));
        let share = requests * u64::from(budget.budget_permyriad) / 10_000;
        u32::try_from(share).unwrap_or(u32::MAX).max(budget.min_concurrency)
    }

    /// Units of `level` taken now; 0 where unlimited.
    pub fn active(&self, level: Level) -> u32 {
        self.cell(level).load(Relaxed)
    }

    fn cell(&self, level: Level) -> &AtomicU32 {
        let [connections, pending, requests, retries] = &self.active;
        match level {
            Level::Connections => connections,
            Level::Pending => pending,
            Level::Requests => requests,
            Level::Retries => retries,
        }
    }
}

impl Level {
    /// This level's limit.
    pub fn limit(self, limits: &Thresholds) -> u32 {
        match self {
            Level::Connections => limits.max_connections,
            Level::Pending => limits.max_pending_requests,
            Level::Requests => limits.max_requests,
            Level::Retries => limits.max_retries,
        }
    }
}

/// One unit taken; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    state: Arc<BreakerState>,
    level: Level,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.state.cell(self.level).fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_exactly_and_gives_back() {
        let state = Arc::new(BreakerState::default());
        let limits = Thresholds { max_requests: 2, max_retries: u32::MAX, ..Thresholds::default() };
        let one = state.acquire(Level::Requests, &limits).unwrap();
        let _two = state.acquire(Level::Requests, &limits).unwrap();
        assert_eq!(state.acquire(Level::Requests, &limits).unwrap_err(), Overflow(Level::Requests));
        drop(one);
        assert!(state.acquire(Level::Requests, &limits).is_ok());
        assert!(state.acquire(Level::Retries, &limits).unwrap().is_none());
    }

    #[test]
    fn a_budget_is_a_share_of_the_requests() {
        let state = Arc::new(BreakerState::default());
        let retry_budget = Some(RetryBudget { budget_permyriad: 2_000, min_concurrency: 1 });
        let limits =
            Thresholds { max_requests: u32::MAX, max_retries: 0, retry_budget, ..Thresholds::default() };
        let first = state.acquire(Level::Retries, &limits).unwrap();
        assert!(state.acquire(Level::Retries, &limits).is_err(), "one is always allowed, no more");
        let requests: Vec<_> = (0..10).map(|_| state.acquire(Level::Requests, &limits).unwrap()).collect();
        assert_eq!(state.active(Level::Requests), 10);
        let second = state.acquire(Level::Retries, &limits).unwrap();
        assert!(state.acquire(Level::Retries, &limits).is_err(), "20 % of 10");
        drop((first, second, requests));
        assert_eq!((state.active(Level::Requests), state.active(Level::Retries)), (0, 0));
    }
}
