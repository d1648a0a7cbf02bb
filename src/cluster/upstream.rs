//! A cluster as a worker sees it.

use super::lb::Balancer;
use super::{ClusterEntry, ClusterSpec, Env, Host};
use crate::message::Reason;
use crate::model::{Address, Endpoint, Endpoints, Health};
use crate::telemetry::{ClusterStats, Registration};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

/// A cluster in use by this worker. Made at its first request, updated in place by snapshots.
pub struct Cluster {
    /// Its name.
    pub name: String,
    state: RefCell<Rc<State>>,
    /// Its counters on this worker.
    pub stats: Rc<Registration<ClusterStats>>,
    env: Rc<Env>,
}

/// Settings and hosts at one moment. A request works with the state it picked from.
pub struct State {
    /// Settings.
    pub spec: Arc<ClusterSpec>,
    endpoints: Arc<Endpoints>,
    hosts: HashMap<Address, Rc<Host>, foldhash::fast::FixedState>,
    balancer: Balancer,
}

impl Cluster {
    /// The cluster of `entry`, without connections yet.
    pub fn new(entry: &ClusterEntry, env: Rc<Env>) -> Rc<Self> {
        let stats = Rc::new(env.cluster_stats(&entry.spec.model));
        let state = State::build(entry, HashMap::default(), &env);
        let name = entry.spec.model.name.clone();
        Rc::new(Cluster { name, state: RefCell::new(Rc::new(state)), stats, env })
    }

    /// What this worker's upstream side shares.
    pub fn env(&self) -> &Rc<Env> {
        &self.env
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
        let kept =
            if same_connections(&old.spec, &entry.spec) { old.hosts.clone() } else { HashMap::default() };
        let new = Rc::new(State::build(entry, kept, &self.env));
        *self.state.borrow_mut() = new.clone();
        for (address, host) in &old.hosts {
            if !new.hosts.get(address).is_some_and(|still| Rc::ptr_eq(still, host)) {
                host.retire();
            }
        }
    }

    /// The cluster is gone: its connections close when their last stream ends.
    pub fn retire(&self) {
        for host in self.state().hosts.values() {
            host.retire();
        }
    }

    /// Picks a host of the newest set. Hosts `avoid` accepts are passed over while others are left.
    ///
    /// # Errors
    /// There are no endpoints, or none of them may take requests.
    pub fn pick(&self, avoid: impl Fn(&Host) -> bool) -> Result<Rc<Host>, Reason> {
        let state = self.state.borrow();
        match state.balancer.pick(&self.env.random, avoid) {
            Some(host) => Ok(host.clone()),
            None if state.hosts.is_empty() => Err(Reason::NoEndpoints),
            None => Err(Reason::AllUnhealthy),
        }
    }
}

impl State {
    fn build(
        entry: &ClusterEntry,
        mut kept: HashMap<Address, Rc<Host>, foldhash::fast::FixedState>,
        env: &Env,
    ) -> State {
        let mut hosts = HashMap::default();
        for endpoint in entry.endpoints.iter() {
            let host = kept.remove(&endpoint.address).unwrap_or_else(|| {
                let (address, hostname) = (endpoint.address.clone(), endpoint.hostname.clone());
                Host::new(&entry.spec.model.name, address, hostname, &env.registry)
            });
            hosts.entry(endpoint.address.clone()).or_insert(host);
        }
        let eligible = eligible(&entry.endpoints)
            .into_iter()
            .filter_map(|endpoint| Some((hosts.get(&endpoint.address)?.clone(), endpoint.weight.max(1))))
            .collect();
        let balancer = Balancer::new(eligible, entry.spec.model.lb, &env.random);
        State { spec: entry.spec.clone(), endpoints: entry.endpoints.clone(), hosts, balancer }
    }

    /// All hosts, also those that take no requests.
    pub fn hosts(&self) -> impl Iterator<Item = &Rc<Host>> {
        self.hosts.values()
    }
}

/// The endpoints that take requests: the healthy ones of the first priority that has any, else the degraded
/// ones. Unhealthy and draining ones never do: sending there on the guess that health is wrong (Envoy's
/// panic mode) comes with health checks.
fn eligible(endpoints: &Endpoints) -> Vec<&Endpoint> {
    let mut priorities: Vec<u32> = endpoints.localities.iter().map(|l| l.priority).collect();
    priorities.sort_unstable();
    priorities.dedup();
    [Health::Healthy, Health::Degraded]
        .into_iter()
        .flat_map(|health| priorities.iter().map(move |priority| (health, *priority)))
        .map(|(health, priority)| {
            endpoints
                .localities
                .iter()
                .filter(|locality| locality.priority == priority)
                .flat_map(|locality| &locality.endpoints)
                .filter(|endpoint| endpoint.health == health)
                .collect::<Vec<_>>()
        })
        .find(|found| !found.is_empty())
        .unwrap_or_default()
}

/// Whether open connections stay usable under the new settings.
fn same_connections(old: &ClusterSpec, new: &ClusterSpec) -> bool {
    let (a, b) = (&old.model, &new.model);
    Arc::ptr_eq(a, b)
        || (a.protocol == b.protocol
            && a.http2 == b.http2
            && a.tcp_keepalive == b.tcp_keepalive
            && a.connections_per_host == b.connections_per_host
            && a.heartbeat == b.heartbeat)
}
