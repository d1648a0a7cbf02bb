//! What the proxies are told: Envoy bootstraps as JSON (Mizzen reads them too) and HAProxy files.

use serde_json::{Value, json};

/// What one proxy does in a row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Tcp,
    /// Mizzen only: the others relay the bytes.
    Bolt,
    /// Mizzen only: bolt → HTTP/2 → bolt, both hops in one process.
    TwoHops,
    H2c,
}

fn socket(port: u16) -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": port}})
}

/// A cluster of one endpoint; without limits, as in a mesh.
fn cluster(name: &str, port: u16, http2: bool) -> Value {
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [{
            "max_connections": u32::MAX, "max_pending_requests": u32::MAX,
            "max_requests": u32::MAX, "max_retries": u32::MAX
        }]},
        "load_assignment": {"cluster_name": name, "endpoints": [
            {"lb_endpoints": [{"endpoint": {"address": socket(port)}}]}
        ]}
    });
    if http2 {
        cluster["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}}
            }
        });
    }
    cluster
}

fn listener(name: &str, port: u16, filter: Value) -> Value {
    json!({"name": name, "address": socket(port), "filter_chains": [
        {"filters": [{"name": name, "typed_config": filter}]}
    ]})
}

fn routes(cluster: &str) -> Value {
    json!({"name": "routes", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
        {"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}}
    ]}]})
}

fn tcp_proxy(cluster: &str) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "tcp", "cluster": cluster
    })
}

fn rpc_proxy(down: &str, up: &str, cluster: &str) -> Value {
    json!({
        "@type": "type.googleapis.com/mizzen.v1.RpcProxy",
        "stat_prefix": format!("{down}_{up}"), "downstream_protocol": down, "upstream_protocol": up,
        "route_config": routes(cluster)
    })
}

fn connection_manager(cluster: &str) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http", "codec_type": "HTTP2", "route_config": routes(cluster),
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config":
            {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]
    })
}

/// A bootstrap that serves `role` on `port` before the backend on `backend`. `middle` is the port between two hops.
pub fn bootstrap(role: Role, port: u16, middle: u16, backend: u16) -> Value {
    let backend_is_http = role == Role::H2c;
    let mut clusters = vec![cluster("backend", backend, backend_is_http)];
    let listeners = match role {
        Role::Tcp => vec![listener("tcp", port, tcp_proxy("backend"))],
        Role::Bolt => vec![listener("bolt", port, rpc_proxy("bolt", "bolt", "backend"))],
        Role::H2c => vec![listener("h2c", port, connection_manager("backend"))],
        Role::TwoHops => {
            clusters.push(cluster("middle", middle, true));
            vec![
                listener("outer", port, rpc_proxy("bolt", "http2", "middle")),
                listener("inner", middle, rpc_proxy("http2", "bolt", "backend")),
            ]
        }
    };
    json!({
        "node": {"id": "bench", "cluster": "bench"},
        "static_resources": {"listeners": listeners, "clusters": clusters}
    })
}

/// A bootstrap that takes everything from the control plane on `ads`.
pub fn dynamic(ads: u16, delta: bool) -> Value {
    let api = if delta { "DELTA_GRPC" } else { "GRPC" };
    let source = json!({"ads": {}, "resource_api_version": "V3"});
    json!({
        "node": {"id": "bench", "cluster": "bench"},
        "dynamic_resources": {
            "ads_config": {"api_type": api, "transport_api_version": "V3", "set_node_on_first_message_only": true,
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}]},
            "cds_config": source, "lds_config": source
        },
        "static_resources": {"clusters": [cluster("xds", ads, true)]}
    })
}

/// HAProxy's file for `Role::Tcp` or `Role::H2c`.
pub fn haproxy(role: Role, port: u16, backend: u16) -> String {
    let (mode, proto) = if role == Role::H2c { ("http", " proto h2") } else { ("tcp", "") };
    format!(
        "global\n    nbthread 1\n    maxconn 4000\n    tune.h2.max-concurrent-streams 1000\n\
         defaults\n    mode {mode}\n    timeout client 1h\n    timeout server 1h\n    timeout connect 5s\n\
         frontend in\n    bind 127.0.0.1:{port}{proto}\n    default_backend out\n\
         backend out\n    server one 127.0.0.1:{backend}{proto}\n"
    )
}
