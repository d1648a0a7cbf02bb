//! A proxy with one listener and its control plane, configured in the words of the test.

use super::ads::{Ads, Type};
use super::proxy::{Setup, free_port, wait_listening};
use super::resources::{listener, message};
use mizzen::app::Proxy;
use mizzen::xds::state::Variant;
use serde_json::{Value, json};
use std::net::SocketAddr;

/// See the module.
pub struct World {
    pub ads: Ads,
    pub proxy: Proxy,
    pub port: u16,
}

impl World {
    /// One worker, `filter` on a port of its own, and these clusters. Returns when it serves.
    pub async fn start(filter: &Value, clusters: &[Value]) -> World {
        World::with(Setup::new(Variant::Delta, 1), filter, clusters).await
    }

    pub async fn with(setup: Setup, filter: &Value, clusters: &[Value]) -> World {
        let (ads, port) = (Ads::start(), free_port());
        ads.set_clusters(clusters.iter().map(message).collect());
        ads.set_listeners(vec![listener("l", port, filter)]);
        let proxy = setup.start(ads.address());
        ads.push().await;
        ads.wait_ack(Type::Cluster).await;
        ads.wait_ack(Type::Listener).await;
        wait_listening(([127, 0, 0, 1], port).into()).await;
        World { ads, proxy, port }
    }

    /// Publishes what was set in `ads` and waits until each of `kinds` is accepted.
    pub async fn push(&self, kinds: &[Type]) {
        self.ads.push().await;
        for kind in kinds {
            self.ads.wait_ack(*kind).await;
        }
    }

    /// A counter or gauge, all workers added.
    pub fn number(&self, name: &str) -> i64 {
        self.proxy.registry.number(name)
    }
}

/// Takes `more`'s fields over into `base`.
pub fn merged(mut base: Value, more: &Value) -> Value {
    for (key, value) in more.as_object().into_iter().flatten() {
        base[key] = value.clone();
    }
    base
}

/// A cluster of fixed hosts, with further fields.
pub fn cluster(name: &str, hosts: &[Value], more: &Value) -> Value {
    let base = json!({"name": name, "type": "STATIC", "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": hosts}]}});
    merged(base, more)
}

/// A host.
pub fn host(address: SocketAddr) -> Value {
    let (ip, port) = (address.ip().to_string(), address.port());
    json!({"endpoint": {"address": {"socket_address": {"address": ip, "port_value": port}}}})
}

/// A host with metadata for load balancing.
pub fn host_with(address: SocketAddr, labels: &Value) -> Value {
    merged(host(address), &json!({"metadata": {"filter_metadata": {"envoy.lb": labels}}}))
}

/// A connection manager for both HTTP versions with one virtual host of these routes, and further fields.
/// Requests from this machine are internal.
pub fn http(routes: &Value, more: &Value) -> Value {
    http_host(&json!({"routes": routes}), more)
}

/// As [`http`], with further fields of the virtual host.
pub fn http_host(host: &Value, more: &Value) -> Value {
    let base = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http", "use_remote_address": true,
        "internal_address_config": {"cidr_ranges": [{"address_prefix": "127.0.0.0", "prefix_len": 8}]},
        "route_config": table(host),
        "http_filters": [router(&json!({}))]});
    merged(base, more)
}

/// The router filter with these fields.
pub fn router(config: &Value) -> Value {
    let kind = json!({"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"});
    json!({"name": "router", "typed_config": merged(kind, config)})
}

/// An RPC proxy for bolt with one virtual host of these routes.
pub fn bolt(routes: &Value) -> Value {
    json!({"@type": "type.googleapis.com/mizzen.v1.RpcProxy", "stat_prefix": "rpc",
        "downstream_protocol": "bolt", "route_config": table(&json!({"routes": routes}))})
}

/// A table of one virtual host for all names.
pub fn table(host: &Value) -> Value {
    json!({"name": "r", "virtual_hosts": [merged(json!({"name": "all", "domains": ["*"]}), host)]})
}

/// A route for everything, with these fields of the action.
pub fn to(action: &Value) -> Value {
    json!({"match": {"prefix": "/"}, "route": action})
}
