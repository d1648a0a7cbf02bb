//! What a hostile or merely busy peer may do.

use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The frames of everything a connection is sent until it ends or is silent: kind, stream, payload.
pub(super) async fn frames(stream: &mut TcpStream) -> Vec<(u8, u32, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 65_536];
    // Counted in turns: on a busy machine one turn of everybody else may last longer than any silence.
    let mut quiet = 0;
    while quiet < 15 {
        match tokio::time::timeout(Duration::from_millis(100), stream.read(&mut buffer)).await {
            Err(_) => quiet += 1,
            Ok(Ok(n)) if n > 0 => {
                quiet = 0;
                bytes.extend_from_slice(&buffer[..n]);
            }
            Ok(_) => break,
        }
    }
    let mut frames = Vec::new();
    let mut rest = &bytes[..];
    while rest.len() >= 9 {
        let len = usize::from(rest[0]) << 16 | usize::from(rest[1]) << 8 | usize::from(rest[2]);
        let id = u32::from_be_bytes([rest[5], rest[6], rest[7], rest[8]]);
        frames.push((rest[3], id, rest[9..9 + len].to_vec()));
        rest = &rest[9 + len..];
    }
    frames
}

pub(super) fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, (payload.len() >> 8) as u8, payload.len() as u8, kind, flags];
    bytes.extend_from_slice(&id.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

pub(super) async fn raw(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let hello = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, 0, b"")].concat();
    stream.write_all(&hello).await.unwrap();
    stream
}

/// `GET /` to `svc`, all static or literal.
const GET: &[u8] = &[0x82, 0x86, 0x84, 0x01, 3, b's', b'v', b'c'];

#[test]
fn floods_end_the_connection() {
    run(async {
        let proxy = Proxy::to(&[server(echo).await]).await;
        for flood in [frame(6, 0, 0, &[0; 8]), frame(4, 0, 0, b""), frame(2, 0, 1, &[0; 5])] {
            let mut stream = raw(proxy.address).await;
            let flood = flood.repeat(20_000);
            // The end may come before everything is written.
            let _ = stream.write_all(&flood).await;
            let frames = frames(&mut stream).await;
            let (kind, _, payload) = frames.last().unwrap();
            assert_eq!((*kind, &payload[4..8]), (7, &[0, 0, 0, 11][..]), "ENHANCE_YOUR_CALM");
            assert!(frames.len() < 3000);
        }
        let mut client = Client::connect(proxy.address).await;
        assert_eq!(client.get("/").await.status, 200);
    });
}

