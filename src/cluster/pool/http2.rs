//! The pool of HTTP/2 connections to one host.
//!
//! Few connections carry all streams of a worker; another one is dialled when the streams the peer allows are
//! used up. Whoever sends holds a [`Lease`], one stream's place on one connection. A connection leaves the
//! pool when it takes no new streams and ends after its last one.

use super::dial::{Dial, connect};
use crate::cluster::{Cluster, Host, Level, Permit, State};
use crate::message::{Failure, Reason};
use crate::net::{Sleep, Wire, WireIo, h2 as settings};
use crate::protocol::bridge;
use bytes::Bytes;
use h2::client::{Connection, ResponseFuture, SendRequest};
use h2::{Ping, PingPong, SendStream};
use http::{Request, Uri, uri::Scheme};
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::task::spawn_local;
use tokio::time::Instant;

/// Streams a connection is expected to carry until a connection to this host has said so.
const EXPECTED_STREAMS: usize = 100;
/// A peer that takes nothing for this long is given up with all its streams.
const STALL: Duration = Duration::from_secs(300);
/// How long the peer may take to close its side after we closed ours.
const LINGER: Duration = Duration::from_secs(1);

/// Connections of one host.
pub struct Pool {
    links: RefCell<Vec<Rc<Link>>>,
    dials: RefCell<Vec<Rc<Dial<Link>>>>,
    waiting: RefCell<VecDeque<(u64, Waker)>>,
    next_waiter: Cell<u64>,
    /// Streams the peer allows on a connection, as it said last.
    peer_limit: Cell<usize>,
    target: OnceCell<Uri>,
}

impl Default for Pool {
    fn default() -> Self {
        Pool {
            links: RefCell::default(),
            dials: RefCell::default(),
            waiting: RefCell::default(),
            next_waiter: Cell::new(0),
            peer_limit: Cell::new(EXPECTED_STREAMS),
            target: OnceCell::new(),
        }
    }
}

/// One open connection.
pub struct Link {
    sender: SendRequest<Bytes>,
    active: Cell<usize>,
    /// Streams the peer allows; what other connections of its were allowed until it has said so.
    limit: Cell<usize>,
    open: Cell<bool>,
    remaining: Cell<u32>,
    idle_since: Cell<Instant>,
    host: Weak<Host>,
}

/// One stream's place on a connection, given back when dropped.
pub struct Lease(Rc<Link>);

impl Pool {
    /// A place on an open connection, if there is one: on the connection with the fewest streams.
    pub fn ready(&self) -> Option<Lease> {
        // Cloned: a connection that gives its last place leaves the list.
        let link = match self.links.borrow().as_slice() {
            [only] => only.clone(),
            many => many.iter().filter(|link| link.has_room()).min_by_key(|link| link.active.get())?.clone(),
        };
        link.lease()
    }

    /// A place on a connection, dialling one when needed.
    ///
    /// # Errors
    /// Connect failure or timeout, or a limit of connections or waiting requests.
    pub async fn acquire(
        host: &Rc<Host>,
        cluster: &Rc<Cluster>,
        state: &Rc<State>,
    ) -> Result<Lease, Failure> {
        if let Some(lease) = host.http2.ready() {
            host.http2.widen(host, cluster, state);
            return Ok(lease);
        }
        let waiting = state.spec.breakers.acquire(Level::Pending, &state.spec.model.breakers.default);
        let _waiting = waiting.map_err(|()| {
            cluster.stats.upstream_rq_pending_overflow.inc();
            Failure::before(Reason::OverflowPending)
        })?;
        cluster.stats.upstream_rq_pending_total.inc();
        let pool = &host.http2;
        loop {
            let lease = match pool.dial(host, cluster, state).map_err(Failure::before)? {
                Some(dial) => {
                    let link = dial.wait().await.map_err(Failure::before)?;
                    if !link.open.get() {
                        return Err(Failure::before(Reason::UpstreamClosed));
                    }
                    link.lease()
                }
                // No more connections are allowed: a stream of these must end first.
                None => pool.freed().await,
            };
            if let Some(lease) = lease {
                return Ok(lease);
            }
        }
    }

