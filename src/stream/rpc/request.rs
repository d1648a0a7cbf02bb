//! A call with a task of its own: one that has to wait for something before it can be sent, or is tried again.

use super::filtered::{self, Passed};
use super::{Downstream, Running};
use crate::message::{Failure, Reason};
use crate::model::{LogKind, Protocol};
use crate::protocol::bolt::{self, Status};
use crate::protocol::rpc::{Frame, Kind};
use crate::router::RouteSpec;
use crate::snapshot::{FilterSpec, View};
use crate::stream::call::Call;
use crate::stream::exchange::{self, Attempt, Caller, Draws, Plan, Trail, Unplanned};
use crate::stream::handle::StreamGuard;
use crate::stream::{Bound, Handle, Local, Record};
use crate::telemetry::{Registration, RpcStats, why};
use bytes::Bytes;
use std::future::Future;
use std::rc::Rc;
use tokio::task::spawn_local;
use tokio::time::Instant;

/// A call that is here and not finished; counted until dropped.
pub(super) struct Ticket {
    stats: Rc<Registration<RpcStats>>,
    /// The client's id.
    pub id: u32,
    /// Nobody waits for an answer.
    pub oneway: bool,
    /// When it had come.
    pub begin: Instant,
    /// It was not given up.
    finished: bool,
    /// Where a log wants a line.
    logged: Option<Box<Logged>>,
    /// Counted as soon as the frame is here: a connection that ends right behind it still owes the answer.
    _stream: StreamGuard,
}

/// What a call's log line is made of.
struct Logged {
    record: Box<Record>,
    trail: Trail,
    local: Rc<Local>,
    handle: Rc<Handle>,
}

impl Logged {
    fn new(down: &Downstream, bound: &Bound, frame: &Frame, begin: Instant) -> Option<Box<Self>> {
        bound.logs.as_ref()?;
        let mut record = Record::begin(&down.local, LogKind::DownstreamEnd, "bolt", begin);
        record.follow(bound);
        record.call(frame.request_id());
        record.request(frame);
        record.received = frame.len() as u64;
        record.request_end = Some(begin);
        let (local, handle) = (down.local.clone(), down.handle.clone());
        Some(Box::new(Logged { record, trail: Trail::default(), local, handle }))
    }
}

impl Ticket {
    pub fn new(down: &Downstream, bound: &Bound, frame: &Frame, begin: Instant) -> Self {
        let stats = down.stats();
        stats.request_total.inc();
        stats.request_active.inc();
        let (id, oneway) = (frame.request_id(), frame.kind() == Kind::Oneway);
        if oneway {
            stats.oneway_total.inc();
        }
        let logged = Logged::new(down, bound, frame, begin);
        Ticket { stats, id, oneway, begin, finished: false, logged, _stream: down.handle.enter() }
    }

    /// The route that matched.
    pub fn route(&mut self, route: &RouteSpec) {
        if let Some(logged) = &mut self.logged {
            logged.record.route(route);
        }
    }

    /// It went wrong, or took long: what is known of it is kept, whether a log wants it or not.
    pub fn mind(&mut self, down: &Downstream, route: Option<&RouteSpec>) {
        if self.logged.is_none() {
            let mut record = Record::begin(&down.local, LogKind::DownstreamEnd, "bolt", self.begin);
            record.call(self.id);
            let (local, handle) = (down.local.clone(), down.handle.clone());
            self.logged = Some(Box::new(Logged { record, trail: Trail::default(), local, handle }));
            route.into_iter().for_each(|route| self.route(route));
        }
    }

