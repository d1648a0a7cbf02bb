//! What a pilot-agent expects of the program it starts: its own arguments and the bootstrap it rendered, both
//! unchanged, with a control plane and secrets on its Unix sockets.
//!
//! Runs in a network namespace of its own, since the ports are the agent's.

use mizzen::proto::envoy::config::listener::v3::Listener;
use mizzen::proto::envoy::config::listener::v3::filter::ConfigType;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::ads::{Ads, Type};
use support::http1::{Server, Text};
use support::netns;
use support::pki::Ca;
use support::process::{Dir, Program, Signal};
use support::proxy::wait_until;
use support::resources::{eds_cluster, endpoints, message};
use support::sds::SdsServer;

mod support;

const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";
const ADMIN: u16 = 15000;
const INBOUND: u16 = 15006;
/// What the agent asks first, and then.
const UPDATES: &str = r"/stats?usedonly&filter=^(cluster_manager\.cds|listener_manager\.lds)\.(update_success|update_rejected)$";
const STARTED: &str = r"/stats?usedonly&filter=^(server\.state|listener_manager\.workers_started)";

/// What a request is answered with.
struct Answer {
    status: u16,
    body: String,
}

fn ask(method: &str, port: u16, path: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    )
    .ok()?;
    let mut all = String::new();
    stream.read_to_string(&mut all).ok()?;
    let (head, body) = all.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Some(Answer { status, body: if chunked { unchunked(body) } else { body.to_owned() } })
}

fn unchunked(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        body.push_str(&after[..size]);
        rest = after[size..].trim_start_matches("\r\n");
    }
    body
}

fn get(port: u16, path: &str) -> Answer {
    ask("GET", port, path).unwrap_or_else(|| panic!("no answer from port {port} to {path}"))
}

/// A pod: its folder, and the program with the agent's arguments in it.
struct Pod {
    dir: Dir,
    program: Program,
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/agent").join(name)
}

fn arguments() -> Vec<String> {
    std::fs::read_to_string(golden("argv.txt")).unwrap().lines().map(str::to_owned).collect()
}

impl Pod {
    async fn start() -> Pod {
        Pod::start_with(|_| ()).await.0
    }

    /// With what is made in its folder before the program starts.
    async fn start_with<T>(before: impl FnOnce(&Path) -> T) -> (Pod, T) {
        let dir = Dir::new();
        std::fs::create_dir_all(dir.0.join("etc/istio/proxy")).unwrap();
        std::fs::create_dir_all(dir.0.join("var/run/secrets/workload-spiffe-uds")).unwrap();
        std::fs::copy(golden("bootstrap.json"), dir.0.join("etc/istio/proxy/envoy-rev.json")).unwrap();
        let made = before(&dir.0);
        let program = Program::start_in(&dir.0, &arguments());
        let mut pod = Pod { dir, program };
        wait_until("the admin", || {
            assert!(pod.program.is_running(), "it ended: {:?}", pod.program.said());
            ask("GET", ADMIN, "/ready").is_some()
        })
        .await;
        (pod, made)
    }

    /// The readiness check of the agent: numbers by name.
    fn stats(&self, path: &str) -> Vec<(String, u64)> {
        let body = get(ADMIN, path).body;
        let lines = body.lines().filter(|line| !line.is_empty());
        lines
            .map(|line| line.split_once(": ").map(|(name, n)| (name.to_owned(), n.parse().unwrap())).unwrap())
            .collect()
    }

    fn stat(&self, name: &str) -> u64 {
        let all = self.stats(UPDATES).into_iter().chain(self.stats(STARTED));
        all.filter(|(found, _)| found == name).map(|(_, n)| n).sum()
    }

    fn passes(&self) -> bool {
        let updated = |name| self.stat(&format!("{name}.update_success")) > 0;
        let started = self.stats(STARTED);
        updated("cluster_manager.cds")
            && updated("listener_manager.lds")
            && started.contains(&("server.state".to_owned(), 0))
            && started.contains(&("listener_manager.workers_started".to_owned(), 1))
    }

    fn waits(&self) -> String {
        get(ADMIN, "/init_dump").body
    }
}

fn ads(pod: &Path) -> Ads {
    Ads::start_unix(&pod.join("etc/istio/proxy/XDS"))
}

