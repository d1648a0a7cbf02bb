use super::*;
use crate::model::expr::{Attribute, Attributes, Expr, Value};
use crate::model::{ClusterMesh, MESH_LABELS, MeshReporter, MeshService, MeshStats, MetricOverride, Node};
use crate::telemetry::prometheus;

struct Nothing;

impl Attributes for Nothing {
    fn attribute<'a>(&'a self, attribute: &'a Attribute) -> Option<Value<'a>> {
        (*attribute == Attribute::Named("request.method")).then(|| Value::Text(b"GET".as_slice().into()))
    }
}

fn workload(name: &str) -> Workload {
    Workload {
        name: format!("{name}-v1"),
        namespace: "demo".into(),
        service: name.into(),
        revision: "v1".into(),
        app: name.into(),
        version: "v1".into(),
        cluster: "Kubernetes".into(),
        ..Workload::default()
    }
}

fn mesh() -> (Registry, Mesh) {
    let registry = Registry::new();
    registry.introduce(Arc::new(Node { workload: workload("client"), ..Node::default() }));
    (registry.clone(), Mesh::new(registry))
}

fn stats(reporter: MeshReporter, overrides: Vec<MetricOverride>) -> Arc<MeshStats> {
    Arc::new(MeshStats { reporter, host_fallback: true, interval: None, overrides })
}

fn cluster() -> ClusterMesh {
    let service = MeshService { host: "web.demo.svc".into(), name: "web".into(), namespace: "shop".into() };
    ClusterMesh { service: Some(service), ..ClusterMesh::default() }
}

/// The labels of the only series of `metric`.
fn series(registry: &Registry, metric: &str) -> Vec<(String, String)> {
    let all = prometheus::to_string(registry);
    let mut found = all.lines().filter_map(|line| line.strip_prefix(&format!("{metric}{{")));
    let labels = found.next().unwrap_or_else(|| panic!("no {metric} in {all}")).rsplit_once('}').unwrap().0;
    assert!(found.next().is_none(), "{all}");
    let pairs = labels.split("\",").map(|pair| pair.split_once('=').unwrap());
    pairs.map(|(label, value)| (label.to_owned(), value.trim_matches('"').to_owned())).collect()
}

fn value<'l>(labels: &'l [(String, String)], name: &str) -> &'l str {
    &labels.iter().find(|(label, _)| label == name).unwrap_or_else(|| panic!("no {name} in {labels:?}")).1
}

#[test]
fn a_client_names_both_sides() {
    let (registry, mesh) = mesh();
    let (cluster, server) = (cluster(), mesh.peer(workload("web")));
    let seen = Seen {
        server: Some(&server),
        cluster: Some(("outbound|80||web.demo.svc", &cluster)),
        upstream: ("spiffe://cluster.local/ns/other/sa/web", "spiffe://cluster.local/ns/demo/sa/client"),
        protocol: "http",
        code: 200,
        flags: b"-",
        ..Seen::default()
    };
    let stats = stats(MeshReporter::Source, Vec::new());
    for _ in 0..2 {
        let metrics = mesh.metrics(&stats, Which::Requests, &seen, &Nothing);
        metrics.iter().for_each(|metrics| metrics.note(0, 1));
    }
    let labels = series(&registry, "istio_requests_total");
    let names: Vec<&str> = labels.iter().map(|(label, _)| label.as_str()).collect();
    assert_eq!(names, MESH_LABELS);
    let all: Vec<&str> = labels.iter().map(|(_, value)| value.as_str()).collect();
    let us = [
        "client-v1",
        "client",
        "v1",
        "demo",
        "spiffe://cluster.local/ns/demo/sa/client",
        "client",
        "v1",
        "Kubernetes",
    ];
    let them =
        ["web-v1", "web", "v1", "other", "spiffe://cluster.local/ns/other/sa/web", "web", "v1", "Kubernetes"];
    // As Istio orders them: the service stands among the destination's.
    let there = [
        them[0],
        them[3],
        them[4],
        them[5],
        them[6],
        "web.demo.svc",
        them[1],
        them[2],
        "web",
        "shop",
        them[7],
    ];
    let mut wanted = vec!["source"];
    wanted.extend(us);
    wanted.extend(there);
    wanted.extend(["http", "200", "", "-", "unknown"]);
    for (name, wanted) in MESH_LABELS.iter().zip(&wanted) {
        assert_eq!(value(&labels, name), *wanted, "{name}");
    }
    assert_eq!(all.len(), wanted.len());
    assert!(prometheus::to_string(&registry).contains("connection_security_policy=\"unknown\"} 2\n"));
}

#[test]
fn a_server_says_what_it_does_not_know() {
    let (registry, mesh) = mesh();
    let seen = Seen { protocol: "grpc", code: 200, grpc: Some(14), flags: b"UH", ..Seen::default() };
    let stats = stats(MeshReporter::Destination, Vec::new());
    mesh.metrics(&stats, Which::Requests, &seen, &Nothing)[0].note(0, 1);
    let labels = series(&registry, "istio_requests_total");
    for (name, wanted) in [
        ("reporter", "destination"),
        ("source_workload", "unknown"),
        ("source_canonical_revision", "latest"),
        ("source_principal", "unknown"),
        ("destination_workload", "client-v1"),
        ("destination_service", "client"),
        ("destination_service_namespace", "demo"),
        ("grpc_response_status", "14"),
        ("response_flags", "UH"),
        ("connection_security_policy", "none"),
    ] {
        assert_eq!(value(&labels, name), wanted, "{name}");
    }
    let both = Seen { downstream: ("spiffe://a/ns/b/sa/c", "spiffe://a/ns/d/sa/e"), ..seen };
    mesh.metrics(&stats, Which::Connections, &both, &Nothing)[0].note(6, 1);
    let labels = series(&registry, "istio_tcp_connections_opened_total");
    assert_eq!(value(&labels, "connection_security_policy"), "mutual_tls");
    assert_eq!(value(&labels, "source_workload_namespace"), "b");
    assert!(labels.iter().all(|(label, _)| label != "response_code"));
}

