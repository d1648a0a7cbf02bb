//! Where a group of metrics stands in the tree of names.

use std::borrow::Cow;
use std::cmp::Ordering;

/// A prefix of metric names, together with what Prometheus output makes of it: a family and labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    prefix: String,
    family: &'static str,
    labels: Vec<(Cow<'static, str>, String)>,
    /// Ends the names in it.
    suffix: String,
    hidden: bool,
}

impl Scope {
    fn plain(family: &'static str, prefix: &str) -> Self {
        Scope { prefix: prefix.to_owned(), family, labels: Vec::new(), suffix: String::new(), hidden: false }
    }

    fn named(family: &'static str, label: &'static str, name: &str) -> Self {
        let name = clean(name);
        Scope {
            prefix: format!("{}.{name}.", family.trim_start_matches("envoy_")),
            family,
            labels: vec![(label.into(), name.into_owned())],
            suffix: String::new(),
            hidden: false,
        }
    }

    /// `server.`
    pub fn server() -> Self {
        Self::plain("envoy_server", "server.")
    }

    /// `cluster.<name>.`; `name` is the cluster's `alt_stat_name` if it has one.
    pub fn cluster(name: &str) -> Self {
        Self::named("envoy_cluster", "envoy_cluster_name", name)
    }

    /// `listener.<address>.`, as in `listener.0.0.0.0_15006.`; `address` is the stat prefix if configured.
    pub fn listener(address: &str) -> Self {
        Self::named("envoy_listener", "envoy_listener_address", address)
    }

    /// `listener.<address>.ssl.`
    pub fn listener_ssl(address: &str) -> Self {
        let listener = Self::listener(address);
        Scope { prefix: format!("{}ssl.", listener.prefix), family: "envoy_listener_ssl", ..listener }
    }

    /// `cluster.<name>.ssl.`
    pub fn cluster_ssl(name: &str) -> Self {
        let cluster = Self::cluster(name);
        Scope { prefix: format!("{}ssl.", cluster.prefix), family: "envoy_cluster_ssl", ..cluster }
    }

    /// `sds.<name>.`
    pub fn sds(name: &str) -> Self {
        Self::named("envoy_sds", "envoy_sds_secret", name)
    }

    /// `http.<stat_prefix>.`
    pub fn http(stat_prefix: &str) -> Self {
        Self::named("envoy_http", "envoy_http_conn_manager_prefix", stat_prefix)
    }

    /// `rpc.<stat_prefix>.`
    pub fn rpc(stat_prefix: &str) -> Self {
        Self::named("envoy_rpc", "envoy_rpc_prefix", stat_prefix)
    }

    /// `tcp.<stat_prefix>.`
    pub fn tcp(stat_prefix: &str) -> Self {
        Self::named("envoy_tcp", "envoy_tcp_prefix", stat_prefix)
    }

    /// `connection_limit.<stat_prefix>.`
    pub fn connection_limit(stat_prefix: &str) -> Self {
        Self::named("envoy_connection_limit", "envoy_connection_limit_prefix", stat_prefix)
    }

    /// `local_rate_limit.<stat_prefix>.`
    pub fn connection_rate(stat_prefix: &str) -> Self {
        Self::named("envoy_local_rate_limit", "envoy_local_ratelimit_prefix", stat_prefix)
    }

    /// `filesystem.`: log files.
    pub fn filesystem() -> Self {
        Self::plain("envoy_filesystem", "filesystem.")
    }

    /// `<stat_prefix>.http_local_rate_limit.`
    pub fn local_rate_limit(stat_prefix: &str) -> Self {
        let name = clean(stat_prefix);
        Scope {
            prefix: format!("{name}.http_local_rate_limit."),
            family: "envoy_http_local_rate_limit",
            labels: vec![("envoy_local_http_ratelimit_prefix".into(), name.into_owned())],
            suffix: String::new(),
            hidden: false,
        }
    }

    /// `<prefix>rbac.`, of network filters; `prefix` is used as it is.
    pub fn network_rbac(prefix: &str) -> Self {
        let name = clean(prefix);
        Scope {
            prefix: format!("{name}rbac."),
            family: "envoy_rbac",
            labels: vec![("envoy_rbac_prefix".into(), name.trim_end_matches('.').to_owned())],
            suffix: String::new(),
            hidden: false,
        }
    }

    /// `tls_inspector.`
    pub fn tls_inspector() -> Self {
        Self::plain("envoy_tls_inspector", "tls_inspector.")
    }

    /// `http_inspector.`
    pub fn http_inspector() -> Self {
        Self::plain("envoy_http_inspector", "http_inspector.")
    }

