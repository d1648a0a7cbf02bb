//! Full-jitter exponential backoff: how long to wait before the next try.
//!
//! Owns the growing window. Each wait is drawn evenly from zero to the window, and the window doubles from
//! `base` to `cap`, so that a thousand proxies whose control plane restarted do not come back as one wave.
//! The only file that names the `backoff` crate.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;

/// A sequence of waits; `reset` starts it over.
#[derive(Debug)]
pub struct FullJitter(ExponentialBackoff);

impl FullJitter {
    /// First window `base`, doubling with every wait, never wider than `cap`.
    #[must_use]
    pub fn new(base: Duration, cap: Duration) -> Self {
        // The crate draws from interval ± factor × interval. A factor of one around half the window is
        // exactly zero to the window.
        let mut inner = ExponentialBackoff {
            current_interval: base / 2,
            initial_interval: base / 2,
            max_interval: cap / 2,
            randomization_factor: 1.0,
            multiplier: 2.0,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        inner.reset();
        Self(inner)
    }

    /// The next wait; widens the window.
    pub fn next_wait(&mut self) -> Duration {
        self.0.next_backoff().unwrap_or(self.0.max_interval)
    }

    /// Back to the first window: something answered.
    pub fn reset(&mut self) {
        self.0.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_stay_in_the_window_and_the_window_doubles_to_the_cap() {
        let (base, cap) = (Duration::from_millis(500), Duration::from_secs(30));
        let slack = Duration::from_micros(1);
        for _ in 0..50 {
            let mut backoff = FullJitter::new(base, cap);
            let mut window = base;
            for _ in 0..12 {
                assert!(backoff.next_wait() <= window + slack);
                window = (window * 2).min(cap);
            }
        }
    }

    #[test]
    fn waits_are_spread_and_reset_starts_over() {
        let (base, cap) = (Duration::from_millis(500), Duration::from_secs(30));
        let mut backoff = FullJitter::new(base, cap);
        for _ in 0..8 {
            backoff.next_wait();
        }
        let late: Vec<_> = (0..200).map(|_| backoff.next_wait()).collect();
        assert!(late.iter().any(|wait| *wait > cap / 2), "the window never grew");
        assert!(late.iter().any(|wait| *wait < cap / 2), "no jitter");
        backoff.reset();
        assert!(backoff.next_wait() <= base + Duration::from_micros(1));
    }
}
