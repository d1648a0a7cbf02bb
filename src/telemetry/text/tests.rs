use super::*;
use crate::stat_group;
use crate::telemetry::metric::{Counter, Gauge, Text};
use crate::telemetry::{Histogram, Scope, ServerStats};

stat_group! {
    pub struct XdsTypeStats {
        update_success: Counter,
        update_rejected: Counter,
        update_duration: Histogram,
        version_text: Text,
    }

    pub struct MixedStats {
        active: Gauge,
        workers: Gauge,
    }

    pub struct ClusterManagerStats {
        active_clusters: Gauge,
    }
}

fn text(registry: &Registry, query: &Query) -> String {
    let mut all = String::new();
    write_text(registry, query, &mut |piece| {
        all.push_str(&piece);
        true
    });
    all
}

fn filter(pattern: &str) -> Query {
    Query { used_only: true, filter: Some(Regex::new(pattern).unwrap()), kinds: Kinds::All }
}

#[test]
fn what_a_readiness_probe_asks() {
    let registry = Registry::new();
    let cds = registry.register(Scope::cds(), XdsTypeStats::default());
    let lds = registry.register(Scope::lds(), XdsTypeStats::default());
    let server = registry.register(Scope::server(), ServerStats::default());
    let query = filter(r"^(cluster_manager\.cds|listener_manager\.lds)\.(update_success|update_rejected)$");
    assert_eq!(text(&registry, &query), "", "untouched metrics do not show");
    cds.update_success.inc();
    lds.update_success.add(2);
    lds.update_rejected.inc();
    assert_eq!(
        text(&registry, &query),
        "cluster_manager.cds.update_success: 1\nlistener_manager.lds.update_rejected: 1\n\
         listener_manager.lds.update_success: 2\n"
    );
    server.concurrency.set(0);
    assert_eq!(text(&registry, &filter("^server\\.concurrency")), "server.concurrency: 0\n");
}

#[test]
fn lines_are_sorted_by_their_whole_names() {
    let registry = Registry::new();
    let cds = registry.register(Scope::cds(), XdsTypeStats::default());
    let manager = registry.register(Scope::cluster_manager(), MixedStats::default());
    let dash = registry.register(Scope::cluster("a-b"), MixedStats::default());
    let plain = registry.register(Scope::cluster("a"), MixedStats::default());
    cds.update_success.inc();
    for group in [&manager, &dash, &plain] {
        group.active.set(1);
        group.workers.set(2);
    }
    let used = Query { used_only: true, ..Query::default() };
    assert_eq!(
        text(&registry, &used),
        "cluster.a-b.active: 1\ncluster.a-b.workers: 2\ncluster.a.active: 1\ncluster.a.workers: 2\n\
         cluster_manager.active: 1\ncluster_manager.cds.update_success: 1\ncluster_manager.workers: 2\n"
    );
}

#[test]
fn texts_come_first_and_histograms_last() {
    let registry = Registry::new();
    let cds = registry.register(Scope::cds(), XdsTypeStats::default());
    let _manager = registry.register(Scope::cluster_manager(), ClusterManagerStats::default());
    cds.version_text.set("a\"b");
    cds.update_duration.record(3);
    let all = text(&registry, &Query::default());
    let lines: Vec<_> = all.lines().collect();
    assert_eq!(lines[0], "cluster_manager.cds.version_text: \"a\\\"b\"");
    assert!(lines.contains(&"cluster_manager.active_clusters: 0"), "{all}");
    assert!(lines.last().unwrap().starts_with("cluster_manager.cds.update_duration: P0(nan,3) P25(nan,3)"));
    let kinds = Query { kinds: Kinds::Gauges, ..Query::default() };
    assert!(!text(&registry, &kinds).contains("update_success"));
}

#[test]
fn json_reads_back() {
    let registry = Registry::new();
    let json = |query: &Query| {
        let mut all = String::new();
        write_json(&registry, query, &mut |piece| {
            all.push_str(&piece);
            true
        });
        serde_json::from_str::<serde_json::Value>(&all).unwrap()
    };
    assert_eq!(json(&Query::default()), serde_json::json!({"stats": []}));
    let cds = registry.register(Scope::cds(), XdsTypeStats::default());
    cds.update_success.inc();
    cds.update_duration.record(7);
    let all = json(&Query { used_only: true, ..Query::default() });
    assert_eq!(
        all["stats"][0],
        serde_json::json!({"name": "cluster_manager.cds.update_success", "value": 1})
    );
    let histograms = &all["stats"][1]["histograms"];
    assert_eq!(histograms["supported_quantiles"][1], 25);
    assert_eq!(histograms["computed_quantiles"][0]["values"][9]["cumulative"], 7);
    let only = Query { kinds: Kinds::Histograms, used_only: true, filter: None };
    assert_eq!(json(&only)["stats"].as_array().unwrap().len(), 1);
}
