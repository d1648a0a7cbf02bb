//! Istio's filters between two proxies: who tells whom what, what is offered in TLS, and what is counted by whom.

use mizzen::app::Proxy;
use mizzen::model::{Node, Workload};
use mizzen::telemetry::prometheus;
use mizzen::xds::state::Variant;
use serde_json::{Value as Json, json};
use std::net::SocketAddr;
use std::sync::Arc;
use support::ads::{Ads, Type};
use support::http1::{Answer, Server, get};
use support::pki::{Ca, Leaf};
use support::proxy::{Setup, free_port, wait_listening, wait_until};
use support::resources::message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

mod support;

const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";
const HCM: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const OURS: &str = "spiffe://cluster.local/ns/demo/sa/client";
const THEIRS: &str = "spiffe://cluster.local/ns/shop/sa/web";

/// A filter of Istio's as istiod sends it.
fn wrapped(name: &str, kind: &str, value: &Json) -> Json {
    json!({"name": name, "typed_config": {"@type": "type.googleapis.com/udpa.type.v1.TypedStruct",
        "type_url": format!("type.googleapis.com/{kind}"), "value": value}})
}

fn exchange() -> Json {
    let value = json!({"protocol": "istio-peer-exchange", "enable_discovery": true});
    wrapped("istio.metadata_exchange", "envoy.tcp.metadataexchange.config.MetadataExchange", &value)
}

fn peers(value: &Json) -> Json {
    wrapped("istio.metadata_exchange", "io.istio.http.peer_metadata.Config", value)
}

fn stats(config: &Json) -> Json {
    let mut all = json!({"@type": "type.googleapis.com/stats.PluginConfig"});
    all.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    json!({"name": "istio.stats", "typed_config": all})
}

fn alpn() -> Json {
    let rule =
        |protocol: &str, names: [&str; 3]| json!({"upstream_protocol": protocol, "alpn_override": names});
    json!({"name": "istio.alpn", "typed_config": {
    "@type": "type.googleapis.com/istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig",
    "alpn_override": [
        rule("HTTP10", ["istio-http/1.0", "istio", "http/1.0"]),
        rule("HTTP11", ["istio-http/1.1", "istio", "http/1.1"]),
        rule("HTTP2", ["istio-h2", "istio", "h2"]),
    ]}})
}

fn grpc_stats() -> Json {
    json!({"name": "grpc", "typed_config": {"emit_filter_state": true,
        "@type": "type.googleapis.com/envoy.extensions.filters.http.grpc_stats.v3.FilterConfig"}})
}

fn http(cluster: &str, filters: &[Json], more: &Json) -> Json {
    let router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
    let mut filters = filters.to_vec();
    filters.push(json!({"name": "router", "typed_config": {"@type": router}}));
    let mut manager = json!({"@type": HCM, "stat_prefix": "http", "http_filters": filters,
        "route_config": {"name": "r", "virtual_hosts": [{"name": "all", "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster}}]}]}});
    manager.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"name": "http", "typed_config": manager})
}

fn tcp(cluster: &str) -> Json {
    json!({"name": "tcp", "typed_config": {"stat_prefix": "tcp", "cluster": cluster,
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"}})
}

fn certificates(leaf: &Leaf, ca: &Ca, alpn: &[&str]) -> Json {
    json!({"alpn_protocols": alpn, "validation_context": {"trusted_ca": {"inline_string": ca.pem}},
        "tls_certificates": [{"certificate_chain": {"inline_string": leaf.chain},
            "private_key": {"inline_string": leaf.key}}]})
}

fn listener(
    port: u16,
    direction: &str,
    chains: &Json,
) -> mizzen::proto::envoy::config::listener::v3::Listener {
    let inspect = "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector";
    message(&json!({"name": format!("l{port}"), "filter_chains": chains, "traffic_direction": direction,
        "listener_filters": [{"name": "tls", "typed_config": {"@type": inspect}}],
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}))
}

fn cluster(name: &str, host: SocketAddr, more: &Json) -> mizzen::proto::envoy::config::cluster::v3::Cluster {
    let address = json!({"socket_address": {"address": host.ip().to_string(), "port_value": host.port()}});
    let labels = json!({"filter_metadata": {"istio": {"workload": "web-v1;shop;web;v1;Far"}}});
    let mut all = json!({"name": name, "connect_timeout": "5s", "load_assignment": {"cluster_name": name,
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}, "metadata": labels}]}]}});
    all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    message(&all)
}

fn service(more: &Json) -> Json {
    let mut istio = json!({"services": [{"host": "web.shop.svc", "name": "web", "namespace": "shop"}]});
    istio.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"filter_metadata": {"istio": istio}})
}

