//! What all connections of one worker share.

use super::record::Record;
use crate::cluster::{Cluster, Env, Table};
use crate::filter::{self, Counters};
use crate::message::Reason;
use crate::model::{ClusterId, Listener, NetworkAuthz, NetworkRbac, runtime};
use crate::snapshot::View;
use crate::telemetry::failure_log::FailureLog;
use crate::telemetry::files::Outlet;
use crate::telemetry::{
    ConnectionLimitStats, ConnectionRateStats, DrainStats, HttpInspectorStats, HttpStats, ListenerStats,
    Registration, RpcStats, Scope, SslStats, StatGroup, TcpStats, TlsInspectorStats,
};
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

/// One worker's state. Lives on its thread; nothing here is locked or shared.
pub struct Local {
    /// Timers, random numbers, read chunk, metric registry.
    pub env: Rc<Env>,
    /// Clusters in use.
    pub clusters: Table,
    /// What is no longer configured and still has connections.
    pub drains: Registration<DrainStats>,
    /// One line per locally made failure.
    pub failures: FailureLog,
    /// Log lines that wait to be written.
    pub outlet: Outlet,
    /// Records of streams that are over, for later ones.
    #[expect(clippy::vec_box, reason = "they are boxed where they are used, and come back so")]
    pub(super) records: RefCell<Vec<Box<Record>>>,
    /// What filters count.
    pub filters: filter::Workers,
    /// Peers and label sets of a mesh.
    pub mesh: filter::mesh::Mesh,
    handshakes: Cell<usize>,
    view: RefCell<View>,
    rpc: Groups<RpcStats>,
    http: Groups<HttpStats>,
    tcp: Groups<TcpStats>,
    guards: Groups<Counters>,
    limits: Groups<ConnectionLimitStats>,
    rates: Groups<ConnectionRateStats>,
    inspected: OnceCell<Inspected>,
}

/// What listener filters find on one worker.
pub struct Inspected {
    /// In connections that were looked at for TLS.
    pub tls: Registration<TlsInspectorStats>,
    /// In connections that were looked at for HTTP.
    pub http: Registration<HttpInspectorStats>,
}

/// Handshakes with clients that may be under way on one worker at once.
const HANDSHAKES: usize = 2048;

/// See [`Local::begin_handshake`].
pub struct Handshake(Rc<Local>);

impl Drop for Handshake {
    fn drop(&mut self) {
        self.0.handshakes.set(self.0.handshakes.get().saturating_sub(1));
    }
}

/// Metric groups of one kind by stat prefix.
type Groups<T> = RefCell<HashMap<String, Rc<Registration<T>>>>;

impl Local {
    /// The state of a worker that serves from `view`.
    pub fn new(env: Rc<Env>, view: View) -> Rc<Self> {
        Rc::new(Local {
            clusters: Table::new(env.clone()),
            drains: env.registry.register(Scope::listener_manager(), DrainStats::default()),
            filters: filter::Workers::new(env.registry.clone()),
            mesh: filter::mesh::Mesh::new(env.registry.clone()),
            env,
            failures: FailureLog::default(),
            outlet: Outlet::default(),
            records: RefCell::default(),
            handshakes: Cell::new(0),
            view: RefCell::new(view),
            rpc: RefCell::default(),
            http: RefCell::default(),
            tcp: RefCell::default(),
            guards: RefCell::default(),
            limits: RefCell::default(),
            rates: RefCell::default(),
            inspected: OnceCell::new(),
        })
    }

    /// Metrics of RPC filters with this stat prefix.
    pub fn rpc_stats(&self, prefix: &str) -> Rc<Registration<RpcStats>> {
        self.group(&self.rpc, prefix, Scope::rpc)
    }

    /// Metrics of HTTP filters with this stat prefix.
    pub fn http_stats(&self, prefix: &str) -> Rc<Registration<HttpStats>> {
        self.group(&self.http, prefix, Scope::http)
    }

    /// Metrics of TCP filters with this stat prefix.
    pub fn tcp_stats(&self, prefix: &str) -> Rc<Registration<TcpStats>> {
        self.group(&self.tcp, prefix, Scope::tcp)
    }

    /// Metrics of limits of connections with this stat prefix.
    pub fn limit_stats(&self, prefix: &str) -> Rc<Registration<ConnectionLimitStats>> {
        self.group(&self.limits, prefix, Scope::connection_limit)
    }

