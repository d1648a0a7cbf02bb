//! The time limits of one stream, on one timer.

use crate::message::Reason;
use crate::net::{Sleep, Wheel};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// See the module. Costs nothing until polled, and a stream that moves does not touch the timer.
pub struct Clock {
    timer: Sleep,
    armed: bool,
    idle: Option<Duration>,
    last: Instant,
    seen: u64,
    timeout: Option<Duration>,
    deadline: Option<Instant>,
    per_try: Option<Duration>,
    try_deadline: Option<Instant>,
    /// Without progress since `try_begin` or later.
    try_idle: Option<Duration>,
    try_begin: Instant,
    ended_at: Option<Instant>,
    /// `last` is of this very turn.
    just_moved: bool,
    request_by: Option<Instant>,
}

impl Clock {
    /// No limit yet.
    pub fn new(wheel: &Rc<Wheel>, now: Instant) -> Self {
        Clock {
            timer: wheel.sleep_until(now),
            armed: false,
            idle: None,
            last: now,
            seen: 0,
            timeout: None,
            deadline: None,
            per_try: None,
            try_deadline: None,
            try_idle: None,
            try_begin: now,
            ended_at: None,
            just_moved: false,
            request_by: None,
        }
    }

    /// For the next stream, without limits; a timer under way is kept, as it rarely has to be moved.
    pub fn restart(&mut self, now: Instant) {
        self.idle = None;
        self.last = now;
        self.seen = 0;
        self.timeout = None;
        self.deadline = None;
        self.per_try = None;
        self.try_deadline = None;
        self.try_idle = None;
        self.ended_at = None;
        self.just_moved = false;
        self.request_by = None;
    }

    /// `idle`: without progress; `timeout`: from the request's end to the response's; `end`: in all.
    pub fn limit(&mut self, idle: Option<Duration>, timeout: Option<Duration>, end: Option<Instant>) {
        self.idle = idle;
        self.timeout = timeout;
        self.deadline = end;
    }

    /// The client has to have sent the whole request at `by`.
    pub fn expect_request(&mut self, by: Instant) {
        self.request_by = Some(by);
    }

    /// A try begins that has `limit` from the request's end to the response's head, and ends after `idle`
    /// without progress.
    pub fn begin_try(&mut self, limit: Option<Duration>, idle: Option<Duration>) {
        self.per_try = limit;
        self.try_idle = idle;
        self.try_deadline = None;
        if idle.is_some() {
            self.try_begin = Instant::now();
        }
        if self.ended_at.is_some() {
            self.try_deadline = limit.map(|limit| Instant::now() + limit);
        }
    }

    /// The response's head has come.
    pub fn end_try(&mut self) {
        self.per_try = None;
        self.try_deadline = None;
        self.just_moved = false;
    }

    /// The client has sent the whole request.
    pub fn request_ended(&mut self) {
        if self.ended_at.is_some() {
            return;
        }
        self.request_by = None;
        let now = Instant::now();
        self.ended_at = Some(now);
        (self.last, self.just_moved) = (now, true);
        let own = self.timeout.map(|timeout| now + timeout);
        self.deadline = own.into_iter().chain(self.deadline).min();
        self.try_deadline = self.per_try.map(|limit| now + limit);
    }

    /// When the client had sent the whole request.
    pub fn ended_at(&self) -> Option<Instant> {
        self.ended_at
    }

    /// When the whole exchange must have ended.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Ready when a limit has passed. `moved`: any number that changes when the stream makes progress.
    pub fn poll(&mut self, cx: &mut Context<'_>, moved: u64) -> Poll<Reason> {
        let just_moved = std::mem::take(&mut self.just_moved);
        if moved != self.seen {
            self.seen = moved;
            if !just_moved {
                self.last = Instant::now();
            }
        }
        loop {
            let idle_at = self.idle.map(|idle| self.last + idle);
            let try_idle_at = self.try_idle.map(|idle| self.last.max(self.try_begin) + idle);
            let ends = [idle_at, self.deadline, self.try_deadline, try_idle_at, self.request_by];
            let Some(due) = ends.into_iter().flatten().min() else {
                return Poll::Pending;
            };
            if !self.armed || due < self.timer.deadline() {
                self.armed = true;
                self.timer.reset(due);
            }
            if Pin::new(&mut self.timer).poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.armed = false;
            let now = Instant::now();
            if self.deadline.is_some_and(|at| at <= now) {
                return Poll::Ready(Reason::Timeout);
            }
            if self.try_deadline.is_some_and(|at| at <= now) {
                return Poll::Ready(Reason::PerTryTimeout);
            }
            if try_idle_at.is_some_and(|at| at <= now) {
                return Poll::Ready(Reason::PerTryIdle);
            }
            if self.request_by.is_some_and(|at| at <= now) {
                return Poll::Ready(Reason::RequestTimeout);
            }
            if idle_at.is_some_and(|at| at <= now) {
                return Poll::Ready(Reason::StreamIdle);
            }
        }
    }
}
