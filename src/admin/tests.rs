use super::*;
use crate::cluster::{BreakerState, ClusterEntry, ClusterSlot, ClusterSpec, History};
use crate::model::{self, Address, ClusterId, Discovery, Endpoints, Thresholds};
use crate::proto::json::message_from_json;
use crate::snapshot::{Snapshot, Store};
use crate::stat_group;
use crate::telemetry::{Counter, HostStats, Registration, Registry, Scope, logging};

use serde_json::{Value as Json, json};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

stat_group! {
    pub struct XdsTypeStats {
        update_success: Counter,
        update_rejected: Counter,
    }
}

/// A life-cycle that tests move by hand.
struct Life(AtomicU8, AtomicBool);

impl Life {
    fn set(&self, state: ServerState) {
        self.0.store(state as u8, Relaxed);
    }
}

impl Lifecycle for Life {
    fn discovery(&self) -> ServerState {
        if self.0.load(Relaxed) == 0 { ServerState::Live } else { ServerState::PreInitializing }
    }
    fn failed(&self) -> bool {
        self.1.load(Relaxed)
    }
    fn set_failed(&self, failed: bool) {
        self.1.store(failed, Relaxed);
    }
    fn waits(&self) -> Vec<String> {
        if self.0.load(Relaxed) == 0 { Vec::new() } else { vec!["CDS".to_owned()] }
    }
}

/// A running admin and the ends a test holds.
struct Admin {
    address: SocketAddr,
    registry: Registry,
    lifecycle: Arc<Life>,
    commands: mpsc::Receiver<Command>,
}

fn cluster(id: u32, name: &str, hosts: &[&str]) -> ClusterSlot {
    let discovery = Discovery::Eds { service_name: format!("{name}-eds"), initial_fetch_timeout: None };
    let mut cluster = model::Cluster::new(name, discovery);
    cluster.breakers.default = Thresholds { max_requests: 7, track_remaining: true, ..Thresholds::default() };
    let endpoints = Endpoints::of(name, hosts.iter().map(|h| Address::Ip(h.parse().unwrap())));
    ClusterSlot::Ready(ClusterEntry {
        history: History { membership_changes: 3, fetch_timeouts: 0 },
        spec: Arc::new(ClusterSpec {
            id: ClusterId(id),
            model: Arc::new(cluster),
            breakers: Arc::new(BreakerState::default()),
            shared: Arc::default(),
            sockets: Default::default(),
        }),
        endpoints: Arc::new(endpoints),
    })
}

fn proto(kind: &str, json: Json) -> Body {
    let url = format!("type.googleapis.com/{kind}");
    Body::Proto(crate::proto::json::decode_json(&url, &json).unwrap().into())
}

fn version(version: &str, body: Body) -> Version {
    let updated = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_191_757_901);
    Version { version: version.into(), updated, body }
}

/// `count` clusters from the control plane, the first refused afterwards; one listener that never applied.
fn dump(count: usize) -> DumpState {
    let body = |name: &str| proto("envoy.config.cluster.v3.Cluster", json!({ "name": name, "type": "EDS" }));
    let mut clusters: Vec<_> = (0..count)
        .map(|n| Resource::active(&format!("c{n}"), false, version("v1", body(&format!("c{n}")))))
        .collect();
    let failed = |details: &str| Failed {
        at: SystemTime::UNIX_EPOCH,
        version: "v2".into(),
        details: details.into(),
        body: Some(vec![0x0a, 0x02, b'c', b'0'].into()),
        acked: false,
    };
    if let Some(first) = clusters.first_mut() {
        first.failed = Some(failed("Cluster c0: lb_policy: 9: unknown"));
    }
    clusters.push(Resource::active("own", true, version("", body("own"))));
    let mut listener = Resource::active("l0", false, version("", body("x")));
    listener.active = None;
    listener.failed = Some(failed("Listener l0: address: missing"));
    let secret =
        Body::Json(Arc::new(json!({ "tls_certificate": { "private_key": { "inline_string": "hush" } } })));
    let types = vec![
        TypeState { kind: Kind::Cluster, version: "v1".into(), resources: clusters },
        TypeState { kind: Kind::Listener, version: "".into(), resources: vec![listener] },
        TypeState {
            kind: Kind::Secret,
            version: "".into(),
            resources: vec![Resource::active("s", false, version("", secret))],
        },
    ];
    let bootstrap = Body::Json(Arc::new(json!({ "node": { "id": "n" }, "admin": { "password": "hush" } })));
    DumpState { bootstrap: Some(bootstrap), bootstrap_updated: Some(SystemTime::UNIX_EPOCH), types }
}

