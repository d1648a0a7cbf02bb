//! Filters that change or count bodies: compression, gRPC-Web, gRPC statistics. And who may connect at all.

use serde_json::{Value, json};
use std::io::Read;
use std::time::Duration;
use support::http1::{Answer, Server};
use support::traffic::greet;
use support::world::{World, cluster, host, http, merged, router, to};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

mod support;

const HTTP: &str = "type.googleapis.com/envoy.extensions.filters.http";
const LIMIT: Duration = Duration::from_secs(20);

fn filter(name: &str, kind: &str, config: &Value) -> Value {
    json!({"name": name, "typed_config": merged(json!({"@type": format!("{HTTP}.{kind}")}), config)})
}

fn chain(filters: &[Value]) -> Value {
    let mut all = filters.to_vec();
    all.push(router(&json!({})));
    json!({"http_filters": all})
}

async fn world(address: std::net::SocketAddr, filters: &[Value], more: &Value) -> World {
    let clusters = [cluster("c", &[host(address)], more)];
    World::start(&http(&json!([to(&json!({"cluster": "c"}))]), &chain(filters)), &clusters).await
}

fn compressor(library: &str, name: &str, config: &Value) -> Value {
    let library = json!({"name": name, "typed_config":
        {"@type": format!("type.googleapis.com/envoy.extensions.compression.{library}.compressor.v3.{}", capital(library))}});
    filter(name, "compressor.v3.Compressor", &merged(json!({"compressor_library": library}), config))
}

fn capital(word: &str) -> String {
    word[..1].to_uppercase() + &word[1..]
}

/// A response whose body need not be text.
struct Raw {
    head: String,
    body: Vec<u8>,
}

impl Raw {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

/// One request; the connection ends with its response.
async fn raw(port: u16, request: &[u8]) -> Raw {
    let exchange = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        let at = all.windows(4).position(|part| part == b"\r\n\r\n").unwrap() + 4;
        let head = String::from_utf8(all[..at].to_vec()).unwrap();
        let mut raw = Raw { head, body: all[at..].to_vec() };
        if raw.header("transfer-encoding") == Some("chunked") {
            raw.body = dechunked(&raw.body);
        }
        raw
    };
    timeout(LIMIT, exchange).await.expect("an answer in time")
}

fn dechunked(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let at = rest.windows(2).position(|part| part == b"\r\n").unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..at]).unwrap(), 16).unwrap();
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&rest[at + 2..at + 2 + size]);
        rest = &rest[at + 4 + size..];
    }
}

async fn asking(port: u16, path: &str, accept: &str) -> Raw {
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\naccept-encoding: {accept}\r\n\r\n");
    raw(port, request.as_bytes()).await
}

