//! Helpers shared by the builder's tests.

mod clusters;
mod listeners;
mod property;
mod tables;

use super::*;
use crate::cluster::ClusterSpec;
use crate::model::*;
use crate::snapshot::{ClusterEntry, ClusterSlot, FilterSpec, ListenerSpec};
use std::time::Duration;

/// A builder with a clock of its own.
pub(super) struct World {
    pub(super) builder: Builder,
    pub(super) now: Instant,
    pub(super) snapshot: Arc<Snapshot>,
}

pub(super) fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(Options::default())
    }

    pub(super) fn with(options: Options) -> Self {
        World { builder: Builder::new(options), now: Instant::now(), snapshot: Arc::default() }
    }

    pub(super) fn push(&mut self, changes: Vec<Change>) -> Vec<Rejection> {
        let rejections = self.builder.apply(self.now, Origin::Ads, changes);
        self.publish();
        rejections
    }

    pub(super) fn push_static(&mut self, changes: Vec<Change>) -> Vec<Rejection> {
        let rejections = self.builder.apply(self.now, Origin::Static, changes);
        self.publish();
        rejections
    }

    pub(super) fn publish(&mut self) {
        if let Some(snapshot) = self.builder.publish() {
            self.snapshot = snapshot;
        }
    }

    /// Lets time pass, waking the builder whenever it asked for it.
    pub(super) fn wait(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(at) = self.builder.deadline().filter(|at| *at <= end) {
            assert!(at >= self.now, "deadline in the past");
            self.now = at;
            self.builder.tick(at);
            assert!(self.builder.deadline().is_none_or(|next| next > at), "tick left its deadline");
            self.publish();
        }
        self.now = end;
    }

    pub(super) fn reap(&mut self) {
        self.builder.reap(self.now);
        self.publish();
        self.builder.reap(self.now);
    }

    pub(super) fn slot(&self, name: &str) -> ClusterSlot {
        self.snapshot.names.get(name).map(|id| self.snapshot.cluster(*id).clone()).unwrap_or_default()
    }

    pub(super) fn entry(&self, name: &str) -> Option<ClusterEntry> {
        match self.slot(name) {
            ClusterSlot::Ready(entry) => Some(entry),
            _ => None,
        }
    }

    pub(super) fn ready(&self, name: &str) -> bool {
        self.entry(name).is_some()
    }

    pub(super) fn spec(&self, name: &str) -> Arc<ClusterSpec> {
        self.entry(name).unwrap().spec
    }

    pub(super) fn ports(&self, name: &str) -> Vec<u16> {
        let entry = self.entry(name).unwrap();
        entry.endpoints.iter().map(|endpoint| endpoint.address.ip().unwrap().port()).collect()
    }

    pub(super) fn listener(&self, name: &str) -> Option<Arc<ListenerSpec>> {
        self.snapshot.listeners.get(name).cloned()
    }

    /// The clusters that the first chain of `listener` names for `host`: the name of each id, `?` for one
    /// that no longer stands for anything known to the builder.
    pub(super) fn targets(&self, listener: &str, host: &str) -> Vec<String> {
        let Some(spec) = self.listener(listener) else { return vec!["closed".into()] };
        let ids: Vec<ClusterId> = match &spec.chains[0].filter {
            FilterSpec::Tcp { clusters, .. } => clusters.clusters().collect(),
            FilterSpec::Http { routes, .. } | FilterSpec::Rpc { routes, .. } => {
                let Some(table) = self.snapshot.route_table(*routes) else { return vec!["no table".into()] };
                let Some(found) = table.host(Some(host.as_bytes())) else { return vec!["no host".into()] };
                found.clusters().collect()
            }
        };
        ids.iter().map(|id| self.builder.clusters.name(*id).to_string()).collect()
    }
}

pub(super) fn addr(port: u16) -> Address {
    Address::Ip(([127, 0, 0, 1], port).into())
}

pub(super) fn hosts(name: &str, port: u16) -> Endpoints {
    Endpoints::of(name, [addr(port)])
}

pub(super) fn fixed(name: &str, port: u16) -> Change {
    let discovery = Discovery::Static(Arc::new(hosts(name, port)));
    Change::Cluster(Arc::new(Cluster::new(name, discovery)))
}

