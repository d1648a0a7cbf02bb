//! One listener of one worker and its open connections.

use super::chain::{self, Inputs};
use super::drain::Spread;
use super::guards::Places;
use super::inspect;
use super::limits::{Ceiling, Seat};
use super::report::ListenerReport;
use crate::message::Flags;
use crate::model::{Direction, LogKind};
use crate::net::{Conn, PeerAddress, Wheel, count_handshake};
use crate::snapshot::{ChainSpec, FilterSpec, ListenerSpec, View};
use crate::stream::{self, Bound, Drain, Handle, Inspected, Local, Record, Seen, Served};
use crate::telemetry::{ListenerStats, Registration, SslStats};
use crate::tls::{self, TlsError};
use bytes::{Bytes, BytesMut};
use slab::Slab;
use std::cell::{Cell, OnceCell, RefCell};
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::time::Instant;

/// How long a handshake may take where the chain does not say.
const HANDSHAKE: Duration = Duration::from_secs(15);

/// A listener in service, or one that is gone and still has connections.
pub struct Active {
    spec: RefCell<Arc<ListenerSpec>>,
    /// The last snapshot that had it, once it is gone.
    last_view: RefCell<Option<View>>,
    connections: RefCell<Slab<Rc<Handle>>>,
    local: Rc<Local>,
    stats: Registration<ListenerStats>,
    leaving: Cell<Drain>,
    /// Over how long a change of the listener is spread.
    spread: Duration,
    /// When its connections are told, once all of them are to leave.
    telling: Cell<Option<Spread>>,
    /// Waits for the last connection to go.
    emptied: Cell<Option<Waker>>,
    /// Counted among the listeners that drain.
    counted: Cell<bool>,
    /// Tasks that wait for the first bytes of a connection.
    waiting: RefCell<Slab<Option<Waker>>>,
    /// How many connections it may have; `None`: any number.
    ceiling: RefCell<Option<Ceiling>>,
    ssl: OnceCell<Registration<SslStats>>,
}

impl Active {
    /// A listener without connections. `spread`: over how long its connections are told of a change.
    pub fn new(spec: Arc<ListenerSpec>, local: Rc<Local>, spread: Duration) -> Rc<Self> {
        let stats = local.listener_stats(&spec.model);
        let ceiling = RefCell::new(Active::ceiling_of(&spec, &local));
        keep_keys(&spec, &local);
        Rc::new(Active {
            ceiling,
            spec: RefCell::new(spec),
            last_view: RefCell::new(None),
            connections: RefCell::default(),
            local,
            stats,
            leaving: Cell::new(Drain::No),
            spread,
            telling: Cell::new(None),
            emptied: Cell::new(None),
            counted: Cell::new(false),
            waiting: RefCell::default(),
            ssl: OnceCell::new(),
        })
    }

    /// The spec new connections are served by.
    pub fn spec(&self) -> Arc<ListenerSpec> {
        self.spec.borrow().clone()
    }

    /// Its counters on this worker.
    pub fn stats(&self) -> &ListenerStats {
        &self.stats
    }

    /// Open connections.
    pub fn connections(&self) -> usize {
        self.connections.borrow().len()
    }

