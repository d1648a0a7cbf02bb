//! A cluster as a worker sees it.

use super::lb::{Balancer, Hosts, is_hashing};
use super::original::Originals;
use super::{ClusterEntry, ClusterSpec, Env, Host, PickContext, Sign};
use crate::message::Reason;
use crate::model::{self, ClusterMesh, Discovery, Endpoints};
use crate::telemetry::{ClusterStats, Registration, SslStats};
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

/// A cluster in use by this worker. Made at its first request, updated in place by snapshots.
pub struct Cluster {
    /// Its name.
    pub name: String,
    state: RefCell<Rc<State>>,
    /// The order among the hosts of `state`, and the epoch of their health it was made at.
    balancer: RefCell<Rc<Balancer>>,
    epoch: Cell<u64>,
    /// Its hosts where clients name them.
    originals: Originals,
    /// Its counters on this worker.
    pub stats: Rc<Registration<ClusterStats>>,
    env: Rc<Env>,
    ssl: OnceCell<Registration<SslStats>>,
}

/// Settings and hosts at one moment. A request works with the state it picked from.
pub struct State {
    /// Settings.
    pub spec: Arc<ClusterSpec>,
    endpoints: Arc<Endpoints>,
    hosts: Hosts,
    /// The worker's own copy of what the mesh says of it, where it says something.
    mesh: Option<Rc<ClusterMesh>>,
}

impl Cluster {
    /// The cluster of `entry`, without connections yet.
    pub fn new(entry: &ClusterEntry, env: Rc<Env>) -> Rc<Self> {
        let stats = Rc::new(env.cluster_stats(&entry.spec.model));
        entry.spec.shared.set_used();
        let epoch = Cell::new(entry.spec.shared.epoch());
        let state = State::build(entry, HashMap::default(), &env);
        let balancer = RefCell::new(Rc::new(state.balancer(&env)));
        let name = entry.spec.model.name.clone();
        let (state, originals) = (RefCell::new(Rc::new(state)), Originals::default());
        Rc::new(Cluster { name, state, balancer, epoch, originals, stats, env, ssl: OnceCell::new() })
    }

    /// What this worker's upstream side shares.
    pub fn env(&self) -> &Rc<Env> {
        &self.env
    }

    /// Its handshakes on this worker.
    pub fn ssl(&self) -> &SslStats {
        self.ssl.get_or_init(|| self.env.cluster_ssl_stats(&self.state().spec.model))
    }

    /// The newest state.
    pub fn state(&self) -> Rc<State> {
        self.state.borrow().clone()
    }

    /// Brings the cluster to `entry`. Hosts that stay keep their connections unless a setting bound to
    /// connections changed.
    pub fn update(&self, entry: &ClusterEntry) {
        let old = self.state();
        if Arc::ptr_eq(&old.spec, &entry.spec) && Arc::ptr_eq(&old.endpoints, &entry.endpoints) {
            return;
        }
        let same = same_connections(&old.spec, &entry.spec);
        if !same || old.spec.model.discovery != entry.spec.model.discovery {
            self.originals.retire();
        }
        let kept = if same { old.hosts.clone() } else { HashMap::default() };
        let new = Rc::new(State::build(entry, kept, &self.env));
        *self.state.borrow_mut() = new.clone();
        self.rebalance();
        for (address, host) in &old.hosts {
            if !new.hosts.get(address).is_some_and(|still| Rc::ptr_eq(still, host)) {
                host.retire();
            }
        }
    }

    /// What certificates are checked against has changed: hosts whose would be refused now are met anew. Their idle
    /// connections close now, busy ones after their last stream.
    pub fn recheck(&self) {
        let old = self.state();
        let originals = self.originals.all();
        let refused: Vec<_> = old.hosts.values().chain(&originals).filter(|host| host.is_refused()).collect();
        if refused.is_empty() {
            return;
        }
        self.ssl().closed_revoked.add(refused.len() as u64);
        if refused.iter().any(|host| originals.iter().any(|own| Rc::ptr_eq(own, host))) {
            self.originals.retire();
        }
        let mut kept = old.hosts.clone();
        kept.retain(|_, host| !refused.iter().any(|gone| Rc::ptr_eq(gone, host)));
        let new = State::of(&old.spec, &old.endpoints, kept, &self.env);
        *self.state.borrow_mut() = Rc::new(new);
        self.rebalance();
        // Outside the borrow: retiring wakes connection tasks.
        refused.into_iter().for_each(|host| host.retire());
    }

    /// The cluster is gone: its connections close when their last stream ends.
    pub fn retire(&self) {
        for host in self.state().hosts.values() {
            host.retire();
        }
        self.originals.retire();
    }

    /// Hosts in use that no endpoint names.
    pub fn originals(&self) -> Vec<Rc<Host>> {
        self.originals.all()
    }