fn listeners() -> Vec<ListenerStatus> {
    let one = |name: &str, draining| ListenerStatus {
        name: name.into(),
        addresses: vec!["0.0.0.0:15006".parse().unwrap(), "[::]:15006".parse().unwrap()],
        paths: Vec::new(),
        generation: 4,
        draining,
        connections: 2,
        streams: 3,
        age: Duration::from_secs(12),
    };
    vec![one("virtualInbound", false), one("old", true)]
}

async fn start(count: usize) -> Admin {
    let store = Arc::new(Store::default());
    let mut snapshot = Snapshot { generation: 1, ..Snapshot::default() };
    snapshot.clusters.push_back(cluster(0, "c0", &["10.0.0.1:80", "10.0.0.2:80"]));
    snapshot.clusters.push_back(ClusterSlot::Warming);
    store.publish(Arc::new(snapshot));
    let registry = Registry::new();
    let eds = |name: &str| {
        let updates = Updates {
            update_attempt: 4,
            update_success: 3,
            update_no_rebuild: 1,
            version_text: "v3".into(),
            ..Updates::default()
        };
        HashMap::from([(Arc::<str>::from(name), updates)])
    };
    provide_by_name(&registry, store.clone(), Box::new(move || eds("c0-eds")), Box::new(HashMap::new));
    let lifecycle = Arc::new(Life(AtomicU8::new(2), AtomicBool::new(false)));
    let (sender, commands) = mpsc::channel(4);
    let source = Source {
        modify_runtime: Box::new(|changes, answer| {
            let _ = answer.send(changes.len() == 1);
        }),
        store,
        registry: registry.clone(),
        lifecycle: lifecycle.clone(),
        secrets: Default::default(),
        process: ProcessInfo {
            version: "0.1.0".into(),
            started: SystemTime::now(),
            command_line: json!({ "concurrency": 1 }),
            node: Arc::new(
                message_from_json(&json!({ "id": "n", "metadata": { "token": "hush" } })).unwrap(),
            ),
            mosn_config: None,
            features: vec![("auto_config".into(), true)],
            log_path: "stdout".into(),
        },
        dump: Box::new(move |answer| {
            std::thread::spawn(move || answer.send(dump(count)).ok());
        }),
        listeners: Box::new(|answer| drop(answer.send(listeners()))),
        commands: sender,
    };
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), None, source).await.unwrap();
    let address = server.local_addr();
    tokio::spawn(server.serve());
    Admin { address, registry, lifecycle, commands }
}

impl Admin {
    /// Sends `text` and reads to the end of the connection: status and body.
    async fn raw(&self, text: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        (status, if chunked { unchunk(body) } else { body.to_owned() })
    }

    async fn ask(&self, method: &str, path: &str) -> (u16, String) {
        let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        self.raw(&head).await
    }

    async fn get(&self, path: &str) -> String {
        let (status, body) = self.ask("GET", path).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    async fn json(&self, path: &str) -> Json {
        serde_json::from_str(&self.get(path).await).unwrap()
    }
}

fn unchunk(mut text: &str) -> String {
    let mut out = String::new();
    while let Some((size, rest)) = text.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        out.push_str(&rest[..size]);
        if size == 0 {
            return out;
        }
        text = &rest[size + 2..];
    }
    panic!("cut off");
}

fn section<'a>(dump: &'a Json, name: &str) -> &'a Json {
    let url = format!("type.googleapis.com/envoy.admin.v3.{name}");
    dump["configs"].as_array().unwrap().iter().find(|c| c["@type"] == url.as_str()).unwrap()
}

