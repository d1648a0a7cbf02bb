//! The pool of multiplexed RPC connections to one host.
//!
//! A few connections (usually one) carry all requests of a worker: one write then carries many of them.

use super::dial::{Dial, Miss, connect};
use super::mux::Mux;
use crate::cluster::{Cluster, Host, Level, Permit, State};
use crate::message::{Failure, Reason};
use crate::model::Priority;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use tokio::task::spawn_local;
use tokio::time::Instant;

/// Requests that may wait for one connection where the cluster sets no limit.
const MAX_WAITING: u32 = 65_536;

/// Connections of one host.
#[derive(Default)]
pub struct Pool {
    slots: RefCell<Vec<Option<Slot>>>,
    next: Cell<usize>,
    /// The host is out of service for good.
    retired: Cell<bool>,
}

#[derive(Clone)]
enum Slot {
    Dialling(Rc<Dial<Mux>>),
    Open(Rc<Mux>),
}

impl Pool {
    /// A connection that takes a request now, if there is one.
    pub fn ready(&self) -> Option<Rc<Mux>> {
        let slots = self.slots.borrow();
        let turn = self.turn(slots.len());
        match slots.get(turn) {
            Some(Some(Slot::Open(mux))) if mux.accepts() => Some(mux.clone()),
            _ => None,
        }
    }

    fn turn(&self, slots: usize) -> usize {
        if slots <= 1 {
            return 0;
        }
        let turn = (self.next.get() + 1) % slots;
        self.next.set(turn);
        turn
    }

    /// A connection that takes a request, dialling one when needed.
    ///
    /// # Errors
    /// Connect failure or timeout, or a limit of connections or waiting requests.
    pub async fn acquire(
        host: &Rc<Host>,
        cluster: &Rc<Cluster>,
        state: &Rc<State>,
        priority: Priority,
    ) -> Result<Rc<Mux>, Failure> {
        if let Some(mux) = host.rpc.ready() {
            return Ok(mux);
        }
        let waiting = state.spec.acquire(Level::Pending, priority);
        let _waiting = waiting.map_err(|_full| {
            cluster.stats.upstream_rq_pending_overflow.inc();
            Failure::before(Reason::OverflowPending)
        })?;
        let dial = host.rpc.dial(host, cluster, state, priority).map_err(Failure::before)?;
        if dial.waiters() >= MAX_WAITING {
            cluster.stats.upstream_rq_pending_overflow.inc();
            return Err(Failure::before(Reason::OverflowPending));
        }
        cluster.stats.upstream_rq_pending_total.inc();
        let _counted = host.wait(cluster);
        dial.wait().await.map_err(|miss| {
            cluster.stats.upstream_rq_pending_failure_eject.inc();
            miss.failure()
        })
    }

    /// The dial of the next slot, started if none is under way.
    fn dial(
        &self,
        host: &Rc<Host>,
        cluster: &Rc<Cluster>,
        state: &Rc<State>,
        priority: Priority,
    ) -> Result<Rc<Dial<Mux>>, Reason> {
        let mut slots = self.slots.borrow_mut();
        let wanted = state.spec.model.connections_per_host.max(1) as usize;
        if slots.len() < wanted {
            slots.resize_with(wanted, || None);
        }
        let turn = self.next.get() % slots.len().max(1);
        let Some(slot) = slots.get_mut(turn) else { return Err(Reason::OverflowConnections) };
        if let Some(Slot::Dialling(dial)) = slot {
            return Ok(dial.clone());
        }
        let permit = state.spec.acquire(Level::Connections, priority);
        let permit = permit.map_err(|_full| {
            cluster.stats.upstream_cx_overflow.inc();
            Reason::OverflowConnections
        })?;
        let dial = Dial::new();
        if self.retired.get() {
            // A try that began before: its connection is for it alone.
            dial.retire();
        } else {
            *slot = Some(Slot::Dialling(dial.clone()));
        }
        let attempt = Attempt { dial: dial.clone(), turn, host: host.clone(), cluster: cluster.clone() };
        spawn_local(attempt.run(state.clone(), permit));
        Ok(dial)
    }

    fn place(&self, turn: usize, slot: Option<Slot>) {
        if let Some(place) = self.slots.borrow_mut().get_mut(turn) {
            *place = slot;
        }
    }

    /// Forgets `mux` once it takes no new requests.
    fn forget(&self, mux: &Rc<Mux>) {
        for slot in self.slots.borrow_mut().iter_mut() {
            if matches!(slot, Some(Slot::Open(open)) if Rc::ptr_eq(open, mux)) {
                *slot = None;
            }
        }
    }

    /// Idle connections close now, busy ones after their last request.
    pub fn retire(&self) {
        self.retired.set(true);
        let slots = std::mem::take(&mut *self.slots.borrow_mut());
        for slot in slots.into_iter().flatten() {
            match slot {
                Slot::Open(mux) => mux.drain(),
                Slot::Dialling(dial) => dial.retire(),
            }
        }
    }

    /// Open connections.
    pub fn open(&self) -> Vec<Rc<Mux>> {
        let slots = self.slots.borrow();
        slots
            .iter()
            .flatten()
            .filter_map(|s| if let Slot::Open(mux) = s { Some(mux.clone()) } else { None })
            .collect()
    }
}

/// The task that dials and then drives the connection.
struct Attempt {
    dial: Rc<Dial<Mux>>,
    turn: usize,
    host: Rc<Host>,
    cluster: Rc<Cluster>,
}

impl Attempt {
    async fn run(self, state: Rc<State>, permit: Option<Permit>) {
        let stats = self.cluster.stats.clone();
        let io = match connect(&self.host, &self.cluster, &state, &[]).await {
            Ok(io) => io,
            Err(reason) => {
                if !self.dial.is_retired() {
                    self.host.rpc.place(self.turn, None);
                }
                self.dial.resolve(Err(Miss::Failed(reason)));
                return;
            }
        };
        let open = Instant::now();
        stats.upstream_cx_total.inc();
        stats.upstream_cx_active.inc();
        self.host.stats.cx_total.inc();
        self.host.stats.cx_active.inc();
        let mux = Mux::new(&self.cluster, &state);
        if self.dial.is_retired() {
            mux.drain();
        } else {
            self.host.rpc.place(self.turn, Some(Slot::Open(mux.clone())));
        }
        self.dial.resolve(Ok(mux.clone()));
        let dial = Rc::downgrade(&self.dial);
        drop(self.dial);
        let (by_peer, busy) = mux.run(io, || dial.upgrade().is_some_and(|dial| dial.waiters() > 0)).await;
        self.host.rpc.forget(&mux);
        self.host.stats.cx_active.dec();
        stats.closed(open.elapsed(), by_peer, busy);
        drop(permit);
    }
}
