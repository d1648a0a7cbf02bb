//! bolt downstream: one connection, many requests.
//!
//! The connection's task reads frames and starts one small task per request; answers gather in the write
//! queue and leave together when the connection gets its turn.

use super::call::Call;
use super::exchange::{self, Plan};
use super::handle::StreamGuard;
use super::{Bound, Drain, Handle, Local};
use crate::message::{Failure, Reason};
use crate::model::{Protocol, RouteId, RpcProxy};
use crate::net::{Budget, Conn, Filled, ReadBuffer, Sleep, WriteQueue};
use crate::protocol::bolt::{self, Status};
use crate::protocol::rpc::{DecodeError, Decoder, Frame, Kind};
use crate::router::RouteSpec;
use crate::snapshot::FilterSpec;
use crate::telemetry::{Registration, RpcStats};
use bytes::{Bytes, BytesMut};
use slab::Slab;
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::Instant;

/// Reads in a row before other tasks get their turn.
const READS_PER_TURN: usize = 4;
/// How long a client may take to close its side after we closed ours.
const LINGER: Duration = Duration::from_secs(1);
/// How long a connection must be silent before a leaving process closes it: a request may be on its way.
const QUIET: Duration = Duration::from_secs(1);

/// A downstream bolt connection, shared by its task and its requests.
struct Downstream {
    queue: WriteQueue,
    budget: Rc<Budget>,
    handle: Rc<Handle>,
    local: Rc<Local>,
    /// Where it counts, and by what it was told so.
    counted: RefCell<(Weak<Bound>, Rc<Registration<RpcStats>>)>,
    limit: usize,
    /// The tasks of calls that owe an answer; one-way calls outlive their client.
    calls: RefCell<Slab<JoinHandle<()>>>,
}

/// What the connection's task keeps between turns.
struct Driver {
    io: Conn,
    input: ReadBuffer,
    decoder: Decoder,
    timer: Sleep,
    last_used: Instant,
    /// Something was under way at the last turn.
    busy: bool,
    /// The client sends nothing more, or nothing more that can be read.
    ended: bool,
    told: bool,
    /// Not read, because its answers or its requests wait.
    paused: bool,
}

/// Why a connection's task ends.
enum End {
    /// Everything owed was written.
    Finished,
    /// The socket is broken.
    Broken,
}

/// Serves a bolt connection to its end. `early`: bytes read before the protocol was known.
pub async fn serve(io: Conn, early: BytesMut, handle: Rc<Handle>, local: Rc<Local>) {
    let bound = handle.bound();
    let FilterSpec::Rpc { config, .. } = &bound.chain.filter else { return };
    let limit = 1 << 20;
    let down = Rc::new(Downstream {
        queue: WriteQueue::default(),
        budget: Budget::new(limit),
        handle,
        local: local.clone(),
        counted: RefCell::new((Rc::downgrade(&bound), local.rpc_stats(&config.stat_prefix))),
        limit,
        calls: RefCell::default(),
    });
    let now = Instant::now();
    let mut driver = Driver {
        io,
        input: ReadBuffer::new(local.env.reads.clone()),
        decoder: Decoder::new(config.max_frame),
        timer: local.env.wheel.sleep_until(now),
        last_used: now,
        busy: false,
        ended: false,
        told: false,
        paused: false,
    };
    drop(bound);
    let opened = down.stats();
    opened.downstream_cx_total.inc();
    opened.downstream_cx_active.inc();
    opened.downstream_cx_rx_bytes_total.add(early.len() as u64);
    driver.input.bytes = early;
    down.decode(&mut driver);
    let end = poll_fn(|cx| down.poll(&mut driver, cx)).await;
    opened.downstream_cx_active.dec();
    opened.closed(
        down.handle.since.elapsed(),
        matches!(end, End::Broken) || driver.ended,
        down.handle.streams() > 0,
    );
    down.queue.close();
    down.cancel();
    if let End::Finished = end {
        driver.io.close_gently(LINGER).await;
    }
}

