//! What goes into the builder, and what it answers.

use crate::model::{Address, Cluster, Endpoints, Listener, Node, RouteConfig, Runtime, ScopedRoute};
use crate::tls::Secrets;
use serde::Serialize;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// One resource that came or went. The changes of one response are applied as one set.
#[derive(Clone, Debug)]
pub enum Change {
    /// New or changed cluster.
    Cluster(Arc<Cluster>),
    /// Cluster gone (by absence or by name).
    ClusterRemoved(String),
    /// New or changed assignment, under its EDS name.
    Endpoints(Arc<Endpoints>),
    /// Assignment taken back, or no longer subscribed: its hosts stay while a cluster refers to them.
    EndpointsWithdrawn(String),
    /// New or changed route table, under its RDS name.
    Routes(Arc<RouteConfig>),
    /// Route table taken back, or no longer subscribed: it stays while a listener refers to it.
    RoutesWithdrawn(String),
    /// New or changed scope of SRDS.
    ScopedRoute(Arc<ScopedRoute>),
    /// Scope gone.
    ScopedRouteRemoved(String),
    /// The control plane has answered for scopes: those that are here are all, for now.
    ScopesAnswered,
    /// What the RTDS resource of this name says from now on; nothing where it was taken back.
    Runtime { resource: String, values: Runtime },
    /// New or changed listener.
    Listener(Arc<Listener>),
    /// Listener gone.
    ListenerRemoved(String),
}

/// Who gave a resource. A static name wins: the ADS resource of that name is kept aside and shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Origin {
    /// The bootstrap.
    Static,
    /// The control plane.
    Ads,
}

/// Times and bounds of the builder.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long a virtual host keeps its old body, and a changed listener its old version, for a cluster that
    /// warms. Default 15 s.
    pub route_hold: Duration,
    /// The same for a cluster name nobody has configured. Default 2 s.
    pub missing_cluster_hold: Duration,
    /// How long a removed cluster serves tables that still name it; 0 = not at all. Default 15 s.
    pub removed_cluster_linger: Duration,
    /// How long a new listener waits for warming clusters before it opens. Default 5 s.
    pub listener_cluster_wait: Duration,
    /// Listeners wait for [`super::Builder::on_bound`] of their addresses. Default false: sockets are not the
    /// builder's business.
    pub wait_for_sockets: bool,
    /// Control tasks resolve names and check hosts ([`super::Builder::take_orders`]): clusters wait for their
    /// first answers. Default false: names are resolved when connecting, unchecked hosts count as failed.
    pub control: bool,
    /// Resources of one type. Default 100,000.
    pub max_resources: usize,
    /// Filter chains of one listener. Default 1,000.
    pub max_chains: usize,
    /// Routes of one table. Default 100,000.
    pub max_routes: usize,
    /// The node's id and cluster.
    pub node_name: (String, String),
    /// Where the TLS contexts of chains and clusters are kept.
    pub secrets: Arc<Secrets>,
    /// Who this process is.
    pub node: Arc<Node>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            route_hold: Duration::from_secs(15),
            missing_cluster_hold: Duration::from_secs(2),
            removed_cluster_linger: Duration::from_secs(15),
            listener_cluster_wait: Duration::from_secs(5),
            wait_for_sockets: false,
            control: false,
            max_resources: 100_000,
            max_chains: 1_000,
            max_routes: 100_000,
            node_name: (String::new(), String::new()),
            secrets: Arc::default(),
            node: Arc::default(),
        }
    }
}

/// The types of which resources can be refused for their relations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Kind {
    Cluster,
    Endpoints,
    Routes,
    ScopedRoute,
    Listener,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Cluster => "cluster",
            Kind::Endpoints => "endpoints",
            Kind::Routes => "route table",
            Kind::ScopedRoute => "scope",
            Kind::Listener => "listener",
        })
    }
}

/// A resource that was refused because of something outside itself. Its last good version stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {name}: {why}")]
pub struct Rejection {
    pub kind: Kind,
    pub name: String,
    pub why: Why,
}

