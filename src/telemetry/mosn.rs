//! MOSN's view of the same numbers: `type → labels → key → value`, all values text.
//!
//! Derived when asked for; nothing is counted twice. `proxy.global` sums every listener-side scope; a listener
//! has the requests of the stat prefixes that are its own.

use super::metric::Value;
use super::registry::{Readings, Registry};
use super::scope::Scope;
use std::collections::{BTreeMap, HashMap};

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
    ("connection_bytes_read_total", &["upstream_cx_rx_bytes_total"]),
    ("connection_bytes_write", &["upstream_cx_tx_bytes_total"]),
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
    ("response_success", &["upstream_rq_completed"]),
];

const HOST: &[(&str, &[&str])] = &[
    ("connection_active", &["cx_active"]),
    ("connection_con_fail", &["cx_connect_fail"]),
    ("connection_total", &["cx_total"]),
    ("request_active", &["rq_active"]),
    ("request_timeout", &["rq_timeout"]),
    ("request_total", &["rq_total"]),
    ("response_failed", &["rq_error"]),
    ("response_success", &["rq_success"]),
];

/// Statuses MOSN counts one by one; the others are `request_other_code`.
const STATUSES: [&str; 13] =
    ["200", "206", "302", "304", "400", "403", "404", "416", "499", "500", "502", "503", "504"];

/// What a listener is called, and where its numbers stand.
#[derive(Clone, Debug, Default)]
pub struct ListenerNames {
    /// Its configured name.
    pub name: String,
    /// Addresses it serves on.
    pub addresses: Vec<String>,
    /// The scope of its connections.
    pub connections: Option<Scope>,
    /// The scopes of its filters.
    pub filters: Vec<Scope>,
}

/// Labels by scope prefix; `None` where several listeners share the scope.
fn labels(listeners: &[ListenerNames]) -> HashMap<&str, Option<String>> {
    let mut labels = HashMap::new();
    for listener in listeners {
        let mut own: Vec<&str> =
            listener.connections.iter().chain(&listener.filters).map(Scope::prefix).collect();
        own.sort_unstable();
        own.dedup();
        for prefix in own {
            let label = format!("listener.{}", listener.name);
            labels.entry(prefix).and_modify(|held| *held = None).or_insert(Some(label));
        }
    }
    labels
}