    /// Whether it has taken long.
    pub fn is_slow(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.begin) >= why::slow()
    }

    /// Where it goes.
    pub fn follow(&mut self, attempt: &Attempt) {
        if let Some(logged) = &mut self.logged {
            logged.trail.follow(attempt);
            logged.record.attempts += 1;
        }
    }

    /// Where it went in all.
    pub fn went(&mut self, trail: &Trail) {
        if let Some(logged) = &mut self.logged {
            logged.trail.clone_from(trail);
        }
    }

    /// Answers with `frame`.
    pub fn answer(&mut self, down: &Downstream, mut frame: Frame) {
        if let Some(logged) = &mut self.logged {
            let status = Status::from_code(frame.status()).map_or(500, Status::http_status);
            logged.record.answered(Instant::now());
            logged.record.answer(status, &frame);
            logged.record.sent = frame.len() as u64;
        }
        frame.set_request_id(self.id);
        self.stats.response(frame.status());
        if frame.is_application_error() {
            self.stats.response_application_error.inc();
        }
        down.write(frame.into_storage());
    }

    /// A filter has refused it.
    pub fn refused(&mut self, down: &Downstream, reason: Reason) {
        self.mind(down, None);
        if let Some(logged) = &mut self.logged {
            logged.record.failed(reason);
        }
        self.stats.failure.inc(reason);
    }

    /// Answers a failure at once, in bolt and with the caller's id.
    pub fn fail(&mut self, down: &Downstream, failure: Failure) {
        self.mind(down, None);
        if let Some(logged) = &mut self.logged {
            logged.record.failed(failure.reason);
            logged.record.status = if self.oneway { 0 } else { failure.reason.http_status() };
        }
        self.stats.failure.inc(failure.reason);
        if !self.oneway {
            let status = Status::from_code(failure.reason.bolt_status()).unwrap_or(Status::Unknown);
            down.write(refusal(self.id, status, failure.reason));
        }
    }

    /// The call has ended, and was not given up. Gives the milliseconds it took.
    pub fn finish(mut self, now: Instant) -> u64 {
        let took = now.saturating_duration_since(self.begin).as_millis() as u64;
        self.stats.request_time.record(took);
        self.finished = true;
        took
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let stats = &self.stats;
        stats.request_active.dec();
        if !self.finished {
            stats.request_reset.inc();
            stats.failure.inc(Reason::DownstreamReset);
        }
        if let Some(logged) = self.logged.take() {
            let Logged { mut record, trail, local, handle } = *logged;
            if !self.finished {
                record.failed(Reason::DownstreamReset);
            }
            record.finish(&local, Some(&handle), trail.upstream());
        }
    }
}

/// What a call is planned with: planning it again comes to the same.
pub(super) struct Course {
    pub bound: Rc<Bound>,
    pub view: View,
    pub draws: Draws,
}

/// One call of a bolt client.
pub(super) struct Request {
    pub down: Rc<Downstream>,
    pub ticket: Ticket,
    pub course: Course,
    pub call: Call,
}

/// A task's place among its client's calls.
struct Place(Rc<Downstream>, usize);

impl Drop for Place {
    fn drop(&mut self) {
        let own = self.0.calls.borrow_mut().try_remove(self.1);
        drop(own);
    }
}

impl Request {
    /// Starts its task. It ends with its client, unless the call is one-way.
    pub fn start(self) {
        // The scheduler moves a task about before it runs; the box makes that a move of a pointer.
        if self.ticket.oneway {
            spawn_local(Box::pin(self.run(None)));
            return;
        }
        let down = self.down.clone();
        let mut calls = down.calls.borrow_mut();
        let entry = calls.vacant_entry();
        let place = Place(down.clone(), entry.key());
        entry.insert(Running::Task(spawn_local(Box::pin(self.run(Some(place))))));
    }

    async fn run(mut self, _place: Option<Place>) {
        let outcome = self.answer().await;
        match outcome {
            Ok(Some(frame)) => self.ticket.answer(&self.down, frame),
            Ok(None) => {}
            Err(failure) => self.ticket.fail(&self.down, failure),
        }
        let trail = std::mem::take(&mut self.call.trail);
        if self.ticket.is_slow(Instant::now()) {
            self.ticket.mind(&self.down, None);
        }
        self.ticket.went(&trail);
        let took = self.ticket.finish(Instant::now());
        trail.took(took);
    }

    /// The answer, from a cluster or of our own.
    async fn answer(&mut self) -> Result<Option<Frame>, Failure> {
        if self.course.bound.chain.filters.is_some() {
            // Boxed: most calls meet no filter and have no room for what they need.
            return Box::pin(self.filtered()).await;
        }
        let Request { down, ticket, course, call } = self;
        let plan = course.plan(down, &call.frame);
        go(down, ticket, course, call, plan).await
    }

