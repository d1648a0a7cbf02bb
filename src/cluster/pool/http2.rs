//! The pool of HTTP/2 connections to one host.
//!
//! Few connections carry all streams of a worker; another one is dialled when the streams the peer allows are
//! used up. Whoever sends holds a [`Lease`], one stream's place on one connection. A connection leaves the
//! pool when it takes no new streams and ends after its last one.

mod connection;
mod link;

pub use link::{Lease, Link, failure_of};

use super::dial::{Dial, Miss};
use crate::cluster::{Cluster, Host, Level, Permit, State};
use crate::message::{Failure, Reason};
use crate::model::Priority;
use crate::net::Conn;
use crate::protocol::bridge;
use connection::Attempt;
use http::{Uri, uri::Scheme};
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use tokio::task::spawn_local;

/// Streams a connection is expected to carry until a connection to this host has said so.
const EXPECTED_STREAMS: usize = 100;

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
        priority: Priority,
    ) -> Result<Lease, Failure> {
        Pool::obtain(host, cluster, state, priority).await.map_err(Miss::failure)
    }

    /// A place on a connection, if the host speaks HTTP/2.
    pub(super) async fn obtain(
        host: &Rc<Host>,
        cluster: &Rc<Cluster>,
        state: &Rc<State>,
        priority: Priority,
    ) -> Result<Lease, Miss> {
        if let Some(lease) = host.http2.ready() {
            host.http2.widen(host, cluster, state, priority);
            return Ok(lease);
        }
        let waiting = state.spec.acquire(Level::Pending, priority);
        let _waiting = waiting.map_err(|_full| {
            cluster.stats.upstream_rq_pending_overflow.inc();
            Miss::Failed(Reason::OverflowPending)
        })?;
        cluster.stats.upstream_rq_pending_total.inc();
        let _counted = host.wait(cluster);
        let pool = &host.http2;
        loop {
            let lease = match pool.dial(host, cluster, state, priority).map_err(Miss::Failed)? {
                Some(dial) => {
                    let link = dial.wait().await.inspect_err(|miss| {
                        if let Miss::Failed(_) = miss {
                            cluster.stats.upstream_rq_pending_failure_eject.inc();
                        }
                    })?;
                    if !link.open.get() {
                        return Err(Miss::Failed(Reason::UpstreamClosed));
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
        priority: Priority,
    ) -> Result<Option<Rc<Dial<Link>>>, Reason> {
        let roomy = |dial: &&Rc<Dial<Link>>| (dial.waiters() as usize) < self.peer_limit.get();
        if let Some(dial) = self.dials.borrow().iter().find(roomy) {
            return Ok(Some(dial.clone()));
        }
        let permit = state.spec.acquire(Level::Connections, priority);
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

    /// Takes over a connection that was dialled for HTTP/1, whose host chose HTTP/2.
    pub(super) fn adopt(
        io: Conn,
        host: &Rc<Host>,
        cluster: &Rc<Cluster>,
        state: Rc<State>,
        permit: Option<Permit>,
    ) {
        let dial = Dial::new();
        if host.http1.is_retired() {
            dial.retire();
        }
        // Those it was dialled for find it here before HTTP/2 has begun on it.
        host.http2.dials.borrow_mut().push(dial.clone());
        let attempt = Attempt { dial, host: host.clone(), cluster: cluster.clone() };
        spawn_local(attempt.run_on(io, state, permit));
    }

    /// `dial` is no longer under way.
    fn dialled(&self, dial: &Rc<Dial<Link>>) {
        self.dials.borrow_mut().retain(|other| !Rc::ptr_eq(other, dial));
    }

    /// Dials ahead while there are fewer connections than configured.
    fn widen(&self, host: &Rc<Host>, cluster: &Rc<Cluster>, state: &Rc<State>, priority: Priority) {
        let wanted = state.spec.model.connections_per_host as usize;
        if wanted > 1 && self.links.borrow().len() + self.dials.borrow().len() < wanted {
            let _ = self.dial(host, cluster, state, priority);
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