    /// The dial to wait for; `None` when there may be no further connection.
    fn dial(
        &self,
        host: &Rc<Host>,
        cluster: &Rc<Cluster>,
        state: &Rc<State>,
    ) -> Result<Option<Rc<Dial<Link>>>, Reason> {
        let roomy = |dial: &&Rc<Dial<Link>>| (dial.waiters() as usize) < self.peer_limit.get();
        if let Some(dial) = self.dials.borrow().iter().find(roomy) {
            return Ok(Some(dial.clone()));
        }
        let permit = state.spec.breakers.acquire(Level::Connections, &state.spec.model.breakers.default);
        let Ok(permit) = permit else {
            cluster.stats.upstream_cx_overflow.inc();
            return match (self.dials.borrow().first(), self.links.borrow().is_empty()) {
                (Some(dial), _) => Ok(Some(dial.clone())),
                (None, false) => Ok(None),
                (None, true) => Err(Reason::OverflowConnections),
            };
        };
        let dial = Dial::new();
        self.dials.borrow_mut().push(dial.clone());
        let attempt = Attempt { dial: dial.clone(), host: host.clone(), cluster: cluster.clone() };
        spawn_local(attempt.run(state.clone(), permit));
        Ok(Some(dial))
    }

    /// Dials ahead while there are fewer connections than configured.
    fn widen(&self, host: &Rc<Host>, cluster: &Rc<Cluster>, state: &Rc<State>) {
        let wanted = state.spec.model.connections_per_host as usize;
        if wanted > 1 && self.links.borrow().len() + self.dials.borrow().len() < wanted {
            let _ = self.dial(host, cluster, state);
        }
    }

    /// Waits, first come first served, until a stream has ended; `None` when no connection is left.
    async fn freed(&self) -> Option<Lease> {
        let id = self.next_waiter.get();
        self.next_waiter.set(id.wrapping_add(1));
        let mut place = Place { pool: self, id, served: false };
        let lease = poll_fn(|cx| {
            if let Some(lease) = self.ready() {
                return Poll::Ready(Some(lease));
            }
            if self.links.borrow().is_empty() {
                return Poll::Ready(None);
            }
            let mut waiting = self.waiting.borrow_mut();
            match waiting.iter_mut().find(|(other, _)| *other == id) {
                Some((_, waker)) => waker.clone_from(cx.waker()),
                None => waiting.push_back((id, cx.waker().clone())),
            }
            Poll::Pending
        })
        .await;
        place.served = lease.is_some();
        lease
    }

    /// Calls the first `count` of those who wait for a stream.
    fn wake(&self, count: usize) {
        for _ in 0..count {
            let next = self.waiting.borrow_mut().pop_front();
            match next {
                Some((_, waker)) => waker.wake(),
                None => return,
            }
        }
    }

    /// No new streams on `link`.
    fn forget(&self, link: &Link) {
        link.open.set(false);
        let mut links = self.links.borrow_mut();
        let at = links.iter().position(|other| std::ptr::eq(&**other, link));
        let gone = at.map(|at| links.swap_remove(at));
        drop(links);
        drop(gone);
        self.wake_all_if_empty();
    }

    /// Those who waited for a connection that is gone have to dial.
    fn wake_all_if_empty(&self) {
        if self.links.borrow().is_empty() {
            for (_, waker) in self.waiting.take() {
                waker.wake();
            }
        }
    }

    /// Idle connections close now, busy ones after their last stream.
    pub fn retire(&self) {
        for dial in self.dials.take() {
            dial.retire();
        }
        for link in self.links.take() {
            link.open.set(false);
        }
        self.wake_all_if_empty();
    }

    /// Open connections.
    pub fn open(&self) -> usize {
        self.links.borrow().len()
    }

    /// The request target of calls converted to HTTP/2: this host's address and the path `/`.
    pub fn target(&self, host: &Host) -> Option<Uri> {
        if let Some(target) = self.target.get() {
            return Some(target.clone());
        }
        let authority = match &host.address {
            crate::model::Address::Unix(_) => "localhost".to_owned(),
            address => address.to_string(),
        };
        let target = bridge::target(Scheme::HTTP, &authority).ok()?;
        Some(self.target.get_or_init(|| target).clone())
    }
}

/// Somebody's place in the queue for a stream.
struct Place<'p> {
    pool: &'p Pool,
    id: u64,
    served: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.served {
            return;
        }
        let mut waiting = self.pool.waiting.borrow_mut();
        let before = waiting.len();
        waiting.retain(|(id, _)| *id != self.id);
        let was_called = waiting.len() == before;
        drop(waiting);
        if was_called {
            self.pool.wake(1);
        }
    }
}

impl Link {
    fn has_room(&self) -> bool {
        self.open.get() && self.active.get() < self.limit.get()
    }