#[tokio::test]
async fn ready_follows_the_life_cycle() {
    let admin = start(0).await;
    assert_eq!(admin.ask("GET", "/ready").await, (503, "PRE_INITIALIZING\n".into()));
    admin.lifecycle.set(ServerState::Live);
    assert_eq!(admin.ask("GET", "/ready").await, (200, "LIVE\n".into()));
    assert_eq!(admin.ask("GET", "/healthcheck/fail").await.0, 405);
    assert_eq!(admin.ask("POST", "/healthcheck/fail").await, (200, "OK\n".into()));
    assert_eq!(admin.ask("GET", "/ready").await, (503, "DRAINING\n".into()));
    assert_eq!(admin.get("/stats?filter=^server.(state|live)$").await, "server.live: 0\nserver.state: 0\n");
    assert_eq!(admin.ask("POST", "/healthcheck/ok").await.0, 200);
    assert_eq!(admin.ask("GET", "/ready").await.0, 200);
    assert_eq!(admin.get("/api/v1/states").await, format!("pid={}&state=6\n", std::process::id()));
}

#[tokio::test]
async fn what_changes_something_is_post_only() {
    let mut admin = start(0).await;
    for path in ["/drain_listeners", "/quitquitquit", "/logging", "/reset_counters"] {
        let (status, body) = admin.ask("GET", path).await;
        assert_eq!((status, body.as_str()), (405, "Method GET not allowed, POST required."), "{path}");
    }
    assert!(admin.commands.try_recv().is_err());
    let (status, _) = admin.ask("POST", "/drain_listeners?inboundonly&graceful&skip_exit").await;
    assert_eq!(status, 200);
    let drain = Command::DrainListeners { inbound_only: true, graceful: true, skip_exit: true };
    assert_eq!(admin.commands.recv().await, Some(drain));
    assert_eq!(admin.ask("POST", "/quitquitquit").await.1, "OK\n");
    assert_eq!(admin.commands.recv().await, Some(Command::Quit));
    assert_eq!(admin.ask("GET", "/api/v1/update_loglevel").await, (405, String::new()));
    assert_eq!(admin.ask("DELETE", "/stats").await.0, 405);
}

#[tokio::test]
async fn foreign_hosts_and_sites_are_refused_and_counted() {
    let admin = start(0).await;
    let with = |headers: &str| format!("GET /ready HTTP/1.1\r\n{headers}connection: close\r\n\r\n");
    assert_eq!(admin.raw(&with("host: evil.example\r\n")).await.0, 403);
    assert_eq!(admin.raw(&with("host: localhost\r\norigin: http://evil.example\r\n")).await.0, 403);
    assert_eq!(admin.raw(&with("")).await.0, 400);
    assert_eq!(admin.raw(&with("host: 127.0.0.1:1\r\n")).await.0, 503, "passes, and is not ready");
    assert_eq!(admin.registry.number("server.admin_refused"), 3);
}