fn node(app: &str, namespace: &str) -> Arc<Node> {
    let mut workload =
        Workload { name: format!("{app}-v1"), namespace: namespace.into(), ..Workload::default() };
    workload.label("app", app);
    workload.label("version", "v1");
    workload.label("service.istio.io/canonical-name", app);
    workload.label("service.istio.io/canonical-revision", "v1");
    workload.set("CLUSTER_ID", "Kubernetes");
    Arc::new(Node { id: format!("sidecar~1~{app}"), workload, version: "1.31.0".into(), ..Node::default() })
}

/// A proxy and its control plane.
struct Side {
    ads: Ads,
    proxy: Proxy,
}

impl Side {
    fn start(node: &Arc<Node>) -> Side {
        let ads = Ads::start();
        let mut setup = Setup::new(Variant::Delta, 1);
        setup.options.node = node.clone();
        Side { proxy: setup.start(ads.address()), ads }
    }

    async fn serve(
        &self,
        listeners: Vec<mizzen::proto::envoy::config::listener::v3::Listener>,
        clusters: Vec<mizzen::proto::envoy::config::cluster::v3::Cluster>,
        ports: &[u16],
    ) {
        self.ads.set_clusters(clusters);
        self.ads.set_listeners(listeners);
        self.ads.push().await;
        self.ads.wait_ack(Type::Cluster).await;
        self.ads.wait_ack(Type::Listener).await;
        for port in ports {
            wait_listening(([127, 0, 0, 1], *port).into()).await;
        }
    }

    /// The series of `metric` that have all of `labels`, added.
    fn sum(&self, metric: &str, labels: &[(&str, &str)]) -> u64 {
        let all = prometheus::to_string(&self.proxy.registry);
        let lines =
            all.lines().filter_map(|line| line.strip_prefix(&format!("{metric}{{"))?.rsplit_once("} "));
        let fits =
            |text: &str| labels.iter().all(|(label, value)| text.contains(&format!("{label}=\"{value}\"")));
        lines.filter(|(text, _)| fits(text)).map(|(_, number)| number.parse::<u64>().unwrap()).sum()
    }

