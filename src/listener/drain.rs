//! When the connections of a draining listener are told to leave.
//!
//! Told all at once, their clients come back all at once. Spread out, each is told at a moment of its own,
//! drawn evenly from the drain's length, so that the share of those told grows linearly: what Envoy calls the
//! gradual strategy.

use crate::cluster::Env;
use crate::stream::{Drain, Handle};
use std::rc::Rc;
use std::time::Duration;
use tokio::task::spawn_local;
use tokio::time::Instant;

/// A drain's beginning and over how long it is spread; a length of 0 tells everyone at once.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    begin: Instant,
    over: Duration,
}

impl Spread {
    /// Begins now.
    pub fn over(over: Duration) -> Self {
        Spread { begin: Instant::now(), over }
    }

    /// Tells each of `handles` in its turn. A connection that has a turn keeps it.
    pub(super) fn tell(self, handles: impl IntoIterator<Item = Rc<Handle>>, env: &Env) {
        let now = Instant::now();
        let mut later = Vec::new();
        for handle in handles {
            let at = self.turn(env.random.below(u32::MAX));
            if at <= now {
                handle.drain(Drain::Told);
            } else if handle.drain(Drain::Marked) {
                later.push((at, Rc::downgrade(&handle)));
            }
        }
        if later.is_empty() {
            return;
        }
        later.sort_unstable_by_key(|(at, _)| *at);
        let wheel = env.wheel.clone();
        // Ends with the spread; it holds no connection.
        spawn_local(async move {
            for (at, handle) in later {
                wheel.sleep_until(at).await;
                if let Some(handle) = handle.upgrade() {
                    handle.drain(Drain::Told);
                }
            }
        });
    }

    /// The moment that `random` draws.
    fn turn(self, random: u32) -> Instant {
        self.begin + self.over.mul_f64(f64::from(random) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::random::Random;

    #[tokio::test(start_paused = true)]
    async fn the_share_of_those_told_grows_linearly() {
        let (spread, random) = (Spread::over(Duration::from_secs(100)), Random::seeded(7));
        let turns: Vec<_> = (0..10_000).map(|_| spread.turn(random.below(u32::MAX))).collect();
        for percent in [0u32, 10, 50, 90, 100] {
            let at = spread.begin + Duration::from_secs(percent.into());
            let told = turns.iter().filter(|turn| **turn <= at).count() as u32;
            assert!(told.abs_diff(percent * 100) < 200, "{told} of 10,000 after {percent} %");
        }
        let at_once = Spread::over(Duration::ZERO);
        assert_eq!(at_once.turn(u32::MAX), at_once.begin);
    }
}