    /// As [`answer`](Self::answer), through the filters and back.
    async fn filtered(&mut self) -> Result<Option<Frame>, Failure> {
        let Request { down, ticket, course, call } = self;
        let course = &*course;
        let (mut criteria, mut through) = (Vec::new(), None);
        let mut plan = course.plan(down, &call.frame);
        if let Some(chain) = &course.bound.chain.filters {
            let passed =
                filtered::pass(chain, &plan, &mut call.frame, (down, course), ticket, &mut criteria).await?;
            match passed {
                Passed::On(passed) => through = Some(passed),
                Passed::Answered(answer) => return Ok(answer),
            }
        }
        if let (Ok(Plan::Forward(to)), false) = (&mut plan, criteria.is_empty()) {
            to.wish.get_or_insert_default().context.criteria = &criteria;
        }
        match (go(down, ticket, course, call, plan).await?, through) {
            (Some(frame), Some(through)) => through.answer(frame).map(Some),
            (answer, _) => Ok(answer),
        }
    }
}

impl Course {
    /// Where `frame` goes.
    fn plan(&self, down: &Downstream, frame: &Frame) -> Result<Plan<'_>, Unplanned<'_>> {
        let FilterSpec::Rpc { routes, .. } = &self.bound.chain.filter else {
            let failure = Failure::before(Reason::NoRoute);
            return Err(Unplanned { failure, route: None, response_edits: None });
        };
        let caller = Caller::of(&down.handle);
        exchange::plan_drawn(&down.local, &self.view, *routes, frame, caller, self.draws)
    }
}

/// Where its plan leads.
async fn go(
    down: &Downstream,
    ticket: &mut Ticket,
    course: &Course,
    call: &mut Call,
    plan: Result<Plan<'_>, Unplanned<'_>>,
) -> Result<Option<Frame>, Failure> {
    let FilterSpec::Rpc { config, .. } = &course.bound.chain.filter else {
        return Err(Failure::before(Reason::NoRoute));
    };
    let note = |call: &Call, failure, route: Option<&RouteSpec>| {
        call.trail.note(&down.local, failure, "bolt", &down.handle.listener, route);
        failure
    };
    let plan = plan.map_err(|unplanned| note(call, unplanned.failure, unplanned.route))?;
    ticket.route(plan.route());
    match plan {
        Plan::Forward(forward) => {
            let upstream = config.upstream.unwrap_or(Protocol::Bolt);
            let route = forward.route;
            call.application_errors = config.application_errors;
            let result = call.forward(&down.local, forward, upstream, ticket.begin).await;
            if result.is_err() {
                ticket.mind(down, Some(route));
            }
            result.map_err(|failure| note(call, failure, Some(route)))
        }
        Plan::Direct(_, direct) if !call.oneway => {
            let status = if direct.status < 400 { Status::Success } else { status_of_http(direct.status) };
            let reply = bolt::response(ticket.id, status, b"", [], &direct.body[..]);
            reply.map(Some).map_err(|_| Failure::before(Reason::TooLarge))
        }
        Plan::Direct(..) => Ok(None),
        // bolt has no redirects.
        Plan::Redirect(..) => Err(Failure::before(Reason::NoRoute)),
    }
}

/// The answer to a call that failed; with `--error-reasons` it says why.
fn refusal(id: u32, status: Status, reason: Reason) -> Bytes {
    if why::error_reasons() {
        let pair = (&b"x-mizzen-reason"[..], reason.word().as_bytes());
        if let Ok(frame) = bolt::response(id, status, b"", [pair], &b""[..]) {
            return frame.into_bytes();
        }
    }
    bolt::reply(id, status)
}

/// The bolt status of a fixed answer that is written as an HTTP status.
pub(super) fn status_of_http(status: u16) -> Status {
    match status {
        403 => Status::ServerException,
        404 => Status::NoProcessor,
        502 => Status::ConnectionClosed,
        503 => Status::ServerThreadpoolBusy,
        504 => Status::Timeout,
        _ => Status::Unknown,
    }
}

const fn size<F: Future>(_: fn(Request, Option<Place>) -> F) -> usize {
    size_of::<F>()
}

/// One allocation per request, and 10,000 of them at once: what a path rarely needs is boxed apart.
const _: () = assert!(size(Request::run) <= 1568);
