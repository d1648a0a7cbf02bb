//! xDS resources, written as short as tests want them.

use mizzen::proto;
use mizzen::proto::envoy::config::cluster::v3::Cluster;
use mizzen::proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use mizzen::proto::envoy::config::listener::v3::Listener;
use mizzen::proto::envoy::config::route::v3::RouteConfiguration;
use serde_json::{Value, json};
use std::net::SocketAddr;

/// Decodes canonical JSON.
pub fn message<M: prost::Message + Default + prost::Name>(json: &Value) -> M {
    proto::json::message_from_json(json).expect("valid JSON of the message")
}

fn socket(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

fn ads() -> Value {
    json!({"ads": {}, "resource_api_version": "V3"})
}

/// A cluster whose endpoints come by EDS under its own name.
pub fn eds_cluster(name: &str) -> Cluster {
    message(&json!({"name": name, "type": "EDS", "connect_timeout": "1s",
        "eds_cluster_config": {"eds_config": ads()}}))
}

/// As [`eds_cluster`], speaking HTTP/2.
pub fn http2_cluster(name: &str) -> Cluster {
    message(&json!({"name": name, "type": "EDS", "connect_timeout": "1s", "http2_protocol_options": {},
        "eds_cluster_config": {"eds_config": ads()}}))
}

/// The endpoints of `name`.
pub fn endpoints(name: &str, hosts: &[SocketAddr]) -> ClusterLoadAssignment {
    let hosts: Vec<Value> =
        hosts.iter().map(|host| json!({"endpoint": {"address": socket(*host)}})).collect();
    message(&json!({"cluster_name": name, "endpoints": [{"lb_endpoints": hosts}]}))
}

/// A table with one virtual host and one route.
pub fn route(name: &str, cluster: &str) -> RouteConfiguration {
    message(&json!({"name": name, "virtual_hosts": [{"name": "all", "domains": ["*"],
        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "60s"}}]}]}))
}

/// A listener with one chain of one filter.
pub fn listener(name: &str, port: u16, filter: &Value) -> Listener {
    message(&json!({"name": name, "address": socket(([127, 0, 0, 1], port).into()),
        "filter_chains": [{"filters": [{"name": "filter", "typed_config": filter}]}]}))
}

/// bolt to bolt, routes by RDS.
pub fn rpc_filter(route: &str) -> Value {
    json!({"@type": "type.googleapis.com/mizzen.v1.RpcProxy", "stat_prefix": "rpc",
        "downstream_protocol": "bolt", "rds": {"config_source": ads(), "route_config_name": route}})
}

/// HTTP/2, routes by RDS.
pub fn http_filter(route: &str) -> Value {
    json!({"@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http", "codec_type": "HTTP2",
        "rds": {"config_source": ads(), "route_config_name": route},
        "http_filters": [{"name": "router", "typed_config":
            {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]})
}

/// Raw bytes to one cluster.
pub fn tcp_filter(cluster: &str) -> Value {
    json!({"@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "tcp", "cluster": cluster})
}