    /// Whether its hosts are where clients meant to go.
    pub fn follows_clients(&self) -> bool {
        matches!(self.state.borrow().spec.model.discovery, Discovery::OriginalDst(_))
    }

    /// What its mesh says of it, if anything.
    pub fn mesh(&self) -> Option<Rc<ClusterMesh>> {
        self.state.borrow().mesh.clone()
    }

    /// Whether its load balancer looks at a request's hash.
    pub fn hashes(&self) -> bool {
        is_hashing(self.state.borrow().spec.model.lb)
    }

    /// Picks a host of the newest set. Hosts `avoid` accepts are passed over while others are left.
    ///
    /// # Errors
    /// There are no endpoints, or none of them may take the request.
    pub fn pick(&self, ctx: &PickContext<'_>, avoid: impl Fn(&Host) -> bool) -> Result<Rc<Host>, Reason> {
        let state = self.state.borrow();
        if let Discovery::OriginalDst(settings) = &state.spec.model.discovery {
            let picked = self.originals.pick(ctx.original_dst, &state.spec, settings, &self.env);
            return picked.inspect_err(|_| self.stats.upstream_cx_none_healthy.inc());
        }
        let shared = &state.spec.shared;
        let balancer = if shared.epoch() == self.epoch.get() {
            self.balancer.borrow().clone()
        } else {
            drop(state);
            self.rebalance()
        };
        match balancer.pick(ctx, &self.env.random, avoid) {
            Some(picked) => {
                if picked.panic {
                    self.stats.lb_healthy_panic.inc();
                }
                Ok(picked.host.clone())
            }
            None => {
                self.stats.upstream_cx_none_healthy.inc();
                let empty = self.state.borrow().hosts.is_empty();
                Err(if empty { Reason::NoEndpoints } else { Reason::AllUnhealthy })
            }
        }
    }

    /// Orders the hosts anew by what is known of their health now.
    fn rebalance(&self) -> Rc<Balancer> {
        let state = self.state();
        // Before the flags are read: a change in between is seen by the next pick.
        self.epoch.set(state.spec.shared.epoch());
        let balancer = Rc::new(state.balancer(&self.env));
        let old = self.balancer.replace(balancer.clone());
        drop(old);
        balancer
    }
}

impl State {
    fn build(entry: &ClusterEntry, kept: Hosts, env: &Env) -> State {
        State::of(&entry.spec, &entry.endpoints, kept, env)
    }

    fn of(spec: &Arc<ClusterSpec>, endpoints: &Arc<Endpoints>, mut kept: Hosts, env: &Env) -> State {
        let mut hosts = Hosts::default();
        let first = |endpoint| spec.first_flags(endpoint);
        let addresses: Vec<_> = endpoints.iter().map(|e| (&e.address, first(e))).collect();
        let states = spec.shared.hosts(&addresses);
        for (endpoint, health) in endpoints.iter().zip(states) {
            let socket = spec.sockets.of(endpoint);
            let same = kept.remove(&endpoint.address).filter(|host| host.has_socket(socket));
            let host = same.unwrap_or_else(|| {
                let (address, hostname) = (endpoint.address.clone(), endpoint.hostname.clone());
                Host::new(&spec.model.name, address, hostname, health, socket.cloned(), &env.registry)
            });
            host.set_workload(endpoint.workload.as_ref());
            hosts.entry(endpoint.address.clone()).or_insert(host);
        }
        let mesh = spec.model.mesh.as_ref().map(|said| Rc::new((**said).clone()));
        State { spec: spec.clone(), endpoints: endpoints.clone(), hosts, mesh }
    }

    fn balancer(&self, env: &Env) -> Balancer {
        Balancer::new(self.spec.clone(), self.endpoints.clone(), &self.hosts, &env.random)
    }

    /// Notes how a request to `host` ended, where the cluster looks for outliers.
    pub fn report(&self, host: &Host, sign: Sign) {
        if let Some(config) = &self.spec.model.outlier {
            self.spec.shared.record(config, host.health(), sign);
        }
    }

    /// All hosts, also those that take no requests.
    pub fn hosts(&self) -> impl Iterator<Item = &Rc<Host>> {
        self.hosts.values()
    }
}

/// Whether open connections stay usable under the new settings.
fn same_connections(old: &ClusterSpec, new: &ClusterSpec) -> bool {
    fn exchange(model: &model::Cluster) -> Option<&model::PeerExchange> {
        model.mesh.as_ref()?.exchange.as_ref()
    }
    let (a, b) = (&old.model, &new.model);
    Arc::ptr_eq(a, b)
        || (a.protocol == b.protocol
            && a.http2 == b.http2
            && a.tcp_keepalive == b.tcp_keepalive
            && a.connections_per_host == b.connections_per_host
            && a.heartbeat == b.heartbeat
            && a.bind == b.bind
            && exchange(a) == exchange(b))
}