#[test]
fn services_are_named_as_istio_names_them() {
    let named = cluster();
    let plain = ClusterMesh::default();
    for (route, cluster, host, wanted) in [
        ("", Some(("outbound|80||web", &named)), "h:80", ("web.demo.svc", "web")),
        ("", Some(("outbound|80||web", &plain)), "h:80", ("h:80", "h:80")),
        ("", Some(("PassthroughCluster", &plain)), "h", ("h", "PassthroughCluster")),
        ("allow_any", None, "h", ("h", "PassthroughCluster")),
        ("block_all", None, "", ("unknown", "BlackHoleCluster")),
    ] {
        let (registry, mesh) = mesh();
        let seen = Seen { route, cluster, host: host.as_bytes(), protocol: "http", ..Seen::default() };
        mesh.metrics(&stats(MeshReporter::Source, Vec::new()), Which::Requests, &seen, &Nothing)[0]
            .note(0, 1);
        let labels = series(&registry, "istio_requests_total");
        let found = (value(&labels, "destination_service"), value(&labels, "destination_service_name"));
        assert_eq!(found, wanted, "{route} {cluster:?}");
    }
    let endpoint: Arc<str> = "web-v2;shop;web;v2;Other".into();
    let (registry, mesh) = mesh();
    let seen = Seen { endpoint: Some(&endpoint), protocol: "http", ..Seen::default() };
    mesh.metrics(&stats(MeshReporter::Source, Vec::new()), Which::Requests, &seen, &Nothing)[0].note(0, 1);
    let labels = series(&registry, "istio_requests_total");
    assert_eq!(
        (value(&labels, "destination_workload"), value(&labels, "destination_cluster")),
        ("web-v2", "Other")
    );
    assert_eq!(value(&labels, "destination_service_namespace"), "shop");
}

#[test]
fn overrides_change_one_metric() {
    let (registry, mesh) = mesh();
    let expr = |text: &str| Arc::new(Expr::parse(text).unwrap());
    let overrides = vec![
        MetricOverride {
            metric: "requests_total",
            removed: vec!["response_flags".into()],
            labels: vec![
                ("request_method".into(), expr("request.method")),
                ("source_app".into(), expr("'fixed'")),
                ("missing".into(), expr("request.path")),
            ],
            ..MetricOverride::default()
        },
        MetricOverride { metric: "request_bytes", dropped: true, ..MetricOverride::default() },
    ];
    let seen = Seen { protocol: "http", code: 200, flags: b"-", ..Seen::default() };
    let metrics = mesh.metrics(&stats(MeshReporter::Source, overrides), Which::Requests, &seen, &Nothing);
    metrics.iter().for_each(|metrics| (0..4).for_each(|at| metrics.note(at, 1)));
    let labels = series(&registry, "istio_requests_total");
    assert!(labels.iter().all(|(label, _)| label != "response_flags"));
    for (name, wanted) in [("request_method", "GET"), ("source_app", "fixed"), ("missing", "unknown")] {
        assert_eq!(value(&labels, name), wanted, "{name}");
    }
    let other = series(&registry, "istio_response_bytes_count");
    assert_eq!(value(&other, "source_app"), "client");
    assert!(!prometheus::to_string(&registry).contains("istio_request_bytes"));
}

#[test]
fn nobody_speaks_for_another_and_nobody_fills_memory() {
    let (registry, mut mesh) = mesh();
    mesh.label_sets = 20;
    let encoded = |name: &str| {
        let mut value = Vec::new();
        base64::encode(&workload(name).encode(&[]), &mut value);
        value
    };
    let web = mesh.heard(b"id", &encoded("web")).unwrap();
    assert!(Rc::ptr_eq(&web, &mesh.heard(b"id", &encoded("web")).unwrap()), "kept");
    assert_eq!(mesh.heard(b"id", &encoded("evil")).unwrap().workload.name, "evil-v1");
    let bare = encoded("web");
    let bare = bare.iter().copied().filter(|byte| *byte != b'=').collect::<Vec<_>>();
    assert!(mesh.heard(b"", &bare).is_some(), "without padding");
    assert!(mesh.heard(b"x", b"%%%").is_none() && mesh.heard(b"x", &[b'A'; 20_000]).is_none());
    for n in 0..2 * PEERS {
        mesh.heard(n.to_string().as_bytes(), &encoded("web"));
    }
    assert!(mesh.peers.borrow().len() <= PEERS);
    let stats = stats(MeshReporter::Destination, Vec::new());
    for n in 0..25 {
        let mut made = workload("x");
        made.name = format!("{n}{}", "a".repeat(900));
        let peer = mesh.peer(made);
        let seen = Seen { client: Some(&peer), protocol: "http", ..Seen::default() };
        mesh.metrics(&stats, Which::Requests, &seen, &Nothing)[0].note(0, 1);
    }
    assert_eq!(mesh.groups.borrow().len(), 21);
    assert_eq!(registry.number("istiocustom.istio_requests_total.overflow.true"), 5);
    let all = prometheus::to_string(&registry);
    assert!(!all.contains(&"a".repeat(LABEL_LIMIT + 1)));
}

const LABEL_LIMIT: usize = 512;
