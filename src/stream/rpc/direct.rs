//! The short way of a call: no task, no timer and no future of its own.
//!
//! Owns calls that could be sent the moment they were read: planned, a host picked, and a connection to it
//! open. Their answers come from the upstream connection's task straight into the client's write queue.
//! Everything else (another protocol upstream, edits, a limit per try, no connection yet, a further try)
//! goes on as a [`Request`], with what was decided here.

use super::request::{Course, Request, Ticket};
use super::{Downstream, Driver, Running};
use crate::cluster::pool::mux::{Mux, Place, Receiver};
use crate::message::{Failure, Reason};
use crate::model::Protocol;
use crate::net::Charge;
use crate::protocol::rpc::Frame;
use crate::router::RouteSpec;
use crate::snapshot::FilterSpec;
use crate::stream::call::{self, First};
use crate::stream::exchange::{self, Attempt, Caller, Draws, Plan, Trail};
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::Context;
use tokio::time::Instant;

/// A call that was sent and waits for its answer.
pub(super) struct Call {
    ticket: Ticket,
    course: Course,
    deadline: Option<Instant>,
    /// The request, where its route may have it sent again.
    kept: Option<Frame>,
    /// Address of its route in the course's snapshot.
    route: usize,
    attempt: Attempt,
    _place: Option<Place>,
}

/// Serves a request or one-way call that was read at `now`.
pub(super) fn start(down: &Rc<Downstream>, frame: Frame, now: Instant) {
    let bound = down.handle.bound();
    let mut ticket = Ticket::new(down, &bound, &frame, now);
    let view = bound.pinned.clone().unwrap_or_else(|| down.local.view());
    let course = Course { bound, view, draws: Draws::new(&down.local.env.random) };
    let charge = Some(down.budget.charge(frame.len()));
    match Way::find(down, &course, &frame, &mut ticket) {
        Ok(way) => way.send(down, ticket, course, frame, charge),
        Err(first) => {
            let call = call::Call::new(frame, charge).starting(first);
            Request { down: down.clone(), ticket, course, call }.start();
        }
    }
}

/// A call that can be sent at once: where, and on what terms.
struct Way {
    attempt: Attempt,
    mux: Rc<Mux>,
    deadline: Option<Instant>,
    keep: bool,
    route: usize,
}

impl Way {
    /// The way of `frame`, or how far the call came that needs a task.
    fn find(
        down: &Downstream,
        course: &Course,
        frame: &Frame,
        ticket: &mut Ticket,
    ) -> Result<Way, Option<First>> {
        let FilterSpec::Rpc { config, routes } = &course.bound.chain.filter else { return Err(None) };
        if config.upstream == Some(Protocol::Http2) || course.bound.chain.filters.is_some() {
            return Err(None);
        }
        let plan = exchange::plan_drawn(
            &down.local,
            &course.view,
            *routes,
            frame,
            Caller::of(&down.handle),
            course.draws,
        );
        let Ok(Plan::Forward(forward)) = plan else { return Err(None) };
        let mut tries = forward.tries(frame, false).rpc();
        let edits = !forward.request_edits.is_empty() || !forward.response_edits.is_empty();
        let special = edits || forward.is_mirrored();
        if special || tries.per_try().is_some() || tries.per_try_idle().is_some() {
            return Err(None);
        }
        let attempt = Attempt::begin(&forward.cluster, forward.context(), &mut tries)
            .map_err(|failure| Some(First::Ended(None, Err(failure))))?;
        let Some(mux) = attempt.host.rpc.ready() else { return Err(Some(First::Begun(attempt))) };
        let deadline = call::time_limit(frame, forward.action).map(|limit| ticket.begin + limit);
        ticket.route(forward.route);
        ticket.follow(&attempt);
        Ok(Way { attempt, mux, deadline, keep: tries.may_resend(), route: address(forward.route) })
    }

    fn send(
        self,
        down: &Rc<Downstream>,
        ticket: Ticket,
        course: Course,
        frame: Frame,
        charge: Option<Charge>,
    ) {
        let Way { attempt, mux, deadline, keep, route } = self;
        let kept = keep.then(|| frame.copy());
        let mut call = Call { ticket, course, deadline, kept, route, attempt, _place: None };
        if call.ticket.oneway {
            let sent = mux.send_oneway(frame, charge).map(|()| None);
            return call.end(down, sent, Instant::now());
        }
        let mut calls = down.calls.borrow_mut();
        let entry = calls.vacant_entry();
        let receiver: Weak<dyn Receiver> = Rc::<Downstream>::downgrade(down);
        match mux.call_for(frame, charge, receiver, entry.key()) {
            Ok(place) => {
                call._place = Some(place);
                down.expect(deadline);
                entry.insert(Running::Direct(Box::new(call)));
            }
            Err(failure) => {
                drop(calls);
                call.end(down, Err(failure), Instant::now());
            }
        }
    }
}

