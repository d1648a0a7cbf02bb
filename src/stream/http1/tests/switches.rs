//! What configuration and runtime switches change about heads.

use super::*;
use crate::model::{RequestScheme, Runtime, RuntimeValue, runtime};
use crate::snapshot::{Snapshot, View};
use std::sync::Arc;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// The answer's status, 0 if the connection is closed without one.
async fn ask(proxy: &Proxy, request: &str) -> u16 {
    let mut client = Peer::connect(proxy.address).await;
    client.send(request).await;
    client.head().await.map_or(0, |head| status(&head))
}

/// Serves on from the same configuration with `values` set.
fn switch(proxy: &Proxy, values: &[(&str, bool)]) {
    let view = proxy.local.view();
    let mut runtime = Runtime::default();
    values.iter().for_each(|(key, value)| runtime.set(*key, RuntimeValue::Flag(*value)));
    let generation = view.generation + 1;
    let next = Snapshot { generation, runtime: Arc::new(runtime), ..Snapshot::clone(&view) };
    proxy.local.set_view(View::new(Arc::new(next)));
}

#[test]
fn leniency_is_a_listeners_or_everybodys() {
    const BARE: &str = "GET / HTTP/1.1\nhost: h\nx: a\n b\n\n";
    run(async {
        let server = Server::answering(OK).await;
        let strict = proxy(&server).await;
        let mut config = http_manager();
        config.http1.lenient = true;
        let lenient = proxy_with(config, server.address).await;
        assert_eq!((ask(&strict, BARE).await, ask(&lenient, BARE).await), (400, 200));
        assert!(server.seen().contains("x: a  b\r\n"), "{}", server.seen());
        switch(&strict, &[(runtime::LENIENT_HTTP1, true)]);
        assert_eq!(ask(&strict, BARE).await, 200);
        let both =
            "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
        assert_eq!(ask(&lenient, both).await, 400, "never both");
    });
}

#[test]
fn a_fragment_is_refused_or_cut_as_runtime_says_on_open_connections_too() {
    run(async {
        let server = Server::answering(OK).await;
        let proxy = proxy(&server).await;
        let fragment = "GET /a?b#c HTTP/1.1\r\nhost: h\r\n\r\n";
        assert_eq!(ask(&proxy, fragment).await, 400);
        let mut client = Peer::connect(proxy.address).await;
        client.send("GET /first HTTP/1.1\r\nhost: h\r\n\r\n").await;
        assert_eq!(status(&client.head().await.unwrap()), 200);
        switch(&proxy, &[(runtime::REJECT_FRAGMENT, false)]);
        client.send(fragment).await;
        assert_eq!(status(&client.head().await.unwrap()), 200);
        assert!(server.seen().contains("GET /a?b HTTP/1.1"), "{}", server.seen());
    });
}

#[test]
fn methods_nobody_registered_need_leave() {
    run(async {
        let server = Server::answering(OK).await;
        let mut config = http_manager();
        config.http1.custom_methods = true;
        let (known, any) = (proxy(&server).await, proxy_with(config, server.address).await);
        let own = "FROB / HTTP/1.1\r\nhost: h\r\n\r\n";
        assert_eq!((ask(&known, own).await, ask(&any, own).await), (400, 200));
        assert_eq!(ask(&known, "PROPFIND / HTTP/1.1\r\nhost: h\r\n\r\n").await, 200);
        assert_eq!(ask(&known, "FROB A PREFACE\r\n\r\n").await, 0, "no HTTP at all gets no answer");
        assert_eq!(ask(&known, "GET A PREFACE\r\n\r\n").await, 400);
    });
}

#[test]
fn limits_of_responses_are_the_clusters() {
    run(async {
        let server = Server::start(|mut peer| async move {
            while let Some(head) = peer.head().await {
                let fields: String = match head.split(' ').nth(1).unwrap() {
                    "/many" => (0..8).map(|i| format!("x{i}: 1\r\n")).collect(),
                    "/long" => format!("x: {}\r\n", "y".repeat(3000)),
                    _ => String::new(),
                };
                peer.send(&format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n{fields}\r\n")).await;
            }
        })
        .await;
        let mut up = cluster("up", &[server.address]);
        (up.protocol, up.response_headers, up.response_head_bytes) = (UpstreamProtocol::Http1, 5, 2048);
        let routes = vec![route("/", Action::Route(action("up")))];
        let proxy = Proxy::start(http(http_manager()), routes, &[up]).await;
        for (path, expected) in [("/", 200), ("/many", 502), ("/long", 502)] {
            assert_eq!(
                ask(&proxy, &format!("GET {path} HTTP/1.1\r\nhost: h\r\n\r\n")).await,
                expected,
                "{path}"
            );
        }
    });
}

#[test]
fn nobody_says_who_he_is_by_a_field() {
    run(async {
        let server = Server::answering(OK).await;
        let mut config = http_manager();
        config.edge.client_cert.mode = crate::model::CertMode::AlwaysForwardOnly;
        let (plain, kept) = (proxy(&server).await, proxy_with(config, server.address).await);
        let request = "GET / HTTP/1.1\r\nhost: h\r\nX-Forwarded-Client-Cert: By=admin\r\n\r\n";
        assert_eq!(ask(&plain, request).await, 200);
        assert!(!server.seen().to_ascii_lowercase().contains("client-cert"), "{}", server.seen());
        assert_eq!(ask(&kept, request).await, 200);
        assert!(server.seen().contains("By=admin"));
    });
}

#[test]
fn the_scheme_is_overwritten() {
    run(async {
        let server = crate::stream::http2::tests::server(|request, mut respond| async move {
            let scheme = request.uri().scheme_str().unwrap().to_owned();
            let _ = respond
                .send_response(http::Response::builder().header("scheme", scheme).body(()).unwrap(), true);
        })
        .await;
        let mut config = http_manager();
        config.edge.scheme = Some(RequestScheme::Https);
        let routes = vec![route("/", Action::Route(action("up")))];
        let proxy =
            Proxy::start(crate::stream::http2::tests::http(config), routes, &[cluster("up", &[server])])
                .await;
        let mut client = Peer::connect(proxy.address).await;
        client.send("GET / HTTP/1.1\r\nhost: h\r\n\r\n").await;
        assert_eq!(field(&client.head().await.unwrap(), "scheme"), Some("https"));
    });
}

#[test]
fn trailers_that_cannot_go_on_are_counted() {
    run(async {
        let server = Server::answering(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nx-sum: 1\r\n\r\n",
        )
        .await;
        let mut config = http_manager();
        config.http1.accept_http_10 = true;
        let proxy = proxy_with(config, server.address).await;
        for (version, dropped) in [("1.1", 0), ("1.0", 1)] {
            let mut client = Peer::connect(proxy.address).await;
            client.send(&format!("GET / HTTP/{version}\r\nhost: h\r\nconnection: close\r\n\r\n")).await;
            let all = client.rest().await;
            assert_eq!(all.contains("x-sum"), dropped == 0, "{all}");
            sleep(20).await;
            assert_eq!(proxy.local.http_stats("in").downstream_rq_dropped_trailers.get(), dropped);
        }
    });
}