#[tokio::test]
async fn heads_and_connections_are_limited() {
    let admin = start(0).await;
    let long = format!("GET /ready HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "a".repeat(9000));
    assert_eq!(admin.raw(&long).await.0, 431);
    let mut held = Vec::new();
    for _ in 0..64 {
        let mut stream = TcpStream::connect(admin.address).await.unwrap();
        stream.write_all(b"GET /ready HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let mut first = [0];
        stream.read_exact(&mut first).await.unwrap();
        held.push(stream);
    }
    let mut extra = TcpStream::connect(admin.address).await.unwrap();
    let mut answer = String::new();
    extra.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    held.pop();
    drop(held);
    // Their slots come back once the server has seen them go.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(admin.ask("GET", "/help").await.0, 200);
}

#[tokio::test]
async fn stats_as_a_pilot_agent_asks() {
    let admin = start(0).await;
    let cds = admin.registry.register(Scope::cds(), XdsTypeStats::default());
    let lds = admin.registry.register(Scope::lds(), XdsTypeStats::default());
    let query = r"/stats?usedonly&filter=^(cluster_manager\.cds|listener_manager\.lds)\.(update_success|update_rejected)$";
    assert_eq!(admin.get(query).await, "");
    cds.update_success.inc();
    lds.update_success.inc();
    let both = "cluster_manager.cds.update_success: 1\nlistener_manager.lds.update_success: 1\n";
    assert_eq!(admin.get(query).await, both);
    let encoded = query.replace('^', "%5E").replace('\\', "%5C").replace('|', "%7C").replace('$', "%24");
    assert_eq!(admin.get(&encoded).await, both);
    admin.lifecycle.set(ServerState::Live);
    let query = r"/stats?usedonly&filter=^(server\.state|listener_manager\.workers_started)";
    assert_eq!(admin.get(query).await, "server.state: 0\n");
    assert_eq!(admin.ask("GET", "/stats?filter=(").await.0, 400);
    assert_eq!(admin.ask("GET", "/stats?format=xml").await.0, 400);
    let all = admin.json("/stats?format=json&usedonly&filter=cds").await;
    assert_eq!(all["stats"][0]["name"], "cluster_manager.cds.update_success");
    assert!(admin.get("/stats/prometheus").await.contains("envoy_cluster_manager_cds_update_success{} 1\n"));
    let gauges =
        admin.get("/stats?filter=^cluster.c0.(membership_total|circuit_breakers.default.remaining_rq)").await;
    assert_eq!(
        gauges,
        "cluster.c0.circuit_breakers.default.remaining_rq: 7\ncluster.c0.membership_total: 2\n"
    );
    assert_eq!(
        admin.get("/stats?usedonly&filter=^cluster.c0.(update_|version|membership_change)").await,
        "cluster.c0.version_text: \"v3\"\ncluster.c0.membership_change: 3\ncluster.c0.update_attempt: 4\n\
         cluster.c0.update_no_rebuild: 1\ncluster.c0.update_success: 3\n"
    );
    assert_eq!(admin.ask("POST", "/reset_counters").await.0, 200);
    assert!(admin.get("/stats?filter=cds.update_success").await.ends_with(": 0\n"));
}

#[tokio::test]
async fn clusters_in_both_forms() {
    let admin = start(1).await;
    let host: Registration<HostStats> =
        admin.registry.register(Scope::host("c0", "10.0.0.1:80"), HostStats::default());
    host.cx_total.add(6);
    host.rq_active.set(1);
    let text = admin.get("/clusters").await;
    for line in [
        "c0::observability_name::c0",
        "c0::default_priority::max_requests::7",
        "c0::high_priority::max_retries::3",
        "c0::added_via_api::true",
        "c0::eds_service_name::c0-eds",
        "c0::10.0.0.1:80::cx_total::6",
        "c0::10.0.0.2:80::cx_total::0",
        "c0::10.0.0.1:80::health_flags::healthy",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
    }
    let json = admin.json("/clusters?format=json").await;
    let status = &json["cluster_statuses"][0];
    assert_eq!(status["added_via_api"], true);
    assert_eq!(status["eds_service_name"], "c0-eds");
    assert_eq!(status["circuit_breakers"]["thresholds"][0]["max_requests"], 7);
    assert_eq!(status["circuit_breakers"]["thresholds"][1]["priority"], "HIGH");
    let host = &status["host_statuses"][0];
    assert_eq!(host["address"], json!({ "socket_address": { "address": "10.0.0.1", "port_value": 80 } }));
    assert_eq!(host["health_status"]["eds_health_status"], "HEALTHY");
    let stats = host["stats"].as_array().unwrap();
    assert!(stats.contains(&json!({ "name": "cx_total", "value": "6" })), "{stats:?}");
    assert!(stats.contains(&json!({ "name": "rq_active", "type": "GAUGE", "value": "1" })));
    assert!(!admin.get("/stats").await.contains("10.0.0.1"), "hosts are no part of /stats");
}

#[tokio::test]
async fn listeners_open_and_draining() {
    let admin = start(0).await;
    assert_eq!(
        admin.get("/listeners").await,
        "virtualInbound::0.0.0.0:15006\nvirtualInbound::[::]:15006\n\
         old::draining::generation=4 connections=2 streams=3 age_s=12\n"
    );
    let json = admin.json("/listeners?format=json").await;
    let open = &json["listener_statuses"];
    assert_eq!(open[0]["local_address"]["socket_address"]["port_value"], 15006);
    assert_eq!(open.as_array().unwrap().len(), 1);
    assert_eq!(json["draining_listeners"][0]["streams"], 3);
}

#[tokio::test]
async fn config_dump_has_versions_errors_and_no_secrets() {
    let admin = start(2).await;
    let text = admin.get("/config_dump?include_eds").await;
    assert!(!text.contains("hush"), "{text}");
    let dump: Json = serde_json::from_str(&text).unwrap();
    assert_eq!(section(&dump, "BootstrapConfigDump")["bootstrap"]["node"]["id"], "n");
    let clusters = section(&dump, "ClustersConfigDump");
    assert_eq!(clusters["version_info"], "v1");
    assert_eq!(clusters["static_clusters"][0]["cluster"]["name"], "own");
    let first = &clusters["dynamic_active_clusters"][0];
    assert_eq!(first["cluster"]["@type"], "type.googleapis.com/envoy.config.cluster.v3.Cluster");
    assert_eq!(first["last_updated"], "2026-11-20T16:22:37.901Z");
    assert_eq!(first["version_info"], "v1");
    assert_eq!(first["client_status"], "NACKED");
    assert_eq!(first["error_state"]["details"], "Cluster c0: lb_policy: 9: unknown");
    assert_eq!(first["error_state"]["failed_configuration"]["name"], "c0");
    assert!(clusters["dynamic_active_clusters"][1].get("error_state").is_none());
    let listener = &section(&dump, "ListenersConfigDump")["dynamic_listeners"][0];
    assert_eq!(listener["name"], "l0");
    assert_eq!(listener["error_state"]["version_info"], "v2");
    assert!(listener.get("active_state").is_none());
    section(&dump, "EndpointsConfigDump");
    let without = admin.json("/config_dump").await;
    assert!(!without.to_string().contains("EndpointsConfigDump"));
}

#[tokio::test]
async fn config_dump_can_be_narrowed() {
    let admin = start(3).await;
    let one =
        admin.json("/config_dump?resource=dynamic_active_clusters&name_regex=^c1$&mask=cluster.name").await;
    let entry = json!({
        "@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump.DynamicCluster",
        "cluster": { "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": "c1" },
    });
    assert_eq!(one, json!({ "configs": [entry] }));
    let masked = admin.json("/config_dump?mask=dynamic_active_clusters,static_clusters").await;
    assert_eq!(masked["configs"].as_array().unwrap().len(), 1);
    assert!(masked["configs"][0].get("version_info").is_none());
    let bootstrap = admin.json("/config_dump?mask=bootstrap").await;
    assert_eq!(bootstrap["configs"].as_array().unwrap().len(), 1);
    assert_eq!(admin.ask("GET", "/config_dump?resource=nonesuch").await.0, 404);
    assert_eq!(admin.ask("GET", "/config_dump?resource=bootstrap").await.0, 400);
}

#[tokio::test]
async fn a_slow_reader_of_a_dump_holds_up_nobody() {
    let admin = start(10_000).await;
    let mut slow = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(admin.address).await.unwrap();
        stream.write_all(b"GET /config_dump HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let mut first = [0];
        stream.read_exact(&mut first).await.unwrap();
        slow.push(stream);
    }
    // Both turns are taken by readers that read nothing; everything small still answers.
    admin.lifecycle.set(ServerState::Live);
    for _ in 0..20 {
        assert_eq!(admin.ask("GET", "/ready").await.0, 200);
    }
    assert!(admin.get("/stats?filter=^nothing").await.is_empty());
    // A turn comes back when its reader goes.
    slow.pop();
    let dump = admin.json("/config_dump").await;
    assert_eq!(
        section(&dump, "ClustersConfigDump")["dynamic_active_clusters"].as_array().unwrap().len(),
        10_000
    );
}

#[tokio::test]
async fn mosns_paths() {
    let admin = start(1).await;
    let _levels = logging::TESTING.lock().await;
    assert_eq!(admin.get("/api/v1/version").await, "mosn version: 0.1.0");
    assert!(admin.json("/api/v1/get_loglevel").await.get("stdout").is_some());
    let post = |body: &str| {
        let size = body.len();
        format!(
            "POST /api/v1/update_loglevel HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {size}\r\n\r\n{body}"
        )
    };
    let refused = admin.raw(&post(r#"{"log_path":"/elsewhere","log_level":"INFO"}"#)).await;
    assert_eq!(refused, (400, r#"{"error":"update logger failed"}"#.into()));
    let done = admin.raw(&post(r#"{"log_path":"stdout","log_level":"INFO"}"#)).await;
    assert_eq!(done, (200, "update logger success\n".into()));
    let dump = admin.json("/api/v1/config_dump").await;
    assert_eq!(dump["cluster"]["c0"]["name"], "c0");
    assert_eq!(admin.json("/api/v1/config_dump?cluster=c0").await["name"], "c0");
    assert_eq!(admin.json("/api/v1/config_dump?cluster=nonesuch").await, json!({}));
    let two = admin.ask("GET", "/api/v1/config_dump?cluster=a&router=b").await;
    assert_eq!(two, (400, "only support one parameter".into()));
    assert_eq!(admin.ask("GET", "/api/v1/config_dump?x").await.0, 500);
    assert_eq!(admin.json("/api/v1/stats").await["meta"]["mosn.info"]["mosn_state_code"], "4");
    admin.lifecycle.set(ServerState::Live);
    assert_eq!(admin.json("/api/v1/stats").await["meta"]["mosn.info"]["mosn_state_code"], "6");
    assert_eq!(admin.get("/api/v1/stats?key=no.such").await, "no metrics key: no.such");
}

#[tokio::test]
async fn mosns_small_paths() {
    let admin = start(1).await;
    assert_eq!(admin.get("/api/v1/features?key=auto_config").await, "true");
    let gates = admin.json("/api/v1/features").await;
    assert_eq!((&gates["auto_config"], &gates["XdsMtlsEnable"]), (&json!(true), &json!(false)));
    assert_eq!(admin.ask("GET", "/api/v1/env").await, (400, "{\"error\":\"no env key\"}".to_owned()));
    let env = admin.json("/api/v1/env?key=PATH&key=MIZZEN_NO_SUCH").await;
    assert_eq!(env["not_found"], json!(["MIZZEN_NO_SUCH"]));
    assert!(env["env"]["PATH"].is_string());
    assert_eq!(admin.json("/api/v1/env?key=MIZZEN_NO_SUCH").await["env"], Json::Null);
    assert_eq!(admin.ask("POST", "/api/v1/disable_log").await.0, 400, "no logger is named so");
    assert_eq!(admin.ask("GET", "/api/v1/enable_log").await.0, 405);
    assert!(admin.get("/contention").await.contains("not enabled"));
    assert_eq!(admin.json("/why/recent").await, json!({ "records": [] }));
    assert_eq!(admin.ask("GET", "/why?id=x").await.0, 404);
    assert_eq!(admin.ask("GET", "/explain?host=a").await.0, 404, "no listener has routes");
}

#[tokio::test]
async fn logging_lists_and_changes_loggers() {
    let admin = start(0).await;
    let _levels = logging::TESTING.lock().await;
    let (status, body) = admin.ask("POST", "/logging?lua=debug").await;
    assert_eq!(status, 200);
    assert!(body.starts_with("active loggers:\n"), "{body}");
    assert!(body.contains("\n  lua: debug\n"), "{body}");
    assert!(admin.ask("POST", "/logging?paths=lua:info,wasm:error").await.1.contains("\n  wasm: error\n"));
    assert_eq!(admin.ask("POST", "/logging?nonesuch=debug").await.0, 400);
    assert_eq!(admin.ask("POST", "/logging?lua=loud").await.0, 400);
}

#[tokio::test]
async fn small_shapes() {
    let admin = start(0).await;
    let info = admin.json("/server_info").await;
    assert_eq!(info["state"], "PRE_INITIALIZING");
    assert_eq!(info["node"]["metadata"]["token"], "[redacted]");
    assert!(info["uptime_current_epoch"].as_str().unwrap().ends_with('s'));
    assert_eq!(admin.json("/certs").await, json!({ "certificates": [] }));
    assert_eq!(admin.json("/runtime").await, json!({ "entries": {}, "layers": [] }));
    assert_eq!(admin.ask("GET", "/runtime_modify?a=1").await.0, 405);
    assert_eq!(admin.ask("POST", "/runtime_modify").await.0, 400);
    assert_eq!(admin.ask("POST", "/runtime_modify?a=1").await, (200, "OK\n".to_owned()));
    assert_eq!(admin.ask("POST", "/runtime_modify?a=1&b=").await.0, 503);
    let total = admin.json("/memory").await["total_physical_bytes"].as_str().unwrap().parse::<u64>().unwrap();
    assert!(total > 0);
    let (status, body) = admin.ask("GET", "/nonesuch").await;
    assert_eq!(status, 404);
    assert!(body.contains("/config_dump"));
    let server = json!({ "name": "init manager Server", "target_names": ["target CDS"] });
    assert_eq!(admin.json("/init_dump").await, json!({ "unready_targets_dumps": [server] }));
    let none = json!({ "unready_targets_dumps": [] });
    assert_eq!(admin.json("/init_dump?mask=listener").await, none);
}