pub(super) fn eds_model(name: &str, timeout: Option<Duration>) -> Cluster {
    let discovery = Discovery::Eds { service_name: format!("eds-{name}"), initial_fetch_timeout: timeout };
    Cluster::new(name, discovery)
}

pub(super) fn eds(name: &str) -> Change {
    Change::Cluster(Arc::new(eds_model(name, None)))
}

pub(super) fn endpoints(cluster: &str, port: u16) -> Change {
    Change::Endpoints(Arc::new(hosts(&format!("eds-{cluster}"), port)))
}

pub(super) fn route(cluster: ClusterChoice) -> Arc<Route> {
    let path = PathMatch::Prefix { value: "/".into(), ignore_case: false };
    let action = Action::Route(RouteAction { cluster, ..RouteAction::default() });
    Arc::new(Route::new("", RouteMatch { path, ..RouteMatch::default() }, action))
}

/// `("name", "domain domain", "cluster cluster")`
pub(super) type Vh<'a> = (&'a str, &'a str, &'a str);

pub(super) fn table(name: &str, hosts: &[Vh<'_>]) -> Arc<RouteConfig> {
    let virtual_hosts = hosts
        .iter()
        .map(|(name, domains, clusters)| {
            Arc::new(VirtualHost {
                name: (*name).into(),
                domains: domains.split(' ').map(Into::into).collect(),
                routes: clusters.split(' ').map(|c| route(ClusterChoice::Single(c.into()))).collect(),
                ..VirtualHost::default()
            })
        })
        .collect();
    Arc::new(RouteConfig { name: name.into(), virtual_hosts, ..RouteConfig::default() })
}

pub(super) fn routes(name: &str, hosts: &[Vh<'_>]) -> Change {
    Change::Routes(table(name, hosts))
}

pub(super) fn rpc(source: RouteSource) -> NetworkFilter {
    NetworkFilter::Rpc(RpcProxy {
        stat_prefix: "s".into(),
        downstream: Protocol::Bolt,
        upstream: None,
        routes: source,
        idle_timeout: None,
        drain_goaway: false,
        max_frame: 1 << 24,
        application_errors: false,
        access_log: Default::default(),
        filters: Vec::new(),
    })
}

pub(super) fn rds(name: &str) -> NetworkFilter {
    rpc(RouteSource::Rds { name: name.into(), initial_fetch_timeout: None })
}

pub(super) fn inline(hosts: &[Vh<'_>]) -> NetworkFilter {
    rpc(RouteSource::Inline(table("inline", hosts)))
}

pub(super) fn tcp(clusters: &str) -> NetworkFilter {
    let share = |name: &str| WeightedCluster { name: name.into(), weight: 1, ..WeightedCluster::default() };
    NetworkFilter::Tcp(TcpProxy {
        stat_prefix: "t".into(),
        clusters: clusters.split(' ').map(share).collect(),
        idle_timeout: None,
        max_connect_attempts: 1,
        access_log: Default::default(),
        max_connection_duration: None,
        hash_source_ip: false,
        criteria: Default::default(),
    })
}

pub(super) fn listener_model(name: &str, port: u16, filters: Vec<NetworkFilter>) -> Listener {
    Listener {
        transparent: false,
        freebind: false,
        name: name.into(),
        addresses: vec![addr(port)],
        bind_to_port: true,
        direction: Direction::Unspecified,
        stat_prefix: String::new(),
        filter_chains: filters
            .into_iter()
            .map(|filter| FilterChain {
                name: String::new(),
                matcher: ChainMatch::default(),
                guards: Vec::new(),
                mesh: None,
                tls: None,
                filter,
            })
            .collect(),
        default_filter_chain: None,
        buffer_limit: 1 << 20,
        backlog: 1024,
        use_original_dst: false,
        internal: false,
        unlimited: false,
        exact_balance: false,
        access_log: Default::default(),
        inspectors: Default::default(),
    }
}

pub(super) fn listener(name: &str, port: u16, filter: NetworkFilter) -> Change {
    Change::Listener(Arc::new(listener_model(name, port, vec![filter])))
}
