//! The task of one connection: dials, drives h2, finds a dead or silent peer.

use super::link::Link;
use crate::cluster::pool::auto::{self, Version};
use crate::cluster::pool::dial::{Dial, Miss, connect};
use crate::cluster::pool::http1;
use crate::cluster::{Cluster, Host, Permit, State};
use crate::message::Reason;
use crate::net::{Conn, Keepalive, Sleep, Wire, WireIo, h2 as settings};
use crate::tls::Session;
use bytes::Bytes;
use h2::client::{Connection, SendRequest};
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// A peer that takes nothing for this long is given up with all its streams.
const STALL: Duration = Duration::from_secs(300);
/// How long the peer may take to close its side after we closed ours.
const LINGER: Duration = Duration::from_secs(1);

/// The task that dials and then drives the connection.
pub(super) struct Attempt {
    pub(super) dial: Rc<Dial<Link>>,
    pub(super) host: Rc<Host>,
    pub(super) cluster: Rc<Cluster>,
}

impl Attempt {
    /// Dials, tells those who wait, and drives the connection to its end.
    pub(super) async fn run(self, state: Rc<State>, permit: Option<Permit>) {
        let offer = auto::offer(&state, &["h2"]);
        match connect(&self.host, &self.cluster, &state, offer).await {
            Ok(io) if auto::is_other(Version::Http2, &io, &self.host, &state) => {
                self.host.http2.dialled(&self.dial);
                let looked_after = http1::Pool::adopt(io, &self.host, &self.cluster, &state, permit);
                self.dial.resolve(Err(Miss::Other));
                drop((self, state));
                looked_after.await;
            }
            Ok(io) => self.run_on(io, state, permit).await,
            Err(reason) => {
                self.host.http2.dialled(&self.dial);
                self.dial.resolve(Err(Miss::Failed(reason)));
            }
        }
    }

    /// Tells those who wait, and drives the connection to its end.
    pub(super) async fn run_on(self, io: Conn, state: Rc<State>, permit: Option<Permit>) {
        let stats = self.cluster.stats.clone();
        let opened = begin(io, &state).await;
        self.host.http2.dialled(&self.dial);
        let Opened { wire, session, sender, connection } = match opened {
            Ok(opened) => opened,
            Err(reason) => return self.dial.resolve(Err(Miss::Failed(reason))),
        };
        stats.upstream_cx_total.inc();
        stats.upstream_cx_http2_total.inc();
        stats.upstream_cx_active.inc();
        let model = &state.spec.model;
        let link = Rc::new(Link {
            sender,
            active: Cell::new(0),
            limit: Cell::new(self.host.http2.peer_limit.get()),
            open: Cell::new(true),
            remaining: Cell::new(match model.max_requests_per_connection {
                0 => u32::MAX,
                limit => limit,
            }),
            idle_since: Cell::new(Instant::now()),
            stats: stats.clone(),
            host: Rc::downgrade(&self.host),
            local: wire.local(),
            session,
        });
        if !self.dial.is_retired() {
            self.host.http2.links.borrow_mut().push(link.clone());
        }
        let driver = Driver::new(wire.clone(), connection, &link, &self, &state);
        self.dial.resolve(Ok(link));
        let (host, open) = (self.host.clone(), Instant::now());
        host.stats.cx_total.inc();
        host.stats.cx_active.inc();
        drop((self, state));
        let (by_peer, busy) = driver.run().await;
        host.stats.cx_active.dec();
        let (received, sent) = wire.bytes();
        stats.upstream_cx_rx_bytes_total.add(received);
        stats.upstream_cx_tx_bytes_total.add(sent);
        stats.closed(open.elapsed(), by_peer, busy);
        drop(permit);
        if let Some(io) = wire.into_conn() {
            io.close_gently(LINGER).await;
        }
    }
}

/// Sends what HTTP/2 begins with.
async fn begin(io: Conn, state: &State) -> Result<Opened, Reason> {
    let session = io.session().cloned();
    let wire = Wire::client(io);
    let mut handshake = pin!(settings::client(&state.spec.model.http2).handshake::<_, Bytes>(wire.io()));
    let opened = poll_fn(|cx| {
        let opened = handshake.as_mut().poll(cx);
        let _ = wire.poll_flush(cx);
        opened
    });
    let (sender, connection) = opened.await.map_err(|_| Reason::ConnectFailed)?;
    Ok(Opened { wire, session, sender, connection })
}

/// A connection on which HTTP/2 has begun.
struct Opened {
    wire: Rc<Wire>,
    session: Option<Arc<Session>>,
    sender: SendRequest<Bytes>,
    connection: Connection<WireIo, Bytes>,
}

