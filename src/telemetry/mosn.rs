//! MOSN's view of the same numbers: `type → labels → key → value`, all values text.
//!
//! Derived when asked for; nothing is counted twice. `proxy.global` sums every listener-side scope.

use super::metric::Value;
use super::registry::{Readings, Registry};
use std::collections::BTreeMap;

/// `{type: {labels: {key: value}}}`.
pub type Tree = BTreeMap<&'static str, BTreeMap<String, BTreeMap<String, String>>>;

/// MOSN's downstream keys and the names they sum, over `listener.`, `http.`, `rpc.` and `tcp.` scopes.
const DOWNSTREAM: &[(&str, &[&str])] = &[
    ("bytes_read_buffered", &["downstream_cx_rx_bytes_buffered"]),
    ("bytes_read_total", &["downstream_cx_rx_bytes_total"]),
    ("bytes_write_buffered", &["downstream_cx_tx_bytes_buffered"]),
    ("bytes_write_total", &["downstream_cx_tx_bytes_total"]),
    ("request_active", &["downstream_rq_active", "request_active"]),
    ("request_reset", &["downstream_rq_rx_reset", "request_reset"]),
    ("request_total", &["downstream_rq_total", "request_total"]),
];

/// Keys of the connections, from the listener's own counts.
const CONNECTIONS: &[(&str, &[&str])] = &[
    ("connection_active", &["downstream_cx_active"]),
    ("connection_destroy", &["downstream_cx_destroy"]),
    ("connection_total", &["downstream_cx_total"]),
];

const UPSTREAM: &[(&str, &[&str])] = &[
    ("connection_active", &["upstream_cx_active"]),
    ("connection_close", &["upstream_cx_destroy"]),
    ("connection_close_notify", &["upstream_cx_close_notify"]),
    ("connection_con_fail", &["upstream_cx_connect_fail"]),
    ("connection_local_close", &["upstream_cx_destroy_local"]),
    ("connection_local_close_with_active_request", &["upstream_cx_destroy_local_with_active_rq"]),
    ("connection_remote_close", &["upstream_cx_destroy_remote"]),
    ("connection_remote_close_with_active_request", &["upstream_cx_destroy_remote_with_active_rq"]),
    ("connection_total", &["upstream_cx_total"]),
    ("request_active", &["upstream_rq_active"]),
    ("request_failure_eject", &["upstream_rq_pending_failure_eject"]),
    ("request_local_reset", &["upstream_rq_tx_reset"]),
    ("request_pending_overflow", &["upstream_rq_pending_overflow"]),
    ("request_remote_reset", &["upstream_rq_rx_reset"]),
    ("request_retry", &["upstream_rq_retry"]),
    ("request_retry_overflow", &["upstream_rq_retry_overflow"]),
    ("request_timeout", &["upstream_rq_timeout", "upstream_rq_per_try_timeout"]),
    ("request_total", &["upstream_rq_total"]),
];

/// All types.
pub fn tree(registry: &Registry) -> Tree {
    let mut tree = Tree::new();
    registry.for_each(&mut |scope, readings| {
        match scope.family() {
            "envoy_listener" => {
                let labels = format!("listener.{}", scope.name());
                add(&mut tree, "downstream", &labels, CONNECTIONS, &readings);
                add(&mut tree, "downstream", "proxy.global", CONNECTIONS, &readings);
            }
            "envoy_http" | "envoy_rpc" | "envoy_tcp" => {
                add(&mut tree, "downstream", "proxy.global", DOWNSTREAM, &readings);
                request_time(&mut tree, "proxy.global", &readings);
            }
            "envoy_cluster" => {
                let labels = format!("cluster.{}", scope.name());
                add(&mut tree, "upstream", &labels, UPSTREAM, &readings);
            }
            "envoy_server" => {
                // MOSN's codes: 4 starting, 6 running, 8 stopping gracefully.
                let state = match readings.get("state").map(number) {
                    Some(0) => 6,
                    Some(1) => 8,
                    _ => 4,
                };
                tree.entry("meta").or_default().entry("mosn.info".to_owned()).or_default().extend([
                    ("mosn_state_code".to_owned(), state.to_string()),
                    (format!("version:{}", env!("CARGO_PKG_VERSION")), "1".to_owned()),
                ]);
            }
            _ => {}
        }
        true
    });
    tree
}

fn number(value: &Value) -> i64 {
    match value {
        Value::Counter(n) => i64::try_from(*n).unwrap_or(i64::MAX),
        Value::Gauge(n) => n.unwrap_or(0),
        Value::Text(_) | Value::Histogram(_) => 0,
    }
}

fn add(tree: &mut Tree, kind: &'static str, labels: &str, keys: &[(&str, &[&str])], readings: &Readings) {
    for (key, names) in keys {
        let found: Vec<i64> = names.iter().filter_map(|n| readings.get(*n)).map(number).collect();
        if !found.is_empty() {
            put(tree, kind, labels, key, found.iter().sum(), |a, b| a.saturating_add(b));
        }
    }
}

/// Longest and shortest request in nanoseconds, MOSN's unit.
fn request_time(tree: &mut Tree, labels: &str, readings: &Readings) {
    let times = ["request_time", "downstream_rq_time"];
    let found = times.iter().filter_map(|n| readings.get(*n));
    for value in found {
        let Value::Histogram(data) = value else { continue };
        if let (Some(min), Some(max)) = (data.min(), data.max()) {
            let nanos = |ms: u64| i64::try_from(ms.saturating_mul(1_000_000)).unwrap_or(i64::MAX);
            put(tree, "downstream", labels, "request_time_min", nanos(min), i64::min);
            put(tree, "downstream", labels, "request_time_max", nanos(max), i64::max);
        }
    }
}

fn put(tree: &mut Tree, kind: &'static str, labels: &str, key: &str, value: i64, merge: fn(i64, i64) -> i64) {
    let keys = tree.entry(kind).or_default().entry(labels.to_owned()).or_default();
    let held = keys.get(key).and_then(|v| v.parse().ok());
    let value = held.map_or(value, |held| merge(held, value));
    keys.insert(key.to_owned(), value.to_string());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{ClusterStats, ListenerStats, RpcStats, Scope};

    #[test]
    fn the_same_numbers_under_mosns_names() {
        let registry = Registry::new();
        let listener = registry.register(Scope::listener("0.0.0.0:2045"), ListenerStats::default());
        let one = registry.register(Scope::rpc("a"), RpcStats::default());
        let two = registry.register(Scope::rpc("b"), RpcStats::default());
        let cluster = registry.register(Scope::cluster("server"), ClusterStats::default());
        listener.downstream_cx_total.add(2);
        one.request_total.add(5);
        two.request_total.add(6);
        one.request_time.record(4);
        two.request_time.record(9);
        cluster.upstream_rq_total.add(11);
        let tree = tree(&registry);
        assert_eq!(tree["downstream"]["proxy.global"]["request_total"], "11");
        assert_eq!(tree["downstream"]["proxy.global"]["request_time_min"], "4000000");
        assert_eq!(tree["downstream"]["proxy.global"]["request_time_max"], "9000000");
        assert_eq!(tree["downstream"]["listener.0.0.0.0_2045"]["connection_total"], "2");
        assert_eq!(tree["upstream"]["cluster.server"]["request_total"], "11");
    }
}
