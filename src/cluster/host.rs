//! One upstream host as a worker sees it.

use super::variant::{Variant, Variants};
use super::{Cluster, HostState, pool};
use crate::model::Address;
use crate::telemetry::{HostStats, Registration, Registry, Scope};
use crate::tls::{Client, Session};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

/// A host with its pools. Kept over snapshots as long as some cluster state names its address; its pools
/// drain when it is dropped from the last one.
pub struct Host {
    /// Where it is.
    pub address: Address,
    /// Its name, may be empty.
    pub hostname: String,
    /// Its address as statistics and hash keys have it.
    shown: Box<str>,
    health: Arc<HostState>,
    tls: Option<Arc<Client>>,
    /// Of its newest handshake.
    session: RefCell<Option<Arc<Session>>>,
    /// Who is there, as its endpoint says.
    workload: RefCell<Option<Arc<str>>>,
    /// What its connections have beside what is configured; `None`: nothing.
    variant: Option<Box<Variant>>,
    /// The same host with connections that have something else.
    pub(super) variants: RefCell<Option<Box<Variants>>>,
    /// What the system said of the last connection that could not be made; 0: nothing.
    pub connect_error: Rc<Cell<i32>>,
    /// Requests of this worker in flight to it.
    pub active: Cell<u32>,
    /// Its counters on this worker.
    pub stats: Registration<HostStats>,
    /// bolt connections.
    pub rpc: pool::rpc::Pool,
    /// HTTP/1 connections.
    pub http1: pool::http1::Pool,
    /// HTTP/2 connections.
    pub http2: pool::http2::Pool,
    /// The version of HTTP it chose last, where it may choose.
    pub(super) version: Cell<pool::auto::Version>,
}

impl Host {
    /// A host without connections.
    pub fn new(
        cluster: &str,
        address: Address,
        hostname: String,
        health: Arc<HostState>,
        tls: Option<Arc<Client>>,
        registry: &Registry,
    ) -> Rc<Self> {
        let named = match &address {
            Address::Unix(path) => path.display().to_string(),
            address => address.to_string(),
        };
        Rc::new(Host {
            stats: registry.register(Scope::host(cluster, &named), HostStats::default()),
            address,
            hostname,
            shown: named.into(),
            health,
            tls,
            session: RefCell::default(),
            workload: RefCell::default(),
            variant: None,
            variants: RefCell::default(),
            connect_error: Rc::default(),
            active: Cell::new(0),
            rpc: pool::rpc::Pool::default(),
            http1: pool::http1::Pool::default(),
            http2: pool::http2::Pool::default(),
            version: Cell::default(),
        })
    }

    /// What is known of its health, by all workers.
    pub fn health(&self) -> &Arc<HostState> {
        &self.health
    }

    /// TLS towards it; `None`: plaintext.
    pub fn tls(&self) -> Option<&Arc<Client>> {
        self.tls.as_ref()
    }

    /// A handshake with it has succeeded.
    pub(in crate::cluster) fn met(&self, session: Option<&Arc<Session>>) {
        *self.session.borrow_mut() = session.cloned();
    }

    /// Whether what it showed last would be refused now, in whatever kind of connection.
    pub(super) fn is_refused(&self) -> bool {
        let refused = |host: &Host| {
            let (context, session) = (host.tls.as_ref(), host.session.borrow());
            context
                .zip(session.as_ref())
                .is_some_and(|(context, session)| context.still_accepts(session).is_err())
        };
        refused(self) || self.all_variants().iter().any(|variant| refused(variant))
    }

    /// Who is there, as its endpoint says.
    pub fn workload(&self) -> Option<Arc<str>> {
        self.workload.borrow().clone()
    }

    /// Its endpoint says so now.
    pub(super) fn set_workload(&self, workload: Option<&Arc<str>>) {
        if self.workload.borrow().as_ref() != workload {
            *self.workload.borrow_mut() = workload.cloned();
        }
    }

    /// What its connections have beside what is configured.
    pub fn variant(&self) -> Option<&Variant> {
        self.variant.as_deref()
    }

    /// A host of its own at the same place.
    pub(super) fn with_variant(&self, variant: Variant, cluster: &Cluster) -> Rc<Self> {
        let (address, hostname, registry) =
            (self.address.clone(), self.hostname.clone(), &cluster.env().registry);
        let new =
            Host::new(&cluster.name, address, hostname, self.health.clone(), self.tls.clone(), registry);
        // Nobody else has it yet: counts of requests and of pools are shared where they are looked at.
        let new = Rc::try_unwrap(new).map(|host| {
            let (variant, connect_error) = (Some(Box::new(variant)), self.connect_error.clone());
            Rc::new(Host { variant, connect_error, ..host })
        });
        new.unwrap_or_else(|host| host)
    }

    fn all_variants(&self) -> Vec<Rc<Host>> {
        self.variants.borrow().as_ref().map(|variants| variants.all()).unwrap_or_default()
    }

    /// Closes the HTTP/1 connection that has been idle longest; `false` if there is none.
    pub(super) fn close_oldest_http1(&self) -> bool {
        self.http1.close_oldest() || self.all_variants().iter().any(|variant| variant.http1.close_oldest())
    }

    /// Whether its connections get this transport socket.
    pub fn has_socket(&self, tls: Option<&Arc<Client>>) -> bool {
        self.tls.as_ref().map(Arc::as_ptr) == tls.map(Arc::as_ptr)
    }

    /// Its address as statistics and hash keys have it.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Takes the host out of service: idle connections close now, busy ones after their last stream.
    pub fn retire(&self) {
        self.rpc.retire();
        self.http1.retire();
        self.http2.retire();
        let variants = self.variants.take();
        variants.into_iter().flat_map(|variants| variants.all()).for_each(|variant| variant.retire());
    }

    /// Counts a request that waits for a connection until the guard is dropped.
    pub fn wait(self: &Rc<Self>, cluster: &Rc<Cluster>) -> WaitGuard {
        cluster.stats.upstream_rq_pending_active.inc();
        self.stats.rq_pending_active.inc();
        WaitGuard(self.clone(), cluster.clone())
    }

    /// Counts a request in flight until the guard is dropped.
    pub fn enter(self: &Rc<Self>) -> ActiveGuard {
        self.active.set(self.active.get() + 1);
        self.stats.rq_active.inc();
        self.stats.rq_total.inc();
        ActiveGuard(self.clone())
    }
}

/// See [`Host::wait`].
pub struct WaitGuard(Rc<Host>, Rc<Cluster>);

impl Drop for WaitGuard {
    fn drop(&mut self) {
        self.0.stats.rq_pending_active.dec();
        self.1.stats.upstream_rq_pending_active.dec();
    }
}

/// See [`Host::enter`].
pub struct ActiveGuard(Rc<Host>);

impl Drop for ActiveGuard {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get().saturating_sub(1));
        self.0.stats.rq_active.dec();
    }
}