    /// `istiocustom.istio_<metric>.<label>.<value>…`; `istio_<metric>{<label>="<value>",…}` in Prometheus output.
    pub fn mesh(labels: Vec<(Cow<'static, str>, String)>) -> Self {
        let mut suffix = String::new();
        for part in labels.iter().flat_map(|(label, value)| [label.as_ref(), value.as_str()]) {
            suffix.push('.');
            suffix.push_str(&clean(part));
        }
        Scope { labels, suffix, ..Self::plain("istio", "istiocustom.istio_") }
    }

    /// `metadata_exchange.`
    pub fn metadata_exchange() -> Self {
        Self::plain("envoy_metadata_exchange", "metadata_exchange.")
    }

    /// `ext_authz.<prefix>.`, of network filters.
    pub fn network_ext_authz(prefix: &str) -> Self {
        Self::named("envoy_ext_authz", "envoy_ext_authz_prefix", prefix)
    }

    /// `cluster_manager.`
    pub fn cluster_manager() -> Self {
        Self::plain("envoy_cluster_manager", "cluster_manager.")
    }

    /// `cluster_manager.cds.`
    pub fn cds() -> Self {
        Self::plain("envoy_cluster_manager_cds", "cluster_manager.cds.")
    }

    /// `listener_manager.`
    pub fn listener_manager() -> Self {
        Self::plain("envoy_listener_manager", "listener_manager.")
    }

    /// `listener_manager.lds.`
    pub fn lds() -> Self {
        Self::plain("envoy_listener_manager_lds", "listener_manager.lds.")
    }

    /// `control_plane.`
    pub fn control_plane() -> Self {
        Self::plain("envoy_control_plane", "control_plane.")
    }

    /// `http.<stat_prefix>.rds.<route>.`, one per route table an HTTP filter asks for.
    pub fn rds(stat_prefix: &str, route: &str) -> Self {
        let (stat_prefix, route) = (clean(stat_prefix), clean(route));
        Scope {
            prefix: format!("http.{stat_prefix}.rds.{route}."),
            family: "envoy_http_rds",
            labels: vec![
                ("envoy_http_conn_manager_prefix".into(), stat_prefix.into_owned()),
                ("envoy_rds_route_config".into(), route.into_owned()),
            ],
            suffix: String::new(),
            hidden: false,
        }
    }

    /// `rpc.<stat_prefix>.rds.<route>.`, the same of RPC filters.
    pub fn rpc_rds(stat_prefix: &str, route: &str) -> Self {
        let (stat_prefix, route) = (clean(stat_prefix), clean(route));
        Scope {
            prefix: format!("rpc.{stat_prefix}.rds.{route}."),
            family: "envoy_rpc_rds",
            labels: vec![
                ("envoy_rpc_prefix".into(), stat_prefix.into_owned()),
                ("envoy_rds_route_config".into(), route.into_owned()),
            ],
            suffix: String::new(),
            hidden: false,
        }
    }

    /// `mizzen.`: what Envoy has no name for; `mizzen_…` without `envoy_` in Prometheus output.
    pub fn mizzen() -> Self {
        Self::plain("mizzen", "mizzen.")
    }

    /// `mizzen.xds.<kind>.`, `mizzen_xds_…{type="<kind>"}`; `kind` is `cds`, `eds`, `lds`, `rds`, ….
    pub fn mizzen_xds(kind: &str) -> Self {
        Scope {
            prefix: format!("mizzen.xds.{kind}."),
            family: "mizzen_xds",
            labels: vec![("type".into(), kind.to_owned())],
            suffix: String::new(),
            hidden: false,
        }
    }

    /// One host of a cluster. Not part of `/stats`; `/clusters` shows it.
    pub fn host(cluster: &str, address: &str) -> Self {
        Scope {
            prefix: format!("host.{cluster}\0{address}."),
            family: "",
            labels: Vec::new(),
            suffix: String::new(),
            hidden: true,
        }
    }

    /// The prefix of every name in it, ending in a dot.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The full name of a metric in it.
    pub fn full(&self, name: &str) -> String {
        let mut full = String::with_capacity(self.prefix.len() + name.len() + self.suffix.len());
        self.push_full(name, &mut full);
        full
    }

    /// Appends the full name of a metric in it.
    pub(super) fn push_full(&self, name: &str, out: &mut String) {
        out.push_str(&self.prefix);
        out.push_str(name);
        out.push_str(&self.suffix);
    }

    /// The name within it of the metric with this full name.
    pub(super) fn rest_of<'n>(&self, full: &'n str) -> Option<&'n str> {
        full.strip_prefix(self.prefix.as_str())?.strip_suffix(self.suffix.as_str())
    }

    /// Start of the Prometheus names.
    pub fn family(&self) -> &'static str {
        self.family
    }

    /// Prometheus labels, in order of output.
    pub fn labels(&self) -> &[(Cow<'static, str>, String)] {
        &self.labels
    }

    /// The value of its first label: the cluster's name, the listener's address, ….
    pub fn name(&self) -> &str {
        self.labels.first().map_or("", |l| l.1.as_str())
    }

    /// Whether `/stats` leaves it out.
    pub fn hidden(&self) -> bool {
        self.hidden
    }
}

impl Ord for Scope {
    fn cmp(&self, other: &Self) -> Ordering {
        // The family tells apart what only looks alike: a prefix "x.rds.y" of HTTP and route "y" of prefix "x".
        let parts = |scope: &Self| (scope.hidden, scope.family);
        (self.hidden, &self.prefix, &self.suffix)
            .cmp(&(other.hidden, &other.prefix, &other.suffix))
            .then_with(|| parts(self).cmp(&parts(other)))
            .then_with(|| self.labels.cmp(&other.labels))
    }
}

impl PartialOrd for Scope {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Colons separate names from values in the text form; Envoy puts `_` in their place.
fn clean(name: &str) -> Cow<'_, str> {
    if name.contains([':', '\n', '\r', '\0']) {
        Cow::Owned(name.replace([':', '\n', '\r', '\0'], "_"))
    } else {
        Cow::Borrowed(name)
    }
}