    async fn wait_sum(&self, metric: &str, labels: &[(&str, &str)], wanted: u64) {
        let what = format!("{metric}{labels:?} {wanted}");
        let near = || {
            let all = prometheus::to_string(&self.proxy.registry);
            all.lines().filter(|line| line.starts_with(metric)).collect::<Vec<_>>().join("\n")
        };
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while self.sum(metric, labels) != wanted {
            assert!(std::time::Instant::now() < end, "waited in vain for {what} among:\n{}", near());
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
}

/// Two proxies in a row with certificates of one authority.
struct Pair {
    client: Side,
    server: Side,
    ca: Ca,
    ours: Leaf,
    theirs: Leaf,
}

impl Pair {
    fn start() -> Pair {
        let ca = Ca::new("mesh");
        let (ours, theirs) = (ca.leaf(&[OURS]), ca.leaf(&[THEIRS]));
        let (client, server) = (Side::start(&node("client", "demo")), Side::start(&node("web", "shop")));
        Pair { client, server, ca, ours, theirs }
    }

    fn downstream(&self, alpn: &[&str]) -> Json {
        json!({"name": "tls", "typed_config": {"@type": format!("{TLS}.DownstreamTlsContext"),
            "require_client_certificate": true,
            "common_tls_context": certificates(&self.theirs, &self.ca, alpn)}})
    }

    fn upstream(&self) -> Json {
        let common = certificates(&self.ours, &self.ca, &["istio-peer-exchange", "istio"]);
        json!({"name": "tls", "typed_config": {"@type": format!("{TLS}.UpstreamTlsContext"),
            "common_tls_context": common, "sni": "outbound_.80_._.web.shop.svc"}})
    }
}

fn tells_servers() -> Json {
    json!({"upstream_discovery": [{"istio_headers": {}}, {"workload_discovery": {}}],
        "upstream_propagation": [{"istio_headers": {}}]})
}

fn tells_clients() -> Json {
    json!({"downstream_discovery": [{"istio_headers": {}}, {"workload_discovery": {}}],
        "downstream_propagation": [{"istio_headers": {}}]})
}

#[tokio::test]
async fn requests_are_counted_on_both_sides_and_their_apps_hear_nothing_of_it() {
    let app = Server::start(|_, _| Answer::of(200, &["x-app: yes"], "hello")).await;
    let pair = Pair::start();
    let (front, back) = (free_port(), free_port());
    let inbound =
        [peers(&tells_clients()), grpc_stats(), stats(&json!({"disable_host_header_fallback": true}))];
    let chains = json!([
        // Only what offers Istio's protocols for HTTP/1.1 gets here.
        {"filter_chain_match": {"transport_protocol": "tls", "application_protocols": ["istio-http/1.1"]},
            "filters": [exchange(), http("inbound|80||", &inbound, &json!({}))],
            "transport_socket": pair.downstream(&["h2", "http/1.1"])},
    ]);
    let inside = cluster("inbound|80||", app.address, &json!({}));
    pair.server.serve(vec![listener(back, "INBOUND", &chains)], vec![inside], &[back]).await;
    let labels = json!({"metrics": [
        {"name": "requests_total", "dimensions": {"request_method": "request.method", "route": "'fixed'"},
            "tags_to_remove": ["source_cluster"]},
        {"name": "request_bytes", "drop": true}]});
    let outbound = [peers(&tells_servers()), grpc_stats(), alpn(), stats(&labels)];
    let chains = json!([{"filters": [http("outbound|80||web.shop.svc", &outbound, &json!({}))]}]);
    let outside = cluster(
        "outbound|80||web.shop.svc",
        ([127, 0, 0, 1], back).into(),
        &json!({"transport_socket": pair.upstream(), "filters": [exchange()], "metadata": service(&json!({}))}),
    );
    pair.client.serve(vec![listener(front, "OUTBOUND", &chains)], vec![outside], &[front]).await;
    for _ in 0..3 {
        let answer = get(front, "/", &[]).await;
        assert_eq!(answer.status(), 200, "{answer:?}");
        assert!(!answer.has("x-envoy-peer-metadata") && !answer.has("x-envoy-peer-metadata-id"));
    }
    assert!(
        app.seen()
            .iter()
            .all(|head| !head.has("x-envoy-peer-metadata-id") && !head.has("x-envoy-peer-metadata"))
    );
    let wanted = [
        ("reporter", "source"),
        ("source_workload", "client-v1"),
        ("source_principal", OURS),
        ("destination_workload", "web-v1"),
        ("destination_app", "web"),
        ("destination_cluster", "Kubernetes"),
        ("destination_principal", THEIRS),
        ("destination_service", "web.shop.svc"),
        ("destination_service_name", "web"),
        ("destination_service_namespace", "shop"),
        ("request_protocol", "http"),
        ("response_code", "200"),
        ("response_flags", "-"),
        ("connection_security_policy", "unknown"),
        ("request_method", "GET"),
        ("route", "fixed"),
    ];
    pair.client.wait_sum("istio_requests_total", &wanted, 3).await;
    assert_eq!(pair.client.sum("istio_requests_total", &[("source_cluster", "Kubernetes")]), 0);
    assert_eq!(pair.client.sum("istio_request_bytes_count", &[]), 0);
    assert_eq!(pair.client.sum("istio_response_bytes_count", &[("destination_workload", "web-v1")]), 3);
    let wanted = [
        ("reporter", "destination"),
        ("source_workload", "client-v1"),
        ("source_workload_namespace", "demo"),
        ("source_principal", OURS),
        ("source_app", "client"),
        ("destination_workload", "web-v1"),
        ("destination_principal", THEIRS),
        ("destination_service", "web"),
        ("response_code", "200"),
        ("connection_security_policy", "mutual_tls"),
    ];
    pair.server.wait_sum("istio_requests_total", &wanted, 3).await;
    pair.server.wait_sum("istio_request_duration_milliseconds_count", &wanted, 3).await;
    assert_eq!(pair.server.sum("istio_build", &[("component", "proxy"), ("tag", "1.31.0")]), 1);
}

#[tokio::test]
async fn clusters_may_keep_their_protocols_and_failures_are_counted_too() {
    let app = Server::start(|_, _| Answer::ok("hello")).await;
    let pair = Pair::start();
    let (front, back) = (free_port(), free_port());
    let chains = json!([
        {"filter_chain_match": {"transport_protocol": "tls", "application_protocols": ["istio-http/1.1"]},
            "filters": [http("nowhere", &[], &json!({}))],
            "transport_socket": pair.downstream(&["h2", "http/1.1"])},
        {"filter_chain_match": {"transport_protocol": "tls"},
            "filters": [exchange(), http("inbound|80||", &[], &json!({}))],
            "transport_socket": pair.downstream(&["h2", "http/1.1"])},
    ]);
    let inside = cluster("inbound|80||", app.address, &json!({}));
    pair.server.serve(vec![listener(back, "INBOUND", &chains)], vec![inside], &[back]).await;
    let chains = json!([{"filters": [http("kept", &[alpn(), stats(&json!({}))], &json!({}))]}]);
    let to_back: SocketAddr = ([127, 0, 0, 1], back).into();
    let with = |more: &Json| json!({"transport_socket": pair.upstream(), "metadata": service(more)});
    let kept = |more: &Json| cluster("kept", to_back, &with(more));
    let front_listener = listener(front, "OUTBOUND", &chains);
    let own = json!({"alpn_override": "false"});
    pair.client.serve(vec![front_listener.clone()], vec![kept(&own)], &[front]).await;
    assert_eq!(get(front, "/", &[]).await.status(), 200, "the configured protocols are offered");
    // From the next push on those of the filter are, on connections of their own.
    pair.client.serve(vec![front_listener], vec![kept(&json!({}))], &[front]).await;
    wait_until("the new rules", || pair.client.proxy.registry.number("cluster_manager.active_clusters") > 0)
        .await;
    let mut status = 200;
    for _ in 0..200 {
        status = get(front, "/", &[]).await.status();
        if status == 503 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(status, 503);
    let failed =
        [("response_code", "503"), ("destination_workload", "web-v1"), ("destination_cluster", "Far")];
    pair.client.wait_sum("istio_requests_total", &failed, 1).await;
}

/// A server that speaks first, then echoes.
async fn greeter() -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = socket.accept().await {
            tokio::spawn(async move {
                stream.write_all(b"220 hello").await?;
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await?;
                write.shutdown().await
            });
        }
    });
    address
}

