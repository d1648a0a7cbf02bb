//! The pool of HTTP/1 connections to one host.
//!
//! A connection carries one exchange at a time. Whoever sends holds a [`Lease`]; the connection used last is
//! lent first, so that those not needed grow old and go. It comes back when both messages are whole, and is
//! closed in every other case. Nobody watches an idle connection: a look before it is lent, and one a second,
//! find those that their server has closed.

mod learned;
mod link;
mod state;
mod stream;
#[cfg(test)]
mod tests;

pub use stream::{Closed, Lease, Receiver, Sender};

use super::auto::{self, Version};
use super::dial::{Miss, connect};
use super::http2;
use crate::cluster::{Cluster, Host, Level, Permit, State};
use crate::message::{Failure, Reason};
use crate::model::Priority;
use crate::net::{Conn, Wheel};
use learned::Learned;
use link::Link;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};
use std::time::Duration;
use tokio::task::spawn_local;
use tokio::time::Instant;

/// Time between looks at idle connections.
const SWEEP: Duration = Duration::from_secs(1);
/// After this time a close may have come that the runtime has not told of yet.
const FRESH: Duration = Duration::from_millis(1);

/// Connections of one host.
#[derive(Default)]
pub struct Pool {
    /// The one used last is last.
    idle: RefCell<Vec<Rc<Link>>>,
    waiting: RefCell<VecDeque<Rc<Waiter>>>,
    dials: Cell<usize>,
    /// Connections there are, idle or lent.
    open: Cell<usize>,
    retired: Cell<bool>,
    sweeping: Cell<bool>,
    learned: Learned,
}

/// Somebody who waits for a connection.
struct Waiter {
    outcome: RefCell<Option<Result<Lease, Miss>>>,
    waker: RefCell<Waker>,
    cluster: Rc<Cluster>,
    state: Rc<State>,
    /// Wants a connection that has carried nothing yet.
    fresh: bool,
    /// Whose limits count.
    priority: Priority,
}

impl Waiter {
    fn wake(&self) {
        let waker = self.waker.borrow().clone();
        waker.wake();
    }

    fn resolve(&self, outcome: Result<Lease, Miss>) {
        *self.outcome.borrow_mut() = Some(outcome);
        self.wake();
    }
}

impl Pool {
    /// An idle connection, if there is one that its server has not closed.
    pub fn ready(&self) -> Option<Lease> {
        let now = Instant::now();
        loop {
            // The borrow ends here: a connection that is dropped looks at the pool.
            let link = self.idle.borrow_mut().pop()?;
            let idle = link.idle(now);
            if idle >= self.idle_limit(&link, now) {
                link.stats.upstream_cx_idle_timeout.inc();
                continue;
            }
            if link.line.is_stale() || (idle >= FRESH && link.line.is_readable()) {
                self.learned.observe(idle, now);
                link.note_remote_close();
                continue;
            }
            return Some(Lease::new(link, idle));
        }
    }

    /// A connection, dialling one when needed.
    ///
    /// # Errors
    /// Connect failure or timeout, or a limit of connections or waiting requests.
    pub async fn acquire(
        host: &Rc<Host>,
        cluster: &Rc<Cluster>,
        state: &Rc<State>,
        priority: Priority,
    ) -> Result<Lease, Failure> {
        match host.http1.ready() {
            Some(lease) => Ok(lease),
            None => Pool::obtain(host, cluster, state, priority, false).await.map_err(Miss::failure),
        }
    }

    /// A connection that has carried nothing yet, for a request that met the close of a used one.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire).
    pub async fn acquire_new(
        host: &Rc<Host>,
        cluster: &Rc<Cluster>,
        state: &Rc<State>,
        priority: Priority,
    ) -> Result<Lease, Failure> {
        Pool::obtain(host, cluster, state, priority, true).await.map_err(Miss::failure)
    }

