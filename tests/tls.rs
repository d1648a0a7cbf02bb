//! TLS on both sides of a proxy, with certificates that are written, discovered and rotated.

use mizzen::app::Proxy;
use mizzen::model::{
    Certificate, Certificates, CommonTls, Data, Hidden, SecretSource, TlsVersion, UpstreamTls, Validation,
    ValidationSource,
};
use mizzen::telemetry::Value;
use mizzen::tls::{Secrets, Session, Stream, TlsError, Wish};
use mizzen::xds::client::{Address, AdsConfig, Asked};
use mizzen::xds::sds::SdsConfig;
use mizzen::xds::state::Variant;
use serde_json::{Value as Json, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use support::ads::{Ads, Type};
use support::pki::{Ca, Leaf};
use support::proxy::{Setup, free_port, wait_listening, wait_until};
use support::resources::{message, tcp_filter};
use support::sds::SdsServer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

mod support;

const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";
const HCM: &str = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3";
const INSPECT: &str = "type.googleapis.com/envoy.extensions.filters.listener";

fn certificate(leaf: &Leaf) -> Json {
    json!({"certificate_chain": {"inline_string": leaf.chain}, "private_key": {"inline_string": leaf.key}})
}

/// A server's socket that asks for a certificate of `ca`.
fn mutual(leaf: &Leaf, ca: &Ca, alpn: &[&str]) -> Json {
    json!({"name": "tls", "typed_config": {"@type": format!("{TLS}.DownstreamTlsContext"),
        "require_client_certificate": true,
        "common_tls_context": {"alpn_protocols": alpn, "tls_certificates": [certificate(leaf)],
            "validation_context": {"trusted_ca": {"inline_string": ca.pem}}}}})
}

fn http_filter(cluster: &str, extra: &Json) -> Json {
    let router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
    let mut filter = json!({"@type": format!("{HCM}.HttpConnectionManager"), "stat_prefix": "http",
        "route_config": {"name": "r", "virtual_hosts": [{"name": "all", "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster}}]}]},
        "http_filters": [{"name": "router", "typed_config": {"@type": router}}]});
    filter.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    filter
}

fn listener(
    name: &str,
    port: u16,
    chains: &Json,
    extra: &Json,
) -> mizzen::proto::envoy::config::listener::v3::Listener {
    let mut all = json!({"name": name, "filter_chains": chains,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}});
    all.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    message(&all)
}

fn cluster(name: &str, host: SocketAddr, extra: &Json) -> mizzen::proto::envoy::config::cluster::v3::Cluster {
    let address = json!({"socket_address": {"address": host.ip().to_string(), "port_value": host.port()}});
    let labels = json!({"filter_metadata": {"envoy.transport_socket_match": {"tlsMode": "istio"}}});
    let mut all = json!({"name": name, "connect_timeout": "5s", "load_assignment": {"cluster_name": name,
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}, "metadata": labels}]}]}});
    all.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    message(&all)
}

/// Answers every connection with what it sends, and what it sends first with a word before.
async fn echo() -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = socket.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