fn plain(raw: &Raw) -> String {
    let mut out = Vec::new();
    match raw.header("content-encoding") {
        Some("gzip") => {
            drop(flate2::read::GzDecoder::new(&raw.body[..]).read_to_end(&mut out).unwrap().to_string())
        }
        Some("br") => {
            drop(brotli::Decompressor::new(&raw.body[..], 4096).read_to_end(&mut out).unwrap().to_string())
        }
        Some("zstd") => out = zstd::stream::decode_all(&raw.body[..]).unwrap(),
        _ => out.clone_from(&raw.body),
    }
    String::from_utf8(out).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn responses_are_compressed_as_their_client_likes() {
    let text = "all the same, all the same ".repeat(100);
    let body = text.clone();
    let server = Server::start(move |_, request| {
        let fields: &[&str] = match request.path() {
            "/image" => &["content-type: image/png"],
            "/etag" => &["content-type: text/plain", "etag: \"strong\""],
            "/coded" => &["content-type: text/plain", "content-encoding: x"],
            "/private" => &["content-type: text/plain", "cache-control: no-transform"],
            _ => &["content-type: text/plain; charset=utf-8", "vary: Origin"],
        };
        Answer::of(200, fields, if request.path() == "/short" { "short" } else { &body })
    })
    .await;
    let filters = [
        compressor("gzip", "g", &json!({})),
        compressor("brotli", "b", &json!({})),
        compressor("zstd", "z", &json!({})),
    ];
    let world = world(server.address, &filters, &json!({})).await;
    for (accept, coding) in [
        ("gzip", Some("gzip")),
        ("br", Some("br")),
        ("zstd", Some("zstd")),
        ("gzip;q=0.5, br", Some("br")),
        ("zstd;q=0, *", Some("gzip")),
        ("identity", None),
        ("x", None),
    ] {
        let got = asking(world.port, "/", accept).await;
        assert_eq!((got.header("content-encoding"), plain(&got)), (coding, text.clone()), "{accept}");
        assert_eq!(got.header("vary"), Some("Origin, Accept-Encoding"), "{accept}");
        assert_eq!(got.header("content-length").is_none(), coding.is_some(), "{accept}");
    }
    for path in ["/image", "/coded", "/private", "/short"] {
        let got = asking(world.port, path, "gzip").await;
        assert!(
            !matches!(got.header("content-encoding"), Some("gzip")) && got.header("content-length").is_some(),
            "{path}"
        );
    }
    let got = asking(world.port, "/etag", "gzip").await;
    assert_eq!((got.header("content-encoding"), got.header("etag")), (Some("gzip"), None));
    assert_eq!(world.number("http.http.compressor.z.zstd.compressed"), 1);
    assert!(world.number("http.http.compressor.g.gzip.content_length_too_small") >= 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compressed_stream_shows_each_event_when_it_comes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (go, mut wait) = tokio::sync::mpsc::unbounded_channel::<()>();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut room = [0; 4096];
        let _ = stream.read(&mut room).await.unwrap();
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        for event in 0..2 {
            stream.write_all(format!("10\r\ndata: event {event:03}\n\r\n").as_bytes()).await.unwrap();
            wait.recv().await;
        }
        stream.write_all(b"0\r\n\r\n").await.unwrap();
        wait.recv().await;
    });
    let types =
        json!({"response_direction_config": {"common_config": {"content_type": ["text/event-stream"]}}});
    let world = world(address, &[compressor("gzip", "g", &types)], &json!({})).await;
    let mut stream = TcpStream::connect(("127.0.0.1", world.port)).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: h\r\naccept-encoding: gzip\r\n\r\n").await.unwrap();
    let mut all = Vec::new();
    for event in 0..2 {
        let wanted = format!("data: event {event:03}\n");
        let seen = async {
            loop {
                let mut room = [0; 4096];
                let size = stream.read(&mut room).await.unwrap();
                assert!(size > 0, "the stream ended");
                all.extend_from_slice(&room[..size]);
                if readable(&all).ends_with(&wanted) {
                    return;
                }
            }
        };
        timeout(LIMIT, seen).await.expect("an event that was sent is read before the next one is");
        go.send(()).unwrap();
    }
}

