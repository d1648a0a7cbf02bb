//! Circuit breakers: counts exact over all workers.
//!
//! A cluster with finite thresholds counts in shared atomics; an unlimited threshold (`u32::MAX`, what Istio
//! sends) costs nothing.

use crate::model::{Breakers, Priority, RetryBudget, Thresholds};
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

/// Shared counts of one cluster, for each priority. Held by the builder per cluster name.
#[derive(Debug, Default)]
pub struct BreakerState {
    default: Counts,
    high: Counts,
}

type Counts = [AtomicU32; 4];

impl BreakerState {
    /// Takes one unit of `level` unless `limits` forbid it. `Ok(None)` where the level is unlimited.
    ///
    /// # Errors
    /// The limit is reached.
    pub fn acquire(
        self: &Arc<Self>,
        level: Level,
        priority: Priority,
        breakers: &Breakers,
    ) -> Result<Option<Permit>, Overflow> {
        let limits = breakers.of(priority);
        let limit = self.limit(level, priority, limits);
        // A budget is a share of the requests, which are counted for it.
        let base = limits.retry_budget.is_some() && matches!(level, Level::Pending | Level::Requests);
        if limit == u32::MAX && !base && !limits.track_remaining {
            return Ok(None);
        }
        let cell = self.cell(level, priority);
        cell.fetch_update(Relaxed, Relaxed, |now| (now < limit).then_some(now + 1))
            .map_err(|_| Overflow(level))?;
        Ok(Some(Permit { state: self.clone(), level, priority }))
    }

    /// How many units of `level` there may be now.
    pub fn limit(&self, level: Level, priority: Priority, limits: &Thresholds) -> u32 {
        match (level, &limits.retry_budget) {
            (Level::Retries, Some(budget)) => self.retries(budget, priority),
            _ => level.limit(limits),
        }
    }

    /// Retries that `budget` allows now.
    fn retries(&self, budget: &RetryBudget, priority: Priority) -> u32 {
        let active = |level| u64::from(self.active(level, priority));
        let requests = active(Level::Requests) + active(Level::Pending);
        let share = requests * u64::from(budget.budget_permyriad) / 10_000;
        u32::try_from(share).unwrap_or(u32::MAX).max(budget.min_concurrency)
    }

    /// Units of `level` taken now; 0 where unlimited.
    pub fn active(&self, level: Level, priority: Priority) -> u32 {
        self.cell(level, priority).load(Relaxed)
    }

    fn cell(&self, level: Level, priority: Priority) -> &AtomicU32 {
        let [connections, pending, requests, retries] = match priority {
            Priority::Default => &self.default,
            Priority::High => &self.high,
        };
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
    priority: Priority,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.state.cell(self.level, self.priority).fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: Priority = Priority::Default;

    fn breakers(default: Thresholds) -> Breakers {
        Breakers { default, high: Thresholds { max_requests: 1, ..default } }
    }

    #[test]
    fn counts_exactly_and_gives_back() {
        let state = Arc::new(BreakerState::default());
        let limits = breakers(Thresholds { max_requests: 2, max_retries: u32::MAX, ..Thresholds::default() });
        let one = state.acquire(Level::Requests, DEFAULT, &limits).unwrap();
        let _two = state.acquire(Level::Requests, DEFAULT, &limits).unwrap();
        let full = Overflow(Level::Requests);
        assert_eq!(state.acquire(Level::Requests, DEFAULT, &limits).unwrap_err(), full);
        let _high = state.acquire(Level::Requests, Priority::High, &limits).unwrap();
        assert_eq!(state.acquire(Level::Requests, Priority::High, &limits).unwrap_err(), full);
        drop(one);
        assert!(state.acquire(Level::Requests, DEFAULT, &limits).is_ok());
        assert!(state.acquire(Level::Retries, DEFAULT, &limits).unwrap().is_none());
    }

    #[test]
    fn what_is_shown_is_counted_even_where_it_is_unlimited() {
        let state = Arc::new(BreakerState::default());
        let limits = Thresholds { max_requests: u32::MAX, track_remaining: true, ..Thresholds::default() };
        let _one = state.acquire(Level::Requests, DEFAULT, &breakers(limits)).unwrap();
        assert_eq!(state.active(Level::Requests, DEFAULT), 1);
    }

    #[test]
    fn a_budget_is_a_share_of_the_requests() {
        let state = Arc::new(BreakerState::default());
        let retry_budget = Some(RetryBudget { budget_permyriad: 2_000, min_concurrency: 1 });
        let limits = breakers(Thresholds {
            max_requests: u32::MAX,
            max_retries: 0,
            retry_budget,
            ..Thresholds::default()
        });
        let acquire = |level| state.acquire(level, DEFAULT, &limits);
        let first = acquire(Level::Retries).unwrap();
        assert!(acquire(Level::Retries).is_err(), "one is always allowed, no more");
        let requests: Vec<_> = (0..10).map(|_| acquire(Level::Requests).unwrap()).collect();
        assert_eq!(state.active(Level::Requests, DEFAULT), 10);
        let second = acquire(Level::Retries).unwrap();
        assert!(acquire(Level::Retries).is_err(), "20 % of 10");
        drop((first, second, requests));
        let left = [Level::Requests, Level::Retries].map(|level| state.active(level, DEFAULT));
        assert_eq!(left, [0, 0]);
    }
}
