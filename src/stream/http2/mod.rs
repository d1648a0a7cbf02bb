//! HTTP/2 downstream: one connection, many streams.
//!
//! The connection's task drives h2 over its [`Wire`] and starts one task per stream, an [`exchange`]; what the
//! streams send gathers and leaves with one write when the connection gets its turn.

#[cfg(test)]
pub(super) mod tests;

use super::http::{Client, Clock, Downstream, STREAM_IDLE, Source, Version, exchange};
use super::{Drain, Handle, Local};
use crate::model::{self, Http2Options, HttpManager};
use crate::net::{Conn, Keepalive, Sleep, Wire, WireIo, h2 as settings};
use crate::snapshot::FilterSpec;
use ::http::{HeaderMap, HeaderName, HeaderValue, Request};
use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Connection, SendResponse};
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::task::spawn_local;
use tokio::time::Instant;

/// How long a connection that was told to leave may be without streams: a client that has acknowledged the
/// first GOAWAY is gone by then, and one that never does sends no more.
const QUIET: Duration = Duration::from_secs(1);
/// Time for the client's preface once its first bytes have come.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Bytes of heads that the open streams of a connection may hold; further streams are refused. 64 of the largest heads,
/// or a thousand of what browsers and meshes send.
const HEADS: usize = 4 << 20;

/// Serves an HTTP/2 connection to its end. `early`: bytes read before the protocol was known.
pub async fn serve(io: Conn, early: Bytes, handle: Rc<Handle>, local: Rc<Local>) {
    let bound = handle.bound();
    let default = Http2Options::default();
    let (options, max_streams) = match &bound.chain.filter {
        FilterSpec::Http { config, .. } => (&config.http2, config.max_concurrent_streams),
        _ => (&default, settings::MAX_STREAMS),
    };
    let mut builder = settings::server(options, max_streams);
    if let FilterSpec::Http { config, .. } = &bound.chain.filter
        && !config.edge.upgrades.is_empty()
    {
        builder.enable_connect_protocol();
    }
    let keepalive = options.keepalive.as_deref().copied();
    drop(bound);
    let wire = Wire::server(io, early);
    let Some(mut down) = Downstream::open(handle, local, Version::Http2) else { return };
    let begin = Instant::now();
    let by_peer = match handshake(&builder, &wire, &down.local).await {
        Some(connection) => {
            let mut driver = Driver::new(&down, wire.clone(), connection, keepalive);
            let by_peer = driver.run().await;
            down = driver.down.clone();
            by_peer
        }
        None => {
            down.stats.protocol_error();
            false
        }
    };
    let busy = down.handle.streams() > 0;
    down.stats.closed(Version::Http2, begin.elapsed(), wire.bytes(), by_peer, busy);
    if let Some(io) = wire.into_conn() {
        io.close_gently(down.linger()).await;
    }
}

async fn handshake(
    builder: &h2::server::Builder,
    wire: &Rc<Wire>,
    local: &Local,
) -> Option<Connection<WireIo, Bytes>> {
    let mut handshake = pin!(builder.handshake(wire.io()));
    let mut limit = pin!(local.env.wheel.sleep(HANDSHAKE));
    poll_fn(|cx| {
        let opened = handshake.as_mut().poll(cx);
        let flushed = wire.poll_flush(cx);
        match opened {
            Poll::Ready(result) => Poll::Ready(result.ok()),
            Poll::Pending if matches!(flushed, Poll::Ready(Err(_))) => Poll::Ready(None),
            Poll::Pending => limit.as_mut().poll(cx).map(|()| None),
        }
    })
    .await
}

/// Bytes of the heads of one connection's streams, held until the stream ends.
struct Heads {
    all: Rc<Cell<usize>>,
    own: usize,
}

impl Heads {
    /// `None`: they would be too many.
    fn hold(all: &Rc<Cell<usize>>, headers: &HeaderMap) -> Option<Self> {
        // As RFC 9113 6.5.2 counts them: a field costs more than its bytes.
        let field = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 32;
        let own: usize = headers.iter().map(field).sum();
        let total = all.get() + own;
        if total > HEADS {
            return None;
        }
        all.set(total);
        Some(Heads { all: all.clone(), own })
    }
}

impl Drop for Heads {
    fn drop(&mut self) {
        self.all.set(self.all.get().saturating_sub(self.own));
    }
}

/// Serves one stream to its end.
fn stream(
    down: Rc<Downstream>,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    heads: Heads,
) -> impl Future<Output = ()> {
    let open = down.handle.enter();
    let begin = Instant::now();
    let clock = Clock::new(&down.local.env.wheel, begin);
    let (head, body) = request.into_parts();
    let (body, client) = (Source::Http2(body), Client::Http2(respond));
    // Boxed: a task is moved whole when it is started, and what awaits a future it was given holds it twice.
    let run = Box::pin(exchange::run(down, head, body, client, clock, begin));
    async move {
        run.await;
        drop((open, heads));
    }
}

/// What the connection's task keeps between turns.
struct Driver {
    down: Rc<Downstream>,
    wire: Rc<Wire>,
    connection: Connection<WireIo, Bytes>,
    timer: Sleep,
    since: Instant,
    /// Since when there has been no stream.
    idle_since: Option<Instant>,
    /// The client was told that no new streams are wanted.
    told: bool,
    /// The connection ends as soon as the last frame is written.
    closing: bool,
    /// Streams so far.
    served: u32,
    /// Bytes of the heads of its open streams.
    heads: Rc<Cell<usize>>,
    keepalive: Option<Keepalive>,
}