    fn lease(self: &Rc<Self>) -> Option<Lease> {
        if !self.has_room() {
            return None;
        }
        self.active.set(self.active.get() + 1);
        if self.remaining.get() != u32::MAX {
            self.remaining.set(self.remaining.get().saturating_sub(1));
            if self.remaining.get() == 0
                && let Some(host) = self.host.upgrade()
            {
                host.http2.forget(self);
            }
        }
        Some(Lease(self.clone()))
    }
}

impl Lease {
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

/// The task that dials and then drives the connection.
struct Attempt {
    dial: Rc<Dial<Link>>,
    host: Rc<Host>,
    cluster: Rc<Cluster>,
}

impl Attempt {
    async fn run(self, state: Rc<State>, permit: Option<Permit>) {
        let stats = self.cluster.stats.clone();
        let opened = self.open(&state).await;
        self.host.http2.dials.borrow_mut().retain(|dial| !Rc::ptr_eq(dial, &self.dial));
        let (wire, sender, connection) = match opened {
            Ok(opened) => opened,
            Err(reason) => return self.dial.resolve(Err(reason)),
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
            host: Rc::downgrade(&self.host),
        });
        if !self.dial.is_retired() {
            self.host.http2.links.borrow_mut().push(link.clone());
        }
        let driver = Driver::new(wire.clone(), connection, &link, &self, &state);
        self.dial.resolve(Ok(link));
        drop((self, state));
        driver.run().await;
        let (received, sent) = wire.bytes();
        stats.upstream_cx_rx_bytes_total.add(received);
        stats.upstream_cx_tx_bytes_total.add(sent);
        stats.upstream_cx_active.dec();
        stats.upstream_cx_destroy.inc();
        drop(permit);
        if let Some(io) = wire.into_conn() {
            io.close_gently(LINGER).await;
        }
    }

    /// Connects and sends what HTTP/2 begins with.
    async fn open(
        &self,
        state: &State,
    ) -> Result<(Rc<Wire>, SendRequest<Bytes>, Connection<WireIo, Bytes>), Reason> {
        let wire = Wire::client(connect(&self.host, &self.cluster, state).await?);
        let mut handshake = pin!(settings::client(&state.spec.model.http2).handshake::<_, Bytes>(wire.io()));
        let opened = poll_fn(|cx| {
            let opened = handshake.as_mut().poll(cx);
            let _ = wire.poll_flush(cx);
            opened
        });
        let (sender, connection) = opened.await.map_err(|_| Reason::ConnectFailed)?;
        Ok((wire, sender, connection))
    }
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
}

/// Asks the peer by PING whether it lives, if configured.
struct Keepalive {
    pings: PingPong,
    interval: Duration,
    timeout: Duration,
    due: Instant,
    asked: bool,
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
        let keepalive = model.http2.keepalive.and_then(|(interval, timeout)| {
            let pings = connection.ping_pong()?;
            Some(Keepalive { pings, interval, timeout, due: now + interval, asked: false })
        });
        Driver {
            wire,
            connection,
            link: Rc::downgrade(link),
            timer: attempt.cluster.env().wheel.sleep_until(now),
            cluster: attempt.cluster.clone(),
            idle_timeout: model.idle_timeout,
            keepalive,
        }
    }

    async fn run(mut self) {
        poll_fn(|cx| self.poll(cx)).await;
        // Dropping the connection ends the streams that are left.
        self.leave_pool();
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
        let ended = Pin::new(&mut self.connection).poll(cx).is_ready();
        if matches!(self.wire.poll_flush(cx), Poll::Ready(Err(_))) || ended || self.wire.flooded() {
            return Poll::Ready(());
        }
        if self.wire.is_worn() {
            self.leave_pool();
        }
        self.learn_limit();
        if self.poll_keepalive(cx).is_ready() {
            self.cluster.stats.upstream_cx_keepalive_timeout.inc();
            return Poll::Ready(());
        }
        while Pin::new(&mut self.timer).poll(cx).is_ready() {
            let now = Instant::now();
            if self.wire.stalled_since().is_some_and(|since| now >= since + STALL) {
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
        loop {
            if keepalive.asked && matches!(keepalive.pings.poll_pong(cx), Poll::Ready(Ok(_))) {
                keepalive.asked = false;
                keepalive.due = Instant::now() + keepalive.interval;
            }
            let now = Instant::now();
            if keepalive.due > now {
                break;
            }
            if keepalive.asked {
                return Poll::Ready(());
            }
            keepalive.asked = keepalive.pings.send_ping(Ping::opaque()).is_ok();
            keepalive.due = now + keepalive.timeout;
        }
        if keepalive.due < self.timer.deadline() {
            self.timer.reset(keepalive.due);
        }
        Poll::Pending
    }
}