    /// Waits until no connection is open.
    pub async fn emptied(&self) {
        poll_fn(|cx| {
            if self.connections() == 0 {
                return Poll::Ready(());
            }
            self.emptied.set(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    /// Follows a new spec of the same address. Every open connection is matched again: one whose protocol
    /// settings stay is served by the new chain from its next stream on, another one drains.
    pub fn update(&self, spec: Arc<ListenerSpec>) {
        if Arc::ptr_eq(&self.spec.borrow(), &spec) {
            return;
        }
        *self.spec.borrow_mut() = spec.clone();
        *self.ceiling.borrow_mut() = Active::ceiling_of(&spec, &self.local);
        keep_keys(&spec, &self.local);
        let mut leaving = Vec::new();
        for (_, handle) in self.connections.borrow().iter() {
            let bound = handle.bound();
            match chain::find(&spec, &inputs(handle)) {
                Some(next) if Arc::ptr_eq(next, &bound.chain) => {}
                Some(next) if bound.chain.same_connection(next) => {
                    handle.rebind(Bound::new(next.clone(), None));
                    if handle.catch_up() && bound.chain.leftover.leave() {
                        self.local.drains.total_filter_chains_draining.dec();
                    }
                }
                _ => {
                    leaving.push(handle.clone());
                    if handle.leave_behind() && bound.chain.leftover.enter() {
                        self.local.drains.total_filter_chains_draining.inc();
                    }
                }
            }
        }
        Spread::over(self.spread).tell(leaving, &self.local.env);
    }

    /// The listener is gone from the configuration: its connections go on with what they had.
    pub fn retire(&self, last: &View) {
        *self.last_view.borrow_mut() = Some(last.clone());
        for (_, handle) in self.connections.borrow().iter() {
            handle.rebind(Bound::new(handle.bound().chain.clone(), Some(last.clone())));
        }
        self.drain(Drain::Told, Spread::over(self.spread));
        self.count_draining();
    }

    /// Counts the listener among those that drain while it is gone and has connections.
    fn count_draining(&self) {
        let drains = self.last_view.borrow().is_some() && self.connections() > 0;
        if self.counted.replace(drains) == drains {
            return;
        }
        let (spec, gauge) = (self.spec.borrow(), &self.local.drains.total_listeners_draining);
        match drains {
            true if spec.leftover.enter() => gauge.inc(),
            false if spec.leftover.leave() => gauge.dec(),
            _ => {}
        }
    }

    /// Asks all its connections to leave, present and future ones; `spread`: when they are told, if they are to
    /// be told only.
    pub fn drain(&self, how: Drain, spread: Spread) {
        self.leaving.set(how.max(self.leaving.get()));
        if self.telling.get().is_none() {
            self.telling.set(Some(spread));
        }
        let connections: Vec<_> =
            self.connections.borrow().iter().map(|(_, handle)| handle.clone()).collect();
        self.ask(connections);
        let waiting: Vec<_> = self.waiting.borrow_mut().iter_mut().filter_map(|(_, w)| w.take()).collect();
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Asks these connections for what all are asked for.
    fn ask(&self, connections: impl IntoIterator<Item = Rc<Handle>>) {
        match (self.leaving.get(), self.telling.get()) {
            (Drain::No | Drain::Marked, _) => {}
            (Drain::Told, Some(spread)) => spread.tell(connections, &self.local.env),
            (how, _) => connections.into_iter().for_each(|handle| {
                handle.drain(how);
            }),
        }
    }

    /// Ends connections whose clients' certificates are not accepted any more, and raw ones to hosts whose are not.
    pub(super) fn recheck(&self) {
        let refused = |handle: &Rc<Handle>| {
            let bound = handle.bound();
            let context = bound.chain.tls.as_ref().zip(handle.tls());
            context.is_some_and(|(context, session)| context.still_accepts(session).is_err())
        };
        let open: Vec<_> = self.connections.borrow().iter().map(|(_, handle)| handle.clone()).collect();
        for handle in &open {
            if refused(handle) {
                self.ssl().closed_revoked.inc();
                handle.drain(Drain::Now);
            } else if handle.lost_upstream() {
                handle.drain(Drain::Now);
            }
        }
    }

    /// Declared direction.
    pub fn direction(&self) -> Direction {
        self.spec.borrow().model.direction
    }

    pub(super) fn local(&self) -> &Rc<Local> {
        &self.local
    }

    /// Its timers.
    pub(super) fn wheel(&self) -> &Rc<Wheel> {
        &self.local.env.wheel
    }

    /// Counts a connection whose first bytes are waited for.
    pub(super) fn wait(&self) -> Waiting<'_> {
        self.stats.downstream_pre_cx_active.inc();
        Waiting { active: self, key: self.waiting.borrow_mut().insert(None) }
    }

    /// What its filters find is counted here.
    pub(super) fn inspected(&self) -> &Inspected {
        self.local.inspected()
    }

    fn ssl(&self) -> &SslStats {
        self.ssl.get_or_init(|| self.local.listener_ssl_stats(&self.spec.borrow().model))
    }

    /// Where the client of a connection meant to go before it was redirected here; `None` where it was not, or
    /// where nothing of the listener asks for it.
    pub(super) fn restored(&self, io: &Conn) -> Option<SocketAddr> {
        let spec = self.spec.borrow();
        let filter = spec.model.inspectors.original.as_ref();
        let asks = spec.model.use_original_dst
            || filter.is_some_and(|filter| filter.applies(io.local().map(|address| address.port())));
        let meant = if asks { io.original_destination() } else { None };
        meant.map(|meant| SocketAddr::new(meant.ip().to_canonical(), meant.port()))
    }

    /// Takes a connection's place on the listener; the inner `None`: it has no limit. `None`: it is full.
    pub(super) fn enter(&self) -> Option<Option<Seat>> {
        match &*self.ceiling.borrow() {
            Some(ceiling) => ceiling.enter().map(Some),
            None => Some(None),
        }
    }

    /// The limit that runtime sets for the listener.
    fn ceiling_of(spec: &ListenerSpec, local: &Local) -> Option<Ceiling> {
        let key = format!("envoy.resource_limits.listener.{}.connection_limit", spec.model.name);
        let limit = local.view().runtime.number(&key)?;
        (limit >= 0.0).then(|| Ceiling::new(limit as u32, spec.open.clone()))
    }

    /// Serves an accepted connection to its end; `restored`: where its client meant to go, if it was redirected.
    pub async fn serve(self: Rc<Self>, mut io: Conn, restored: Option<SocketAddr>) {
        self.stats.downstream_cx_total.inc();
        let (peer, local_address) = (io.peer(), io.local());
        let source = match peer {
            PeerAddress::Ip(addr) => Some(addr),
            PeerAddress::Unix => None,
        };
        let mut early = BytesMut::new();
        let mut spec = self.spec();
        let destination = restored.or(local_address);
        let mut inputs = Inputs { destination, source, seen: Seen::default() };
        if chain::wants_tls(&spec, &inputs) || chain::wants_http(&spec, &inputs) {
            // Boxed: most connections need none of it.
            match Box::pin(inspect::look(&mut io, &self, &spec, &mut inputs)).await {
                Some(read) => early = read,
                None => return,
            }
            spec = self.spec();
        }
        let Some(chain) = chain::find(&spec, &inputs).cloned() else {
            self.stats.no_filter_chain_match.inc();
            let logs = &spec.model.access_log;
            if !logs.is_empty() {
                let mut record = Record::begin(&self.local, LogKind::NotSet, "", Instant::now());
                record.log_to(Some(Rc::new(logs.clone())));
                record.ends = (source, destination);
                record.flags = Flags::NoRouteFound;
                record.details = "filter_chain_not_found";
                record.finish(&self.local, None, (None, None));
            }
            return;
        };
        let logs = (!spec.model.access_log.is_empty()).then(|| Rc::new(spec.model.access_log.clone()));
        inputs.seen.restored = restored;
        inputs.seen.source = spec.model.inspectors.source.as_ref().and_then(|filter| {
            let port = destination.map(|address| address.port());
            let ip = source.filter(|_| filter.inspector.applies(port))?.ip().to_canonical();
            Some((ip, filter.mark))
        });
        let name = spec.model.name.as_str().into();
        let handle = Handle::of(name, chain.clone(), (peer, local_address), inputs.seen);
        if let Some(last) = &*self.last_view.borrow() {
            handle.rebind(Bound::new(chain.clone(), Some(last.clone())));
        }
        self.ask([handle.clone()]);
        drop(spec);
        let _open = Open::new(&self, handle.clone());
        let places = match chain.model.guards.is_empty() {
            true => Ok(Places::default()),
            false => Box::pin(self.enter_limits(&handle)).await,
        };
        let ready = match (&chain.tls, &places) {
            (_, Err(_)) => None,
            (None, Ok(_)) => Some(io),
            (Some(context), Ok(_)) => {
                let early = std::mem::take(&mut early).freeze();
                Box::pin(self.encrypt(io, early, &chain, context, &handle)).await
            }
        };
        drop(chain);
        // Who may come in is known after the handshake, and before anything goes on to a host.
        if let Some(io) = ready
            && self.admits(&handle).await
        {
            let io = self.exchanged(io, &handle);
            self.drive(io, early, handle.clone()).await;
        }
        if logs.is_some() {
            let mut record = Record::begin(&self.local, LogKind::NotSet, "", handle.since);
            record.log_to(logs);
            if let Err(why) = &places {
                record.details = why;
            }
            record.finish(&self.local, Some(&handle), (None, None));
        }
    }

    /// Hands the connection to the driver of its filter.
    async fn drive(&self, io: Conn, early: BytesMut, handle: Rc<Handle>) {
        let local = self.local.clone();
        let bound = handle.bound();
        match &bound.chain.filter {
            FilterSpec::Tcp { config, .. } => {
                let stats = local.tcp_stats(&config.stat_prefix);
                drop(bound);
                stream::tcp::serve(io, early, handle, local, stats).await;
            }
            FilterSpec::Rpc { .. } | FilterSpec::Http { .. } => {
                drop(bound);
                match stream::serve_sniffed(io, early, handle, local).await {
                    Served::Yes => {}
                    Served::Http1 => self.stats.http1_unsupported.inc(),
                    Served::Unknown => self.stats.downstream_listener_filter_error.inc(),
                }
            }
        }
    }

    /// Serves the TLS handshake.
    async fn encrypt(
        &self,
        io: Conn,
        early: Bytes,
        chain: &ChainSpec,
        context: &tls::Server,
        handle: &Handle,
    ) -> Option<Conn> {
        let ssl = self.ssl();
        let Some(_one) = self.local.begin_handshake() else {
            ssl.handshake_overflow.inc();
            return None;
        };
        let limit = chain.model.tls.as_ref().and_then(|tls| tls.timeout).unwrap_or(HANDSHAKE);
        let mut shaking = pin!(io.accept_tls(early, context));
        let mut timer = pin!(self.wheel().sleep(limit));
        let outcome = poll_fn(|cx| {
            if let Poll::Ready(outcome) = shaking.as_mut().poll(cx) {
                return Poll::Ready(outcome);
            }
            handle.register(cx.waker());
            if handle.draining() >= Drain::Leaving {
                return Poll::Ready(Err(TlsError::Connection("the process ends".to_owned())));
            }
            timer.as_mut().poll(cx).map(|()| Err(TlsError::Timeout))
        })
        .await;
        count_handshake(ssl, outcome.as_ref());
        match outcome {
            Ok(io) => {
                if let Some(session) = io.session() {
                    handle.set_tls(session.clone());
                }
                Some(io)
            }
            Err(error) => {
                tracing::debug!("{}: handshake with {}: {error}", handle.listener, handle.peer);
                None
            }
        }
    }

    /// With what peers tell each other in front of the stream, where both agreed to.
    fn exchanged(&self, io: Conn, handle: &Handle) -> Conn {
        let bound = handle.bound();
        let Some(mesh) = &bound.chain.model.mesh else { return io };
        self.stats.network_filters_passed.add(mesh.passed.len() as u64);
        match &mesh.exchange {
            Some(exchange) => io.exchanged(exchange, &self.local.env.registry),
            None => io,
        }
    }

    /// What the admin shows.
    pub fn report(&self) -> ListenerReport {
        let spec = self.spec();
        let connections = self.connections.borrow();
        let leaving = || connections.iter().map(|(_, h)| h).filter(|h| h.draining() > Drain::No);
        ListenerReport {
            draining: self.last_view.borrow().is_some(),
            connections: connections.len(),
            draining_connections: leaving().count(),
            streams: connections.iter().map(|(_, h)| h.streams()).sum(),
            oldest: leaving().map(|h| h.since.elapsed()).max(),
            ..ListenerReport::idle(&spec)
        }
    }
}

/// Has the keys fetched that filters of `spec` want before anybody asks for them. One worker does so for all.
fn keep_keys(spec: &ListenerSpec, local: &Rc<Local>) {
    for chain in spec.chains.iter().chain(&spec.default_chain).filter_map(|chain| chain.filters.as_ref()) {
        stream::http::keep(local, chain.keepers(&local.env.registry));
    }
}

pub(super) fn inputs(handle: &Handle) -> Inputs {
    let source = match handle.peer {
        PeerAddress::Ip(addr) => Some(addr),
        PeerAddress::Unix => None,
    };
    Inputs { destination: handle.local, source, seen: handle.seen.clone() }
}

/// A connection whose first bytes are waited for.
pub(super) struct Waiting<'a> {
    active: &'a Active,
    key: usize,
}

impl Waiting<'_> {
    /// Whether the process ends, so that nothing is waited for any more; otherwise the task is woken when it does.
    pub(super) fn must_end(&self, cx: &Context<'_>) -> bool {
        if self.active.leaving.get() >= Drain::Leaving {
            return true;
        }
        if let Some(place) = self.active.waiting.borrow_mut().get_mut(self.key) {
            *place = Some(cx.waker().clone());
        }
        false
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.active.waiting.borrow_mut().try_remove(self.key);
        self.active.stats.downstream_pre_cx_active.dec();
    }
}

/// A connection's place in its listener's list.
struct Open {
    active: Rc<Active>,
    key: usize,
}

impl Open {
    fn new(active: &Rc<Active>, handle: Rc<Handle>) -> Self {
        active.stats.downstream_cx_active.inc();
        let key = active.connections.borrow_mut().insert(handle);
        active.count_draining();
        Open { active: active.clone(), key }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let handle = self.active.connections.borrow_mut().try_remove(self.key);
        if let Some(handle) = handle {
            let life = handle.since.elapsed().as_millis();
            self.active.stats.downstream_cx_length_ms.record(u64::try_from(life).unwrap_or(u64::MAX));
            if handle.was_left_behind() && handle.bound().chain.leftover.leave() {
                self.active.local.drains.total_filter_chains_draining.dec();
            }
        }
        self.active.count_draining();
        if self.active.connections() == 0
            && let Some(waiting) = self.active.emptied.take()
        {
            waiting.wake();
        }
        self.active.stats.downstream_cx_active.dec();
        self.active.stats.downstream_cx_destroy.inc();
    }
}