impl Driver {
    fn new(
        down: &Rc<Downstream>,
        wire: Rc<Wire>,
        mut connection: Connection<WireIo, Bytes>,
        keepalive: Option<model::Keepalive>,
    ) -> Self {
        let now = Instant::now();
        Driver {
            keepalive: keepalive.and_then(|times| Some(Keepalive::new(connection.ping_pong()?, times))),
            connection,
            timer: down.local.env.wheel.sleep_until(now),
            down: down.clone(),
            wire,
            since: now,
            idle_since: Some(now),
            told: false,
            closing: false,
            served: 0,
            heads: Rc::default(),
        }
    }

    /// Whether the client ended it.
    async fn run(&mut self) -> bool {
        poll_fn(|cx| self.poll(cx)).await;
        !self.closing
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.poll_streams(cx).is_ready() {
                return Poll::Ready(());
            }
            if matches!(self.wire.poll_flush(cx), Poll::Ready(Err(_))) {
                return Poll::Ready(());
            }
            self.down.handle.register(cx.waker());
            if !self.advance(cx) {
                return Poll::Pending;
            }
        }
    }

    /// Reads, starts streams, and gives h2 its chance to write. Ready when the connection has ended.
    fn poll_streams(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.wire.repeat(false);
        loop {
            let accepted = self.connection.poll_accept(cx);
            self.wire.repeat(true);
            match accepted {
                Poll::Ready(Some(Ok((request, mut respond)))) => {
                    let Some(heads) = Heads::hold(&self.heads, request.headers()) else {
                        respond.send_reset(h2::Reason::REFUSED_STREAM);
                        continue;
                    };
                    self.served = self.served.saturating_add(1);
                    if let Some(down) = self.down.follow(Version::Http2) {
                        self.down = down;
                    }
                    spawn_local(stream(self.down.clone(), request, respond, heads));
                }
                Poll::Ready(Some(Err(error))) => {
                    if error.is_library() {
                        self.down.stats.protocol_error();
                    }
                    // The GOAWAY that tells the client why is still to be written.
                    let _ = self.wire.poll_flush(cx);
                    return Poll::Ready(());
                }
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Decides how the connection goes on; `true`: h2 has something to do for it.
    fn advance(&mut self, cx: &mut Context<'_>) -> bool {
        if self.closing {
            return false;
        }
        let drain = self.down.handle.draining();
        if self.wire.flooded() {
            self.down.stats.protocol_error();
            return self.close(h2::Reason::ENHANCE_YOUR_CALM);
        }
        if drain == Drain::Now {
            return self.close(h2::Reason::NO_ERROR);
        }
        if self.keepalive.as_mut().is_some_and(|keepalive| keepalive.poll(cx).is_ready()) {
            self.down.stats.ping_lost();
            return self.close(h2::Reason::NO_ERROR);
        }
        if !self.told && (drain >= Drain::Told || self.wire.is_worn() || self.is_spent()) {
            self.down.stats.drain_close();
            return self.tell();
        }
        if self.connection.has_streams() {
            self.idle_since = None;
        } else if self.idle_since.is_none() {
            self.idle_since = Some(Instant::now());
        }
        loop {
            let now = Instant::now();
            let (idle_at, age_at, stall_at) = self.limits();
            if stall_at.is_some_and(|at| at <= now) {
                return self.close(h2::Reason::NO_ERROR);
            }
            if idle_at.is_some_and(|at| at <= now) {
                if self.told {
                    return self.close(h2::Reason::NO_ERROR);
                }
                self.down.stats.idle_timeout();
                return self.tell();
            }
            if !self.told && age_at.is_some_and(|at| at <= now) {
                self.down.stats.max_duration();
                return self.tell();
            }
            let ping_at = self.keepalive.as_ref().map(Keepalive::due);
            let age_at = age_at.filter(|_| !self.told);
            let due = [idle_at, age_at, stall_at, ping_at].into_iter().flatten().min();
            let Some(due) = due else { return false };
            // A later end than before is met when the timer fires: a busy connection does not move it.
            if due < self.timer.deadline() || self.timer.deadline() <= now {
                self.timer.reset(due);
            }
            if Pin::new(&mut self.timer).poll(cx).is_pending() {
                return false;
            }
        }
    }

    /// Whether it has carried as many requests as it may.
    fn is_spent(&self) -> bool {
        match &self.down.handle.bound().chain.filter {
            FilterSpec::Http { config, .. } => {
                config.limits.per_connection.is_some_and(|max| self.served >= max)
            }
            _ => false,
        }
    }

    /// When a connection that stays as it is has been idle, alive or without progress for too long.
    fn limits(&self) -> (Option<Instant>, Option<Instant>, Option<Instant>) {
        let bound = self.down.handle.bound();
        let (idle, age, stall) = match &bound.chain.filter {
            FilterSpec::Http { config, .. } => {
                let HttpManager { idle_timeout, max_connection_duration, stream_idle_timeout, .. } = config;
                (*idle_timeout, *max_connection_duration, *stream_idle_timeout)
            }
            FilterSpec::Rpc { config, .. } => (config.idle_timeout, None, Some(STREAM_IDLE)),
            FilterSpec::Tcp { .. } => (None, None, None),
        };
        let idle = if self.told { Some(QUIET) } else { idle };
        let add = |since: Option<Instant>, limit: Option<Duration>| Some(since? + limit?);
        let stalled = self.wire.stalled_since();
        (add(self.idle_since, idle), add(Some(self.since), age), add(stalled, stall))
    }

    /// Two-step GOAWAY: "no new streams, please", and once the client has answered, which one was the last.
    fn tell(&mut self) -> bool {
        self.told = true;
        self.connection.graceful_shutdown();
        true
    }

    fn close(&mut self, reason: h2::Reason) -> bool {
        self.closing = true;
        self.connection.abrupt_shutdown(reason);
        true
    }
}