fn sds(pod: &Path) -> SdsServer {
    SdsServer::start_unix(&pod.join("var/run/secrets/workload-spiffe-uds/socket"))
}

/// The agent's own health check.
fn serve_agent() {
    let socket = TcpListener::bind("127.0.0.1:15020").unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = socket.accept() {
            let mut head = [0; 4096];
            let _ = stream.read(&mut head);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
        }
    });
}

fn secret(name: &str) -> Value {
    json!({"name": name, "sds_config": {"resource_api_version": "V3", "initial_fetch_timeout": "0s",
        "api_config_source": {"api_type": "GRPC", "transport_api_version": "V3",
            "set_node_on_first_message_only": true,
            "grpc_services": [{"envoy_grpc": {"cluster_name": "sds-grpc"}}]}}})
}

fn http(cluster: &str) -> Value {
    let kind = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    json!({"name": "http", "typed_config": {"@type": kind, "stat_prefix": "inbound_0.0.0.0_8080;",
        "route_config": {"name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster}}]}]},
        "http_filters": [{"name": "router", "typed_config":
            {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]}})
}

fn listener(name: &str, port: u16, direction: &str, chains: &Value) -> Listener {
    let inspector = "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector";
    message(&json!({"name": name, "traffic_direction": direction, "filter_chains": chains,
        "listener_filters_timeout": "0s", "continue_on_listener_filters_timeout": true,
        "listener_filters": [{"name": "tls", "typed_config": {"@type": inspector}}],
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": port}}}))
}

/// PERMISSIVE: mutual TLS and plaintext.
fn inbound() -> Listener {
    let socket = json!({"name": "tls", "typed_config": {"@type": format!("{TLS}.DownstreamTlsContext"),
        "require_client_certificate": true, "common_tls_context": {
            "alpn_protocols": ["h2", "http/1.1"], "tls_certificate_sds_secret_configs": [secret("default")],
            "combined_validation_context": {"default_validation_context": {},
                "validation_context_sds_secret_config": secret("ROOTCA")}}}});
    let chains = json!([
        {"filter_chain_match": {"transport_protocol": "tls"}, "transport_socket": socket, "filters": [http("app")]},
        {"filter_chain_match": {"transport_protocol": "raw_buffer"}, "filters": [http("app")]}]);
    listener("virtualInbound", INBOUND, "INBOUND", &chains)
}

fn outbound(name: &str, port: u16, filters: &Value) -> Listener {
    listener(name, port, "OUTBOUND", &json!([{"filters": filters}]))
}

/// The same with a filter that nobody has.
fn broken(mut listener: Listener) -> Listener {
    let filter = &mut listener.filter_chains[0].filters[0];
    if let Some(ConfigType::TypedConfig(any)) = &mut filter.config_type {
        any.type_url = "type.googleapis.com/no.such.Filter".into();
    }
    listener
}

/// A cluster, an app behind it, and what is asked of the control plane.
fn publish(ads: &Ads, app: &Server) {
    ads.empty_versions();
    ads.set_clusters(vec![eds_cluster("app")]);
    ads.set_endpoints(vec![endpoints("app", &[app.address])]);
    ads.set_listeners(vec![inbound(), outbound("out", 8080, &json!([http("app")]))]);
}

#[test]
fn a_sidecar_comes_up_as_discovery_goes_and_drains_when_told() {
    netns::run("a_sidecar_comes_up", || async {
        let mut pod = Pod::start().await;
        // Before any control plane: what does not depend on it serves, and nobody takes it for ready.
        assert_eq!((get(ADMIN, "/ready").status, &*get(ADMIN, "/ready").body), (503, "PRE_INITIALIZING\n"));
        assert_eq!((pod.stats(UPDATES), pod.passes()), (vec![], false));
        assert!(!get(ADMIN, STARTED).body.contains("workers_started"));
        assert!(get(15090, "/stats/prometheus").body.contains("envoy_server_state"));
        serve_agent();
        assert_eq!(get(15021, "/healthz/ready").status, 200);
        assert!(pod.waits().contains("target CDS") && pod.waits().contains("target LDS"), "{}", pod.waits());
        // Clusters are there, listeners are not.
        let ads = ads(&pod.dir.0);
        let app = Server::named("app").await;
        publish(&ads, &app);
        ads.withhold(Type::Listener, true);
        ads.push().await;
        ads.wait_ack(Type::Cluster).await;
        wait_until("INITIALIZING", || get(ADMIN, "/ready").body == "INITIALIZING\n").await;
        assert!(pod.waits().contains("target LDS") && !pod.waits().contains("target CDS"), "{}", pod.waits());
        ads.withhold(Type::Listener, false);
        ads.push_everything().await;
        ads.wait_ack(Type::Listener).await;
        // No secrets: plaintext is served, TLS refused, and the agent is told to wait.
        wait_until("plaintext is served", || ask("GET", INBOUND, "/").is_some_and(|a| a.body == "app")).await;
        let mut tls = TcpStream::connect(("127.0.0.1", INBOUND)).unwrap();
        let hello =
            [&[22, 3, 1, 0, 45, 1, 0, 0, 41, 3, 3][..], &[7; 32], &[0, 0, 2, 19, 1, 1, 0][..]].concat();
        tls.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        tls.write_all(&hello).unwrap();
        assert_eq!(tls.read_to_end(&mut Vec::new()).unwrap_or(0), 0, "the handshake is refused");
        assert_eq!(get(ADMIN, "/ready").body, "INITIALIZING\n");
        assert_eq!(pod.stat("listener_manager.lds.update_success"), 1);
        assert!(!pod.passes());
        let waits = pod.waits();
        assert!(waits.contains("target SDS default") && waits.contains("target SDS ROOTCA"), "{waits}");
        // With them it is live.
        let (sds, ca) = (sds(&pod.dir.0), Ca::new("root"));
        sds.certificate("default", &ca.leaf(&["spiffe://td/ns/demo/sa/b"]));
        sds.roots("ROOTCA", &[&ca]);
        wait_until("LIVE", || get(ADMIN, "/ready").status == 200).await;
        assert_eq!(get(ADMIN, "/ready").body, "LIVE\n");
        assert!(pod.passes(), "{:?} {:?}", pod.stats(UPDATES), pod.stats(STARTED));
        assert_eq!(pod.waits().replace(char::is_whitespace, ""), r#"{"unready_targets_dumps":[]}"#);
        // One delta stream; the node once.
        let seen = ads.requests();
        assert!(seen.iter().all(|request| request.delta && request.stream == 1));
        assert_eq!(seen.iter().filter(|request| request.with_node).count(), 1);
        assert!(seen[0].with_node && seen[0].is(Type::Cluster) && seen[0].node_id.starts_with("sidecar~"));
        drains(&pod).await;
        pod.program.signal(Signal::TERM);
        let ended = pod.program.ended_within(Duration::from_secs(20)).await;
        assert_eq!(ended.and_then(|status| status.code()), Some(0));
    });
}

/// What is told when the agent leaves: inbound connections are asked to go, everything else stays.
async fn drains(pod: &Pod) {
    assert_eq!(ask("GET", ADMIN, "/drain_listeners?inboundonly").unwrap().status, 405);
    let refused = ask("POST", ADMIN, "/drain_listeners?inboundonly&skip_exit").unwrap();
    assert_eq!((refused.status, &*refused.body), (400, "skip_exit requires graceful\n"));
    let mut open = [Text::connect(INBOUND).await.unwrap(), Text::connect(8080).await.unwrap()];
    let request = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    for connection in &mut open {
        connection.send(request).await.unwrap();
        assert!(connection.response().await.unwrap().0, "it goes on");
    }
    let told = ask("POST", ADMIN, "/drain_listeners?inboundonly&graceful&skip_exit").unwrap();
    assert_eq!((told.status, &*told.body), (200, "OK\n"));
    for (connection, stays) in open.iter_mut().zip([false, true]) {
        connection.send(request).await.unwrap();
        assert_eq!(connection.response().await.unwrap().0, stays);
    }
    // New ones are still taken, and asked to go too.
    let mut late = Text::connect(INBOUND).await.unwrap();
    late.send(request).await.unwrap();
    assert!(!late.response().await.unwrap().0);
    assert_eq!((get(15021, "/healthz/ready").status, &*get(ADMIN, "/ready").body), (200, "LIVE\n"));
    assert!(pod.passes());
}

#[test]
fn a_refused_listener_matters_to_readiness_only_towards_the_workload() {
    netns::run("a_refused_listener", || async {
        let app = Server::named("app").await;
        let good = || outbound("out", 8080, &json!([http("app")]));
        let (mut pod, (ads, _sds)) = Pod::start_with(|dir| {
            let (ads, sds, ca) = (ads(dir), sds(dir), Ca::new("root"));
            sds.certificate("default", &ca.leaf(&["spiffe://td/ns/demo/sa/b"]));
            sds.roots("ROOTCA", &[&ca]);
            publish(&ads, &app);
            ads.set_listeners(vec![broken(inbound()), good()]);
            ads.push_now();
            (ads, sds)
        })
        .await;
        let nack = ads.wait_nack(Type::Listener).await;
        assert!(nack.contains("virtualInbound") && !nack.contains("out:"), "{nack}");
        wait_until("its neighbour serves", || ask("GET", 8080, "/").is_some_and(|a| a.body == "app")).await;
        assert_eq!(pod.stat("listener_manager.lds.update_rejected"), 1);
        assert_eq!(pod.stat("listener_manager.lds.update_success"), 0);
        assert_eq!(get(ADMIN, "/ready").body, "INITIALIZING\n");
        assert!(pod.waits().contains("target Listener virtualInbound: refused"), "{}", pod.waits());
        // Taken back, it is no reason to wait any more; of an outbound one others are not told.
        ads.set_listeners(vec![good()]);
        ads.push().await;
        wait_until("the agent is content", || pod.passes()).await;
        assert_eq!(pod.stat("listener_manager.lds.update_success"), 1);
        ads.set_listeners(vec![inbound(), broken(good())]);
        ads.push().await;
        wait_until("the agent is content", || pod.passes()).await;
        wait_until("partly refused", || pod.stat("listener_manager.lds.update_rejected") == 2).await;
        assert_eq!(pod.stat("listener_manager.lds.update_success"), 2);
        // Once it serves, a bad version changes nothing: the last good one stays.
        ads.set_listeners(vec![broken(inbound())]);
        ads.push().await;
        wait_until("refused", || pod.stat("listener_manager.lds.update_rejected") == 3).await;
        assert!(pod.passes() && ask("GET", INBOUND, "/").unwrap().body == "app");
        assert!(pod.program.is_running());
    });
}

#[test]
fn a_second_proxy_and_a_bad_start_end_with_1() {
    netns::run("a_second_proxy", || async {
        let pod = Pod::start().await;
        let fails = async |arguments: Vec<String>, why: &str| {
            let mut program = Program::start_in(&pod.dir.0, &arguments);
            let status = program.ended_within(Duration::from_secs(20)).await.expect("it ends");
            wait_until("its last words", || program.said().iter().any(|line| line.contains(why))).await;
            assert_eq!(status.code(), Some(1), "{why}");
        };
        fails(arguments(), "127.0.0.1:15000").await;
        fails([arguments(), vec!["--no-such-flag".into()]].concat(), "--no-such-flag").await;
        fails(vec!["-c".into(), "no/such/file.json".into()], "no/such/file.json").await;
        pod.dir.write("bad.json", &json!({"static_resources": {"listeners": [{"name": "l"}]}}));
        fails(vec!["-c".into(), "bad.json".into()], "bad.json").await;
        assert_eq!(get(15090, "/stats/prometheus").status, 200, "the first one goes on");
    });
}

#[test]
fn the_overlay_of_the_agent_is_merged() {
    let dir = Dir::new();
    std::fs::copy(golden("bootstrap.json"), dir.0.join("b.json")).unwrap();
    let overlay = r#"{"node":{"id":"sidecar~1.1.1.1~x.y~y.svc"},"overload_manager":{"resource_monitors":[{
        "name":"envoy.resource_monitors.global_downstream_max_connections","typed_config":{
        "@type":"type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        "max_active_downstream_connections":"17"}}]}}"#;
    let path = dir.0.join("b.json");
    assert_eq!(mizzen::bootstrap::load(&path, None).unwrap().connection_limit, None, "2147483647 is none");
    let merged = mizzen::bootstrap::load(&path, Some(overlay)).unwrap();
    assert_eq!((merged.node.id.as_str(), merged.connection_limit), ("sidecar~1.1.1.1~x.y~y.svc", Some(17)));
    let address: SocketAddr = "127.0.0.1:15000".parse().unwrap();
    assert_eq!(merged.admin.unwrap().ip(), Some(address));
    assert!(merged.listeners.iter().all(|listener| listener.unlimited));
}
