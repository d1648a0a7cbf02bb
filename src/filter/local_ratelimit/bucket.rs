//! A token bucket in one atomic number.

use crate::model::BucketConfig;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// Fills all the time. What is kept is the moment at which it would have been empty: what is in it is what has
/// come since then, and taking a token moves the moment ahead.
pub struct Bucket {
    config: BucketConfig,
    since: Instant,
    /// Nanoseconds after `since`, plus those of a full bucket.
    empty_at: AtomicU64,
}

impl Bucket {
    /// One that is full.
    pub fn full(config: BucketConfig, now: Instant) -> Self {
        // A full bucket was empty as long ago as it takes to fill it.
        Bucket { config, since: now, empty_at: AtomicU64::new(0) }
    }

    /// Tokens a second.
    pub(super) fn fill_rate(&self) -> f64 {
        f64::from(self.config.per_fill) / self.config.interval.as_secs_f64()
    }

    /// Nanoseconds in which one token comes.
    fn pace(&self) -> f64 {
        self.config.interval.as_nanos() as f64 / f64::from(self.config.per_fill.max(1))
    }

    /// Now, on the scale of `empty_at`.
    fn now(&self, now: Instant) -> f64 {
        now.saturating_duration_since(self.since).as_nanos() as f64 + self.span()
    }

    /// Nanoseconds in which it fills.
    fn span(&self) -> f64 {
        self.pace() * f64::from(self.config.max)
    }

    /// Takes a token if there is one.
    pub fn take(&self, now: Instant) -> bool {
        let (now, pace, span) = (self.now(now), self.pace(), self.span());
        let taken = |held: u64| {
            let next = (held as f64).max(now - span) + pace;
            // Half a nanosecond for what numbers lose.
            (next <= now + 0.5).then_some(next.ceil() as u64)
        };
        self.empty_at.fetch_update(Relaxed, Relaxed, taken).is_ok()
    }

    /// What is in it.
    fn left(&self, now: Instant) -> f64 {
        let held = self.empty_at.load(Relaxed) as f64;
        ((self.now(now) - held) / self.pace()).clamp(0.0, f64::from(self.config.max))
    }

    /// As responses tell it.
    pub(super) fn told(&self, now: Instant) -> [(&'static str, u64); 3] {
        let left = self.left(now);
        let reset = (f64::from(self.config.max) - left) * self.pace() / 1e9;
        [
            ("x-ratelimit-limit", self.config.max.into()),
            ("x-ratelimit-remaining", (left + 1e-6) as u64),
            ("x-ratelimit-reset", reset.ceil() as u64),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn tokens_come_evenly_up_to_the_most() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let config = BucketConfig { max: 3, per_fill: 2, interval: Duration::from_secs(1) };
        let bucket = Bucket::full(config, start);
        assert_eq!([0, 0, 0, 0].map(|_| bucket.take(start)), [true, true, true, false]);
        assert!(!bucket.take(at(499)) && bucket.take(at(500)) && !bucket.take(at(500)));
        assert_eq!(bucket.told(at(1000)).map(|(_, n)| n), [3, 1, 1]);
        // Idle for long, it holds no more than it may.
        let late = at(100_000);
        assert_eq!([0, 0, 0, 0].map(|_| bucket.take(late)), [true, true, true, false]);
    }

    #[test]
    fn threads_together_take_what_there_is() {
        let now = Instant::now();
        let config = BucketConfig { max: 1000, per_fill: 1, interval: Duration::from_secs(3600) };
        let bucket = Bucket::full(config, now);
        let taken: usize = std::thread::scope(|scope| {
            let work = || (0..500).filter(|_| bucket.take(now)).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(taken, 1000);
    }
}
