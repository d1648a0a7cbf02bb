//! One multiplexed RPC connection to a host.
//!
//! Requests of many clients share it. Each gets an id of this connection, a slab key with generation bits.
//! The key of a request that was given up rests until its answer has come, however late: no other request
//! can have its id meanwhile. Whoever sends holds a [`Call`]; the connection's task delivers answers, to a
//! future or straight into the hands of a [`Receiver`].

use crate::cluster::{Cluster, State};
use crate::message::{Failure, Reason};
use crate::net::{Charge, Conn, Filled, ReadBuffer, Sleep, WriteQueue};
use crate::protocol::bolt;
use crate::protocol::rpc::{DecodeError, Decoder, Frame, Kind};
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::time::Instant;

/// Bits of a request id that are the slab key; the rest is the generation.
const KEY_BITS: u32 = 20;
const KEY_MASK: u32 = (1 << KEY_BITS) - 1;
/// Reads in a row before other tasks get their turn.
const READS_PER_TURN: usize = 4;
/// Requests given up whose answers may still come; a connection that owes more takes no new ones.
const MAX_RESTING: usize = 4096;
/// How long an idle connection stays silent before it is asked whether it lives; clients of the Java
/// implementation do the same after 15 s.
const IDLE_HEARTBEAT: Duration = Duration::from_secs(15);
/// How long the peer may take to close its side after we closed ours.
const LINGER: Duration = Duration::from_secs(1);

/// See the module.
pub struct Mux {
    queue: WriteQueue,
    calls: RefCell<Slab<Entry>>,
    /// Entries of `calls` that are [`CallState::Resting`].
    resting: Cell<usize>,
    generation: Cell<u32>,
    phase: Cell<Phase>,
    remaining: Cell<u32>,
    /// It did not answer a heartbeat in time.
    given_up: Cell<bool>,
    cluster: Rc<Cluster>,
    heartbeat: Option<(Duration, Duration)>,
    idle_timeout: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// Takes no new requests; ends after its last answer.
    Draining,
    Closed,
}

struct Entry {
    id: u32,
    state: CallState,
}

/// Takes answers as they come, in the task of the upstream connection.
pub trait Receiver {
    /// The call that was sent with `tag` has come to `outcome`, at `now`.
    fn on_answer(self: Rc<Self>, tag: usize, outcome: Result<Frame, Failure>, now: Instant);
}

/// Whom to tell of an outcome, once nothing is borrowed.
enum Notice {
    Wake(Waker),
    Hand(Weak<dyn Receiver>, usize, Result<Frame, Failure>),
}

impl Notice {
    fn give(self, now: Instant) {
        match self {
            Notice::Wake(waker) => waker.wake(),
            Notice::Hand(receiver, tag, outcome) => {
                if let Some(receiver) = receiver.upgrade() {
                    receiver.on_answer(tag, outcome, now);
                }
            }
        }
    }
}

enum CallState {
    Waiting(Option<Waker>),
    /// Goes to the receiver under this tag.
    Bound(Weak<dyn Receiver>, usize),
    /// What a future has yet to take.
    Done(Result<Frame, Failure>),
    /// Handed over; its call has yet to be dropped.
    Handed,
    /// Given up; the key is free again once the answer has come.
    Resting,
    /// Our own heartbeat; nobody waits.
    Heartbeat,
}

impl CallState {
    fn is_waiting(&self) -> bool {
        matches!(self, CallState::Waiting(_) | CallState::Bound(..))
    }
}

impl Entry {
    /// Ends a call that waits; the outcome stays here for its future, or goes with the notice.
    fn end(&mut self, outcome: Result<Frame, Failure>) -> Option<Notice> {
        match std::mem::replace(&mut self.state, CallState::Handed) {
            CallState::Bound(receiver, tag) => Some(Notice::Hand(receiver, tag, outcome)),
            CallState::Waiting(waker) => {
                self.state = CallState::Done(outcome);
                waker.map(Notice::Wake)
            }
            other => {
                self.state = other;
                None
            }
        }
    }
}

/// What the connection's task keeps between turns.
struct Driver {
    io: Conn,
    input: ReadBuffer,
    decoder: Decoder,
    timer: Sleep,
    last_read: Instant,
    idle_since: Option<Instant>,
    asked_at: Option<Instant>,
}

