//! TLS where it is rarely looked at: a control plane behind it, health checks within it, certificates that are
//! no good from the beginning or any more; and what listeners do while a client says nothing.

use mizzen::model::{
    Certificate, Certificates, CommonTls, Data, DownstreamTls, Hidden, RuntimeValue, SecretSource,
    TlsVersion, UpstreamTls, Validation, ValidationSource, runtime,
};
use mizzen::tls::{Client, Secrets, Wish};
use mizzen::xds::client::{Address, AdsConfig, Asked};
use mizzen::xds::sds::SdsConfig;
use mizzen::xds::state::Variant;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use support::ads::{Ads, Type, any};
use support::http1::{Server, get};
use support::pki::{Ca, Leaf};
use support::process::Dir;
use support::proxy::{Setup, free_port, wait_listening, wait_until};
use support::resources::{listener, message, tcp_filter};
use support::sds::SdsServer;
use support::traffic::tcp_server;
use support::world::{World, cluster, host, http, merged, to};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

mod support;

const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";

fn inline(text: &str) -> Data {
    Data::Inline(Hidden::new(text.as_bytes()))
}

fn common(leaf: Option<&Leaf>, ca: &Ca, alpn: &[&str]) -> CommonTls {
    let shown = leaf.map(|leaf| Certificate { chain: inline(&leaf.chain), key: inline(&leaf.key) });
    let given = Validation { roots: Some(inline(&ca.pem)), ..Validation::default() };
    CommonTls {
        min: TlsVersion::Tls12,
        max: TlsVersion::Tls13,
        ciphers: None,
        curves: None,
        alpn: alpn.iter().map(|name| (*name).to_owned()).collect(),
        certificates: Certificates::Given(shown.into_iter().collect()),
        validation: ValidationSource { given: Some(given), secret: None },
    }
}

fn client(leaf: Option<&Leaf>, ca: &Ca) -> Arc<Client> {
    let common = common(leaf, ca, &[]);
    let (host_sni, check_sni) = (false, false);
    let model = UpstreamTls { common, sni: "server.test".into(), host_sni, check_sni, max_session_keys: 0 };
    Secrets::default().client(&Arc::new(model))
}

/// Takes TLS off what is for `to`, and wants a certificate of `ca`.
async fn terminator(leaf: &Leaf, ca: &Ca, alpn: &[&str], to: SocketAddr) -> SocketAddr {
    let model = DownstreamTls {
        common: common(Some(leaf), ca, alpn),
        require_client_certificate: true,
        require_sni: false,
        tickets: true,
        stateful: true,
    };
    let context = Secrets::default().server(&Arc::new(model), false);
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = socket.accept().await {
            let context = context.clone();
            tokio::spawn(async move {
                let Ok((mut stream, session)) = context.accept(stream).await else { return };
                assert!(session.alpn.is_some(), "what is spoken was agreed");
                let mut plain = TcpStream::connect(to).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut plain).await;
            });
        }
    });
    address
}

fn upstream(leaf: &Leaf, ca: &Ca) -> Value {
    json!({"transport_socket": {"name": "tls", "typed_config": {"@type": format!("{TLS}.UpstreamTlsContext"),
        "common_tls_context": {"tls_certificates": [certificate(leaf)],
            "validation_context": {"trusted_ca": {"inline_string": ca.pem}}}}}})
}

fn certificate(leaf: &Leaf) -> Value {
    json!({"certificate_chain": {"inline_string": leaf.chain}, "private_key": {"inline_string": leaf.key}})
}