/// An HTTP/1 server that answers with the head of the request.
async fn mirror() -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = socket.accept().await {
            tokio::spawn(async move {
                loop {
                    let Some(head) = head(&mut stream).await else { return };
                    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{head}", head.len());
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// Reads up to the end of a head.
async fn head(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<String> {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        text.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(text).ok()
}

async fn get(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin), extra: &str) -> String {
    let request = format!("GET / HTTP/1.1\r\nhost: a.test\r\n{extra}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let answer = head(stream).await.unwrap().to_ascii_lowercase();
    let length = answer.split("content-length: ").nth(1).unwrap().split('\r').next().unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).await.unwrap();
    String::from_utf8(body).unwrap()
}

/// A client of its own: shows `leaf`, trusts `ca`.
async fn dial(
    port: u16,
    leaf: Option<&Leaf>,
    ca: &Ca,
    sni: &str,
    alpn: &[&str],
) -> Result<(Stream<TcpStream>, Session), TlsError> {
    let inline = |text: &str| Data::Inline(Hidden::new(text.as_bytes()));
    let shown = leaf.map(|leaf| Certificate { chain: inline(&leaf.chain), key: inline(&leaf.key) });
    let given = Validation { roots: Some(inline(&ca.pem)), ..Validation::default() };
    let model = UpstreamTls {
        common: CommonTls {
            min: TlsVersion::Tls12,
            max: TlsVersion::Tls13,
            ciphers: None,
            curves: None,
            alpn: alpn.iter().map(|name| (*name).to_owned()).collect(),
            certificates: Certificates::Given(shown.into_iter().collect()),
            validation: ValidationSource { given: Some(given), secret: None },
        },
        sni: sni.to_owned(),
        host_sni: false,
        check_sni: false,
        max_session_keys: 0,
    };
    let client = Secrets::default().client(&Arc::new(model));
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    client.connect(stream, &Wish::default(), None).await
}

async fn said(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin), text: &str) -> bool {
    if stream.write_all(text.as_bytes()).await.is_err() || stream.flush().await.is_err() {
        return false;
    }
    let mut got = vec![0; text.len()];
    stream.read_exact(&mut got).await.is_ok() && got == text.as_bytes()
}

struct World {
    ads: Ads,
    proxy: Proxy,
    port: u16,
}

async fn world(change: impl FnOnce(&mut Setup)) -> World {
    let ads = Ads::start();
    let mut setup = Setup::new(Variant::Delta, 1);
    change(&mut setup);
    World { proxy: setup.start(ads.address()), ads, port: free_port() }
}

impl World {
    /// The sum of all counters whose names end so.
    fn count(&self, name: &str) -> u64 {
        let all = mizzen::telemetry::collect(&self.proxy.registry);
        let values = all.into_iter().filter(|(full, _)| full.ends_with(name)).map(|(_, value)| value);
        values.map(|value| if let Value::Counter(n) = value { n } else { 0 }).sum()
    }

    fn state(&self) -> &'static str {
        self.proxy.lifecycle.state().word()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_port_serves_plaintext_mutual_tls_and_what_is_passed_through() {
    let world = world(|_| {}).await;
    let ca = Ca::new("root");
    let (a, b) = (ca.leaf(&["spiffe://td/a"]), ca.leaf(&["spiffe://td/b", "b.test"]));
    let (raw, http) = (echo().await, mirror().await);
    let details = json!({"forward_client_cert_details": "APPEND_FORWARD",
        "set_current_client_cert_details": {"subject": true, "dns": true, "uri": true}});
    let chains = json!([
        {"name": "mesh", "transport_socket": mutual(&a, &ca, &["h2", "http/1.1"]),
            "filter_chain_match": {"transport_protocol": "tls",
                "application_protocols": ["istio-http/1.0", "istio-http/1.1", "istio-h2"]},
            "filters": [{"name": "f", "typed_config": http_filter("http", &details)}]},
        {"name": "plain", "filter_chain_match": {"transport_protocol": "raw_buffer",
                "application_protocols": ["http/1.1", "h2c"]},
            "filters": [{"name": "f", "typed_config": http_filter("http", &details)}]},
        {"name": "mesh-tcp", "transport_socket": mutual(&a, &ca, &["istio-peer-exchange", "h2", "http/1.1"]),
            "filter_chain_match": {"transport_protocol": "tls",
                "application_protocols": ["istio-peer-exchange", "istio"]},
            "filters": [{"name": "f", "typed_config": tcp_filter("raw")}]},
        {"name": "other-tls", "filter_chain_match": {"transport_protocol": "tls"},
            "filters": [{"name": "f", "typed_config": tcp_filter("raw")}]},
        {"name": "raw", "filter_chain_match": {"transport_protocol": "raw_buffer"},
            "filters": [{"name": "f", "typed_config": tcp_filter("raw")}]},
    ]);
    let inspect = |name: &str, message: &str| json!({"name": name, "typed_config": {"@type": format!("{INSPECT}.{name}.v3.{message}")}});
    let extra = json!({"listener_filters_timeout": "0s", "traffic_direction": "INBOUND",
        "listener_filters": [inspect("tls_inspector", "TlsInspector"), inspect("http_inspector", "HttpInspector")]});
    world.ads.set_clusters(vec![cluster("raw", raw, &json!({})), cluster("http", http, &json!({}))]);
    world.ads.set_listeners(vec![listener("in", world.port, &chains, &extra)]);
    world.ads.push().await;
    wait_listening(([127, 0, 0, 1], world.port).into()).await;

    // Mutual TLS, HTTP by what the client offers, whatever is negotiated.
    let (mut stream, session) =
        dial(world.port, Some(&b), &ca, "x", &["istio-http/1.1", "istio", "http/1.1"]).await.unwrap();
    assert_eq!(session.alpn.as_deref(), Some(&b"http/1.1"[..]));
    let told = get(&mut stream, "x-forwarded-client-cert: By=spiffe://td/forged\r\n").await;
    let told = told.lines().find(|line| line.starts_with("x-forwarded-client-cert")).unwrap().to_owned();
    assert!(told.contains("forged,By=spiffe://td/a;Hash="), "{told}");
    assert!(
        told.ends_with(";Subject=\"CN=spiffe://td/b,O=Mizzen\\, tests\";URI=spiffe://td/b;DNS=b.test"),
        "{told}"
    );
    let again = get(&mut stream, "").await;
    assert!(again.contains("x-forwarded-proto: https"), "{again}");

    // Plaintext HTTP: what it claims about a certificate goes nowhere.
    let mut plain = TcpStream::connect(("127.0.0.1", world.port)).await.unwrap();
    let told = get(&mut plain, "x-forwarded-client-cert: By=spiffe://td/forged\r\n").await;
    assert!(!told.contains("client-cert") && told.contains("x-forwarded-proto: http\r"), "{told}");

    // A list without overlap goes on without a protocol.
    let (mut stream, session) = dial(world.port, Some(&b), &ca, "x", &["istio"]).await.unwrap();
    assert_eq!(session.alpn, None);
    assert!(said(&mut stream, "mesh tcp").await);

    // Plain bytes that are no HTTP.
    let mut stream = TcpStream::connect(("127.0.0.1", world.port)).await.unwrap();
    assert!(said(&mut stream, "\u{1}no http").await);

    // TLS for somebody behind: its ClientHello comes back as it was.
    let mut stream = TcpStream::connect(("127.0.0.1", world.port)).await.unwrap();
    let hello = [&[22, 3, 1, 0, 45, 1, 0, 0, 41, 3, 3][..], &[7; 32], &[0, 0, 2, 19, 1, 1, 0][..]].concat();
    stream.write_all(&hello[..20]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    stream.write_all(&hello[20..]).await.unwrap();
    let mut back = vec![0; hello.len()];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(back, hello);

    // No certificate, or one of another root: refused, and counted for its reason.
    let stranger = Ca::new("other").leaf(&["spiffe://td/b"]);
    for leaf in [None, Some(&stranger)] {
        let refused = match dial(world.port, leaf, &ca, "x", &["istio"]).await {
            Ok((mut stream, _)) => !said(&mut stream, "x").await,
            Err(_) => true,
        };
        assert!(refused);
    }
    wait_until("the refusals are counted", || {
        world.count("ssl.fail_verify_no_cert") == 1 && world.count("ssl.fail_verify_error") == 1
    })
    .await;
    assert_eq!(world.count("ssl.handshake"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_speaks_mutual_tls_to_hosts_that_want_it() {
    let world = world(|_| {}).await;
    let ca = Ca::new("root");
    let (server, client) = (ca.leaf(&["spiffe://td/server"]), ca.leaf(&["spiffe://td/client"]));
    let socket = |accepted: &str| {
        json!({"transport_socket_matches": [
            {"name": "tlsMode-istio", "match": {"tlsMode": "istio"}, "transport_socket": {"name": "tls",
                "typed_config": {"@type": format!("{TLS}.UpstreamTlsContext"),
                    "sni": "outbound_.80_._.web.demo.svc.cluster.local",
                    "common_tls_context": {"alpn_protocols": ["istio"], "tls_certificates": [certificate(&client)],
                        "validation_context": {"trusted_ca": {"inline_string": ca.pem},
                            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": accepted}}]}}}}},
            {"name": "tlsMode-disabled", "match": {}, "transport_socket": {"name": "raw", "typed_config":
                {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"}}}]})
    };
    let (raw, http) = (echo().await, mirror().await);
    let inbound = [free_port(), free_port(), free_port()];
    let own = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    let chain = |filter: Json| {
        json!([{"transport_socket": mutual(&server, &ca, &["h2", "http/1.1"]),
        "filters": [{"name": "f", "typed_config": filter}]}])
    };
    let plain = |filter: Json| json!([{"filters": [{"name": "f", "typed_config": filter}]}]);
    let outbound = [free_port(), free_port(), free_port(), free_port()];
    let mut http2 = socket("spiffe://td/server");
    http2["http2_protocol_options"] = json!({});
    world.ads.set_clusters(vec![
        cluster("raw", raw, &json!({})),
        cluster("http", http, &json!({})),
        cluster("to-raw", own(inbound[0]), &socket("spiffe://td/server")),
        cluster("to-http", own(inbound[1]), &socket("spiffe://td/server")),
        cluster("to-http2", own(inbound[2]), &http2),
        cluster("to-impostor", own(inbound[1]), &socket("spiffe://td/another")),
    ]);
    world.ads.set_listeners(vec![
        listener("in-raw", inbound[0], &chain(tcp_filter("raw")), &json!({})),
        listener("in-http", inbound[1], &chain(http_filter("http", &json!({}))), &json!({})),
        listener("in-http2", inbound[2], &chain(http_filter("http", &json!({}))), &json!({})),
        listener("out-raw", outbound[0], &plain(tcp_filter("to-raw")), &json!({})),
        listener("out-http", outbound[1], &plain(http_filter("to-http", &json!({}))), &json!({})),
        listener("out-http2", outbound[2], &plain(http_filter("to-http2", &json!({}))), &json!({})),
        listener("out-impostor", outbound[3], &plain(http_filter("to-impostor", &json!({}))), &json!({})),
    ]);
    world.ads.push().await;
    for port in outbound.iter().chain(&inbound) {
        wait_listening(own(*port)).await;
    }
    let mut stream = TcpStream::connect(own(outbound[0])).await.unwrap();
    let long = "long ".repeat(200_000);
    let (mut read, mut write) = stream.split();
    let mut back = vec![0; long.len()];
    let (sent, got) = tokio::join!(write.write_all(long.as_bytes()), read.read_exact(&mut back));
    sent.unwrap();
    got.unwrap();
    assert!(back == long.as_bytes());
    write.shutdown().await.unwrap();
    assert_eq!(read.read(&mut [0]).await.unwrap(), 0, "the end of one side reaches the other");
    for port in [outbound[1], outbound[2]] {
        let mut stream = TcpStream::connect(own(port)).await.unwrap();
        for _ in 0..3 {
            let told = get(&mut stream, "x-test: yes\r\n").await;
            assert!(told.contains("x-test: yes"), "{told}");
        }
    }
    assert_eq!(world.count("cluster.to-http.upstream_cx_total"), 1, "connections are used again");
    let mut stream = TcpStream::connect(own(outbound[3])).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert!(head(&mut stream).await.unwrap().starts_with("HTTP/1.1 503"));
    assert!(world.count("cluster.to-impostor.ssl.fail_verify_san") >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_discovered_waited_for_and_rotated() {
    let sds = SdsServer::start();
    let mut config = AdsConfig::new(vec![Address::Socket(sds.address())], Variant::Sotw);
    config.service = Asked::Secrets;
    config.backoff_base = Duration::from_millis(20);
    let world = world(|setup| {
        let source = SecretSource::Cluster("sds-grpc".to_owned());
        setup.sds = SdsConfig { sources: [(source, config)].into(), ..SdsConfig::default() };
    })
    .await;
    let raw = echo().await;
    let from = |name: &str| {
        json!({"name": name, "sds_config": {"initial_fetch_timeout": "0s", "api_config_source":
        {"api_type": "GRPC", "transport_api_version": "V3",
         "grpc_services": [{"envoy_grpc": {"cluster_name": "sds-grpc"}}]}, "resource_api_version": "V3"}})
    };
    let tls = json!({"name": "tls", "typed_config": {"@type": format!("{TLS}.DownstreamTlsContext"),
        "require_client_certificate": true, "common_tls_context": {
            "tls_certificate_sds_secret_configs": [from("default")], "combined_validation_context": {
                "default_validation_context": {}, "validation_context_sds_secret_config": from("ROOTCA")}}}});
    let chains =
        json!([{"transport_socket": tls, "filters": [{"name": "f", "typed_config": tcp_filter("raw")}]}]);
    world.ads.set_clusters(vec![cluster("raw", raw, &json!({}))]);
    world.ads.set_listeners(vec![listener(
        "in",
        world.port,
        &chains,
        &json!({"traffic_direction": "INBOUND"}),
    )]);
    world.ads.push().await;
    world.ads.wait_ack(Type::Listener).await;
    wait_listening(([127, 0, 0, 1], world.port).into()).await;

    let ca = Ca::new("root");
    let (a, b) = (ca.leaf(&["spiffe://td/a"]), ca.leaf(&["spiffe://td/b"]));
    assert!(dial(world.port, Some(&b), &ca, "x", &[]).await.is_err(), "nothing has come");
    assert_eq!(world.state(), "INITIALIZING");
    sds.certificate("default", &a);
    wait_until("the certificate is there", || world.count("sds.default.update_success") == 1).await;
    assert!(dial(world.port, Some(&b), &ca, "x", &[]).await.is_err(), "the root has not come");
    sds.roots("ROOTCA", &[&ca]);
    wait_until("the process is live", || world.state() == "LIVE").await;
    let (mut old, _) = dial(world.port, Some(&b), &ca, "x", &[]).await.unwrap();
    assert!(said(&mut old, "one").await);

    // A key of another certificate is refused with a word, and nothing changes.
    sds.certificate("default", &Leaf { key: b.key.clone(), ..a.clone() });
    sds.wait_nack("default", "does not belong").await;
    assert!(dial(world.port, Some(&b), &ca, "x", &[]).await.is_ok());

    // Rotation of everything: new connections take the new, the open one goes on.
    let next = Ca::new("next");
    sds.certificate("default", &next.leaf(&["spiffe://td/a2"]));
    sds.roots("ROOTCA", &[&next]);
    let new = next.leaf(&["spiffe://td/b2"]);
    let end = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        if let Ok((mut stream, _)) = dial(world.port, Some(&new), &next, "x", &[]).await
            && said(&mut stream, "two").await
        {
            break;
        }
        assert!(tokio::time::Instant::now() < end, "the new certificate is not in use");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(said(&mut old, "three").await, "rotation touches no open connection");
    let refused = match dial(world.port, Some(&b), &next, "x", &[]).await {
        Ok((mut stream, _)) => !said(&mut stream, "x").await,
        Err(_) => true,
    };
    assert!(refused, "the old root is gone");

    // The server goes and comes back: what was there stays, what is new arrives.
    let sds = sds.restarted().await;
    let third = next.leaf(&["spiffe://td/a3"]);
    sds.certificate("default", &third);
    sds.roots("ROOTCA", &[&next]);
    let before = world.count("sds.default.update_success");
    wait_until("the stream is open again", || world.count("sds.default.update_success") > before).await;
    let (mut stream, session) = dial(world.port, Some(&new), &next, "x", &[]).await.unwrap();
    assert!(said(&mut stream, "four").await && said(&mut old, "five").await);
    assert!(session.peer.unwrap().pem(false).contains(third.chain.lines().nth(1).unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_choose_the_version_of_http_by_alpn() {
    let world = world(|_| {}).await;
    let ca = Ca::new("root");
    let (server, client) = (ca.leaf(&["spiffe://td/server"]), ca.leaf(&["spiffe://td/client"]));
    let options = json!({"typed_extension_protocol_options": {"http": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "auto_config": {"http_protocol_options": {}, "http2_protocol_options": {"max_concurrent_streams": 50}}}}});
    let mut secure = options.clone();
    secure["transport_socket"] = json!({"name": "tls", "typed_config": {
        "@type": format!("{TLS}.UpstreamTlsContext"), "common_tls_context": {
            "tls_certificates": [certificate(&client)],
            "validation_context": {"trusted_ca": {"inline_string": ca.pem}}}}});
    let own = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    let chain = |alpn: &[&str]| {
        json!([{"transport_socket": mutual(&server, &ca, alpn),
            "filters": [{"name": "f", "typed_config": http_filter("web", &json!({}))}]}])
    };
    let log = std::env::temp_dir().join(format!("mizzen-tls-{}.log", std::process::id()));
    let format = "%UPSTREAM_PROTOCOL% %UPSTREAM_TLS_VERSION% %UPSTREAM_PEER_URI_SAN% %UPSTREAM_LOCAL_URI_SAN% \
        %UPSTREAM_PEER_CERT%\n";
    let logged = json!({"access_log": [{"name": "file", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
        "path": log, "log_format": {"text_format_source": {"inline_string": format}}}}]});
    let plain =
        |cluster: &str| json!([{"filters": [{"name": "f", "typed_config": http_filter(cluster, &logged)}]}]);
    let offers: [(&str, &[&str]); 3] = [("new", &["h2", "http/1.1"]), ("old", &["http/1.1"]), ("mute", &[])];
    let inbound = [free_port(), free_port(), free_port()];
    let outbound = [free_port(), free_port(), free_port(), free_port()];
    let web = mirror().await;
    let mut clusters = vec![cluster("web", web, &json!({})), cluster("to-bare", web, &options)];
    let mut listeners = vec![listener("out-bare", outbound[3], &plain("to-bare"), &json!({}))];
    for (i, (name, alpn)) in offers.iter().enumerate() {
        clusters.push(cluster(&format!("to-{name}"), own(inbound[i]), &secure));
        listeners.push(listener(&format!("in-{name}"), inbound[i], &chain(alpn), &json!({})));
        let to = plain(&format!("to-{name}"));
        listeners.push(listener(&format!("out-{name}"), outbound[i], &to, &json!({})));
    }
    world.ads.set_clusters(clusters);
    world.ads.set_listeners(listeners.clone());
    world.ads.push().await;
    for port in outbound.iter().chain(&inbound) {
        wait_listening(own(*port)).await;
    }
    let many = async |port: u16| {
        let mut asked = tokio::task::JoinSet::new();
        for _ in 0..8 {
            asked.spawn(async move {
                let mut stream = TcpStream::connect(own(port)).await.unwrap();
                for _ in 0..3 {
                    assert!(get(&mut stream, "x-test: yes\r\n").await.contains("x-test: yes"));
                }
            });
        }
        while let Some(done) = asked.join_next().await {
            done.unwrap();
        }
    };
    let versions = |name: &str| {
        let count = |version: &str| world.count(&format!("cluster.to-{name}.upstream_cx_{version}_total"));
        (count("http1"), count("http2"))
    };
    for port in outbound {
        many(port).await;
    }
    assert_eq!(versions("new"), (0, 1), "one connection carries all");
    let began = std::time::Instant::now();
    let lines = loop {
        world.proxy.flush_logs().await;
        let lines = std::fs::read_to_string(&log).unwrap_or_default();
        if lines.lines().count() >= 96 || began.elapsed().as_secs() >= 20 {
            break lines;
        }
    };
    let _ = std::fs::remove_file(&log);
    let told = "TLSv1.2 spiffe://td/server spiffe://td/client -----BEGIN CERTIFICATE-----%0A";
    for (start, count) in [("HTTP/2 ", 24), ("HTTP/1.1 ", 48)] {
        let of_one =
            lines.lines().filter(|line| line.strip_prefix(start).is_some_and(|rest| rest.starts_with(told)));
        assert_eq!(of_one.count(), count, "{lines}");
    }
    assert_eq!(lines.lines().filter(|line| *line == "HTTP/1.1 - - - -").count(), 24, "{lines}");
    for name in ["old", "mute", "bare"] {
        let (http1, http2) = versions(name);
        assert!((1..=8).contains(&http1) && http2 == 0, "{name}: {http1} {http2}");
    }
    // Hosts change their minds, in both directions.
    for (at, name, alpn) in [(1, "old", &["h2", "http/1.1"][..]), (0, "new", &["http/1.1"][..])] {
        let port = inbound[at];
        listeners.retain(|listener| listener.name != format!("in-{name}"));
        listeners.push(listener(&format!("in-{name}"), port, &chain(alpn), &json!({})));
    }
    world.ads.set_listeners(listeners);
    world.ads.push().await;
    let end = tokio::time::Instant::now() + Duration::from_secs(30);
    while versions("new").0 == 0 || versions("old").1 == 0 {
        assert!(tokio::time::Instant::now() < end, "{:?} {:?}", versions("new"), versions("old"));
        many(outbound[0]).await;
        many(outbound[1]).await;
    }
}