    /// Metrics of limits of how fast connections come, with this stat prefix.
    pub fn rate_stats(&self, prefix: &str) -> Rc<Registration<ConnectionRateStats>> {
        self.group(&self.rates, prefix, Scope::connection_rate)
    }

    /// Metrics of one listener on this worker.
    pub fn listener_stats(&self, model: &Listener) -> Registration<ListenerStats> {
        self.env.registry.register(Scope::listener(&model.stat_name()), ListenerStats::default())
    }

    /// Metrics of what listener filters find; there are none before the first connection is looked at.
    pub fn inspected(&self) -> &Inspected {
        let registry = &self.env.registry;
        self.inspected.get_or_init(|| Inspected {
            tls: registry.register(Scope::tls_inspector(), TlsInspectorStats::default()),
            http: registry.register(Scope::http_inspector(), HttpInspectorStats::default()),
        })
    }

    /// Metrics of connections that `guard` judges, by its rules or by those in the shadow: how many it admits, and
    /// how many not.
    pub fn guard_stats(&self, guard: &NetworkRbac, shadow: bool) -> Rc<Registration<Counters>> {
        let (prefix, names): (&str, &[&str]) = match shadow {
            true => (&guard.rbac.shadow_stat_prefix, &["shadow_allowed", "shadow_denied"]),
            false => ("", &["allowed", "denied"]),
        };
        let key = format!("{}\0{shadow}\0{prefix}", guard.stat_prefix);
        if let Some(group) = self.guards.borrow().get(&key) {
            return group.clone();
        }
        let scope = Scope::network_rbac(&guard.stat_prefix);
        let group = Rc::new(self.env.registry.register(scope, Counters::new(prefix, names)));
        self.guards.borrow_mut().insert(key, group.clone());
        group
    }

    /// Metrics of connections that `guard` has asked about.
    pub fn authz_stats(&self, guard: &NetworkAuthz) -> Rc<Registration<Counters>> {
        let key = format!("ext_authz\0{}", guard.stat_prefix);
        if let Some(group) = self.guards.borrow().get(&key) {
            return group.clone();
        }
        let scope = Scope::network_ext_authz(&guard.stat_prefix);
        let group = Rc::new(self.env.registry.register(scope, Counters::new("", super::authorize::NAMES)));
        self.guards.borrow_mut().insert(key, group.clone());
        group
    }

    /// Handshakes of one listener on this worker.
    pub fn listener_ssl_stats(&self, model: &Listener) -> Registration<SslStats> {
        self.env.registry.register(Scope::listener_ssl(&model.stat_name()), SslStats::default())
    }

    /// Counts a handshake with a client until the guard is dropped; `None`: too many are under way.
    pub fn begin_handshake(self: &Rc<Self>) -> Option<Handshake> {
        let open = self.handshakes.get();
        (open < HANDSHAKES).then(|| {
            self.handshakes.set(open + 1);
            Handshake(self.clone())
        })
    }

    fn group<T: StatGroup + Default + 'static>(
        &self,
        groups: &Groups<T>,
        prefix: &str,
        scope: fn(&str) -> Scope,
    ) -> Rc<Registration<T>> {
        if let Some(group) = groups.borrow().get(prefix) {
            return group.clone();
        }
        let group = Rc::new(self.env.registry.register(scope(prefix), T::default()));
        groups.borrow_mut().insert(prefix.to_owned(), group.clone());
        group
    }

    /// The current snapshot, pinned.
    pub fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// Follows a new snapshot: clusters in use are updated in place.
    pub fn set_view(&self, view: View) {
        runtime::go_by(&view.runtime);
        let old = self.view.replace(view.clone());
        self.clusters.sync(|id| view.cluster(id));
        drop(old);
    }

    /// The cluster of `id`: as the current snapshot has it, or, if it is gone from there, as `pinned` does.
    ///
    /// # Errors
    /// No such cluster, or it is still warming.
    pub fn cluster(&self, id: ClusterId, pinned: &View) -> Result<Rc<Cluster>, Reason> {
        let current = self.view();
        match self.clusters.get(id, current.cluster(id)) {
            Err(Reason::UnknownCluster) => pinned.late_cluster(id, &self.env).ok_or(Reason::UnknownCluster),
            result => result,
        }
    }
}
