//! PINGs that find a dead peer of an HTTP/2 connection.

use crate::model;
use crate::util::random::Random;
use h2::{Ping, PingPong};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// Later than any connection lives.
const NEVER: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Asks the peer by PING whether it lives.
pub struct Keepalive {
    pings: PingPong,
    config: model::Keepalive,
    random: Random,
    due: Instant,
    asked: bool,
    /// Without streams since then.
    idle_since: Option<Instant>,
}

impl Keepalive {
    /// Asks as `config` says.
    pub fn new(pings: PingPong, config: model::Keepalive) -> Self {
        let mut new = Keepalive {
            pings,
            config,
            random: Random::default(),
            due: Instant::now(),
            asked: false,
            idle_since: None,
        };
        new.due = new.next();
        new
    }

    /// When to ask next, if nothing calls for it before.
    fn next(&self) -> Instant {
        let Some(interval) = self.config.interval else { return Instant::now() + NEVER };
        let share = f64::from(self.random.below(1000)) / 1000.0 * f64::from(self.config.jitter) / 100.0;
        Instant::now() + interval + interval.mul_f64(share)
    }

    /// Whether the connection has streams now: the first one after a long silence is a reason to ask.
    pub fn busy(&mut self, busy: bool) {
        let Some(limit) = self.config.idle else { return };
        match (busy, self.idle_since) {
            (false, None) => self.idle_since = Some(Instant::now()),
            (true, Some(since)) => {
                self.idle_since = None;
                if !self.asked && since.elapsed() >= limit {
                    self.due = Instant::now();
                }
            }
            _ => {}
        }
    }

    /// Ready when the peer did not answer in time. Otherwise to be called again at [`due`](Self::due), and whenever
    /// the connection has been polled.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.asked && matches!(self.pings.poll_pong(cx), Poll::Ready(Ok(_))) {
                self.asked = false;
                self.due = self.next();
            }
            let now = Instant::now();
            if self.due > now {
                return Poll::Pending;
            }
            if self.asked {
                return Poll::Ready(());
            }
            self.asked = self.pings.send_ping(Ping::opaque()).is_ok();
            self.due = now + self.config.timeout;
        }
    }

    /// When something is to be done.
    pub fn due(&self) -> Instant {
        self.due
    }
}
