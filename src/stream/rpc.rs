//! bolt downstream: one connection, many requests.
//!
//! The connection's task reads frames and starts one small task per request; answers gather in the write
//! queue and leave together when the connection gets its turn.

use super::exchange::{self, Forward, Outcome, Plan, Tries};
use super::{Drain, Handle, Local, upstream_http2};
use crate::cluster::pool::rpc::Pool;
use crate::cluster::{Cluster, Host, Level};
use crate::message::{Failure, Reason};
use crate::model::{Protocol, RouteId, RpcProxy};
use crate::net::{Budget, Charge, Conn, Filled, ReadBuffer, Sleep, WriteQueue};
use crate::protocol::bolt::{self, Status};
use crate::protocol::rpc::{DecodeError, Decoder, Frame, HeaderEdit, Kind};
use crate::router::{Edit, EditPlan, RouteSpec};
use crate::snapshot::FilterSpec;
use crate::telemetry::failure_log::FailureLine;
use crate::telemetry::{Registration, RpcStats};
use bytes::BytesMut;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::task::spawn_local;
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
    stats: Rc<Registration<RpcStats>>,
    limit: usize,
}

/// What the connection's task keeps between turns.
struct Driver {
    io: Conn,
    input: ReadBuffer,
    decoder: Decoder,
    timer: Sleep,
    last_used: Instant,
    /// The client sends nothing more, or nothing more that can be read.
    ended: bool,
    told: bool,
}

/// Why a connection's task ends.
enum End {
    /// Everything owed was written.
    Finished,
    /// The socket is broken.
    Broken,
}

/// Serves a bolt connection to its end. `early`: bytes read before the protocol was known.
pub async fn serve(
    io: Conn,
    early: BytesMut,
    handle: Rc<Handle>,
    local: Rc<Local>,
    stats: Rc<Registration<RpcStats>>,
) {
    let bound = handle.bound();
    let FilterSpec::Rpc { config, .. } = &bound.chain.filter else { return };
    let limit = 1 << 20;
    let down = Rc::new(Downstream {
        queue: WriteQueue::default(),
        budget: Budget::new(limit),
        handle,
        local: local.clone(),
        stats,
        limit,
    });
    let now = Instant::now();
    let mut driver = Driver {
        io,
        input: ReadBuffer::new(local.env.reads.clone()),
        decoder: Decoder::new(config.max_frame),
        timer: local.env.wheel.sleep_until(now),
        last_used: now,
        ended: false,
        told: false,
    };
    drop(bound);
    driver.input.bytes = early;
    down.decode(&mut driver);
    let end = poll_fn(|cx| down.poll(&mut driver, cx)).await;
    down.queue.close();
    if let End::Finished = end {
        driver.io.close_gently(LINGER).await;
    }
}

