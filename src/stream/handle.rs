//! What the listener knows of an open connection, and the connection of its listener.

use super::record::Logs;
use crate::message::FilterState;
use crate::net::PeerAddress;
use crate::snapshot::{ChainSpec, FilterSpec, View};
use crate::tls::{Client, Session};
use std::cell::{Cell, OnceCell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::Waker;
use tokio::time::Instant;

/// Shared by a connection's driver and its listener.
pub struct Handle {
    /// Name of the listener that accepted it.
    pub listener: Arc<str>,
    /// Its number, from 1.
    pub id: u64,
    /// The client.
    pub peer: PeerAddress,
    /// The address the client connected to.
    pub local: Option<SocketAddr>,
    /// What its first bytes told.
    pub seen: Seen,
    tls: OnceCell<Arc<Session>>,
    /// What its network filters left for later ones.
    state: OnceCell<Box<FilterState>>,
    /// When it was accepted.
    pub since: Instant,
    /// How the host of a raw connection was checked, and what it showed.
    upstream: OnceCell<(Arc<Client>, Arc<Session>)>,
    bound: RefCell<Rc<Bound>>,
    drain: Cell<Drain>,
    streams: Cell<u32>,
    left_behind: Cell<bool>,
    driver: RefCell<Option<Waker>>,
}

/// What the next stream of a connection is served by.
pub struct Bound {
    /// The filter chain.
    pub chain: Arc<ChainSpec>,
    /// The snapshot to look routes up in: `None` is the worker's current one; a connection whose listener is
    /// gone keeps the last one that had it.
    pub pinned: Option<View>,
    /// The logs of the chain's filter.
    pub logs: Logs,
}

impl Bound {
    /// By `chain`, with routes from `pinned` or the worker's current snapshot.
    pub fn new(chain: Arc<ChainSpec>, pinned: Option<View>) -> Self {
        let logs = match &chain.filter {
            FilterSpec::Http { config, .. } => &config.access_log,
            FilterSpec::Rpc { config, .. } => &config.access_log,
            FilterSpec::Tcp { config, .. } => &config.access_log,
        };
        let logs = (!logs.is_empty()).then(|| Rc::new(logs.clone()));
        Bound { chain, pinned, logs }
    }
}

/// How far a connection is asked to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Drain {
    /// Not at all.
    No,
    /// Its listener changed or went; it will be told when its turn comes.
    Marked,
    /// Tell the client where the protocol can, never cut.
    Told,
    /// The process ends: also close once idle.
    Leaving,
    /// The drain time is over: close now.
    Now,
}

/// What listener filters found in the first bytes; nothing is a plain connection of an unknown protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// It begins with a ClientHello.
    pub tls: bool,
    /// The server name asked for, lower-cased.
    pub server_name: Option<Box<str>>,
    /// The protocols offered, or the one HTTP version found.
    pub protocols: Box<[String]>,
    /// Where its client meant to go, if it was redirected here.
    pub restored: Option<SocketAddr>,
    /// Connections to hosts come from here, with this mark (0: none).
    pub source: Option<(IpAddr, u32)>,
}

impl Handle {
    /// A plain connection just accepted.
    pub fn new(
        listener: Arc<str>,
        chain: Arc<ChainSpec>,
        peer: PeerAddress,
        local: Option<SocketAddr>,
    ) -> Rc<Self> {
        Handle::of(listener, chain, (peer, local), Seen::default())
    }

