//! One connection: what outlives its exchanges.

use super::Host;
use super::state::Stream;
use crate::cluster::{Cluster, Permit, State};
use crate::net::{Conn, Line};
use crate::protocol::http1::Limits;
use crate::telemetry::{ClusterStats, Registration};
use crate::tls::Session;
use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// An open connection; closed when dropped.
pub(super) struct Link {
    pub(super) line: Rc<Line>,
    /// What is known of its encryption.
    pub(super) session: Option<Arc<Session>>,
    pub(super) stats: Rc<Registration<ClusterStats>>,
    pub(super) idle_timeout: Option<Duration>,
    /// How long the server says it keeps it.
    pub(super) announced: Cell<Option<Duration>>,
    /// Requests it may still carry.
    pub(super) remaining: Cell<u32>,
    /// Changes with every exchange. What belongs to an earlier one has no say any more.
    pub(super) turn: Cell<u32>,
    /// It has carried a request.
    pub(super) served: Cell<bool>,
    pub(super) limits: Limits,
    pub(super) stream: RefCell<Stream>,
    pub(super) host: Weak<Host>,
    idle_since: Cell<Instant>,
    born: Instant,
    /// The server closed it, as far as is known.
    remote: Cell<bool>,
    _permit: Option<Permit>,
}

impl Link {
    pub(super) fn new(
        io: Conn,
        host: &Rc<Host>,
        cluster: &Cluster,
        state: &State,
        permit: Option<Permit>,
    ) -> Rc<Self> {
        let (stats, model, now) = (cluster.stats.clone(), &state.spec.model, Instant::now());
        stats.upstream_cx_total.inc();
        stats.upstream_cx_http1_total.inc();
        stats.upstream_cx_active.inc();
        Rc::new(Link {
            session: io.session().cloned(),
            line: Line::new(io, &cluster.env().reads),
            stats,
            idle_timeout: model.idle_timeout,
            announced: Cell::new(None),
            remaining: Cell::new(match model.max_requests_per_connection {
                0 => u32::MAX,
                limit => limit,
            }),
            turn: Cell::new(0),
            served: Cell::new(false),
            limits: Limits {
                head_bytes: model.response_head_bytes,
                max_headers: model.response_headers,
                ..Limits::default()
            },
            stream: RefCell::default(),
            host: Rc::downgrade(host),
            idle_since: Cell::new(now),
            born: now,
            remote: Cell::new(false),
            _permit: permit,
        })
    }

    /// How long it has been idle.
    pub(super) fn idle(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.idle_since.get())
    }

    /// Its server closed it.
    pub(super) fn note_remote_close(&self) {
        self.remote.set(true);
    }

    /// Gives it back after a whole exchange.
    pub(super) fn release(self: Rc<Self>) {
        self.line.settle();
        self.idle_since.set(Instant::now());
        if let Some(host) = self.host.upgrade() {
            host.http1.put(self);
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let (received, sent) = self.line.bytes();
        let stats = &self.stats;
        stats.upstream_cx_rx_bytes_total.add(received);
        stats.upstream_cx_tx_bytes_total.add(sent);
        stats.upstream_cx_length_ms.record(self.born.elapsed().as_millis() as u64);
        stats.upstream_cx_active.dec();
        stats.upstream_cx_destroy.inc();
        let active = self.stream.get_mut().is_active();
        if self.remote.get() {
            stats.upstream_cx_destroy_remote.inc();
        } else {
            stats.upstream_cx_destroy_local.inc();
        }
        match (active, self.remote.get()) {
            (true, true) => stats.upstream_cx_destroy_remote_with_active_rq.inc(),
            (true, false) => stats.upstream_cx_destroy_local_with_active_rq.inc(),
            (false, _) => {}
        }
        if active {
            stats.upstream_cx_destroy_with_active_rq.inc();
        }
        // The permit goes with the fields, after this: who waits is only woken here and dials later.
        if let Some(host) = self.host.upgrade() {
            host.http1.on_closed();
        }
    }
}