fn downstream(certificate: &Value, ca: &Value) -> Value {
    json!({"name": "tls", "typed_config": {"@type": format!("{TLS}.DownstreamTlsContext"),
        "require_client_certificate": true, "common_tls_context":
            {"tls_certificates": [certificate], "validation_context": {"trusted_ca": ca}}}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_plane_behind_tls() {
    let (ads, ca) = (Ads::start(), Ca::new("root"));
    let (server, own) = (ca.leaf(&["server.test"]), ca.leaf(&["spiffe://td/a"]));
    let front = terminator(&server, &ca, &["h2"], ads.address()).await;
    let app = Server::named("app").await;
    let port = free_port();
    let routes = http(&json!([to(&json!({"cluster": "app"}))]), &json!({}));
    ads.set_clusters(vec![message(&cluster("app", &[host(app.address)], &json!({})))]);
    ads.set_listeners(vec![support::resources::listener("l", port, &routes)]);
    ads.push_now();
    let wish = Wish { alpn_fallback: &["h2"], check_name: true, ..Wish::default() };
    let stranger = Ca::new("other");
    let mut setup = Setup::new(Variant::Delta, 1);
    setup.ads_tls = Some((client(Some(&own), &stranger), wish.clone()));
    let refusing = setup.clone().start(front);
    wait_until("the server is refused", || refusing.xds.disconnects.get() > 0).await;
    assert_eq!(refusing.xds.connects.get(), 0, "never without a server it trusts");
    setup.ads_tls = Some((client(Some(&own), &ca), wish));
    let _proxy = setup.start(front);
    ads.wait_ack(Type::Listener).await;
    wait_listening(([127, 0, 0, 1], port).into()).await;
    assert_eq!(get(port, "/", &[]).await.body, "app");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_behind_tls_are_checked_within_it() {
    let ca = Ca::new("root");
    let (server, own) = (ca.leaf(&["server.test"]), ca.leaf(&["spiffe://td/a"]));
    let (encrypted, plain) = (Server::named("encrypted").await, Server::named("plain").await);
    let front = terminator(&server, &ca, &["http/1.1"], encrypted.address).await;
    let check = json!({"health_checks": [{"timeout": "1s", "interval": "0.1s", "unhealthy_threshold": 1,
        "healthy_threshold": 1, "no_traffic_interval": "0.1s", "http_health_check": {"path": "/health"},
        "tls_options": {"alpn_protocols": ["http/1.1"]}}]});
    let more = merged(upstream(&own, &ca), &check);
    let routes = http(&json!([to(&json!({"cluster": "c"}))]), &json!({}));
    let hosts = [host(front), host(plain.address)];
    let world = World::start(&routes, &[cluster("c", &hosts, &more)]).await;
    wait_until("one is healthy", || world.number("cluster.c.membership_healthy") == 1).await;
    for _ in 0..4 {
        assert_eq!(get(world.port, "/", &[]).await.body, "encrypted");
    }
    assert!(encrypted.seen().iter().any(|request| request.path() == "/health"));
    assert!(plain.seen().is_empty(), "nothing is asked in plaintext");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_are_no_good_are_refused_when_they_are_configured() {
    let (dir, ca) = (Dir::new(), Ca::new("root"));
    let leaf = ca.leaf(&["server.test"]);
    let at = |name: &str| json!({"filename": dir.0.join(name).to_str().unwrap()});
    let files = json!({"certificate_chain": at("chain.pem"), "private_key": at("key.pem")});
    let world = World::start(&tcp_filter("c"), &[cluster("c", &[], &json!({}))]).await;
    let listener = |port: u16| {
        let chain = json!({"filters": [{"name": "f", "typed_config": tcp_filter("c")}],
            "transport_socket": downstream(&files, &at("root.pem"))});
        message(&json!({"name": "files", "filter_chains": [chain],
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}))
    };
    let write = |name: &str, text: &str| std::fs::write(dir.0.join(name), text).unwrap();
    let port = free_port();
    for (chain, key, root, wrong) in [
        (None, &*leaf.key, &*ca.pem, "tls_certificates[0].certificate_chain.filename: "),
        (Some(&*leaf.chain), "nothing", &*ca.pem, "tls_certificates[0]: no private key"),
        (Some(&*leaf.chain), &*leaf.key, "nothing", "trusted_ca: no certificate"),
    ] {
        write("key.pem", key);
        write("root.pem", root);
        chain.into_iter().for_each(|chain| write("chain.pem", chain));
        world.ads.set_listeners(vec![listener(port)]);
        world.ads.push_everything().await;
        let nack = world.ads.wait_nack(Type::Listener).await;
        assert!(nack.contains(wrong), "{nack}");
        // Another push is another answer.
        world.ads.set_listeners(vec![]);
        world.push(&[Type::Listener]).await;
    }
    write("root.pem", &ca.pem);
    world.ads.set_listeners(vec![listener(port)]);
    world.push(&[Type::Listener]).await;
    wait_listening(([127, 0, 0, 1], port).into()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_a_root_that_goes_are_cut_where_that_is_asked_for() {
    for closes in [true, false] {
        let (dir, old, new) = (Dir::new(), Ca::new("old"), Ca::new("new"));
        let root = dir.0.join("root.pem");
        std::fs::write(&root, &old.pem).unwrap();
        let mut setup = Setup::new(Variant::Delta, 1);
        setup.runtime.set(runtime::CLOSE_REVOKED, RuntimeValue::Flag(closes));
        let echo = support::traffic::tcp_server("s").await;
        let world = World::with(setup, &tcp_filter("s"), &[cluster("s", &[host(echo)], &json!({}))]).await;
        let (server, own) = (old.leaf(&["server.test"]), old.leaf(&["spiffe://td/a"]));
        let port = free_port();
        let socket = downstream(&certificate(&server), &json!({"filename": root.to_str().unwrap()}));
        world.ads.set_listeners(vec![message(&json!({"name": "tls",
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
            "filter_chains": [{"transport_socket": socket,
                "filters": [{"name": "f", "typed_config": tcp_filter("s")}]}]}))]);
        world.push(&[Type::Listener]).await;
        wait_listening(([127, 0, 0, 1], port).into()).await;
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let (mut stream, _) = client(Some(&own), &old).connect(stream, &Wish::default(), None).await.unwrap();
        stream.read_u8().await.unwrap();
        std::fs::write(dir.0.join("next.pem"), &new.pem).unwrap();
        std::fs::rename(dir.0.join("next.pem"), &root).unwrap();
        let ssl = |name: &str| world.number(&format!("listener.127.0.0.1_{port}.ssl.{name}"));
        let late = async || {
            let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            // In TLS 1.3 a client hears of its refusal when it reads.
            match client(Some(&own), &old).connect(stream, &Wish::default(), None).await {
                Ok((mut stream, _)) => stream.read_u8().await.is_err(),
                Err(_) => true,
            }
        };
        // The end of one client alone proves no refusal: it may have come in under the old root and been cut since.
        let refused = async || while !(late().await && ssl("fail_verify_error") > 0) {};
        timeout(Duration::from_secs(20), refused()).await.expect("the refusal is counted");
        if closes {
            wait_until("the connection is cut", || ssl("closed_revoked") > 0).await;
            while stream.read_u8().await.is_ok() {}
        } else {
            stream.write_all(b"x").await.unwrap();
            assert_eq!(ssl("closed_revoked"), 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_of_a_root_that_goes_are_left_where_that_is_asked_for() {
    let (dir, old, new) = (Dir::new(), Ca::new("old"), Ca::new("new"));
    let root = dir.0.join("root.pem");
    std::fs::write(&root, &old.pem).unwrap();
    let (server, own) = (old.leaf(&["server.test"]), old.leaf(&["spiffe://td/a"]));
    let (raw, app) = (tcp_server("s").await, Server::named("app").await);
    let raw = terminator(&server, &old, &["x"], raw).await;
    let front = terminator(&server, &old, &["http/1.1"], app.address).await;
    let socket = |alpn: &str| {
        json!({"transport_socket": {"name": "tls", "typed_config": {
            "@type": format!("{TLS}.UpstreamTlsContext"), "common_tls_context": {
                "alpn_protocols": [alpn], "tls_certificates": [certificate(&own)],
                "validation_context": {"trusted_ca": {"filename": root.to_str().unwrap()}}}}}})
    };
    let mut setup = Setup::new(Variant::Delta, 1);
    setup.runtime.set(runtime::CLOSE_REVOKED, RuntimeValue::Flag(true));
    let clusters =
        [cluster("raw", &[host(raw)], &socket("x")), cluster("app", &[host(front)], &socket("http/1.1"))];
    let world = World::with(setup, &tcp_filter("raw"), &clusters).await;
    let port = free_port();
    let routes = http(&json!([to(&json!({"cluster": "app"}))]), &json!({}));
    world.ads.upsert(Type::Listener, "http", any(Type::Listener, &listener("http", port, &routes)));
    world.push(&[Type::Listener]).await;
    wait_listening(([127, 0, 0, 1], port).into()).await;
    let mut stream = TcpStream::connect(("127.0.0.1", world.port)).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b's');
    assert_eq!(get(port, "/", &[]).await.status(), 200);
    std::fs::write(dir.0.join("next.pem"), &new.pem).unwrap();
    std::fs::rename(dir.0.join("next.pem"), &root).unwrap();
    wait_until("the host is left", || world.number("cluster.app.ssl.closed_revoked") == 1).await;
    let mut cut = async || while stream.read_u8().await.is_ok() {};
    timeout(Duration::from_secs(20), cut()).await.expect("the raw connection is cut");
    assert_eq!(get(port, "/", &[]).await.status(), 503, "no connection of before is used");
    wait_until("none is left", || world.number("cluster.app.upstream_cx_active") == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_of_a_server_behind_tls() {
    let (sds, ca) = (SdsServer::start(), Ca::new("root"));
    let (server, own) = (ca.leaf(&["server.test"]), ca.leaf(&["spiffe://td/a"]));
    let front = terminator(&server, &ca, &["h2"], sds.address()).await;
    let mut config = AdsConfig::new(vec![Address::Socket(front)], Variant::Sotw);
    (config.service, config.backoff_base) = (Asked::Secrets, Duration::from_millis(20));
    let wish = Wish { alpn_fallback: &["h2"], check_name: true, ..Wish::default() };
    config.tls = Some((client(Some(&own), &ca), wish));
    let mut setup = Setup::new(Variant::Delta, 1);
    let source = SecretSource::Cluster("sds".to_owned());
    setup.sds = SdsConfig { sources: [(source, config)].into(), ..SdsConfig::default() };
    let world =
        World::with(setup, &tcp_filter("s"), &[cluster("s", &[host(tcp_server("s").await)], &json!({}))])
            .await;
    let port = free_port();
    let from = json!({"name": "own", "sds_config": {"api_config_source": {"api_type": "GRPC",
        "grpc_services": [{"envoy_grpc": {"cluster_name": "sds"}}]}}});
    let socket = json!({"name": "tls", "typed_config": {"@type": format!("{TLS}.DownstreamTlsContext"),
        "common_tls_context": {"tls_certificate_sds_secret_configs": [from]}}});
    world.ads.set_listeners(vec![message(&json!({"name": "tls",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"transport_socket": socket,
            "filters": [{"name": "f", "typed_config": tcp_filter("s")}]}]}))]);
    world.push(&[Type::Listener]).await;
    sds.certificate("own", &server);
    wait_until("the secret is there", || world.number("sds.own.update_success") == 1).await;
    wait_listening(([127, 0, 0, 1], port).into()).await;
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (mut stream, _) = client(None, &ca).connect(stream, &Wish::default(), None).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b's');
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_client_waits_as_long_as_the_listener_says() {
    let server = tcp_server("first").await;
    let world = World::start(&tcp_filter("s"), &[cluster("s", &[host(server)], &json!({}))]).await;
    let inspector = "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector";
    let ports = [free_port(), free_port(), free_port()];
    let chains = json!([{"filter_chain_match": {"transport_protocol": "raw_buffer"},
        "filters": [{"name": "f", "typed_config": tcp_filter("s")}]}]);
    let listener = |(at, port): (usize, &u16)| {
        message(&json!({"name": format!("l{at}"), "filter_chains": chains,
            "listener_filters": [{"name": "tls", "typed_config": {"@type": inspector}}],
            "listener_filters_timeout": if at == 0 { "0s" } else { "0.2s" },
            "continue_on_listener_filters_timeout": at == 1,
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}))
    };
    world.ads.set_listeners(ports.iter().enumerate().map(listener).collect());
    world.push(&[Type::Listener]).await;
    for port in ports {
        wait_listening(([127, 0, 0, 1], port).into()).await;
    }
    let number = |at: usize, name: &str| world.number(&format!("listener.127.0.0.1_{}.{name}", ports[at]));
    let connect = async |at: usize| TcpStream::connect(("127.0.0.1", ports[at])).await.unwrap();
    // The first one goes on with what is known, the other is closed.
    let mut goes_on = connect(1).await;
    assert!(goes_on.read_u8().await.is_ok(), "the server's greeting");
    let mut closed = connect(2).await;
    assert!(closed.read_u8().await.is_err());
    assert!(number(1, "downstream_pre_cx_timeout") > 0 && number(2, "downstream_pre_cx_timeout") > 0);
    // Without a limit it waits, is counted, and is served once it speaks.
    let mut patient = connect(0).await;
    wait_until("it waits", || number(0, "downstream_pre_cx_active") == 1).await;
    let before = world.number("tls_inspector.tls_not_found");
    patient.write_all(b"now").await.unwrap();
    assert!(patient.read_u8().await.is_ok());
    assert_eq!(number(0, "downstream_pre_cx_active"), 0);
    assert_eq!(number(0, "downstream_pre_cx_timeout"), 0);
    assert_eq!(world.number("tls_inspector.tls_not_found"), before + 1);
    let leaves = connect(0).await;
    wait_until("it waits", || number(0, "downstream_pre_cx_active") == 1).await;
    let before = number(0, "downstream_listener_filter_remote_close");
    drop(leaves);
    wait_until("it left", || number(0, "downstream_listener_filter_remote_close") == before + 1).await;
}
