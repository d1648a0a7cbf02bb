//! Names of TLS that requests bring: the server name, and what the certificate is checked for.

use mizzen::model::{
    Certificate, Certificates, CommonTls, Data, DownstreamTls, Hidden, TlsVersion, ValidationSource,
};
use mizzen::tls::Secrets;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use support::http1::{Message, Server, ask};
use support::pki::{Ca, Leaf};
use support::proxy::wait_until;
use support::world::{World, cluster, host, http, merged, to};
use tokio::net::{TcpListener, TcpStream};

mod support;

const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";
const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// Takes TLS off what is for `to`, and notes the name each connection asked for.
async fn front(leaf: &Leaf, alpn: &str, to: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let inline = |text: &str| Data::Inline(Hidden::new(text.as_bytes()));
    let own = Certificate { chain: inline(&leaf.chain), key: inline(&leaf.key) };
    let common = CommonTls {
        min: TlsVersion::Tls12,
        max: TlsVersion::Tls13,
        ciphers: None,
        curves: None,
        alpn: vec![alpn.to_owned()],
        certificates: Certificates::Given(vec![own]),
        validation: ValidationSource::default(),
    };
    let (require_client_certificate, require_sni, tickets, stateful) = (false, false, true, true);
    let model = DownstreamTls { common, require_client_certificate, require_sni, tickets, stateful };
    let context = Secrets::default().server(&Arc::new(model), false);
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, names) = (socket.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
    let noted = names.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = socket.accept().await {
            let (context, noted) = (context.clone(), noted.clone());
            tokio::spawn(async move {
                let Ok((mut stream, session)) = context.accept(stream).await else { return };
                noted.lock().unwrap().push(session.server_name.as_deref().unwrap_or("none").to_owned());
                let mut plain = TcpStream::connect(to).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut plain).await;
            });
        }
    });
    (address, names)
}

fn encrypted(ca: &Ca, protocol: &str, names: &Value) -> Value {
    json!({"transport_socket": {"name": "tls", "typed_config": {
            "@type": format!("{TLS}.UpstreamTlsContext"), "sni": "static.test",
            "common_tls_context": {"validation_context": {"trusted_ca": {"inline_string": ca.pem}}}}},
        "typed_extension_protocol_options": {OPTIONS: {"@type": format!("type.googleapis.com/{OPTIONS}"),
            "upstream_http_protocol_options": names, "explicit_http_config": {protocol: {}}}}})
}

async fn of(port: u16, host: &str, field: &str) -> Message {
    ask(port, &format!("GET / HTTP/1.1\r\nhost: {host}\r\n{field}\r\n")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_name_has_connections_of_its_own() {
    let ca = Ca::new("root");
    let leaf = ca.leaf(&["a.test", "*.b.test", "127.0.0.1"]);
    for (protocol, alpn) in [("http_protocol_options", "http/1.1"), ("http2_protocol_options", "h2")] {
        let app = match alpn {
            "h2" => support::http2::server("app").await,
            _ => Server::named("app").await.address,
        };
        let (front, names) = front(&leaf, alpn, app).await;
        let auto = json!({"auto_sni": true, "auto_san_validation": true,
            "override_auto_sni_header": "X-Name"});
        let more = encrypted(&ca, protocol, &auto);
        let routes = http(&json!([to(&json!({"cluster": "c"}))]), &json!({}));
        let world = World::start(&routes, &[cluster("c", &[host(front)], &more)]).await;
        let seen = || names.lock().unwrap().clone();
        assert_eq!(of(world.port, "a.test:8443", "").await.status(), 200);
        assert_eq!(of(world.port, "A.test", "x-name:\r\n").await.status(), 200);
        assert_eq!(seen()[0], "a.test");
        let before = seen().len();
        assert_eq!(of(world.port, "a.test", "").await.status(), 200);
        assert_eq!(seen().len(), before, "the connection of this name is used again");
        assert_eq!(of(world.port, "a.test", "x-name: www.b.test:1\r\n").await.status(), 200);
        assert_eq!(seen().last().unwrap(), "www.b.test");
        assert_eq!(of(world.port, "127.0.0.1:99", "").await.status(), 200, "an address of the certificate");
        assert_eq!(seen().last().unwrap(), "static.test", "no server name is an address");
        let refused = world.number("cluster.c.ssl.fail_verify_san");
        for host in ["other.test", "a.b.c.b.test", "127.0.0.2"] {
            assert_eq!(of(world.port, host, "").await.status(), 503, "{host}");
        }
        wait_until("all are counted", || world.number("cluster.c.ssl.fail_verify_san") == refused + 3).await;
        assert_eq!(of(world.port, "a.test", "").await.status(), 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_asked_for_stays_as_configured() {
    let ca = Ca::new("root");
    let app = Server::named("app").await;
    let (front, names) = front(&ca.leaf(&["a.test"]), "http/1.1", app.address).await;
    let wanted = [json!({"auto_sni": true}), json!({"auto_san_validation": true}), json!({})];
    let clusters = wanted.iter().enumerate().map(|(i, names)| {
        let more = encrypted(&ca, "http_protocol_options", names);
        cluster(&format!("c{i}"), &[host(front)], &more)
    });
    let clusters: Vec<_> = clusters.collect();
    let route =
        |name: &str| merged(to(&json!({"cluster": name})), &json!({"match": {"prefix": format!("/{name}")}}));
    let routes = http(&json!([route("c0"), route("c1"), route("c2")]), &json!({}));
    let world = World::start(&routes, &clusters).await;
    let get = async |cluster: &str, host: &str| {
        ask(world.port, &format!("GET /{cluster} HTTP/1.1\r\nhost: {host}\r\n\r\n")).await.status()
    };
    assert_eq!(get("c0", "any.test").await, 200, "the certificate's name is not looked at");
    assert_eq!(names.lock().unwrap().last().unwrap(), "any.test");
    assert_eq!(get("c1", "a.test").await, 200);
    assert_eq!(names.lock().unwrap().last().unwrap(), "static.test");
    assert_eq!(get("c1", "any.test").await, 503);
    assert_eq!(get("c2", "any.test").await, 200);
    assert_eq!(names.lock().unwrap().last().unwrap(), "static.test");
}
