//! The admin over real sockets, on a state made for it.

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

mod access;
mod dumps;
mod mosn;

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
