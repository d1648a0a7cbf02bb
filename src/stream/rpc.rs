//! bolt downstream: one connection, many requests.
//!
//! The connection's task reads frames and sends each on at once where nothing stands in the way ([`direct`]);
//! any other call gets a small task of its own ([`request`]). Answers gather in the write queue and leave
//! together when the connection gets its turn.

mod direct;
mod filtered;
mod request;

use super::{Bound, Drain, Handle, Local, Record};
use crate::message::Reason;
use crate::model::LogKind;
use crate::net::{Budget, Conn, Filled, ReadBuffer, Sleep, WriteQueue};
use crate::protocol::bolt::{self, Status};
use crate::protocol::rpc::{DecodeError, Decoder, Frame, Kind};
use crate::snapshot::FilterSpec;
use crate::telemetry::{Registration, RpcStats};
use bytes::BytesMut;
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::task::JoinHandle;
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
    /// The calls that owe an answer; one-way calls outlive their client.
    calls: RefCell<Slab<Running>>,
    /// No limit of a direct call is earlier.
    due: Cell<Option<Instant>>,
}

/// A call under way.
enum Running {
    /// In a task of its own.
    Task(JoinHandle<()>),
    /// Sent; its answer comes straight here.
    Direct(Box<direct::Call>),
}

/// What the connection's task keeps between turns.
struct Driver {
    io: Conn,
    input: ReadBuffer,
    decoder: Decoder,
    timer: Sleep,
    /// Fires when a direct call's time may be up.
    limit: Sleep,
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
        due: Cell::new(None),
    });
    let now = Instant::now();
    let mut driver = Driver {
        io,
        input: ReadBuffer::new(local.env.reads.clone()),
        decoder: Decoder::new(config.max_frame),
        timer: local.env.wheel.sleep_until(now),
        limit: local.env.wheel.sleep_until(now),
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
        self.poll_limits(driver, cx);
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
        let Some(at) = self.leave_at(driver, idle) else { return Poll::Pending };
        loop {
            // An end that has moved on since is met when the timer fires: a busy connection does not move it.
            if at < driver.timer.deadline() {
                driver.timer.reset(at);
            }
            if Pin::new(&mut driver.timer).poll(cx).is_pending() {
                return Poll::Pending;
            }
            if at <= Instant::now() {
                if self.handle.draining() == Drain::No {
                    self.stats().downstream_cx_idle_timeout.inc();
                }
                return Poll::Ready(End::Finished);
            }
            driver.timer.reset(at);
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

    fn write(&self, bytes: impl Into<BytesMut>) {
        let bytes = bytes.into();
        self.counted.borrow().1.downstream_cx_tx_bytes_total.add(bytes.len() as u64);
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
                Ok(Some(frame)) => self.on_frame(frame, driver.last_used),
                Ok(None) => return,
                Err(error) => {
                    self.stats().decode_error.inc();
                    self.stats().failure.inc(Reason::BadRequest);
                    self.note_refused(error.reply_to().is_some(), driver.last_used);
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

    /// One log line for what is no call.
    fn note_refused(&self, answered: bool, now: Instant) {
        let bound = self.handle.bound();
        if bound.logs.is_some() {
            let mut record = Record::begin(&self.local, LogKind::DownstreamEnd, "bolt", now);
            record.follow(&bound);
            record.failed(Reason::BadRequest);
            record.status = if answered { Reason::BadRequest.http_status() } else { 0 };
            record.finish(&self.local, Some(&self.handle), (None, None));
        }
    }

    /// Gives up every call that owes an answer: its client is gone.
    fn cancel(&self) {
        for (_, call) in self.calls.take() {
            match call {
                Running::Task(task) => task.abort(),
                Running::Direct(call) => drop(call),
            }
        }
    }

    fn on_frame(self: &Rc<Self>, frame: Frame, now: Instant) {
        match frame.kind() {
            Kind::Request | Kind::Oneway => direct::start(self, frame, now),
            Kind::Heartbeat => {
                self.stats().heartbeat_total.inc();
                self.write(bolt::heartbeat_ack(&frame));
            }
            // Answers to nothing: this side never asks.
            Kind::HeartbeatAck | Kind::Response | Kind::GoAway => self.stats().decode_error.inc(),
        }
    }
}
