//! One connection as those see it who send on it, and their places there.

use crate::cluster::Host;
use crate::message::{Failure, Reason};
use crate::telemetry::{ClusterStats, Registration};
use crate::tls::Session;
use bytes::Bytes;
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use http::Request;
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use tokio::time::Instant;

/// One open connection.
pub struct Link {
    pub(super) sender: SendRequest<Bytes>,
    pub(super) active: Cell<usize>,
    /// Streams the peer allows; what other connections of its were allowed until it has said so.
    pub(super) limit: Cell<usize>,
    pub(super) open: Cell<bool>,
    pub(super) remaining: Cell<u32>,
    pub(super) idle_since: Cell<Instant>,
    pub(super) stats: Rc<Registration<ClusterStats>>,
    pub(super) host: Weak<Host>,
    pub(super) local: Option<SocketAddr>,
    pub(super) session: Option<Arc<Session>>,
}

/// One stream's place on a connection, given back when dropped.
pub struct Lease(Rc<Link>);

impl Link {
    /// Whether it takes a stream now.
    pub(super) fn has_room(&self) -> bool {
        self.open.get() && self.active.get() < self.limit.get()
    }

    /// A place on it, if there is one. One that gives its last place leaves the pool.
    pub(super) fn lease(self: &Rc<Self>) -> Option<Lease> {
        if !self.has_room() {
            return None;
        }
        self.active.set(self.active.get() + 1);
        if self.remaining.get() != u32::MAX {
            self.remaining.set(self.remaining.get().saturating_sub(1));
            if self.remaining.get() == 0
                && let Some(host) = self.host.upgrade()
            {
                self.stats.upstream_cx_max_requests.inc();
                host.http2.forget(self);
            }
        }
        Some(Lease(self.clone()))
    }
}

impl Lease {
    /// Our own address of the connection.
    pub fn local(&self) -> Option<SocketAddr> {
        self.0.local
    }

    /// What is known of the connection's encryption.
    pub fn session(&self) -> Option<&Arc<Session>> {
        self.0.session.as_ref()
    }

    /// Opens the stream. `end`: the request has no body.
    ///
    /// # Errors
    /// The connection takes no more streams (it leaves the pool), or the request cannot be sent at all.
    /// Nothing was sent.
    pub fn send(
        &self,
        request: Request<()>,
        end: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), Failure> {
        // A clone each time: one handle refuses while its last request still waits for the peer's limit.
        self.0.sender.clone().send_request(request, end).map_err(|error| {
            if error.is_io() || error.is_go_away() {
                if let Some(host) = self.0.host.upgrade() {
                    host.http2.forget(&self.0);
                }
                Failure::before(Reason::UpstreamClosed)
            } else {
                Failure::before(Reason::HeaderOverflow)
            }
        })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let link = &self.0;
        let active = link.active.get().saturating_sub(1);
        link.active.set(active);
        if active == 0 {
            link.idle_since.set(Instant::now());
        }
        if let Some(host) = link.host.upgrade() {
            host.http2.wake(1);
        }
    }
}

/// What an error of an upstream stream means for its request.
pub fn failure_of(error: &h2::Error) -> Failure {
    match error.reason() {
        // Streams above the last one a GOAWAY names were not looked at (RFC 9113 6.8), refused ones neither.
        _ if error.is_go_away() && error.is_remote() => Failure::before(Reason::UpstreamRefused),
        Some(h2::Reason::REFUSED_STREAM) if error.is_remote() => Failure::before(Reason::UpstreamRefused),
        Some(_) if error.is_reset() && error.is_remote() => Failure::after(Reason::UpstreamReset),
        Some(_) if error.is_library() => Failure::after(Reason::UpstreamProtocol),
        _ => Failure::after(Reason::UpstreamClosed),
    }
}