#[tokio::test]
async fn raw_connections_tell_each_other_who_is_at_their_ends() {
    let app = greeter().await;
    let pair = Pair::start();
    let (front, back) = (free_port(), free_port());
    let often = stats(&json!({"tcp_reporting_duration": "0.05s"}));
    let chains = json!([{"filters": [exchange(), often, tcp("inbound|90||")],
        "transport_socket": pair.downstream(&["istio-peer-exchange", "h2", "http/1.1"])}]);
    let inside = cluster("inbound|90||", app, &json!({}));
    pair.server.serve(vec![listener(back, "INBOUND", &chains)], vec![inside], &[back]).await;
    let chains = json!([{"filters": [stats(&json!({})), tcp("outbound|90||web.shop.svc")]}]);
    let outside = cluster(
        "outbound|90||web.shop.svc",
        ([127, 0, 0, 1], back).into(),
        &json!({"transport_socket": pair.upstream(), "filters": [exchange()], "metadata": service(&json!({}))}),
    );
    // A connection that only asks whether somebody listens would be counted like any other.
    pair.client.serve(vec![listener(front, "OUTBOUND", &chains)], vec![outside], &[]).await;
    let mut stream = loop {
        match TcpStream::connect(("127.0.0.1", front)).await {
            Ok(stream) => break stream,
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
        }
    };
    let mut greeting = [0; 9];
    stream.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"220 hello", "nothing of the exchange is in the stream");
    let big = vec![7u8; 300_000];
    let (mut read, mut write) = stream.split();
    let mut back_again = vec![0; big.len()];
    let (sent, got) = tokio::join!(write.write_all(&big), read.read_exact(&mut back_again));
    sent.unwrap();
    got.unwrap();
    assert!(back_again == big);
    let wanted = [
        ("reporter", "destination"),
        ("source_workload", "client-v1"),
        ("source_principal", OURS),
        ("destination_workload", "web-v1"),
        ("request_protocol", "tcp"),
        ("connection_security_policy", "mutual_tls"),
    ];
    // While it is open.
    pair.server.wait_sum("istio_tcp_connections_opened_total", &wanted, 1).await;
    pair.server.wait_sum("istio_tcp_received_bytes_total", &wanted, 300_000).await;
    assert_eq!(pair.server.sum("istio_tcp_connections_closed_total", &wanted), 0);
    drop(stream);
    pair.server.wait_sum("istio_tcp_connections_closed_total", &wanted, 1).await;
    let wanted = [
        ("reporter", "source"),
        ("source_workload", "client-v1"),
        ("source_principal", OURS),
        ("destination_workload", "web-v1"),
        ("destination_cluster", "Kubernetes"),
        ("destination_service", "web.shop.svc"),
        ("destination_principal", THEIRS),
    ];
    pair.client.wait_sum("istio_tcp_sent_bytes_total", &wanted, 300_009).await;
    pair.client.wait_sum("istio_tcp_connections_closed_total", &wanted, 1).await;
    let number = |side: &Side, name: &str| side.proxy.registry.number(&format!("metadata_exchange.{name}"));
    assert_eq!(number(&pair.client, "alpn_protocol_found"), 1);
    assert_eq!(number(&pair.server, "initial_header_not_found"), 0);
}
