//! How long a server keeps an idle connection, learned from the closes that were seen.
//!
//! A request on a connection that its server is just closing is lost. So connections are retired before they
//! have been idle for as long as those that were found closed.

use std::cell::Cell;
use std::time::Duration;
use tokio::time::Instant;

/// Closes after a shorter idle time are no idle timeout: a server that stops closes busy connections too.
const SHORTEST: Duration = Duration::from_millis(20);
/// How long an observation counts at least. A server that was restarted closed its connections for another
/// reason; one with a timeout will be seen again.
const MEMORY: Duration = Duration::from_secs(120);

/// What closes of one host's idle connections have taught.
#[derive(Default)]
pub(super) struct Learned(Cell<Option<Seen>>);

#[derive(Clone, Copy)]
struct Seen {
    /// The shortest time after which a connection was found closed.
    idle: Duration,
    at: Instant,
}

impl Seen {
    fn counts(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) <= MEMORY.max(self.idle.saturating_mul(20))
    }
}

impl Learned {
    /// A connection was found closed by its server after it had been idle for `idle`, or shorter.
    pub(super) fn observe(&self, idle: Duration, now: Instant) {
        if idle < SHORTEST {
            return;
        }
        let shortest = match self.0.get() {
            Some(seen) if seen.counts(now) => seen.idle.min(idle),
            _ => idle,
        };
        self.0.set(Some(Seen { idle: shortest, at: now }));
    }

    /// How long a connection may have been idle to be used again; `None`: nothing is known.
    pub(super) fn limit(&self, now: Instant) -> Option<Duration> {
        let seen = self.0.get()?;
        if !seen.counts(now) {
            self.0.set(None);
            return None;
        }
        Some(ahead_of(seen.idle))
    }
}

/// When to retire a connection that its server closes after `timeout`: an eighth before, or a second where that
/// is not most of it. Sweeps, which find most closes, come once a second.
pub(super) fn ahead_of(timeout: Duration) -> Duration {
    timeout - (timeout / 8).max(Duration::from_secs(1).min(timeout / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_retired_before_their_server_closes_them() {
        let (learned, now) = (Learned::default(), Instant::now());
        assert_eq!(learned.limit(now), None);
        learned.observe(Duration::from_millis(5), now);
        assert_eq!(learned.limit(now), None, "too short to be a timeout");
        learned.observe(Duration::from_secs(60), now);
        assert_eq!(learned.limit(now), Some(Duration::from_millis(52_500)));
        learned.observe(Duration::from_secs(5), now);
        learned.observe(Duration::from_secs(30), now);
        assert_eq!(learned.limit(now), Some(Duration::from_secs(4)), "the shortest counts");
        learned.observe(Duration::from_millis(200), now);
        assert_eq!(learned.limit(now), Some(Duration::from_millis(100)));
    }

    #[test]
    fn what_is_not_seen_again_is_forgotten() {
        let (learned, now) = (Learned::default(), Instant::now());
        learned.observe(Duration::from_secs(1), now);
        assert!(learned.limit(now + MEMORY).is_some());
        assert_eq!(learned.limit(now + MEMORY + Duration::from_secs(1)), None);
        learned.observe(Duration::from_secs(60), now);
        assert!(learned.limit(now + Duration::from_secs(1000)).is_some(), "long timeouts are seen rarely");
    }
}