/// Relations a resource can break. The first two are tried again by the builder when their cause goes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// Another listener has the address.
    #[error("{}: {address} belongs to listener {owner}", place(*at, address))]
    AddressTaken { at: usize, address: Address, owner: Arc<str> },
    /// The machine refused the address.
    #[error("{}: {address} cannot be bound: {reason}", place(*at, address))]
    Bind { at: usize, address: Address, reason: String },
    /// One resource too many of its type. `field` holds its `name`.
    #[error("{field}: {name}: more than {limit} resources of this type (nearest valid {limit})")]
    TooMany { field: &'static str, name: String, limit: usize },
    /// Another scope has the key.
    #[error("key: {key:?}: scope {owner} has the same")]
    SameScope { key: Vec<String>, owner: Arc<str> },
    /// Too many `parts` in `field`.
    #[error("{field}: {found} {parts}: more than {limit} (nearest valid {limit})")]
    TooLarge { field: &'static str, parts: &'static str, found: usize, limit: usize },
}

/// The field of a listener's address number `at` that decides about its socket, and its value.
fn place(at: usize, address: &Address) -> String {
    let message = match at.checked_sub(1) {
        None => "address".to_owned(),
        Some(at) => format!("additional_addresses[{at}].address"),
    };
    match address {
        Address::Ip(ip) => format!("{message}.socket_address.port_value: {}", ip.port()),
        Address::Unix(path) => format!("{message}.pipe.path: {}", path.display()),
        Address::Name(name, _) => format!("{message}.socket_address.address: {name}"),
        Address::Internal(name) => {
            format!("{message}.envoy_internal_address.server_listener_name: {name}")
        }
    }
}

/// Things worth one log line, in the order they happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A virtual host took its new body although clusters it names do not serve.
    HoldExpired { table: String, virtual_host: String, clusters: Vec<Arc<str>> },
    /// A listener opened or changed although clusters it names do not serve.
    ListenerCold { listener: Arc<str>, clusters: Vec<Arc<str>> },
    /// A listener opened or changed without a route table that did not come in time.
    RouteFetchTimeout { listener: Arc<str>, table: Arc<str> },
    /// A cluster serves without endpoints: its assignment did not come in time.
    EndpointsFetchTimeout { cluster: Arc<str>, service: Arc<str> },
    /// A removed cluster ends although tables still name it.
    LingerExpired { cluster: Arc<str> },
    /// A listener that had been refused is accepted, its cause being gone.
    ListenerRecovered { listener: Arc<str> },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::HoldExpired { table, virtual_host, clusters } => {
                write!(f, "route table {table}: virtual host {virtual_host} applied without {clusters:?}")
            }
            Event::ListenerCold { listener, clusters } => {
                write!(f, "listener {listener} applied without {clusters:?}")
            }
            Event::RouteFetchTimeout { listener, table } => {
                write!(f, "listener {listener} applied without route table {table}: it did not come in time")
            }
            Event::EndpointsFetchTimeout { cluster, service } => {
                write!(f, "cluster {cluster} has no hosts: endpoints {service} did not come in time")
            }
            Event::LingerExpired { cluster } => {
                write!(f, "removed cluster {cluster} ends, although routes still name it")
            }
            Event::ListenerRecovered { listener } => write!(f, "listener {listener} is accepted now"),
        }
    }
}

/// A resource by origin.
#[derive(Debug)]
pub(super) struct Owned<T> {
    fixed: Option<T>,
    ads: Option<T>,
}

impl<T> Default for Owned<T> {
    fn default() -> Self {
        Owned { fixed: None, ads: None }
    }
}

impl<T> Owned<T> {
    /// The version of one origin.
    pub(super) fn slot(&mut self, origin: Origin) -> &mut Option<T> {
        match origin {
            Origin::Static => &mut self.fixed,
            Origin::Ads => &mut self.ads,
        }
    }

    /// The version that counts.
    pub(super) fn current(&self) -> Option<&T> {
        self.fixed.as_ref().or(self.ads.as_ref())
    }

    /// Who gave it.
    pub(super) fn origin(&self) -> Origin {
        if self.fixed.is_some() { Origin::Static } else { Origin::Ads }
    }

    /// Whether an ADS version is kept aside.
    pub(super) fn shadowed(&self) -> bool {
        self.fixed.is_some() && self.ads.is_some()
    }
}