/// What a reader can make of a response that has not ended.
fn readable(all: &[u8]) -> String {
    use std::io::Write;
    let Some(at) = all.windows(4).position(|part| part == b"\r\n\r\n") else { return String::new() };
    let (mut rest, mut body) = (&all[at + 4..], Vec::new());
    while let Some(line) = rest.windows(2).position(|part| part == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
        let Some(chunk) = rest.get(line + 2..line + 2 + size) else { break };
        body.extend_from_slice(chunk);
        rest = rest.get(line + 4 + size..).unwrap_or_default();
    }
    let mut reader = flate2::write::GzDecoder::new(Vec::new());
    let _ = reader.write_all(&body).and_then(|()| reader.flush());
    String::from_utf8(reader.get_ref().clone()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coded_requests_and_responses_are_made_readable() {
    let server = Server::named("up").await;
    let library = json!({"name": "g", "typed_config":
        {"@type": "type.googleapis.com/envoy.extensions.compression.gzip.decompressor.v3.Gzip"}});
    let decompressor = filter("d", "decompressor.v3.Decompressor", &json!({"decompressor_library": library}));
    let world = world(server.address, &[decompressor], &json!({})).await;
    let mut coded = flate2::read::GzEncoder::new(&b"a coded request"[..], flate2::Compression::default());
    let mut body = Vec::new();
    coded.read_to_end(&mut body).unwrap();
    let head = format!(
        "POST / HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let got = raw(world.port, &[head.as_bytes(), &body].concat()).await;
    assert!(got.head.starts_with("HTTP/1.1 200"), "{}", got.head);
    let seen = server.only();
    assert_eq!((seen.body.as_str(), seen.has("content-encoding")), ("a coded request", false));
    assert_eq!(seen.header("accept-encoding"), Some("gzip"));
    assert_eq!(world.number("http.http.decompressor.g.gzip.request.decompressed"), 1);
}

fn message(bytes: &[u8]) -> Vec<u8> {
    [&[0][..], &(bytes.len() as u32).to_be_bytes(), bytes].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_web_calls_become_grpc_in_bytes_and_in_text() {
    let address = support::http2::server("up").await;
    let http2 = json!({"http2_protocol_options": {}});
    let filters = [
        filter("web", "grpc_web.v3.GrpcWeb", &json!({})),
        filter("stats", "grpc_stats.v3.FilterConfig", &json!({"stats_for_all_methods": true})),
    ];
    let world = world(address, &filters, &http2).await;
    let call = message(b"question");
    let ask = |kind: &str, accept: &str, body: &[u8]| {
        let head = format!(
            "POST /a.S/M HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-type: {kind}\r\naccept: {accept}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let (port, request) = (world.port, [head.as_bytes(), body].concat());
        async move { raw(port, &request).await }
    };
    let got = ask("application/grpc-web+proto", "*/*", &call).await;
    assert!(got.head.starts_with("HTTP/1.1 200"), "{}", got.head);
    assert!(got.body.starts_with(&call), "{:?}", got.body);
    // The echo sends no content type, so its answer is not gRPC's and passes as it is.
    assert_eq!(got.header("content-type"), None);
    let mut text = Vec::new();
    mizzen::util::base64::encode(&call, &mut text);
    let got = ask("application/grpc-web-text", "application/grpc-web-text", &text).await;
    assert!(got.body.starts_with(&call), "text was not decoded: {:?}", got.body);
    let got = ask("application/grpc-web-text", "application/grpc-web-text", b"!!!!").await;
    assert!(!got.head.starts_with("HTTP/1.1 200") || got.header("grpc-status").is_some(), "{}", got.head);
    assert_eq!(world.number("cluster.c.grpc.a.S.M.request_message_count"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn network_policies_decide_before_a_byte_is_passed_on() {
    const NETWORK: &str = "type.googleapis.com/envoy.extensions.filters.network";
    let server = support::traffic::tcp_server("greeter").await;
    let web = Server::named("up").await;
    let clusters =
        [cluster("c", &[host(server)], &json!({})), cluster("w", &[host(web.address)], &json!({}))];
    let tcp =
        json!({"@type": format!("{NETWORK}.tcp_proxy.v3.TcpProxy"), "stat_prefix": "tcp", "cluster": "c"});
    let manager = http(&json!([to(&json!({"cluster": "w"}))]), &json!({}));
    for (prefix, admitted) in [("10.0.0.0", false), ("127.0.0.0", true)] {
        let rules = json!({"action": "ALLOW", "policies": {"p": {"permissions": [{"any": true}],
            "principals": [{"direct_remote_ip": {"address_prefix": prefix, "prefix_len": 8}}]}}});
        let rbac = json!({"@type": format!("{NETWORK}.rbac.v3.RBAC"), "stat_prefix": "tcp.", "rules": rules});
        let world = World::start(&tcp, &clusters).await;
        let mut listener = support::resources::listener("l", world.port, &tcp);
        let guard: mizzen::proto::envoy::config::listener::v3::Filter =
            prost_filter(&json!({"name": "rbac", "typed_config": rbac}));
        listener.filter_chains[0].filters.insert(0, guard.clone());
        world.ads.set_listeners(vec![listener]);
        world.ads.push().await;
        world.ads.wait_ack(support::ads::Type::Listener).await;
        let name = if admitted { "tcp.rbac.allowed" } else { "tcp.rbac.denied" };
        let end = std::time::Instant::now() + LIMIT;
        while world.number(name) == 0 {
            let greeted = timeout(LIMIT, greet(world.port)).await.expect("an end in time");
            assert!(std::time::Instant::now() < end, "nobody was judged");
            if world.number(name) > 0 {
                assert_eq!(greeted.is_ok(), admitted, "{greeted:?}");
            }
        }
        let mut listener = support::resources::listener("l", world.port, &manager);
        listener.filter_chains[0].filters.insert(0, guard);
        world.ads.set_listeners(vec![listener]);
        world.ads.push().await;
        world.ads.wait_ack(support::ads::Type::Listener).await;
        let served = async {
            loop {
                let mut stream = TcpStream::connect(("127.0.0.1", world.port)).await.unwrap();
                let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").await;
                let mut all = Vec::new();
                // The chain before this one would wait for more.
                let _ = timeout(Duration::from_millis(300), stream.read_to_end(&mut all)).await;
                // Until the chain is the new one the greeter answers, or nobody.
                if admitted && all.starts_with(b"HTTP/1.1 200") || !admitted && all.is_empty() {
                    return;
                }
            }
        };
        timeout(LIMIT, served).await.expect("the policy holds for HTTP too");
    }
}

fn prost_filter<M: prost::Message + Default + prost::Name>(json: &Value) -> M {
    support::resources::message(json)
}