impl Call {
    /// Its only try, so far, has come to `outcome`; `None`: a one-way call was sent.
    fn end(mut self, down: &Rc<Downstream>, outcome: Result<Option<Frame>, Failure>, now: Instant) {
        let application_errors = match &self.course.bound.chain.filter {
            FilterSpec::Rpc { config, .. } => config.application_errors,
            _ => false,
        };
        call::count(&self.attempt, &outcome, application_errors);
        let good = |frame: &Frame| call::status_of(frame, application_errors) == 200;
        let failed = !matches!(&outcome, Ok(answer) if answer.as_ref().is_none_or(good));
        if failed && let Some(frame) = self.kept {
            let first = First::Ended(Some(self.attempt.host.clone()), outcome);
            let call = call::Call::new(frame, None).starting(Some(first));
            return Request { down: down.clone(), ticket: self.ticket, course: self.course, call }.start();
        }
        match outcome {
            Ok(Some(frame)) => self.ticket.answer(down, frame),
            Ok(None) => {}
            Err(failure) => {
                let mut trail = Trail::default();
                trail.follow(&self.attempt);
                trail.note(
                    &down.local,
                    failure,
                    "bolt",
                    &down.handle.listener,
                    self.course.route(self.route),
                );
                self.ticket.mind(down, self.course.route(self.route));
                self.ticket.fail(down, failure);
                self.ticket.went(&trail);
            }
        }
        if self.ticket.is_slow(now) {
            self.ticket.mind(down, self.course.route(self.route));
            let mut trail = Trail::default();
            trail.follow(&self.attempt);
            self.ticket.went(&trail);
        }
        let took = self.ticket.finish(now);
        self.attempt.cluster.stats.upstream_rq_time.record(took);
    }
}

impl Course {
    /// The route at this address.
    fn route(&self, wanted: usize) -> Option<&RouteSpec> {
        let FilterSpec::Rpc { routes, .. } = &self.bound.chain.filter else { return None };
        let hosts = self.view.route_table(*routes)?.hosts();
        hosts
            .iter()
            .flat_map(|host| host.routes())
            .map(|route| &**route)
            .find(|route| address(route) == wanted)
    }
}

/// What tells a route from all others while its snapshot is held.
fn address(route: &RouteSpec) -> usize {
    std::ptr::from_ref(route) as usize
}

impl Receiver for Downstream {
    fn on_answer(self: Rc<Self>, tag: usize, outcome: Result<Frame, Failure>, now: Instant) {
        let call = self.calls.borrow_mut().try_remove(tag);
        if let Some(Running::Direct(call)) = call {
            call.end(&self, outcome.map(Some), now);
        }
    }
}

impl Downstream {
    /// A call has come that may wait until `deadline`.
    fn expect(&self, deadline: Option<Instant>) {
        if let Some(deadline) = deadline
            && self.due.get().is_none_or(|due| deadline < due)
        {
            self.due.set(Some(deadline));
        }
    }

    /// Fails the calls whose time is up. The timer then stands at the earliest limit that was known when it
    /// was set: most calls are answered long before and need not touch it.
    pub(super) fn poll_limits(self: &Rc<Self>, driver: &mut Driver, cx: &mut Context<'_>) {
        while let Some(due) = self.due.get() {
            if driver.limit.deadline() != due {
                driver.limit.reset(due);
            }
            if Pin::new(&mut driver.limit).poll(cx).is_pending() {
                return;
            }
            let now = Instant::now();
            for call in self.take_late(now) {
                call.end(self, Err(Failure::after(Reason::Timeout)), now);
            }
        }
    }

    #[expect(clippy::vec_box, reason = "they are boxed where they are kept, and go on so")]
    fn take_late(&self, now: Instant) -> Vec<Box<Call>> {
        let mut calls = self.calls.borrow_mut();
        let (mut late, mut due) = (Vec::new(), None);
        for (key, call) in calls.iter() {
            let Running::Direct(call) = call else { continue };
            let Some(deadline) = call.deadline else { continue };
            if deadline <= now {
                late.push(key);
            } else {
                due = Some(due.map_or(deadline, |due| deadline.min(due)));
            }
        }
        self.due.set(due);
        let taken = late.into_iter().filter_map(|key| calls.try_remove(key));
        taken.filter_map(|call| if let Running::Direct(call) = call { Some(call) } else { None }).collect()
    }
}
