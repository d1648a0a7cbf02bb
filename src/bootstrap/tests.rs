use super::*;
use crate::model::{Discovery, Endpoint};
use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

/// A folder that goes when the test ends.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("mizzen-bootstrap-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Dir(path)
    }
    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The shape a pilot-agent renders, cut down to what is served and a few sections that are only accepted.
const SIDECAR: &str = r#"{
  "application_log_config": {"log_format": {"text_format": "%v"}},
  "node": {"id": "sidecar~1.2.3.4~a.b~b.svc", "cluster": "a.b", "locality": {},
           "metadata": {"LABELS": {"app": "a"}, "MIZZEN_STATE_DIR": "/var/lib/s", "ENVOY_STATUS_PORT": 15021}},
  "layered_runtime": {"layers": [{"name": "g", "static_layer": {"some.flag": true}}, {"name": "admin", "admin_layer": {}}]},
  "bootstrap_extensions": [{"name": "i", "typed_config": {"@type": "type.googleapis.com/no.such.Extension", "a": 1}}],
  "brand_new_section": {"x": [1]},
  "stats_config": {"use_all_default_tags": false},
  "admin": {"profile_path": "/p", "address": {"socket_address": {"address": "127.0.0.1", "port_value": 15000}}},
  "dynamic_resources": {
    "lds_config": {"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"},
    "cds_config": {"ads": {}, "resource_api_version": "V3"},
    "ads_config": {"api_type": "DELTA_GRPC", "set_node_on_first_message_only": true, "transport_api_version": "V3",
                   "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc"},
                                      "initial_metadata": [{"key": "k", "value": "v"}]}]}
  },
  "static_resources": {
    "clusters": [
      {"name": "agent", "type": "STATIC", "connect_timeout": "0.250s", "load_assignment": {"cluster_name": "agent",
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "portValue": 15020}}}}]}]}},
      {"name": "xds-grpc", "type": "STATIC", "connect_timeout": "1s", "load_assignment": {"cluster_name": "xds-grpc",
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": "./etc/istio/proxy/XDS"}}}}]}]}}
    ],
    "listeners": [
      {"address": {"socket_address": {"address": "0.0.0.0", "port_value": 15021}}, "bypass_overload_manager": true,
       "filter_chains": [{"filters": [{"name": "tcp", "typed_config": {
         "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
         "stat_prefix": "agent", "cluster": "agent"}}]}]}
    ]
  }
}"#;

fn errors(result: Result<Bootstrap, Vec<Finding>>) -> Vec<String> {
    let found = result.unwrap_err();
    found.iter().filter(|finding| finding.is_error()).map(ToString::to_string).collect()
}