    /// A connection whose first bytes were looked at; with the client's address and ours.
    pub fn of(
        listener: Arc<str>,
        chain: Arc<ChainSpec>,
        (peer, local): (PeerAddress, Option<SocketAddr>),
        seen: Seen,
    ) -> Rc<Self> {
        // Shared by the workers, touched once per connection.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Rc::new(Handle {
            id: NEXT.fetch_add(1, Relaxed),
            listener,
            peer,
            local: seen.restored.or(local),
            seen,
            tls: OnceCell::new(),
            state: OnceCell::new(),
            upstream: OnceCell::new(),
            since: Instant::now(),
            bound: RefCell::new(Rc::new(Bound::new(chain, None))),
            drain: Cell::new(Drain::No),
            streams: Cell::new(0),
            left_behind: Cell::new(false),
            driver: RefCell::new(None),
        })
    }

    /// Its TLS session, if it has one.
    pub fn tls(&self) -> Option<&Arc<Session>> {
        self.tls.get()
    }

    /// The server name the client asked for in TLS; empty if it did not.
    pub fn server_name(&self) -> &str {
        let told = self.tls.get().and_then(|session| session.server_name.as_deref());
        told.or(self.seen.server_name.as_deref()).unwrap_or_default()
    }

    /// What its network filters left for later ones, if anything.
    pub fn state(&self) -> Option<&FilterState> {
        self.state.get().map(|state| &**state)
    }

    /// Its network filters have left this.
    pub fn set_state(&self, state: FilterState) {
        if !state.is_empty() {
            let _ = self.state.set(Box::new(state));
        }
    }

    /// Who the client's certificate says it is, if it was checked.
    pub fn principals(&self) -> Option<Vec<String>> {
        Some(self.tls.get()?.verified_peer()?.principals())
    }

    /// The handshake is done.
    pub fn set_tls(&self, session: Arc<Session>) {
        let _ = self.tls.set(session);
    }

    /// The raw connection's host is checked by `context`, and showed this.
    pub fn set_upstream(&self, context: Arc<Client>, session: Arc<Session>) {
        let _ = self.upstream.set((context, session));
    }

    /// Whether the host of the raw connection is not accepted any more.
    pub fn lost_upstream(&self) -> bool {
        self.upstream.get().is_some_and(|(context, session)| context.still_accepts(session).is_err())
    }

    /// What serves the next stream.
    pub fn bound(&self) -> Rc<Bound> {
        self.bound.borrow().clone()
    }

    /// From the next stream on another chain (or snapshot) serves.
    pub fn rebind(&self, bound: Bound) {
        *self.bound.borrow_mut() = Rc::new(bound);
    }

    /// How far it is asked to leave.
    pub fn draining(&self) -> Drain {
        self.drain.get()
    }

    /// Asks it to leave, at least as far as asked before. Returns whether it was asked for less before.
    pub fn drain(&self, how: Drain) -> bool {
        let further = how > self.drain.get();
        if further {
            self.drain.set(how);
            self.wake();
        }
        further
    }

    /// No chain of the new configuration can serve it: it stays with the one it has. `false` if that was known.
    pub fn leave_behind(&self) -> bool {
        !self.left_behind.replace(true)
    }

    /// A chain of the configuration serves it again. `false` if one did all the time.
    pub fn catch_up(&self) -> bool {
        self.left_behind.replace(false)
    }

    /// Whether it was left behind.
    pub fn was_left_behind(&self) -> bool {
        self.left_behind.get()
    }

    /// Streams open on it.
    pub fn streams(&self) -> u32 {
        self.streams.get()
    }

    /// Counts a stream until the guard is dropped.
    pub fn enter(self: &Rc<Self>) -> StreamGuard {
        self.streams.set(self.streams.get() + 1);
        StreamGuard(self.clone())
    }

    /// As [`enter`](Self::enter), for a stream that the driver serves itself: its end wakes nobody.
    pub fn enter_inline(self: &Rc<Self>) -> InlineGuard {
        self.streams.set(self.streams.get() + 1);
        InlineGuard(self.clone())
    }

    /// The driver's task is woken when the drain state changes.
    pub fn register(&self, waker: &Waker) {
        let mut driver = self.driver.borrow_mut();
        if !driver.as_ref().is_some_and(|w| w.will_wake(waker)) {
            *driver = Some(waker.clone());
        }
    }

    fn wake(&self) {
        let driver = self.driver.borrow_mut().take();
        if let Some(driver) = driver {
            driver.wake();
        }
    }
}

/// See [`Handle::enter`].
pub struct StreamGuard(Rc<Handle>);

impl Drop for StreamGuard {
    fn drop(&mut self) {
        let left = self.0.streams.get().saturating_sub(1);
        self.0.streams.set(left);
        if left == 0 {
            self.0.wake();
        }
    }
}

/// See [`Handle::enter_inline`].
pub struct InlineGuard(Rc<Handle>);

impl Drop for InlineGuard {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get().saturating_sub(1));
    }
}