/// What a connection's task keeps between turns.
struct Driver {
    wire: Rc<Wire>,
    connection: Connection<WireIo, Bytes>,
    link: Weak<Link>,
    cluster: Rc<Cluster>,
    timer: Sleep,
    idle_timeout: Option<Duration>,
    keepalive: Option<Keepalive>,
    /// The peer wants no new streams.
    told: bool,
    /// We ended it because the peer did not do its part in time.
    given_up: bool,
}

impl Driver {
    fn new(
        wire: Rc<Wire>,
        mut connection: Connection<WireIo, Bytes>,
        link: &Rc<Link>,
        attempt: &Attempt,
        state: &State,
    ) -> Self {
        let model = &state.spec.model;
        let now = Instant::now();
        let keepalive = model
            .http2
            .keepalive
            .as_ref()
            .and_then(|times| Some(Keepalive::new(connection.ping_pong()?, **times)));
        Driver {
            wire,
            connection,
            link: Rc::downgrade(link),
            timer: attempt.cluster.env().wheel.sleep_until(now),
            cluster: attempt.cluster.clone(),
            idle_timeout: model.idle_timeout,
            keepalive,
            told: false,
            given_up: false,
        }
    }

    /// Whether the peer ended it, and whether streams were open then.
    async fn run(mut self) -> (bool, bool) {
        poll_fn(|cx| self.poll(cx)).await;
        let link = self.link.upgrade();
        let open = link.as_ref().is_some_and(|link| link.open.get());
        let busy = link.is_some_and(|link| link.active.get() > 0);
        // Dropping the connection ends the streams that are left.
        self.leave_pool();
        (!self.given_up && (self.told || open || busy), busy)
    }

    fn leave_pool(&self) {
        if let Some(link) = self.link.upgrade() {
            match link.host.upgrade() {
                Some(host) => host.http2.forget(&link),
                None => link.open.set(false),
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let polled = Pin::new(&mut self.connection).poll(cx);
        let ended = polled.is_ready();
        if matches!(&polled, Poll::Ready(Err(error)) if error.is_library()) {
            self.cluster.stats.upstream_cx_protocol_error.inc();
        }
        if matches!(self.wire.poll_flush(cx), Poll::Ready(Err(_))) || ended || self.wire.flooded() {
            return Poll::Ready(());
        }
        if self.wire.is_worn() {
            if self.wire.is_told() && !std::mem::replace(&mut self.told, true) {
                self.cluster.stats.upstream_cx_close_notify.inc();
            }
            self.leave_pool();
        }
        self.learn_limit();
        if self.poll_keepalive(cx).is_ready() {
            self.cluster.stats.upstream_cx_keepalive_timeout.inc();
            self.given_up = true;
            return Poll::Ready(());
        }
        while Pin::new(&mut self.timer).poll(cx).is_ready() {
            let now = Instant::now();
            if self.wire.stalled_since().is_some_and(|since| now >= since + STALL) {
                self.given_up = true;
                return Poll::Ready(());
            }
            let idle_at = self.idle_at(now);
            if idle_at.is_some_and(|at| at <= now) {
                self.cluster.stats.upstream_cx_idle_timeout.inc();
                self.leave_pool();
            }
            let due = idle_at.filter(|at| *at > now).into_iter().chain([now + STALL]).min();
            self.timer.reset(due.unwrap_or(now + STALL));
        }
        Poll::Pending
    }

    /// Follows the number of streams the peer allows.
    fn learn_limit(&self) {
        // A peer that allows none is waited for by h2, which keeps the request until it does.
        let limit = self.connection.max_concurrent_send_streams().max(1);
        if let Some(link) = self.link.upgrade()
            && link.limit.get() != limit
            && self.wire.is_greeted()
        {
            link.limit.set(limit);
            if let Some(host) = link.host.upgrade() {
                host.http2.peer_limit.set(limit);
                host.http2.wake(limit);
            }
        }
    }

    /// When the connection has been without streams for too long, if it stays as it is.
    fn idle_at(&self, now: Instant) -> Option<Instant> {
        let (timeout, link) = (self.idle_timeout?, self.link.upgrade()?);
        if !link.open.get() {
            return None;
        }
        let since = if link.active.get() > 0 { now } else { link.idle_since.get() };
        Some(since + timeout)
    }

    /// Ready when the peer did not answer in time.
    fn poll_keepalive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(keepalive) = &mut self.keepalive else { return Poll::Pending };
        keepalive.busy(self.link.upgrade().is_some_and(|link| link.active.get() > 0));
        if keepalive.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if keepalive.due() < self.timer.deadline() {
            self.timer.reset(keepalive.due());
        }
        Poll::Pending
    }
}