fn address(cluster: &crate::model::Cluster) -> &Endpoint {
    match &cluster.discovery {
        Discovery::Static(endpoints) | Discovery::Dns { endpoints, .. } => endpoints.iter().next().unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_sidecars_bootstrap() {
    let dir = Dir::new();
    let path = dir.write("proxy/envoy-rev.json", SIDECAR);
    let made = load(&path, None).unwrap();
    assert_eq!(made.dialect, Dialect::Envoy);
    assert_eq!((made.node.id.as_str(), made.node.cluster.as_str()), ("sidecar~1.2.3.4~a.b~b.svc", "a.b"));
    assert_eq!(made.admin, Some(Address::Ip("127.0.0.1:15000".parse().unwrap())));
    assert_eq!(made.state_dir, Some("/var/lib/s".into()));
    let ads = made.ads.as_ref().unwrap();
    assert!(ads.delta && ads.node_on_first_only);
    assert_eq!(address(&ads.cluster).address, Address::Unix("./etc/istio/proxy/XDS".into()));
    assert_eq!(ads.listeners.unwrap().initial_timeout, None, "0 waits for ever");
    assert_eq!(ads.clusters.unwrap().initial_timeout, Some(Duration::from_secs(15)));
    assert_eq!(ads.metadata, [("k".to_owned(), "v".to_owned())]);
    assert_eq!(made.listeners[0].name, "0.0.0.0:15021");
    assert_eq!(made.clusters.len(), 2);
    assert!(made.unknown_fields >= 2, "{:?}", made.warnings);
    let warned: Vec<_> = made.warnings.iter().map(|w| w.path.as_str()).collect();
    assert!(warned.contains(&"brand_new_section"), "{warned:?}");
    assert_eq!(made.pid_file, dir.0.join("logs/mosn.pid"));
}

#[test]
fn yaml_reads_as_json_does() {
    let dir = Dir::new();
    let json: Value = serde_json::from_str(SIDECAR).unwrap();
    let path = dir.write("e.json", SIDECAR);
    let yaml = "\
node: {id: n, cluster: c}
admin:
  address:
    socket_address: {address: 127.0.0.1, port_value: 9901}
static_resources:
  clusters:
  - name: up
    type: STRICT_DNS
    connect_timeout: 0.25s
    load_assignment:
      cluster_name: up
      endpoints:
      - lb_endpoints:
        - endpoint: {address: {socket_address: {address: localhost, port_value: 80}}}
dynamic_resources:
  ads_config:
    api_type: GRPC
    grpc_services: [{envoy_grpc: {cluster_name: up, authority: istiod}}]
  cds_config: {ads: {}}
";
    let made = load(&dir.write("e.yaml", yaml), None).unwrap();
    let ads = made.ads.unwrap();
    assert!(!ads.delta && ads.listeners.is_none() && ads.authority.as_deref() == Some("istiod"));
    assert_eq!(address(&made.clusters[0]).address, Address::Name("localhost".into(), 80));
    assert_eq!(made.admin.unwrap().to_string(), "127.0.0.1:9901");
    assert_eq!(load(&path, None).unwrap().document, json);
}

#[test]
fn the_overlay_merges_as_protobuf_does() {
    let dir = Dir::new();
    let path = dir.write("e.json", SIDECAR);
    let overlay = r#"{node: {id: other, metadata: {X: on}}, admin: {address: {socketAddress: {portValue: 1}}},
        static_resources: {clusters: [{name: more, type: STATIC, load_assignment: {cluster_name: more}}]},
        layered_runtime: {layers: [{name: m, static_layer: {mizzen.state_dir: /over}}]}}"#;
    let made = load(&path, Some(overlay)).unwrap();
    assert_eq!((made.node.id.as_str(), made.node.cluster.as_str()), ("other", "a.b"));
    let metadata = made.node.metadata.as_ref().unwrap();
    assert_eq!((node::text(metadata, "X"), metadata.fields.contains_key("LABELS")), (Some("on"), true));
    assert_eq!(made.admin.unwrap().to_string(), "127.0.0.1:1");
    assert_eq!(made.clusters.len(), 3);
    assert_eq!(made.state_dir, Some("/over".into()));
    let socket = load(&path, Some("{admin: {address: {pipe: {path: /run/a}}}}")).unwrap();
    assert_eq!(
        socket.admin,
        Some(Address::Unix("/run/a".into())),
        "one member of a oneof replaces the other"
    );
    let alone = load_text(r#"{"admin": {"address": {"pipe": {"path": "@admin"}}}}"#).unwrap();
    assert_eq!(alone.admin, Some(Address::Unix("@admin".into())));
    assert!(errors(load(&path, Some("{a: [")))[0].contains("--config-yaml"));
}

#[test]
fn flags_win_over_the_files_node() {
    let dir = Dir::new();
    let mut made = load(&dir.write("e.json", SIDECAR), None).unwrap();
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    let (metadata, labels) = ([pair("K", "v")], [pair("tier", "x")]);
    made.override_node(&NodeOverride { id: Some("i"), cluster: None, metadata: &metadata, labels: &labels });
    assert_eq!((made.node.id.as_str(), made.node.cluster.as_str()), ("i", "a.b"));
    let held = made.node.metadata.unwrap();
    assert_eq!(node::text(&held, "K"), Some("v"));
    let Some(prost_types::value::Kind::StructValue(labels)) = &held.fields["LABELS"].kind else { panic!() };
    assert_eq!(node::text(labels, "app").or(node::text(labels, "tier")), Some("a"));
}

#[test]
fn bad_bootstraps_name_the_field() {
    let dir = Dir::new();
    let base: Value = serde_json::from_str(SIDECAR).unwrap();
    let ads = "/dynamic_resources/ads_config";
    for (place, value, wanted) in [
        (
            "/static_resources/clusters/0/connect_timeout",
            "\"soon\"",
            "static_resources.clusters[0].connect_timeout: \"soon\"",
        ),
        ("/static_resources/clusters/0/type", "\"WRONG\"", "static_resources.clusters[0].type: \"WRONG\""),
        ("/static_resources/clusters/1/name", "\"agent\"", "static_resources.clusters: agent: given twice"),
        (
            "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/cluster",
            "7",
            "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.cluster: 7",
        ),
        (
            "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/@type",
            "\"type.googleapis.com/a.B\"",
            "type.googleapis.com/a.B",
        ),
        ("/static_resources/listeners", "{}", "static_resources.listeners: expected a list"),
        (
            "/admin/address/socket_address/port_value",
            "70000",
            "admin.address.socket_address: 127.0.0.1: expected",
        ),
        ("/admin/address/socket_address/port_value", "-1", "admin.address.socket_address.port_value: -1"),
        ("/node/id", "[]", "node.id"),
        (&format!("{ads}/api_type"), "\"REST\"", "ads_config.api_type: REST: expected GRPC or DELTA_GRPC"),
        (&format!("{ads}/grpc_services"), "[]", "ads_config.grpc_services: missing"),
        (
            &format!("{ads}/grpc_services/0/envoy_grpc/cluster_name"),
            "\"no\"",
            "cluster_name: \"no\": no static cluster",
        ),
        ("/dynamic_resources/ads_config", "null", "dynamic_resources.ads_config: missing"),
        (
            "/dynamic_resources/cds_config",
            "{\"path\": \"/x\"}",
            "dynamic_resources.cds_config: expected \"ads\"",
        ),
        (
            "/static_resources/clusters/1/load_assignment/endpoints",
            "[]",
            "xds-grpc: this cluster has no endpoint",
        ),
    ] {
        let mut document = base.clone();
        *document.pointer_mut(place).unwrap() = serde_json::from_str(value).unwrap();
        let path = dir.write("bad.json", &document.to_string());
        let found = errors(load(&path, None));
        assert!(found.iter().any(|line| line.contains(wanted)), "{wanted}: {found:#?}");
        let line = one_line(&load(&path, None).unwrap_err());
        assert!(line.starts_with(&path.display().to_string()) && line.lines().count() == 1, "{line}");
    }
}

#[test]
fn files_that_are_nothing() {
    let dir = Dir::new();
    for (name, text, wanted) in [
        ("a.json", "{\"servers\": [,]}", "a.json: not JSON: expected value at line 1"),
        ("b.json", "[1]", "expected an object"),
        ("c.json", "{\"x\": 1}", "neither MOSN nor Envoy"),
        ("d.yaml", "a: [b", "not YAML"),
        ("e.json", "{\"cluster_manager\": {\"clusters\": []}}", "servers: expected exactly one"),
        ("f.json", "{\"servers\": [{\"listeners\": 5}]}", "servers[0].listeners: 5: expected a list"),
    ] {
        let found = errors(load(&dir.write(name, text), None));
        assert!(found[0].contains(wanted), "{wanted}: {found:?}");
    }
    assert!(errors(load(&dir.0.join("none.json"), None))[0].contains("none.json: cannot be read"));
}

#[test]
fn mosn_files_with_split_folders_and_mixed_in_xds() {
    let dir = Dir::new();
    let path = dir.write(
        "conf/m.json",
        r#"{"servers": [{"default_log_path": "stdout", "default_log_level": "DEBUG", "processor": 2,
              "graceful_timeout": "5s", "routers": [{"router_config_name": "r", "router_configs": "vhosts"}],
              "listeners": [{"name": "l", "address": "127.0.0.1:1", "bind_port": true, "filter_chains": [{"filters": [
                {"type": "proxy", "config": {"downstream_protocol": "bolt", "router_config_name": "r"}}]}]}]}],
            "cluster_manager": {"clusters_configs": "split/clusters"}, "pid": "/tmp/x.pid",
            "mizzen": {"state_dir": "/s"},
            "node": {"id": "n", "cluster": "c"},
            "dynamic_resources": {"cds_config": {"ads": {}}, "ads_config": {"api_type": "GRPC", "refresh_delay": {"seconds": 10},
              "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}]}},
            "static_resources": {"clusters": [{"name": "xds", "type": "STATIC", "circuit_breakers": [{"max_requests": 1}],
              "load_assignment": {"cluster_name": "xds", "endpoints": [{"lb_endpoints": [{"endpoint": {"address":
                {"socket_address": {"address": "127.0.0.1", "port_value": 15010}}}}]}]}}]}}"#,
    );
    dir.write("conf/split/clusters/a.json", r#"{"name": "a", "hosts": [{"address": "127.0.0.1:2"}]}"#);
    dir.write("conf/split/clusters/b.yaml", "name: b\nhosts: []\n");
    dir.write("conf/split/clusters/notes.txt", "not read");
    dir.write(
        "conf/vhosts/v.json",
        r#"{"name": "v", "domains": ["*"], "routers": [{"route": {"cluster_name": "by-cds"}}]}"#,
    );
    let made = load(&path, None).unwrap();
    assert_eq!(made.dialect, Dialect::Mix);
    let mut names: Vec<_> = made.clusters.iter().map(|c| c.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["a", "b", "xds"]);
    assert_eq!((made.listeners.len(), made.ads.is_some()), (1, true));
    assert_eq!((made.log_level.as_deref(), made.workers), (Some("DEBUG"), Some(2)));
    assert_eq!((made.drain_time, made.state_dir), (Some(Duration::from_secs(5)), Some("/s".into())));
    assert_eq!(pid_file(&path).unwrap(), Path::new("/tmp/x.pid"));
    assert_eq!(made.warnings, [], "a cluster unknown here may come by CDS");
    dir.write("conf/split/clusters/b.yaml", "name: b\nhosts: 7\n");
    let found = errors(load(&path, None));
    assert!(found[0].contains("b.yaml: hosts: 7: expected a list"), "{found:?}");
}

#[test]
fn check_lists_every_finding() {
    let dir = Dir::new();
    let mut document: Value = serde_json::from_str(SIDECAR).unwrap();
    let good = check(&dir.write("g.json", SIDECAR), None);
    assert!(
        good.ok()
            && good.exit_code() == 0
            && good.text().contains("ok: envoy dialect, 1 listeners, 2 clusters, ADS")
    );
    assert_eq!(good.json()["summary"]["clusters"], 2);
    document["static_resources"]["clusters"][0]["connect_timeout"] = "x".into();
    document["admin"]["address"]["socket_address"]["address"] = "name".into();
    let report = check(&dir.write("b.json", &document.to_string()), None);
    assert_eq!((report.ok(), report.exit_code()), (false, 1));
    let errors = report.findings.iter().filter(|finding| finding.is_error()).count();
    assert_eq!(errors, 2, "{}", report.text());
    let json = report.json();
    assert_eq!((&json["ok"], &json["findings"][0]["severity"]), (&Value::Bool(false), &"error".into()));
    for key in ["file", "path", "value", "message"] {
        assert!(json["findings"][0][key].is_string(), "{json}");
    }
    assert!(report.text().starts_with("error: ") && report.text().contains("failed: 2 errors"));
}

#[test]
fn the_samples_load() {
    for name in ["config.json", "client_config.json", "server_config.json"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/sofarpc").join(name);
        let made = load(&path, None).unwrap();
        assert_eq!(made.warnings, [], "{name}");
        assert!(made.ads.is_none() && made.admin.is_some() && !made.listeners.is_empty());
    }
}
#[test]
fn a_static_listener_may_ask_for_compression_and_not_for_filters_that_are_not_there() {
    let dir = Dir::new();
    let read = |kind: &str, mut config: Value| {
        config["@type"] = format!("type.googleapis.com/envoy.extensions.filters.http.{kind}").into();
        let document = serde_json::json!({"static_resources": {"listeners": [{
            "name": "m", "address": {"socket_address": {"address": "0.0.0.0", "port_value": 15090}},
            "filter_chains": [{"filters": [{"name": "hcm", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": "stats", "route_config": {"virtual_hosts": []},
                "http_filters": [
                    {"name": "x", "typed_config": config},
                    {"name": "router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}},
                ]}}]}],
        }]}});
        load(&dir.write("h.json", &document.to_string()), None)
    };
    let library = "type.googleapis.com/envoy.extensions.compression.gzip.compressor.v3.Gzip";
    let library = serde_json::json!({"name": "g", "typed_config": {"@type": library}});
    let made = read("compressor.v3.Compressor", serde_json::json!({"compressor_library": library})).unwrap();
    assert_eq!((made.listeners.len(), made.warnings.len()), (1, 0), "{:?}", made.warnings);
    assert!(
        errors(read("wasm.v3.Wasm", serde_json::json!({})))[0]
            .contains("static_resources.listeners[0].filter_chains[0].filters[0]")
    );
}

#[test]
fn streams_per_type_are_one_control_planes() {
    let source = |cluster: &str, kind: &str| {
        format!(
            r#"{{"resource_api_version": "V3", "api_config_source": {{"api_type": "{kind}",
                "transport_api_version": "V3", "grpc_services": [{{"envoy_grpc": {{"cluster_name": "{cluster}"}}}}]}}}}"#
        )
    };
    let ads = r#"{"ads": {}}"#.to_owned();
    let load = |cds: String, lds: String, rds: String| {
        let text = format!(
            r#"{{"node": {{"id": "n"}},
            "dynamic_resources": {{"cds_config": {cds}, "lds_config": {lds}}},
            "static_resources": {{"clusters": [{{"name": "control", "type": "STATIC", "load_assignment": {{
                "cluster_name": "control", "endpoints": [{{"lb_endpoints": [{{"endpoint": {{"address": {{
                "socket_address": {{"address": "127.0.0.1", "port_value": 1}}}}}}}}]}}]}}}}],
              "listeners": [{{"name": "l", "address": {{"socket_address": {{"address": "127.0.0.1", "port_value": 2}}}},
                "filter_chains": [{{"filters": [{{"name": "h", "typed_config": {{
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": "s", "rds": {{"route_config_name": "r", "config_source": {rds}}},
                "http_filters": [{{"name": "r", "typed_config": {{
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}}}]}}}}]}}]}}]}}}}"#
        );
        load_text(&text).map_err(|findings| one_line(&findings))
    };
    let delta = || source("control", "DELTA_GRPC");
    let read = load(delta(), delta(), delta()).unwrap().ads.unwrap();
    assert_eq!((read.split, read.delta, read.cluster.name.as_str()), (true, true, "control"));
    for (lds, rds, expected) in [
        (ads, delta(), "expected one kind of source for all"),
        (source("control", "GRPC"), delta(), "expected the same cluster and api_type"),
        (delta(), source("other", "DELTA_GRPC"), "no such stream"),
        (delta(), source("control", "REST"), "api_type"),
    ] {
        let why = load(delta(), lds, rds).unwrap_err();
        assert!(why.contains(expected), "{why}");
    }
}