impl Mux {
    pub(super) fn new(cluster: &Rc<Cluster>, state: &State) -> Rc<Self> {
        let model = &state.spec.model;
        Rc::new(Mux {
            queue: WriteQueue::default(),
            calls: RefCell::default(),
            resting: Cell::new(0),
            generation: Cell::new(0),
            phase: Cell::new(Phase::Open),
            remaining: Cell::new(match model.max_requests_per_connection {
                0 => u32::MAX,
                limit => limit,
            }),
            given_up: Cell::new(false),
            cluster: cluster.clone(),
            heartbeat: model.heartbeat,
            idle_timeout: model.idle_timeout,
        })
    }

    /// Whether it takes new requests.
    pub fn accepts(&self) -> bool {
        self.phase.get() == Phase::Open
    }

    /// Requests under way.
    pub fn active(&self) -> usize {
        self.calls.borrow().len().saturating_sub(self.resting.get())
    }

    /// Takes no new requests; closes after the last answer.
    pub fn drain(&self) {
        if self.phase.get() == Phase::Open {
            self.phase.set(Phase::Draining);
            self.queue.nudge();
        }
    }

    /// Sends a request. Dropping the call gives it up; its answer is then dropped when it comes.
    ///
    /// # Errors
    /// The connection has ended, or has no free id.
    pub fn call(self: &Rc<Self>, frame: Frame, charge: Option<Charge>) -> Result<Call, Failure> {
        self.send(frame, charge, CallState::Waiting(None)).map(Call)
    }