/// Streams that break a rule, each in its own way: what the client is told, and how.
#[test]
fn resets_that_a_client_provokes_are_bounded_as_its_own_are() {
    run(async {
        let proxy = Proxy::to(&[server(echo).await]).await;
        let mut bystander = Client::connect(proxy.address).await;
        let (answer, mut sink) = bystander.send(request("POST", "/"), false).await;
        let overflow = |id| [frame(1, 4, id, GET), frame(8, 0, id, &[0x7f, 0xff, 0xff, 0xff])].concat();
        let no_method = |id| frame(1, 5, id, &GET[1..]);
        type Break<'a> = &'a dyn Fn(u32) -> Vec<u8>;
        let breaks: [(Break<'_>, u8); 2] = [(&overflow, 3), (&no_method, 1)];
        for (one, code) in breaks {
            let resets = |frames: &[(u8, u32, Vec<u8>)]| {
                frames.iter().filter(|(kind, _, payload)| *kind == 3 && payload[3] == code).count()
            };
            // A few are told, and the connection goes on.
            let mut stream = raw(proxy.address).await;
            let some: Vec<u8> = (0..20).flat_map(|i| one(2 * i + 1)).chain(frame(1, 5, 41, GET)).collect();
            stream.write_all(&some).await.unwrap();
            let told = frames(&mut stream).await;
            assert_eq!(resets(&told), 20, "{told:?}");
            assert!(told.iter().any(|(kind, id, _)| (*kind, *id) == (1, 41)));

            let mut stream = raw(proxy.address).await;
            let many: Vec<u8> = (0..2000).flat_map(|i| one(2 * i + 1)).collect();
            let _ = stream.write_all(&many).await;
            let told = frames(&mut stream).await;
            let (kind, _, payload) = told.last().unwrap();
            assert_eq!((*kind, &payload[4..8]), (7, &[0, 0, 0, 11][..]), "ENHANCE_YOUR_CALM");
            assert!(resets(&told) < 2000);
        }
        sink.send_data(Bytes::from_static(b"untouched"), true).unwrap();
        assert_eq!(got(answer).await.body, b"untouched");
    });
}

#[test]
fn requests_cancelled_in_one_write_disturb_nobody() {
    run(async {
        let proxy = Proxy::to(&[server(echo).await]).await;
        let mut stream = raw(proxy.address).await;
        let mut bytes = Vec::new();
        for i in 0..500u32 {
            bytes.extend(frame(1, 5, 2 * i + 1, GET));
            bytes.extend(frame(3, 0, 2 * i + 1, &[0, 0, 0, 8]));
        }
        bytes.extend(frame(1, 5, 1001, GET));
        stream.write_all(&bytes).await.unwrap();
        let frames = frames(&mut stream).await;
        assert!(frames.iter().any(|(kind, id, _)| (*kind, *id) == (1, 1001)), "{frames:?}");
        assert!(!frames.iter().any(|(kind, ..)| *kind == 7));
    });
}

#[test]
fn thousands_of_cancels_leave_other_streams_alone() {
    run(async {
        let upstream = server(|request: Request<RecvStream>, mut respond: SendResponse<Bytes>| async move {
            if request.uri().path() == "/long" {
                return echo(request, respond).await;
            }
            // Answers though nobody waits any more.
            if let Ok(mut sink) = respond.send_response(Response::new(()), false) {
                for _ in 0..3 {
                    let _ = sink.send_data(Bytes::from_static(&[1; 100]), false);
                    tokio::task::yield_now().await;
                }
            }
        })
        .await;
        let proxy = Proxy::to(&[upstream]).await;
        let mut client = Client::connect(proxy.address).await;
        let (long, mut sink) = client.send(request("POST", "/long"), false).await;
        for i in 0..6000 {
            let (response, mut sink) = client.send(request("GET", "/"), true).await;
            sink.send_reset(h2::Reason::CANCEL);
            drop((response, sink));
            // 5,000 in one second is where a flood begins.
            if i % 40 == 0 {
                sleep(12).await;
            }
        }
        sink.send_data(Bytes::from_static(b"still here"), true).unwrap();
        assert_eq!(got(long).await.body, b"still here");
        let cluster = proxy.local.cluster(ClusterId(0), &proxy.local.view()).unwrap();
        assert_eq!(cluster.stats.upstream_cx_total.get(), 1);
    });
}

#[test]
fn small_messages_that_wait_together_leave_together() {
    /// `POST /stall` to `svc`.
    const STALL: &[u8] = b"\x83\x86\x04\x06/stall\x01\x03svc";
    run(async {
        // By h2's defaults 138 small frames that nobody has read end a connection.
        let serve = |request: Request<RecvStream>, respond| async move {
            if request.uri().path() == "/stall" {
                sleep(700).await;
            }
            echo(request, respond).await;
        };
        let proxy = Proxy::to(&[server_with(h2::server::Builder::new(), serve).await]).await;
        let mut bystander = Client::connect(proxy.address).await;
        let (answer, mut sink) = bystander.send(request("POST", "/"), false).await;
        let mut stream = raw(proxy.address).await;
        let ids = (0..50).map(|i| 2 * i + 1);
        let mut bytes = Vec::new();
        for id in ids.clone() {
            bytes.extend(frame(1, 4, id, STALL));
            (0..20).for_each(|n| bytes.extend(frame(0, 0, id, &[n; 16])));
        }
        stream.write_all(&bytes).await.unwrap();
        sleep(200).await;
        let ends: Vec<u8> = ids.clone().flat_map(|id| frame(0, 1, id, b"end")).collect();
        stream.write_all(&ends).await.unwrap();
        let all = frames(&mut stream).await;
        let expected: Vec<u8> = (0..20).flat_map(|n| [n; 16]).chain(*b"end").collect();
        for id in ids {
            let came = all.iter().filter(|(kind, of, _)| (*kind, *of) == (0, id));
            let body: Vec<u8> = came.flat_map(|(_, _, payload)| payload.clone()).collect();
            assert_eq!(body, expected, "stream {id}");
        }
        sink.send_data(Bytes::from_static(b"untouched"), true).unwrap();
        assert_eq!(got(answer).await.body, b"untouched");
        let cluster = proxy.local.cluster(ClusterId(0), &proxy.local.view()).unwrap();
        assert_eq!(cluster.stats.upstream_cx_total.get(), 1);
    });
}

#[test]
fn too_many_headers_are_refused() {
    run(async {
        let proxy = Proxy::to(&[server(echo).await]).await;
        let mut client = Client::connect(proxy.address).await;
        let many = |count: usize| {
            let mut request = request("GET", "/");
            for _ in 0..count {
                request.headers_mut().append("x", HeaderValue::from_static("a=b"));
            }
            for _ in 0..500 {
                request.headers_mut().append("cookie", HeaderValue::from_static("a=b"));
            }
            request
        };
        let (response, _sink) = client.send(many(99), true).await;
        assert_eq!(got(response).await.status, 200, "cookies count as one");
        let (response, _sink) = client.send(many(100), true).await;
        assert_eq!(got(response).await.status, 431);
        let mut crumbs = many(0);
        for _ in 0..501 {
            crumbs.headers_mut().append("cookie", HeaderValue::from_static("a=b"));
        }
        let (response, _sink) = client.send(crumbs, true).await;
        assert_eq!(got(response).await.status, 431, "1,001 crumbs are too many before they are joined");
    });
}

#[test]
fn streams_cost_little_memory() {
    fn size<A, B, C, D, E, G, F: Future>(_: impl Fn(A, B, C, D, E, G) -> F) -> usize {
        std::mem::size_of::<F>()
    }
    let stream = size(exchange::run);
    assert!(stream <= 2048, "{stream} bytes per stream");
}

#[test]
fn a_stream_nobody_reads_is_given_up() {
    run(async {
        let upstream = server(|_, mut respond: SendResponse<Bytes>| async move {
            let mut sink = respond.send_response(Response::new(()), false).unwrap();
            sink.send_data(Bytes::from(vec![1; 100_000]), true).unwrap();
        })
        .await;
        let config = HttpManager { stream_idle_timeout: Some(Duration::from_millis(300)), ..http_manager() };
        let routes = vec![
            route("/direct", Action::Direct(DirectResponse { status: 200, body: vec![0; 100_000].into() })),
            route("/", Action::Route(action("up"))),
        ];
        let proxy = Proxy::start(http(config), routes, &[cluster("up", &[upstream])]).await;
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(10);
        let mut client = Client::with(proxy.address, builder).await;
        for path in ["/", "/direct"] {
            let (response, _sink) = client.send(request("GET", path), true).await;
            let mut body = response.await.unwrap().into_body();
            sleep(700).await;
            assert_eq!(body.data().await.unwrap().unwrap().len(), 10);
            assert!(body.data().await.unwrap().unwrap_err().is_reset(), "{path}");
        }
        assert_eq!(proxy.handle().streams(), 0);
    });
}

#[test]
fn the_peers_stream_limit_opens_connections_or_makes_wait() {
    run(async {
        let mut builder = h2::server::Builder::new();
        builder.max_concurrent_streams(2);
        let slow = |request, respond| async move {
            sleep(50).await;
            echo(request, respond).await;
        };
        let upstream = server_with(builder, slow).await;
        let mut limited = cluster("limited", &[upstream]);
        limited.breakers.default.max_connections = 1;
        let routes = vec![
            route("/limited", Action::Route(action("limited"))),
            route("/", Action::Route(action("up"))),
        ];
        let proxy = Proxy::start(http(http_manager()), routes, &[cluster("up", &[upstream]), limited]).await;
        let mut client = Client::connect(proxy.address).await;
        for (path, id) in [("/", 0), ("/limited", 1)] {
            // The first request learns the peer's limit.
            assert_eq!(client.get(path).await.status, 200);
            let mut waiting = Vec::new();
            for _ in 0..20 {
                waiting.push(client.send(request("GET", path), true).await.0);
            }
            for response in waiting {
                assert_eq!(got(response).await.status, 200, "{path}");
            }
            let cluster = proxy.local.cluster(ClusterId(id), &proxy.local.view()).unwrap();
            let opened = cluster.stats.upstream_cx_total.get();
            assert!(if id == 0 { opened == 10 } else { opened == 1 }, "{path}: {opened} connections");
        }
    });
}

#[test]
fn empty_data_frames_are_nothing() {
    run(async {
        let proxy = Proxy::to(&[server(echo).await]).await;
        let mut stream = raw(proxy.address).await;
        let mut bytes = frame(1, 4, 1, &[0x83, 0x86, 0x84, 0x01, 3, b's', b'v', b'c']);
        bytes.extend(frame(0, 0, 1, b"").repeat(5000));
        bytes.extend(frame(0, 1, 1, b"end"));
        stream.write_all(&bytes).await.unwrap();
        let answered = frames(&mut stream).await;
        assert!(!answered.iter().any(|(kind, ..)| *kind == 7), "{answered:?}");
        assert!(answered.iter().any(|(kind, _, payload)| *kind == 0 && payload == b"end"), "{answered:?}");
        // In the tens of thousands they are a flood.
        let _ = stream.write_all(&frame(0, 0, 1, b"").repeat(20_000)).await;
        assert_eq!(frames(&mut stream).await.last().unwrap().0, 7);
    });
}
