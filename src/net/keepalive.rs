//! PINGs that find a dead peer of an HTTP/2 connection.

use h2::{Ping, PingPong};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// Asks the peer by PING whether it lives.
pub struct Keepalive {
    pings: PingPong,
    interval: Duration,
    timeout: Duration,
    due: Instant,
    asked: bool,
}

impl Keepalive {
    /// Asks every `interval`; an answer may take `timeout`.
    pub fn new(pings: PingPong, (interval, timeout): (Duration, Duration)) -> Self {
        Keepalive { pings, interval, timeout, due: Instant::now() + interval, asked: false }
    }

    /// Ready when the peer did not answer in time. Otherwise to be called again at [`due`](Self::due), and whenever
    /// the connection has been polled.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.asked && matches!(self.pings.poll_pong(cx), Poll::Ready(Ok(_))) {
                self.asked = false;
                self.due = Instant::now() + self.interval;
            }
            let now = Instant::now();
            if self.due > now {
                return Poll::Pending;
            }
            if self.asked {
                return Poll::Ready(());
            }
            self.asked = self.pings.send_ping(Ping::opaque()).is_ok();
            self.due = now + self.timeout;
        }
    }

    /// When something is to be done.
    pub fn due(&self) -> Instant {
        self.due
    }
}