impl Downstream {
    fn poll(self: &Rc<Self>, driver: &mut Driver, cx: &mut Context<'_>) -> Poll<End> {
        if !driver.ended && self.read(driver, cx).is_err() {
            return Poll::Ready(End::Broken);
        }
        self.handle.register(cx.waker());
        if let Poll::Ready(Err(_)) = self.queue.poll_flush(&mut driver.io, cx) {
            return Poll::Ready(End::Broken);
        }
        let idle = self.handle.streams() == 0 && self.queue.is_empty();
        if idle && driver.ended || self.handle.draining() == Drain::Now {
            return Poll::Ready(End::Finished);
        }
        loop {
            match self.leave_at(driver, idle) {
                None => return Poll::Pending,
                Some(at) if at <= Instant::now() => return Poll::Ready(End::Finished),
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
            self.queue.push(bolt::goaway(0));
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

    fn read(self: &Rc<Self>, driver: &mut Driver, cx: &mut Context<'_>) -> Result<(), ()> {
        for turn in 0..=READS_PER_TURN {
            // A client that does not read its answers, or whose requests wait, is not read either.
            if self.queue.len() > self.limit || self.budget.poll_room(cx).is_pending() {
                break;
            }
            if turn == READS_PER_TURN {
                cx.waker().wake_by_ref();
                break;
            }
            match driver.input.poll_fill(&mut driver.io, cx) {
                Poll::Ready(Ok(Filled::Bytes(_))) => {
                    driver.last_used = Instant::now();
                    self.decode(driver);
                    if driver.ended {
                        break;
                    }
                }
                Poll::Ready(Ok(Filled::End)) => {
                    driver.ended = true;
                    break;
                }
                Poll::Ready(Ok(Filled::OverLimit)) => {
                    self.stats.frame_too_large.inc();
                    driver.ended = true;
                    break;
                }
                Poll::Ready(Err(_)) => return Err(()),
                Poll::Pending => break,
            }
        }
        driver.input.settle();
        Ok(())
    }

    /// Takes every whole frame out of the input.
    fn decode(self: &Rc<Self>, driver: &mut Driver) {
        loop {
            match driver.decoder.decode(&mut driver.input.bytes) {
                Ok(Some(frame)) => self.on_frame(frame),
                Ok(None) => return,
                Err(error) => {
                    self.stats.decode_error.inc();
                    self.stats.failure.inc(Reason::BadRequest);
                    if let Some(id) = error.reply_to() {
                        self.queue.push(bolt::reply(id, Status::CodecException));
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

    fn on_frame(self: &Rc<Self>, frame: Frame) {
        match frame.kind() {
            Kind::Request | Kind::Oneway => {
                spawn_local(Request::new(self.clone(), frame).run());
            }
            Kind::Heartbeat => {
                self.stats.heartbeat_total.inc();
                self.queue.push(bolt::heartbeat_ack(&frame));
            }
            // Answers to nothing: this side never asks.
            Kind::HeartbeatAck | Kind::Response | Kind::GoAway => self.stats.decode_error.inc(),
        }
    }
}

/// One request of a bolt client.
struct Request {
    down: Rc<Downstream>,
    frame: Frame,
    id: u32,
    oneway: bool,
    charge: Option<Charge>,
    /// Where it went last, for the log.
    cluster: Option<Rc<Cluster>>,
    host: Option<Rc<Host>>,
}

impl Request {
    fn new(down: Rc<Downstream>, frame: Frame) -> Self {
        let charge = Some(down.budget.charge(frame.len()));
        Request {
            id: frame.request_id(),
            oneway: frame.kind() == Kind::Oneway,
            down,
            frame,
            charge,
            cluster: None,
            host: None,
        }
    }

    async fn run(mut self) {
        let down = self.down.clone();
        let _stream = down.handle.enter();
        let begin = Instant::now();
        down.stats.request_total.inc();
        down.stats.request_active.inc();
        if self.oneway {
            down.stats.oneway_total.inc();
        }
        let bound = down.handle.bound();
        let view = bound.pinned.clone().unwrap_or_else(|| down.local.view());
        let FilterSpec::Rpc { config, routes } = &bound.chain.filter else { return };
        match self.answer(&view, config, *routes, begin).await {
            Ok(Some(mut frame)) => {
                frame.set_request_id(self.id);
                down.stats.response(frame.status());
                down.queue.push(frame.into_bytes());
            }
            Ok(None) => {}
            Err(failure) => self.fail(failure),
        }
        down.stats.request_time.record(begin.elapsed().as_micros() as u64);
        down.stats.request_active.dec();
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
        let plan = exchange::plan(&local, view, routes, &self.frame).map_err(|unplanned| {
            self.note(unplanned.failure, unplanned.route);
            unplanned.failure
        });
        match plan? {
            Plan::Forward(forward) => {
                let upstream = config.upstream.unwrap_or(Protocol::Bolt);
                let route = forward.route;
                let result = self.forward(&local, forward, upstream, begin).await;
                result.inspect_err(|failure| self.note(*failure, Some(route)))
            }
            Plan::Direct(_, direct) if !self.oneway => {
                let status =
                    if direct.status < 400 { Status::Success } else { status_of_http(direct.status) };
                let reply = bolt::response(self.id, status, b"", [], direct.body.as_slice());
                reply.map(Some).map_err(|_| Failure::before(Reason::TooLarge))
            }
            Plan::Direct(..) => Ok(None),
            // bolt has no redirects.
            Plan::Redirect(..) => Err(Failure::before(Reason::NoRoute)),
        }
    }

    async fn forward(
        &mut self,
        local: &Rc<Local>,
        forward: Forward<'_>,
        upstream: Protocol,
        begin: Instant,
    ) -> Result<Option<Frame>, Failure> {
        if !forward.request_edits.is_empty() {
            self.frame = edited(&self.frame, forward.request_edits)?;
        }
        let timeout = match self.frame.timeout_ms() {
            given if given > 0 => Some(Duration::from_millis(given as u64)),
            _ => forward.action.timeout,
        };
        let deadline = timeout.map(|timeout| begin + timeout);
        let mut tries = Tries::new(forward.action.retry.as_ref());
        self.cluster = Some(forward.cluster.clone());
        loop {
            let result = self.attempt(local, &forward.cluster, &mut tries, upstream, deadline).await;
            let outcome = match &result {
                Ok(None) => return Ok(None),
                Ok(Some(frame)) => {
                    Outcome::Status(Status::from_code(frame.status()).map_or(500, Status::http_status))
                }
                Err(failure) => Outcome::Failed(*failure),
            };
            match tries.again(outcome, &forward.cluster, deadline) {
                Some(pause) => local.env.wheel.sleep(pause).await,
                None => {
                    return match result {
                        Ok(Some(frame)) if !forward.response_edits.is_empty() => {
                            edited(&frame, forward.response_edits).map(Some)
                        }
                        result => result,
                    };
                }
            }
        }
    }

    /// One try at one host.
    async fn attempt(
        &mut self,
        local: &Rc<Local>,
        cluster: &Rc<Cluster>,
        tries: &mut Tries<'_>,
        upstream: Protocol,
        deadline: Option<Instant>,
    ) -> Result<Option<Frame>, Failure> {
        let stats = &cluster.stats;
        let state = cluster.state();
        let permit = state.spec.breakers.acquire(Level::Requests, &state.spec.model.breakers.default);
        let _permit = permit.map_err(|()| {
            stats.upstream_rq_active_overflow.inc();
            Failure::before(Reason::OverflowRequests)
        })?;
        let host = tries.pick(cluster)?;
        self.host = Some(host.clone());
        let _active = host.enter();
        let (deadline, late) = match tries.per_try().map(|limit| Instant::now() + limit) {
            Some(own) if deadline.is_none_or(|whole| own < whole) => (Some(own), Reason::PerTryTimeout),
            _ => (deadline, Reason::Timeout),
        };
        stats.upstream_rq_total.inc();
        stats.upstream_rq_active.inc();
        let sending = async {
            match upstream {
                Protocol::Http2 => {
                    upstream_http2::call(&self.frame, self.oneway, &host, cluster, &state, deadline).await
                }
                Protocol::Bolt | Protocol::Auto => {
                    self.call(&host, cluster, &state, tries.may_resend()).await
                }
            }
        };
        let result = within(local, deadline, late, sending).await;
        stats.upstream_rq_active.dec();
        match &result {
            Ok(_) => stats.upstream_rq_completed.inc(),
            Err(failure) => stats.failure.inc(failure.reason),
        }
        result
    }

    /// Sends the frame over bolt.
    async fn call(
        &mut self,
        host: &Rc<Host>,
        cluster: &Rc<Cluster>,
        state: &Rc<crate::cluster::State>,
        keep: bool,
    ) -> Result<Option<Frame>, Failure> {
        let mux = match host.rpc.ready() {
            Some(mux) => mux,
            None => Pool::acquire(host, cluster, state).await?,
        };
        let copy = keep.then(|| self.frame.copy());
        let frame = std::mem::replace(&mut self.frame, Frame::spent());
        if let Some(copy) = copy {
            self.frame = copy;
        }
        let charge = self.charge.take();
        if self.oneway {
            return mux.send_oneway(frame, charge).map(|()| None);
        }
        mux.call(frame, charge)?.await.map(Some)
    }

    /// One log line, unless there were too many like it.
    fn note(&self, failure: Failure, route: Option<&RouteSpec>) {
        let handle = &self.down.handle;
        let host = self.host.as_ref().map(|host| host.address.to_string()).unwrap_or_default();
        let cluster = self.cluster.as_ref();
        let id = cluster.map(|cluster| cluster.state().spec.id);
        self.down.local.failures.log(failure, id, || FailureLine {
            protocol: "bolt",
            listener: &handle.listener,
            route: route.map(RouteSpec::label).unwrap_or_default(),
            cluster: cluster.map(|cluster| cluster.name.as_str()).unwrap_or_default(),
            host: &host,
            detail: "",
        });
    }

    /// Answers a failure at once, in bolt and with the caller's id.
    fn fail(&self, failure: Failure) {
        let down = &self.down;
        down.stats.failure.inc(failure.reason);
        if !self.oneway {
            down.queue.push(bolt::reply(self.id, status_of(failure.reason)));
        }
    }
}

/// Bounds `work` by `deadline`; `late` is what passing it means.
async fn within<T>(
    local: &Local,
    deadline: Option<Instant>,
    late: Reason,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let Some(deadline) = deadline else { return work.await };
    let mut work = pin!(work);
    let mut limit = pin!(local.env.wheel.sleep_until(deadline));
    poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(result) => Poll::Ready(result),
        Poll::Pending => limit.as_mut().poll(cx).map(|()| Err(Failure::after(late))),
    })
    .await
}

fn edited(frame: &Frame, plan: &EditPlan) -> Result<Frame, Failure> {
    let edits = plan.iter().map(|edit| match edit {
        Edit::Remove(name) => HeaderEdit::Remove(name.as_bytes()),
        Edit::Write(crate::model::HeaderEdit::Append { name, value }) => {
            HeaderEdit::Append(name.as_bytes(), value.as_bytes())
        }
        Edit::Write(crate::model::HeaderEdit::AddIfAbsent { name, value }) => {
            HeaderEdit::AddIfAbsent(name.as_bytes(), value.as_bytes())
        }
        Edit::Write(crate::model::HeaderEdit::Set { name, value }) => {
            HeaderEdit::Set(name.as_bytes(), value.as_bytes())
        }
        Edit::Write(crate::model::HeaderEdit::ReplaceIfPresent { name, value }) => {
            HeaderEdit::ReplaceIfPresent(name.as_bytes(), value.as_bytes())
        }
    });
    frame.edit_headers(edits).map_err(|_| Failure::before(Reason::HeaderOverflow))
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
