//! What Mizzen and Envoy are told: bootstraps as JSON, which both read.

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
    H1(Extras),
}

/// What an HTTP/1 proxy does beside forwarding.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Extras {
    None,
    /// So many virtual hosts, the last of which has many routes.
    Table(usize),
    /// A line of JSON for each request, to a file in memory.
    Log,
}

/// Routes of the last host of [`Extras::Table`].
const ROUTES: usize = 1000;

impl Role {
    /// Host and beginning of the target that a request must have to take the longest way.
    pub fn place(self) -> (String, String) {
        match self {
            Self::H1(Extras::Table(hosts)) => (table_host(hosts - 1), format!("{}/", table_path(ROUTES - 1))),
            _ => ("bench.local".to_owned(), "/".to_owned()),
        }
    }
}

fn table_host(at: usize) -> String {
    format!("host-{at}.bench.local")
}

fn table_path(at: usize) -> String {
    format!("/api/v1/part-{at}")
}

pub fn socket(port: u16) -> Value {
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

fn route(prefix: &str, cluster: &str) -> Value {
    json!({"match": {"prefix": prefix}, "route": {"cluster": cluster, "timeout": "0s"}})
}

fn routes(cluster: &str) -> Value {
    json!({"name": "routes", "virtual_hosts": [
        {"name": "all", "domains": ["*"], "routes": [route("/", cluster)]}
    ]})
}

fn table(hosts: usize, cluster: &str) -> Value {
    let host = |at: usize| {
        let many = if at + 1 == hosts { ROUTES } else { 1 };
        let routes: Vec<Value> = (0..many).map(|at| route(&table_path(at), cluster)).collect();
        json!({"name": format!("host-{at}"), "domains": [table_host(at)], "routes": routes})
    };
    json!({"name": "routes", "virtual_hosts": (0..hosts).map(host).collect::<Vec<_>>()})
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

fn connection_manager(codec: &str, table: Value, log: Option<&str>) -> Value {
    let mut manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http", "codec_type": codec, "route_config": table,
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config":
            {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]
    });
    if let Some(path) = log {
        manager["access_log"] = json!([access_log(path)]);
    }
    manager
}

/// What a mesh writes of each request.
fn access_log(path: &str) -> Value {
    json!({"name": "file", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
        "path": path,
        "log_format": {"json_format": {
            "start_time": "%START_TIME%", "method": "%REQ(:METHOD)%", "path": "%REQ(:PATH)%",
            "protocol": "%PROTOCOL%", "response_code": "%RESPONSE_CODE%", "response_flags": "%RESPONSE_FLAGS%",
            "bytes_received": "%BYTES_RECEIVED%", "bytes_sent": "%BYTES_SENT%", "duration": "%DURATION%",
            "user_agent": "%REQ(USER-AGENT)%", "request_id": "%REQ(X-REQUEST-ID)%",
            "authority": "%REQ(:AUTHORITY)%", "upstream_host": "%UPSTREAM_HOST%",
            "upstream_cluster": "%UPSTREAM_CLUSTER%", "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%",
            "route_name": "%ROUTE_NAME%"
        }}
    }})
}

/// A bootstrap that serves `role` on `port` before the backend on `backend`. `middle` is the port between two
/// hops, `log` the file of access logs.
pub fn bootstrap(role: Role, port: u16, middle: u16, backend: u16, log: &str) -> Value {
    let mut clusters = vec![cluster("backend", backend, role == Role::H2c)];
    let manager = |codec, table, log| vec![listener("http", port, connection_manager(codec, table, log))];
    let listeners = match role {
        Role::Tcp => vec![listener("tcp", port, tcp_proxy("backend"))],
        Role::Bolt => vec![listener("bolt", port, rpc_proxy("bolt", "bolt", "backend"))],
        Role::H2c => manager("HTTP2", routes("backend"), None),
        Role::H1(Extras::None) => manager("HTTP1", routes("backend"), None),
        Role::H1(Extras::Table(hosts)) => manager("HTTP1", table(hosts, "backend"), None),
        Role::H1(Extras::Log) => manager("HTTP1", routes("backend"), Some(log)),
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