    /// As [`call`](Self::call), but its outcome goes to `receiver`, with `tag`.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn call_for(
        self: &Rc<Self>,
        frame: Frame,
        charge: Option<Charge>,
        receiver: Weak<dyn Receiver>,
        tag: usize,
    ) -> Result<Place, Failure> {
        self.send(frame, charge, CallState::Bound(receiver, tag))
    }

    fn send(
        self: &Rc<Self>,
        frame: Frame,
        charge: Option<Charge>,
        state: CallState,
    ) -> Result<Place, Failure> {
        let (key, id) = self.enter(state)?;
        self.push(frame, id, charge);
        Ok(Place { mux: self.clone(), key })
    }

    fn push(&self, mut frame: Frame, id: u32, charge: Option<Charge>) {
        frame.set_request_id(id);
        self.count_request();
        self.cluster.stats.upstream_cx_tx_bytes_total.add(frame.len() as u64);
        self.queue.push_charged(frame.into_storage(), charge);
    }

    /// Sends a one-way request: nothing comes back.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn send_oneway(self: &Rc<Self>, frame: Frame, charge: Option<Charge>) -> Result<(), Failure> {
        let (key, id) = self.enter(CallState::Heartbeat)?;
        self.calls.borrow_mut().remove(key);
        self.push(frame, id, charge);
        Ok(())
    }

    fn count_request(&self) {
        let left = self.remaining.get().saturating_sub(1);
        if self.remaining.get() != u32::MAX {
            self.remaining.set(left);
            if left == 0 {
                self.cluster.stats.upstream_cx_max_requests.inc();
                self.drain();
            }
        }
    }

    /// A key for a request, and its id.
    fn enter(&self, state: CallState) -> Result<(usize, u32), Failure> {
        if self.phase.get() == Phase::Closed {
            return Err(Failure::before(Reason::UpstreamClosed));
        }
        let mut calls = self.calls.borrow_mut();
        if calls.len() > KEY_MASK as usize {
            return Err(Failure::before(Reason::OverflowPending));
        }
        let generation = self.generation.get().wrapping_add(1);
        self.generation.set(generation);
        let key = calls.vacant_key();
        let id = (generation << KEY_BITS) | (key as u32 & KEY_MASK);
        Ok((calls.insert(Entry { id, state }), id))
    }

    /// Drives the connection to its end. `expected`: whether somebody who waited for it has yet to use it. Gives
    /// whether the peer ended it, and whether requests were open then.
    pub(super) async fn run(self: &Rc<Self>, io: Conn, expected: impl Fn() -> bool) -> (bool, bool) {
        let env = self.cluster.env();
        let now = Instant::now();
        let mut driver = Driver {
            io,
            input: ReadBuffer::new(env.reads.clone()),
            decoder: Decoder::default(),
            timer: env.wheel.sleep_until(now),
            last_read: now,
            idle_since: Some(now),
            asked_at: None,
        };
        driver.timer.reset(self.next_check(&driver, now));
        let end = poll_fn(|cx| self.poll(&mut driver, &expected, cx)).await;
        if matches!(end, Reason::UpstreamProtocol | Reason::TooLarge) {
            self.cluster.stats.upstream_cx_protocol_error.inc();
        }
        let busy = self.active() > 0;
        self.finish(end);
        driver.io.close_gently(LINGER).await;
        (end == Reason::UpstreamClosed && !self.given_up.get(), busy)
    }

    fn poll(&self, driver: &mut Driver, expected: &impl Fn() -> bool, cx: &mut Context<'_>) -> Poll<Reason> {
        if let Some(end) = self.read(driver, cx) {
            return Poll::Ready(end);
        }
        if let Poll::Ready(Err(_)) = self.queue.poll_flush(&mut driver.io, cx) {
            return Poll::Ready(Reason::UpstreamClosed);
        }
        if self.phase.get() == Phase::Draining && self.active() == 0 && self.queue.is_empty() && !expected() {
            return Poll::Ready(Reason::LocalReset);
        }
        while Pin::new(&mut driver.timer).poll(cx).is_ready() {
            let now = Instant::now();
            if let Some(end) = self.check(driver, now) {
                return Poll::Ready(end);
            }
            driver.timer.reset(self.next_check(driver, now));
        }
        // A heartbeat may just have been queued.
        if !self.queue.is_empty() && matches!(self.queue.poll_flush(&mut driver.io, cx), Poll::Ready(Err(_)))
        {
            return Poll::Ready(Reason::UpstreamClosed);
        }
        Poll::Pending
    }

    fn read(&self, driver: &mut Driver, cx: &mut Context<'_>) -> Option<Reason> {
        for turn in 0..=READS_PER_TURN {
            if turn == READS_PER_TURN {
                cx.waker().wake_by_ref();
                break;
            }
            match driver.input.poll_fill(&mut driver.io, cx) {
                Poll::Ready(Ok(Filled::Bytes(read))) => {
                    self.cluster.stats.upstream_cx_rx_bytes_total.add(read as u64);
                    driver.last_read = Instant::now();
                    driver.asked_at = None;
                    loop {
                        match driver.decoder.decode(&mut driver.input.bytes) {
                            Ok(Some(frame)) => self.on_frame(frame, driver.last_read),
                            Ok(None) => break,
                            Err(DecodeError::BadHeaderBlock { request_id, .. }) => {
                                let broken = Err(Failure::after(Reason::UpstreamProtocol));
                                self.deliver(request_id, broken, driver.last_read);
                            }
                            Err(DecodeError::Fatal { .. }) => return Some(Reason::UpstreamProtocol),
                        }
                    }
                }
                Poll::Ready(Ok(Filled::End) | Err(_)) => return Some(Reason::UpstreamClosed),
                Poll::Ready(Ok(Filled::OverLimit)) => return Some(Reason::TooLarge),
                Poll::Pending => break,
            }
        }
        driver.input.settle();
        None
    }

    fn on_frame(&self, frame: Frame, now: Instant) {
        match frame.kind() {
            Kind::Response | Kind::HeartbeatAck => self.deliver(frame.request_id(), Ok(frame), now),
            Kind::Heartbeat => self.queue.push(bolt::heartbeat_ack(&frame)),
            Kind::GoAway => {
                self.cluster.stats.upstream_cx_close_notify.inc();
                self.drain();
            }
            // bolt is duplex, a proxy's upstream connection is not: there is no client to hand this to.
            Kind::Request => self.queue.push(bolt::reply(frame.request_id(), bolt::Status::NoProcessor)),
            Kind::Oneway => {}
        }
    }

    fn deliver(&self, id: u32, outcome: Result<Frame, Failure>, now: Instant) {
        let notice = {
            let mut calls = self.calls.borrow_mut();
            let key = (id & KEY_MASK) as usize;
            let Some(entry) = calls.get_mut(key).filter(|entry| entry.id == id) else { return };
            match entry.state {
                CallState::Waiting(_) | CallState::Bound(..) => entry.end(outcome),
                CallState::Heartbeat => {
                    calls.remove(key);
                    None
                }
                CallState::Resting => {
                    calls.remove(key);
                    self.cluster.stats.upstream_rq_late_answer.inc();
                    self.resting.set(self.resting.get().saturating_sub(1));
                    None
                }
                CallState::Done(_) | CallState::Handed => None,
            }
        };
        if let Some(notice) = notice {
            notice.give(now);
        }
    }

    /// Ends every request that still waits.
    fn finish(&self, end: Reason) {
        self.phase.set(Phase::Closed);
        self.queue.close();
        let mut notices = Vec::new();
        for (_, entry) in self.calls.borrow_mut().iter_mut() {
            if entry.state.is_waiting() {
                notices.extend(entry.end(Err(Failure::after(end))));
            }
        }
        let now = Instant::now();
        for notice in notices {
            notice.give(now);
        }
    }

    /// Heartbeats and the idle timeout. `Some`: the connection ends.
    fn check(&self, driver: &mut Driver, now: Instant) -> Option<Reason> {
        let busy = self.calls.borrow().iter().any(|(_, entry)| entry.state.is_waiting());
        driver.idle_since = match (busy, driver.idle_since) {
            (true, _) => None,
            (false, None) => Some(now),
            (false, since) => since,
        };
        if let (Some(since), Some(limit)) = (driver.idle_since, self.idle_timeout)
            && now.duration_since(since.max(driver.last_read)) >= limit
        {
            self.phase.set(Phase::Draining);
            self.cluster.stats.upstream_cx_idle_timeout.inc();
            return Some(Reason::LocalReset);
        }
        let (interval, answer) = self.heartbeat?;
        if let Some(asked) = driver.asked_at {
            if now.duration_since(asked) >= answer {
                self.cluster.stats.upstream_cx_keepalive_timeout.inc();
                self.given_up.set(true);
                return Some(Reason::UpstreamClosed);
            }
        } else if now.duration_since(driver.last_read)
            >= if busy { interval } else { IDLE_HEARTBEAT.max(interval) }
        {
            if let Ok((_, id)) = self.enter(CallState::Heartbeat) {
                self.queue.push(bolt::heartbeat(id));
            }
            driver.asked_at = Some(now);
        }
        None
    }

    /// When [`check`](Self::check) is due next. Every 5 s at the latest, as requests may have come meanwhile.
    fn next_check(&self, driver: &Driver, now: Instant) -> Instant {
        let Some((interval, answer)) = self.heartbeat else {
            return now
                + self.idle_timeout.unwrap_or(Duration::from_secs(3600)).min(Duration::from_secs(3600));
        };
        match driver.asked_at {
            Some(asked) => asked + answer,
            None => (driver.last_read + interval).max(now + Duration::from_secs(1)).min(now + interval),
        }
    }
}