/// All types. `listeners` are those in service.
pub fn tree(registry: &Registry, listeners: &[ListenerNames]) -> Tree {
    let mut tree = Tree::new();
    let named = labels(listeners);
    registry.for_each(&mut |scope, readings| {
        match scope.family() {
            "envoy_listener" => {
                // One that is gone, and still has connections, is known by its address alone.
                let labels = named.get(scope.prefix()).cloned().flatten();
                let labels = labels.unwrap_or_else(|| format!("listener.{}", scope.name()));
                add(&mut tree, "downstream", &labels, CONNECTIONS, &readings);
                add(&mut tree, "downstream", "proxy.global", CONNECTIONS, &readings);
            }
            "envoy_http" | "envoy_rpc" | "envoy_tcp" => {
                let own = named.get(scope.prefix()).and_then(Option::as_deref);
                for labels in ["proxy.global"].into_iter().chain(own) {
                    add(&mut tree, "downstream", labels, DOWNSTREAM, &readings);
                    outcomes(&mut tree, labels, &readings);
                    let times = ["request_time", "downstream_rq_time"];
                    time(&mut tree, "downstream", labels, "request_time", &times, &readings);
                }
            }
            "envoy_cluster" => {
                let labels = format!("cluster.{}", scope.name());
                add(&mut tree, "upstream", &labels, UPSTREAM, &readings);
                put(&mut tree, "upstream", &labels, "response_failed", failures(&readings), |_, new| new);
                let times = ["upstream_rq_time"];
                time(&mut tree, "upstream", &labels, "request_duration_time", &times, &readings);
            }
            _ if scope.hidden() => {
                let host = scope.prefix().strip_prefix("host.").and_then(|rest| rest.split_once('\0'));
                if let Some((cluster, host)) = host {
                    let labels = format!("cluster.{cluster}.host.{}", host.trim_end_matches('.'));
                    add(&mut tree, "upstream", &labels, HOST, &readings);
                }
            }
            "envoy_server" => {
                // MOSN's codes: 4 starting, 6 running, 8 stopping gracefully.
                let state = match readings.get("state").map(number) {
                    Some(0) => 6,
                    Some(1) => 8,
                    _ => 4,
                };
                let info = tree.entry("meta").or_default().entry("mosn.info".to_owned()).or_default();
                let addresses = listeners.iter().flat_map(|listener| &listener.addresses);
                info.extend(addresses.map(|address| (format!("listener_address:{address}"), "1".to_owned())));
                info.extend([
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

/// Answers by status, and failures made here.
fn outcomes(tree: &mut Tree, labels: &str, readings: &Readings) {
    let mut put = |key: &str, value| put(tree, "downstream", labels, key, value, |a, b| a.saturating_add(b));
    put("request_failed", failures(readings));
    let mut other = 0;
    for (name, value) in readings {
        let Some(code) = name.strip_prefix("downstream_rq_").filter(|code| code.parse::<u16>().is_ok())
        else {
            continue;
        };
        if STATUSES.contains(&code) {
            put(&format!("request_{code}_total"), number(value));
        } else {
            other += number(value);
        }
    }
    if other > 0 {
        put("request_other_code", other);
    }
}

fn failures(readings: &Readings) -> i64 {
    readings.iter().filter(|(name, _)| name.starts_with("failure.")).map(|(_, value)| number(value)).sum()
}

/// Longest and shortest time, and the sum of all, in nanoseconds, MOSN's unit.
fn time(tree: &mut Tree, kind: &'static str, labels: &str, key: &str, names: &[&str], readings: &Readings) {
    for value in names.iter().filter_map(|name| readings.get(*name)) {
        let Value::Histogram(data) = value else { continue };
        let nanos = |ms: u64| i64::try_from(ms.saturating_mul(1_000_000)).unwrap_or(i64::MAX);
        put(tree, kind, labels, &format!("{key}_total"), nanos(data.sum()), |a, b| a.saturating_add(b));
        if let (Some(min), Some(max)) = (data.min(), data.max()) {
            put(tree, kind, labels, &format!("{key}_min"), nanos(min), i64::min);
            put(tree, kind, labels, &format!("{key}_max"), nanos(max), i64::max);
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
    use crate::telemetry::{ClusterStats, HostStats, ListenerStats, RpcStats};

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
        let names = |name: &str, filter: &str| ListenerNames {
            name: name.into(),
            addresses: vec!["0.0.0.0:2045".into()],
            connections: (name == "in").then(|| Scope::listener("0.0.0.0:2045")),
            filters: vec![Scope::rpc(filter), Scope::rpc("shared")],
        };
        let host = registry.register(Scope::host("server", "10.0.0.1:80"), HostStats::default());
        host.rq_total.add(3);
        cluster.failure.inc(crate::message::Reason::Timeout);
        let shared = registry.register(Scope::rpc("shared"), RpcStats::default());
        shared.request_total.inc();
        let tree = tree(&registry, &[names("in", "a"), names("out", "b")]);
        assert_eq!(tree["downstream"]["listener.in"]["request_total"], "5");
        assert_eq!(tree["downstream"]["listener.in"]["request_time_total"], "4000000");
        assert_eq!(tree["downstream"]["listener.out"]["request_total"], "6");
        assert_eq!(tree["upstream"]["cluster.server.host.10.0.0.1:80"]["request_total"], "3");
        assert_eq!(tree["upstream"]["cluster.server"]["response_failed"], "1");
        assert_eq!(tree["downstream"]["proxy.global"]["request_total"], "12");
        assert_eq!(tree["downstream"]["proxy.global"]["request_time_min"], "4000000");
        assert_eq!(tree["downstream"]["proxy.global"]["request_time_max"], "9000000");
        assert_eq!(tree["downstream"]["listener.in"]["connection_total"], "2");
        assert_eq!(tree["upstream"]["cluster.server"]["request_total"], "11");
    }
}
