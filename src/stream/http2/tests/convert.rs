//! bolt over HTTP/2 and back.

use super::*;
use crate::protocol::bolt::{self, Status};
use crate::protocol::rpc::{Decoder, Frame, Kind};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A bolt server that answers each call with its class, headers and content, and notes one-way calls.
async fn bolt_server(oneways: Rc<Cell<u32>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn_local(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let oneways = oneways.clone();
            spawn_local(async move {
                let mut buffer = BytesMut::new();
                while let Some(frame) = read(&mut stream, &mut buffer).await {
                    match frame.kind() {
                        Kind::Request if frame.content() == b"silence" => {}
                        Kind::Request => stream.write_all(&answer(&frame).into_bytes()).await.unwrap(),
                        Kind::Oneway => oneways.set(oneways.get() + 1),
                        _ => stream.write_all(&bolt::heartbeat_ack(&frame)).await.unwrap(),
                    }
                }
            });
        }
    });
    address
}

/// What the server answers to `frame`.
fn answer(frame: &Frame) -> Frame {
    let head = bolt::Head { request_id: frame.request_id(), codec: 11, ..bolt::Head::RESPONSE };
    bolt::encode(head, frame.class(), frame.headers(), frame.content()).unwrap()
}

async fn read(stream: &mut TcpStream, buffer: &mut BytesMut) -> Option<Frame> {
    let mut decoder = Decoder::default();
    loop {
        if let Some(frame) = decoder.decode(buffer).unwrap() {
            return Some(frame);
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

/// bolt → HTTP/2 → bolt: two proxies and the server.
async fn two_hops(server: SocketAddr, timeout: Option<Duration>) -> (Proxy, Proxy) {
    let routes = |to| vec![route("/", Action::Route(RouteAction { timeout, ..action(to) }))];
    let far =
        Proxy::start(rpc_proxy(Protocol::Http2, Protocol::Bolt), routes("app"), &[cluster("app", &[server])])
            .await;
    let near = Proxy::start(
        rpc_proxy(Protocol::Bolt, Protocol::Http2),
        routes("far"),
        &[cluster("far", &[far.address])],
    )
    .await;
    (near, far)
}

fn call(id: u32, pairs: &[bolt::Pair<'_>], content: &[u8]) -> Frame {
    let head = bolt::Head { request_id: id, timeout_ms: -1, codec: 4, ..bolt::Head::REQUEST };
    bolt::encode(head, b"com.test.Caf\xc3\xa9", pairs.iter().copied(), content).unwrap()
}

#[test]
fn two_hops_change_no_byte() {
    run(async {
        let (near, _far) = two_hops(bolt_server(Rc::default()).await, None).await;
        let mut stream = TcpStream::connect(near.address).await.unwrap();
        let pairs: [bolt::Pair<'_>; 7] = [
            (Some(b"service"), Some(b"com.test.Echo:1.0")),
            (Some(b"rpc_trace_context.sofaRpcId"), Some(b"0,1")),
            (Some(b"service"), Some(b"twice")),
            (Some(b"null"), None),
            (None, Some(b"")),
            (Some(b"b\x00y te"), Some(b" \xff\r\n")),
            (Some(b"content-length"), Some(b"7")),
        ];
        let large = vec![9; 3 << 20];
        let mut buffer = BytesMut::new();
        for (id, content) in [(1, &b""[..]), (0xffff_fffe, b"hello"), (7, &large)] {
            let frame = call(id, &pairs, content);
            let expected = answer(&frame).into_bytes();
            stream.write_all(&frame.into_bytes()).await.unwrap();
            let got = read(&mut stream, &mut buffer).await.unwrap().into_bytes();
            assert!(got == expected, "id {id}");
        }
    });
}

#[test]
fn a_route_says_to_whom_a_call_is_addressed() {
    run(async {
        let up = server(echo).await;
        for name in [None, Some("svc.example:8080")] {
            let expected = name.map_or(up.to_string(), str::to_owned);
            let host_rewrite = name.map(|name| Box::new(HostRewrite::Literal(name.into())));
            let to = route("/", Action::Route(RouteAction { host_rewrite, ..action("up") }));
            let filter = rpc_proxy(Protocol::Bolt, Protocol::Http2);
            let proxy = Proxy::start(filter, vec![to], &[cluster("up", &[up])]).await;
            let mut stream = TcpStream::connect(proxy.address).await.unwrap();
            stream.write_all(&call(1, &[], b"x").into_bytes()).await.unwrap();
            let got = read(&mut stream, &mut BytesMut::new()).await.unwrap();
            assert_eq!(got.header(b"to"), Some(expected.as_bytes()));
        }
    });
}

#[test]
fn calls_side_by_side_keep_their_ids() {
    run(async {
        let (near, far) = two_hops(bolt_server(Rc::default()).await, None).await;
        let mut stream = TcpStream::connect(near.address).await.unwrap();
        let mut bytes = Vec::new();
        for id in 1..=300u32 {
            bytes.extend_from_slice(&call(id, &[], &id.to_be_bytes()).into_bytes());
        }
        stream.write_all(&bytes).await.unwrap();
        let mut buffer = BytesMut::new();
        let mut seen = Vec::new();
        for _ in 0..300 {
            let frame = read(&mut stream, &mut buffer).await.unwrap();
            assert_eq!(frame.content(), frame.request_id().to_be_bytes());
            seen.push(frame.request_id());
        }
        seen.sort_unstable();
        assert!(seen == (1..=300).collect::<Vec<_>>());
        assert_eq!(far.local.rpc_stats("rpc").response_success.get(), 300);
    });
}

#[test]
fn oneway_calls_arrive() {
    run(async {
        let oneways = Rc::new(Cell::new(0));
        let (near, _far) = two_hops(bolt_server(oneways.clone()).await, None).await;
        let mut stream = TcpStream::connect(near.address).await.unwrap();
        let head = bolt::Head { request_id: 3, cmd_type: 2, ..bolt::Head::REQUEST };
        let oneway = bolt::encode(head, b"c", [], &b"now"[..]).unwrap().into_bytes();
        stream.write_all(&oneway.repeat(20)).await.unwrap();
        stream.write_all(&call(4, &[], b"after").into_bytes()).await.unwrap();
        let frame = read(&mut stream, &mut BytesMut::new()).await.unwrap();
        assert_eq!(frame.request_id(), 4, "nothing answers a one-way call");
        sleep(200).await;
        assert_eq!(oneways.get(), 20);
    });
}

#[test]
fn failures_behind_the_second_hop_keep_their_status() {
    run(async {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let status = |server: SocketAddr, content: &'static [u8]| async move {
            let (near, far) = two_hops(server, Some(Duration::from_millis(300))).await;
            let mut stream = TcpStream::connect(near.address).await.unwrap();
            stream.write_all(&call(77, &[], content).into_bytes()).await.unwrap();
            let frame = read(&mut stream, &mut BytesMut::new()).await.unwrap();
            assert_eq!(frame.request_id(), 77);
            drop((near, far));
            frame.status()
        };
        assert_eq!(status(closed, b"").await, Status::ConnectionClosed.code());
        let server = bolt_server(Rc::default()).await;
        assert_eq!(status(server, b"silence").await, Status::Timeout.code());
        assert_eq!(status(server, b"fine").await, Status::Success.code());
        // No route at the second hop.
        let far =
            Proxy::start(rpc_proxy(Protocol::Http2, Protocol::Bolt), vec![], &[cluster("app", &[server])])
                .await;
        let near = Proxy::start(
            rpc_proxy(Protocol::Bolt, Protocol::Http2),
            vec![route("/", Action::Route(action("far")))],
            &[cluster("far", &[far.address])],
        )
        .await;
        let mut stream = TcpStream::connect(near.address).await.unwrap();
        stream.write_all(&call(5, &[], b"").into_bytes()).await.unwrap();
        let frame = read(&mut stream, &mut BytesMut::new()).await.unwrap();
        assert_eq!((frame.request_id(), frame.status()), (5, Status::NoProcessor.code()));
    });
}

#[test]
fn any_http2_client_may_call_and_auto_listeners_take_both() {
    run(async {
        let server = bolt_server(Rc::default()).await;
        let proxy = Proxy::start(
            rpc_proxy(Protocol::Auto, Protocol::Bolt),
            vec![route("/", Action::Route(action("app")))],
            &[cluster("app", &[server])],
        )
        .await;
        let mut client = Client::connect(proxy.address).await;
        let got = client.post("/", b"plain").await;
        assert_eq!(
            (got.status, &got.body[..], &got.headers["respstatus"]),
            (200, &b"plain"[..], &"0".parse().unwrap())
        );
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        stream.write_all(&call(9, &[], b"bolt").into_bytes()).await.unwrap();
        assert_eq!(read(&mut stream, &mut BytesMut::new()).await.unwrap().content(), b"bolt");
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        assert!(rest.is_empty());
    });
}
