//! Bootstrap and flags → what the proxy is made of.

use super::lifecycle::FetchLimits;
use super::proxy::{AdsPlan, Plan};
use crate::bootstrap::{Bootstrap, Fetch};
use crate::cli::RunArgs;
use crate::model::{
    self, Discovery, Layer, LayerSource, Runtime, RuntimeValue, SecretSource, TransportSocket, runtime,
};
use crate::snapshot::builder::{Change, Options};
use crate::tls::{Client, Secrets, Wish};
use crate::util::hash;
use crate::xds::client::{Address, AdsConfig, Asked};
use crate::xds::disk::Header;
use crate::xds::sds::SdsConfig;
use crate::xds::state::Variant;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Makes the plan. Static resources are moved out of `bootstrap`.
pub fn plan(bootstrap: &mut Bootstrap, args: &RunArgs) -> Plan {
    let static_hash = hash::xxh64(format!("{:?}{:?}", bootstrap.listeners, bootstrap.clusters).as_bytes(), 0);
    let clusters = std::mem::take(&mut bootstrap.clusters);
    let listeners = std::mem::take(&mut bootstrap.listeners);
    let options = Options {
        route_hold: args.route_hold,
        removed_cluster_linger: args.removed_cluster_linger,
        wait_for_sockets: true,
        node: Arc::new(bootstrap.mesh_node()),
        node_name: (bootstrap.node.id.clone(), bootstrap.node.cluster.clone()),
        ..Options::default()
    };
    let secrets = options.secrets.clone();
    let sds = sds(bootstrap, &clusters, &secrets);
    let fixed = clusters
        .into_iter()
        .map(|cluster| Change::Cluster(Arc::new(cluster)))
        .chain(listeners.into_iter().map(|listener| Change::Listener(Arc::new(listener))))
        .collect();
    let ads = bootstrap.ads.take().map(|ads| {
        let variant = if ads.delta { Variant::Delta } else { Variant::Sotw };
        let addresses = addresses(&ads.cluster);
        let state_dir = args.state_dir.clone().or_else(|| bootstrap.state_dir.clone()).map(|dir| {
            let header = Header {
                node_id: bootstrap.node.id.clone(),
                node_cluster: bootstrap.node.cluster.clone(),
                ads_target: format!("{addresses:?}"),
                static_hash,
            };
            (dir, header)
        });
        // A type the bootstrap does not ask for is not waited for.
        let limit = |fetch: Option<Fetch>| fetch.map_or(Some(Duration::ZERO), |fetch| fetch.initial_timeout);
        let fetch = FetchLimits { clusters: limit(ads.clusters), listeners: limit(ads.listeners) };
        let mut config = AdsConfig::new(addresses, variant);
        config.split = ads.split;
        let own_streams = ads.split.then(|| (ads.cluster.name.clone(), ads.delta));
        config.authority = ads.authority.unwrap_or_else(|| ads.cluster.name.clone());
        config.metadata = ads.metadata;
        config.connect_timeout = ads.cluster.connect_timeout;
        config.tls = encrypted(&ads.cluster, &config.authority, &secrets);
        AdsPlan { config, node: bootstrap.node.clone(), state_dir, fetch, own_streams }
    });
    Plan {
        workers: args.concurrency.or(bootstrap.workers).unwrap_or_else(default_workers),
        fixed,
        ads,
        options,
        static_unknown_fields: bootstrap.unknown_fields as u64,
        drain_spread: args.drain_spread(),
        // The key is what older control planes set; the monitor wins.
        connection_limit: bootstrap.connection_limit.or_else(|| {
            let values = Runtime::layered(bootstrap.runtime.iter().map(|layer| &layer.values));
            let limit = values.number("overload.global_downstream_max_connections")?;
            (0.0..f64::from(i32::MAX)).contains(&limit).then_some(limit as u32)
        }),
        resolver: None,
        sds,
        layers: layers_of(bootstrap, args),
    }
}

/// What the bootstrap says, and the flags over it.
fn layers_of(bootstrap: &mut Bootstrap, args: &RunArgs) -> Vec<Layer> {
    let mut all = std::mem::take(&mut bootstrap.runtime);
    if args.http1_lenient {
        let mut values = Runtime::default();
        values.set(runtime::LENIENT_HTTP1, RuntimeValue::Flag(true));
        all.push(Layer { name: "command line".to_owned(), source: LayerSource::Static, values });
    }
    all
}

/// How the static clusters and the control plane are asked for secrets.
fn sds(bootstrap: &Bootstrap, clusters: &[model::Cluster], secrets: &Secrets) -> SdsConfig {
    let config = |cluster: &model::Cluster| {
        let mut config = AdsConfig::new(addresses(cluster), Variant::Sotw);
        config.service = Asked::Secrets;
        config.authority.clone_from(&cluster.name);
        config.connect_timeout = cluster.connect_timeout;
        config.tls = encrypted(cluster, &config.authority, secrets);
        // Secrets come from this machine as a rule, and nothing is served without them.
        config.backoff_base = Duration::from_millis(200);
        config.backoff_cap = Duration::from_secs(10);
        config
    };
    // Which socket a host of others has is not known here: what may be encrypted is never asked in plaintext.
    let known = clusters.iter().filter(|cluster| cluster.sockets.matches.is_empty());
    let mut sources: HashMap<_, _> =
        known.map(|cluster| (SecretSource::Cluster(cluster.name.clone()), config(cluster))).collect();
    if let Some(ads) = &bootstrap.ads {
        sources.insert(SecretSource::Ads, config(&ads.cluster));
    }
    SdsConfig { node: bootstrap.node.clone(), sources }
}

/// What the connections to a control plane are encrypted by; `None`: nothing.
fn encrypted(cluster: &model::Cluster, authority: &str, secrets: &Secrets) -> Option<(Arc<Client>, Wish)> {
    let TransportSocket::Tls(context) = &cluster.sockets.fallback else { return None };
    let auto = cluster.auto_names.as_deref().cloned().unwrap_or_default();
    let name = || Some(authority.into()).filter(|_| authority.parse::<IpAddr>().is_err());
    let wish = Wish {
        alpn_fallback: &["h2"],
        sni: if auto.sni { name() } else { None },
        check_name: context.check_sni || auto.san,
        ..Wish::default()
    };
    Some((secrets.client(context), wish))
}

/// Where the control plane's cluster listens.
fn addresses(cluster: &model::Cluster) -> Vec<Address> {
    let endpoints = match &cluster.discovery {
        Discovery::Static(endpoints) | Discovery::Dns { endpoints, .. } => endpoints,
        Discovery::Eds { .. } | Discovery::OriginalDst(_) => return Vec::new(),
    };
    let convert = |endpoint: &model::Endpoint| match &endpoint.address {
        model::Address::Ip(socket) => Some(Address::Socket(*socket)),
        model::Address::Name(host, port) => Some(Address::Dns { host: host.clone(), port: *port }),
        model::Address::Unix(path) => Some(Address::Unix(path.clone())),
        model::Address::Internal(_) => None,
    };
    endpoints.iter().filter_map(convert).collect()
}

/// The cgroup's CPU quota rounded up, else the CPUs this process may run on; at least 1.
fn default_workers() -> usize {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    quota().map_or(cpus, |quota| quota.min(cpus)).max(1)
}

/// cgroup v2's `cpu.max`: `quota period` in microseconds, or `max`.
fn quota() -> Option<usize> {
    let text = std::fs::read_to_string("/sys/fs/cgroup/cpu.max").ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period): (usize, usize) = (quota.parse().ok()?, period.parse().ok()?);
    Some(quota.div_ceil(period.max(1)))
}