    /// Waits for a connection, if the host speaks HTTP/1. `fresh`: one that has carried nothing yet.
    pub(super) async fn obtain(
        host: &Rc<Host>,
        cluster: &Rc<Cluster>,
        state: &Rc<State>,
        priority: Priority,
        fresh: bool,
    ) -> Result<Lease, Miss> {
        let waiting = state.spec.acquire(Level::Pending, priority);
        let _waiting = waiting.map_err(|_| {
            cluster.stats.upstream_rq_pending_overflow.inc();
            Miss::Failed(Reason::OverflowPending)
        })?;
        cluster.stats.upstream_rq_pending_total.inc();
        let waiter = Rc::new(Waiter {
            outcome: RefCell::new(None),
            waker: RefCell::new(Waker::noop().clone()),
            cluster: cluster.clone(),
            state: state.clone(),
            fresh,
            priority,
        });
        host.http1.waiting.borrow_mut().push_back(waiter.clone());
        let place = Place { host, waiter };
        let mut first = true;
        poll_fn(|cx| {
            place.waiter.waker.borrow_mut().clone_from(cx.waker());
            if !Pool::dial(host) && std::mem::take(&mut first) {
                cluster.stats.upstream_cx_overflow.inc();
            }
            let outcome = place.waiter.outcome.borrow_mut().take();
            outcome.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// Dials as many connections as there are requests waiting. `false`: the limit of connections is reached.
    fn dial(host: &Rc<Host>) -> bool {
        let pool = &host.http1;
        loop {
            let next = {
                let waiting = pool.waiting.borrow();
                if waiting.len() <= pool.dials.get() {
                    return true;
                }
                let first = waiting.front();
                first.map(|waiter| (waiter.cluster.clone(), waiter.state.clone(), waiter.priority))
            };
            let Some((cluster, state, priority)) = next else { return true };
            match state.spec.acquire(Level::Connections, priority) {
                Ok(permit) => {
                    pool.dials.set(pool.dials.get() + 1);
                    spawn_local(run(host.clone(), cluster, state, permit));
                }
                // What another host does not need, or nobody here, can be used for this.
                Err(_) if pool.close_oldest() || state.hosts().any(|other| other.close_oldest_http1()) => {}
                Err(_) => {
                    if pool.dials.get() == 0 && pool.open.get() == 0 {
                        pool.fail_all(Miss::Failed(Reason::OverflowConnections));
                    }
                    return false;
                }
            }
        }
    }

    /// Lends a connection to who waits longest, or keeps it.
    fn put(&self, link: Rc<Link>) {
        let next = {
            let mut waiting = self.waiting.borrow_mut();
            let suits = |waiter: &Rc<Waiter>| !waiter.fresh || !link.served.get();
            waiting.iter().position(suits).and_then(|at| waiting.remove(at))
        };
        match next {
            Some(waiter) => waiter.resolve(Ok(Lease::new(link, Duration::ZERO))),
            None if self.retired.get() => {}
            None => {
                self.idle.borrow_mut().push(link);
                // Who waits for a fresh one may close it to make room.
                self.wake_first();
            }
        }
    }

    fn fail_one(&self, reason: Reason) {
        let next = self.waiting.borrow_mut().pop_front();
        if let Some(waiter) = next {
            waiter.resolve(Err(Miss::Failed(reason)));
        }
    }

    fn fail_all(&self, miss: Miss) {
        for waiter in self.waiting.take() {
            waiter.resolve(Err(miss));
        }
    }

    /// A connection is gone: there may be room for another.
    fn on_closed(&self) {
        self.open.set(self.open.get().saturating_sub(1));
        self.wake_first();
    }

    fn wake_first(&self) {
        let first = self.waiting.borrow().front().cloned();
        if let Some(waiter) = first {
            waiter.wake();
        }
    }

    /// Closes the connection that has been idle longest; `false` if there is none.
    pub(in crate::cluster) fn close_oldest(&self) -> bool {
        let mut idle = self.idle.borrow_mut();
        let oldest = (!idle.is_empty()).then(|| idle.remove(0));
        drop(idle);
        oldest.is_some()
    }

    /// How long `link` may be idle.
    fn idle_limit(&self, link: &Link, now: Instant) -> Duration {
        let limits =
            [link.idle_timeout, link.announced.get().map(learned::ahead_of), self.learned.limit(now)];
        limits.into_iter().flatten().min().unwrap_or(Duration::MAX)
    }

    /// Closes idle connections that their servers have closed or that are idle for too long.
    fn sweep(&self) {
        let now = Instant::now();
        let links = self.idle.take();
        let (mut kept, mut gone) = (Vec::with_capacity(links.len()), Vec::new());
        for link in links {
            let idle = link.idle(now);
            if link.line.is_stale() {
                self.learned.observe(idle, now);
                link.note_remote_close();
                gone.push(link);
            } else if idle >= self.idle_limit(&link, now) {
                link.stats.upstream_cx_idle_timeout.inc();
                gone.push(link);
            } else {
                kept.push(link);
            }
        }
        *self.idle.borrow_mut() = kept;
        // After the list is back: a connection that is dropped looks at the pool.
        drop(gone);
    }

    /// Idle connections close now, busy ones after their exchange.
    pub fn retire(&self) {
        self.retired.set(true);
        drop(self.idle.take());
    }

    /// Whether its host is out of service for good.
    pub(super) fn is_retired(&self) -> bool {
        self.retired.get()
    }

    /// Takes a connection that was dialled, or one that was dialled for HTTP/2, whose host chose HTTP/1. The future looks after the idle
    /// ones, unless somebody does.
    pub(super) fn adopt(
        io: Conn,
        host: &Rc<Host>,
        cluster: &Rc<Cluster>,
        state: &State,
        permit: Option<Permit>,
    ) -> impl Future<Output = ()> + use<> {
        let pool = &host.http1;
        pool.open.set(pool.open.get() + 1);
        pool.put(Link::new(io, host, cluster, state, permit));
        let begin = !pool.sweeping.replace(true);
        let (wheel, host) = (cluster.env().wheel.clone(), Rc::downgrade(host));
        async move {
            if begin {
                sweep(host, wheel).await;
            }
        }
    }

    /// Open connections.
    pub fn open(&self) -> usize {
        self.open.get()
    }

    /// Connections that wait for a request.
    pub fn idle(&self) -> usize {
        self.idle.borrow().len()
    }
}

/// Somebody's place in the queue.
struct Place<'h> {
    host: &'h Rc<Host>,
    waiter: Rc<Waiter>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let pool = &self.host.http1;
        pool.waiting.borrow_mut().retain(|waiter| !Rc::ptr_eq(waiter, &self.waiter));
        // A connection that was given and not taken goes to the next, who may have to dial in our place too.
        let unused = self.waiter.outcome.borrow_mut().take();
        drop(unused);
        pool.wake_first();
    }
}

/// Dials a connection for whoever waits longest when it is there, so that a request that gives up does not end
/// the attempt for the others. Then looks after the idle ones, unless somebody does.
async fn run(host: Rc<Host>, cluster: Rc<Cluster>, state: Rc<State>, permit: Option<Permit>) {
    let dialled = connect(&host, &cluster, &state, auto::offer(&state, &["http/1.1"])).await;
    let pool = &host.http1;
    pool.dials.set(pool.dials.get().saturating_sub(1));
    let io = match dialled {
        Ok(io) => io,
        Err(reason) => {
            drop(permit);
            pool.fail_one(reason);
            return pool.wake_first();
        }
    };
    if auto::is_other(Version::Http1, &io, &host, &state) {
        http2::Pool::adopt(io, &host, &cluster, state, permit);
        return pool.fail_all(Miss::Other);
    }
    let looked_after = Pool::adopt(io, &host, &cluster, &state, permit);
    drop((host, cluster, state));
    looked_after.await;
}

/// Looks at the idle connections of `host` once a second as long as it has connections.
async fn sweep(host: Weak<Host>, wheel: Rc<Wheel>) {
    loop {
        wheel.sleep(SWEEP).await;
        let Some(host) = host.upgrade() else { return };
        host.http1.sweep();
        if host.http1.open.get() == 0 {
            return host.http1.sweeping.set(false);
        }
    }
}