impl Downstream {
    fn poll(self: &Rc<Self>, driver: &mut Driver, cx: &mut Context<'_>) -> Poll<End> {
        let mut held_back = false;
        if !driver.ended {
            match self.read(driver, cx) {
                Ok(full) => held_back = full,
                Err(()) => return Poll::Ready(End::Broken),
            }
        }
        self.handle.register(cx.waker());
        if let Poll::Ready(Err(_)) = self.queue.poll_flush(&mut driver.io, cx) {
            return Poll::Ready(End::Broken);
        }
        if held_back && self.queue.len() <= self.limit {
            // The queue was full and no longer is: nothing else would wake the reader.
            cx.waker().wake_by_ref();
        }
        let idle = self.handle.streams() == 0 && self.queue.is_empty();
        if !idle {
            driver.busy = true;
        } else if std::mem::take(&mut driver.busy) {
            // Quiet begins with the last answer, not with the call it answers.
            driver.last_used = Instant::now();
        }
        if idle && driver.ended || self.handle.draining() == Drain::Now {
            return Poll::Ready(End::Finished);
        }
        loop {
            match self.leave_at(driver, idle) {
                None => return Poll::Pending,
                Some(at) if at <= Instant::now() => {
                    if self.handle.draining() == Drain::No {
                        self.stats().downstream_cx_idle_timeout.inc();
                    }
                    return Poll::Ready(End::Finished);
                }
                Some(at) => {
                    if driver.timer.deadline() != at {
                        driver.timer.reset(at);
                    }
                    if Pin::new(&mut driver.timer).poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }

    /// When a connection that stays as quiet as it is should close. Also tells the client of a drain.
    fn leave_at(&self, driver: &mut Driver, idle: bool) -> Option<Instant> {
        let bound = self.handle.bound();
        let FilterSpec::Rpc { config, .. } = &bound.chain.filter else { return None };
        let drain = self.handle.draining();
        if drain >= Drain::Told && config.drain_goaway && !driver.told {
            driver.told = true;
            self.write(bolt::goaway(0));
            self.stats().goaway_total.inc();
            self.stats().downstream_cx_drain_close.inc();
            // However quiet it was, the client has a second to take note.
            driver.last_used = Instant::now();
        }
        if !idle {
            return None;
        }
        let quiet = match drain {
            Drain::Leaving | Drain::Now => Some(QUIET),
            Drain::Told if driver.told => Some(QUIET),
            _ => config.idle_timeout,
        };
        quiet.map(|quiet| driver.last_used + quiet)
    }

    /// Reads and decodes. `Ok(true)`: stopped because too many answers wait to be written.
    fn read(self: &Rc<Self>, driver: &mut Driver, cx: &mut Context<'_>) -> Result<bool, ()> {
        let mut full = false;
        for turn in 0..=READS_PER_TURN {
            // A client that does not read its answers, or whose requests wait, is not read either.
            full = self.queue.len() > self.limit;
            if full || self.budget.poll_room(cx).is_pending() {
                if !std::mem::replace(&mut driver.paused, true) {
                    self.stats().downstream_flow_control_paused_reading_total.inc();
                }
                break;
            }
            if std::mem::take(&mut driver.paused) {
                self.stats().downstream_flow_control_resumed_reading_total.inc();
            }
            if turn == READS_PER_TURN {
                cx.waker().wake_by_ref();
                break;
            }
            match driver.input.poll_fill(&mut driver.io, cx) {
                Poll::Ready(Ok(Filled::Bytes(read))) => {
                    self.stats().downstream_cx_rx_bytes_total.add(read as u64);
                    driver.last_used = Instant::now();
                    self.decode(driver);
                    if driver.ended {
                        break;
                    }
                }
                Poll::Ready(Ok(Filled::End)) => {
                    // bolt has no half-closed connections: nobody is left to take an answer.
                    driver.ended = true;
                    self.cancel();
                    break;
                }
                Poll::Ready(Ok(Filled::OverLimit)) => {
                    self.stats().frame_too_large.inc();
                    driver.ended = true;
                    break;
                }
                Poll::Ready(Err(_)) => return Err(()),
                Poll::Pending => break,
            }
        }
        driver.input.settle();
        Ok(full)
    }

    fn write(&self, bytes: Bytes) {
        self.stats().downstream_cx_tx_bytes_total.add(bytes.len() as u64);
        self.queue.push(bytes);
    }

    fn stats(&self) -> Rc<Registration<RpcStats>> {
        self.counted.borrow().1.clone()
    }

    /// Counts under the prefix of the filter that serves from now on.
    fn follow(&self) {
        let bound = self.handle.bound();
        if std::ptr::eq(self.counted.borrow().0.as_ptr(), Rc::as_ptr(&bound)) {
            return;
        }
        if let FilterSpec::Rpc { config, .. } = &bound.chain.filter {
            let stats = self.local.rpc_stats(&config.stat_prefix);
            let old = self.counted.replace((Rc::downgrade(&bound), stats));
            drop(old);
        }
    }

    /// Takes every whole frame out of the input.
    fn decode(self: &Rc<Self>, driver: &mut Driver) {
        self.follow();
        loop {
            match driver.decoder.decode(&mut driver.input.bytes) {
                Ok(Some(frame)) => self.on_frame(frame),
                Ok(None) => return,
                Err(error) => {
                    self.stats().decode_error.inc();
                    self.stats().failure.inc(Reason::BadRequest);
                    if let Some(id) = error.reply_to() {
                        self.write(bolt::reply(id, Status::CodecException));
                    }
                    if let DecodeError::Fatal { .. } = error {
                        driver.ended = true;
                        driver.input.bytes.clear();
                        return;
                    }
                }
            }
        }
    }

    /// Gives up every call that owes an answer: its client is gone.
    fn cancel(&self) {
        for call in self.calls.take() {
            call.1.abort();
        }
    }

    fn on_frame(self: &Rc<Self>, frame: Frame) {
        match frame.kind() {
            // The scheduler moves a task about before it runs; the box makes that a move of a pointer.
            Kind::Request => {
                let mut calls = self.calls.borrow_mut();
                let place = calls.vacant_entry();
                let request = Request::new(self.clone(), frame, Some(place.key()));
                place.insert(spawn_local(Box::pin(request.run())));
            }
            Kind::Oneway => {
                spawn_local(Box::pin(Request::new(self.clone(), frame, None).run()));
            }
            Kind::Heartbeat => {
                self.stats().heartbeat_total.inc();
                self.write(bolt::heartbeat_ack(&frame));
            }
            // Answers to nothing: this side never asks.
            Kind::HeartbeatAck | Kind::Response | Kind::GoAway => self.stats().decode_error.inc(),
        }
    }
}

/// One request of a bolt client.
struct Request {
    down: Rc<Downstream>,
    stats: Rc<Registration<RpcStats>>,
    call: Call,
    id: u32,
    /// Its place among the client's calls.
    key: Option<usize>,
    /// It was not given up.
    finished: bool,
    /// Counted as soon as the frame is here: a connection that ends right behind it still owes the answer.
    _stream: StreamGuard,
}

impl Request {
    fn new(down: Rc<Downstream>, frame: Frame, key: Option<usize>) -> Self {
        let charge = Some(down.budget.charge(frame.len()));
        let stream = down.handle.enter();
        let stats = down.stats();
        stats.request_total.inc();
        stats.request_active.inc();
        let id = frame.request_id();
        Request { id, down, stats, call: Call::new(frame, charge), key, finished: false, _stream: stream }
    }

    async fn run(mut self) {
        let down = self.down.clone();
        let begin = Instant::now();
        if self.call.oneway {
            self.stats.oneway_total.inc();
        }
        let bound = down.handle.bound();
        let view = bound.pinned.clone().unwrap_or_else(|| down.local.view());
        let FilterSpec::Rpc { config, routes } = &bound.chain.filter else { return };
        match self.answer(&view, config, *routes, begin).await {
            Ok(Some(mut frame)) => {
                frame.set_request_id(self.id);
                self.stats.response(frame.status());
                down.write(frame.into_bytes());
            }
            Ok(None) => {}
            Err(failure) => self.fail(failure),
        }
        let took = begin.elapsed().as_millis() as u64;
        self.stats.request_time.record(took);
        self.call.trail.took(took);
        self.finished = true;
    }

    /// The answer, from a cluster or of our own.
    async fn answer(
        &mut self,
        view: &crate::snapshot::View,
        config: &RpcProxy,
        routes: RouteId,
        begin: Instant,
    ) -> Result<Option<Frame>, Failure> {
        let local = self.down.local.clone();
        let plan = exchange::plan(&local, view, routes, &self.call.frame).map_err(|unplanned| {
            self.note(unplanned.failure, unplanned.route);
            unplanned.failure
        });
        match plan? {
            Plan::Forward(forward) => {
                let upstream = config.upstream.unwrap_or(Protocol::Bolt);
                let route = forward.route;
                let result = self.call.forward(&local, forward, upstream, begin).await;
                result.inspect_err(|failure| self.note(*failure, Some(route)))
            }
            Plan::Direct(_, direct) if !self.call.oneway => {
                let status =
                    if direct.status < 400 { Status::Success } else { status_of_http(direct.status) };
                let reply = bolt::response(self.id, status, b"", [], &direct.body[..]);
                reply.map(Some).map_err(|_| Failure::before(Reason::TooLarge))
            }
            Plan::Direct(..) => Ok(None),
            // bolt has no redirects.
            Plan::Redirect(..) => Err(Failure::before(Reason::NoRoute)),
        }
    }

    fn note(&self, failure: Failure, route: Option<&RouteSpec>) {
        self.call.trail.note(&self.down.local, failure, "bolt", &self.down.handle.listener, route);
    }

    /// Answers a failure at once, in bolt and with the caller's id.
    fn fail(&self, failure: Failure) {
        let down = &self.down;
        self.stats.failure.inc(failure.reason);
        if !self.call.oneway {
            down.write(bolt::reply(self.id, status_of(failure.reason)));
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let stats = &self.stats;
        stats.request_active.dec();
        if !self.finished {
            stats.request_reset.inc();
            stats.failure.inc(Reason::DownstreamReset);
        }
        let own = self.key.and_then(|key| self.down.calls.borrow_mut().try_remove(key));
        drop(own);
    }
}

fn status_of(reason: Reason) -> Status {
    Status::from_code(reason.bolt_status()).unwrap_or(Status::Unknown)
}

/// The bolt status of a fixed answer that is written as an HTTP status.
fn status_of_http(status: u16) -> Status {
    match status {
        403 => Status::ServerException,
        404 => Status::NoProcessor,
        502 => Status::ConnectionClosed,
        503 => Status::ServerThreadpoolBusy,
        504 => Status::Timeout,
        _ => Status::Unknown,
    }
}

const fn size<F: Future>(_: fn(Request) -> F) -> usize {
    size_of::<F>()
}

/// One allocation per request, and 10,000 of them at once: what a path rarely needs is boxed apart.
const _: () = assert!(size(Request::run) <= 1280);