/// A request's place on the connection; given up when dropped.
pub struct Place {
    mux: Rc<Mux>,
    key: usize,
}

/// One request under way, and its answer.
pub struct Call(Place);

impl Future for Call {
    type Output = Result<Frame, Failure>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut calls = self.0.mux.calls.borrow_mut();
        let Some(entry) = calls.get_mut(self.0.key) else {
            return Poll::Ready(Err(Failure::after(Reason::UpstreamClosed)));
        };
        match &mut entry.state {
            CallState::Waiting(waker) => {
                if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
                    *waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
            CallState::Done(outcome) => {
                let gone = Err(Failure::after(Reason::UpstreamClosed));
                Poll::Ready(std::mem::replace(outcome, gone))
            }
            CallState::Bound(..) | CallState::Handed | CallState::Heartbeat | CallState::Resting => {
                Poll::Ready(Err(Failure::after(Reason::LocalReset)))
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mux = &self.mux;
        let gone = {
            let mut calls = mux.calls.borrow_mut();
            match calls.get_mut(self.key) {
                Some(entry) if entry.state.is_waiting() => {
                    mux.resting.set(mux.resting.get() + 1);
                    Some(std::mem::replace(&mut entry.state, CallState::Resting))
                }
                _ => calls.try_remove(self.key).map(|entry| entry.state),
            }
        };
        drop(gone);
        if mux.resting.get() > MAX_RESTING {
            mux.drain();
        }
        if mux.phase.get() == Phase::Draining && mux.active() == 0 {
            mux.queue.nudge();
        }
    }
}
