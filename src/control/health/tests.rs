//! Checks of real sockets, and of hosts under a paused clock.

use super::*;
use crate::cluster::{BreakerState, ClusterSpec};
use crate::model::{Cluster, ClusterId, Discovery, Endpoints, HttpCheck};
use crate::telemetry::Registry;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn check(kind: Check) -> HealthCheck {
    let second = Duration::from_secs(1);
    HealthCheck {
        timeout: second,
        interval: second,
        initial_jitter: Duration::ZERO,
        least_interval: Duration::ZERO,
        most_interval: Duration::MAX,
        interval_jitter: Duration::ZERO,
        interval_jitter_percent: 0,
        unhealthy_threshold: 2,
        healthy_threshold: 2,
        no_traffic_interval: second,
        no_traffic_healthy_interval: second,
        unhealthy_interval: second,
        unhealthy_edge_interval: second,
        healthy_edge_interval: second,
        reuse_connection: true,
        alt_port: None,
        log_failures: false,
        log_success: false,
        alpn: None,
        check: kind,
    }
}

fn http(http2: bool) -> HttpCheck {
    HttpCheck {
        host: String::new(),
        path: "/health".into(),
        method: "GET".into(),
        headers: vec![("x-check".into(), "1".into())],
        remove_headers: Vec::new(),
        expected: Vec::new(),
        retriable: Vec::new(),
        http2,
        receive: Vec::new(),
        body_limit: 0,
    }
}

/// A server that answers every HTTP/1 request with `answer`, and counts connections.
async fn serve(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> (Address, Arc<AtomicUsize>) {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::Ip(socket.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let (counted, answer) = (count.clone(), Arc::new(answer));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = socket.accept().await {
            counted.fetch_add(1, SeqCst);
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                    let text = answer(&String::from_utf8_lossy(&buffer[..n]));
                    if stream.write_all(text.as_bytes()).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    (address, count)
}

fn target(address: &Address) -> Target {
    Target { address: address.clone(), host: "c".into(), secure: None }
}

#[tokio::test]
async fn http1_checks_reuse_their_connection_and_read_the_status() {
    let (address, connections) = serve(|request| {
        assert!(request.starts_with("GET /health HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("host: c\r\n") && request.contains("x-check: 1\r\n"), "{request}");
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".into()
    })
    .await;
    let mut session = Session::default();
    let mut asked = http(false);
    asked.receive = vec![b"ok".to_vec()];
    let wanted = check(Check::Http(asked.clone()));
    for _ in 0..3 {
        assert_eq!(probe::ask(&wanted, &target(&address), &mut session).await, Finding::Passed);
    }
    assert_eq!(connections.load(SeqCst), 1);
    asked.expected = vec![crate::model::StatusRange { start: 201, end: 300 }];
    let wanted = check(Check::Http(asked));
    assert_eq!(probe::ask(&wanted, &target(&address), &mut session).await, Finding::Refused);
}

#[tokio::test]
async fn tcp_checks_wait_for_their_bytes() {
    let (address, _) = serve(|request| if request == "PING" { "+PO".into() } else { "NG".into() }).await;
    let tcp = |send: &str, receive: &str| {
        check(Check::Tcp { send: send.into(), receive: vec![receive.as_bytes().to_vec()] })
    };
    let mut session = Session::default();
    assert_eq!(probe::ask(&tcp("PING", "PO"), &target(&address), &mut session).await, Finding::Passed);
    let waiting = timeout(Duration::from_millis(50), async {
        let mut session = Session::default();
        probe::ask(&tcp("PING", "never"), &target(&address), &mut session).await
    });
    assert!(waiting.await.is_err());
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let closed = target(&Address::Ip(closed));
    assert_eq!(probe::ask(&tcp("", ""), &closed, &mut session).await, Finding::Lost);
}

/// An HTTP/2 server with one answer.
async fn serve_http2(status: &'static str, body: &'static [u8]) -> Address {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::Ip(socket.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = socket.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    assert_eq!(request.uri().authority().unwrap(), "c");
                    let mut sink = respond.send_response(http::Response::new(()), false).unwrap();
                    sink.send_data(bytes::Bytes::from_static(body), false).unwrap();
                    let mut trailers = http::HeaderMap::new();
                    trailers.insert("grpc-status", status.parse().unwrap());
                    sink.send_trailers(trailers).unwrap();
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn grpc_and_http2_checks() {
    let grpc = check(Check::Grpc { service: "s".into(), authority: String::new(), metadata: Vec::new() });
    for (status, body, wanted) in [
        ("0", &[0, 0, 0, 0, 2, 8, 1][..], Finding::Passed),
        ("0", &[0, 0, 0, 0, 2, 8, 2][..], Finding::Refused),
        ("12", &[][..], Finding::Refused),
    ] {
        let address = serve_http2(status, body).await;
        let mut session = Session::default();
        for _ in 0..2 {
            assert_eq!(probe::ask(&grpc, &target(&address), &mut session).await, wanted);
        }
        let plain = check(Check::Http(http(true)));
        assert_eq!(probe::ask(&plain, &target(&address), &mut session).await, Finding::Passed);
    }
}

#[tokio::test]
async fn bolt_checks_are_heartbeats() {
    use crate::protocol::{bolt, rpc::Decoder};
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::Ip(socket.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = socket.accept().await.unwrap();
        let (mut decoder, mut buffer) = (Decoder::default(), bytes::BytesMut::new());
        while stream.read_buf(&mut buffer).await.unwrap() > 0 {
            while let Some(frame) = decoder.decode(&mut buffer).unwrap() {
                stream.write_all(&bolt::heartbeat_ack(&frame)).await.unwrap();
            }
        }
    });
    let mut session = Session::default();
    for _ in 0..3 {
        assert_eq!(probe::ask(&check(Check::Bolt), &target(&address), &mut session).await, Finding::Passed);
    }
}

/// Waits for the shared flags without a look at the clock.
async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..4_000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("waited in vain: {what}");
}

#[tokio::test]
async fn hosts_turn_and_the_first_round_is_reported() {
    let good = Arc::new(AtomicUsize::new(200));
    let status = good.clone();
    let (address, _) =
        serve(move |_| format!("HTTP/1.1 {} X\r\ncontent-length: 0\r\n\r\n", status.load(SeqCst))).await;
    let dead = Address::Ip(TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap());
    let endpoints = Arc::new(Endpoints::of("c", [address.clone(), dead.clone()]));
    let mut model = Cluster::new("c", Discovery::Static(endpoints.clone()));
    let mut quick = check(Check::Http(http(false)));
    let short = Duration::from_millis(5);
    (quick.no_traffic_interval, quick.no_traffic_healthy_interval) = (short, short);
    model.health_checks = vec![Arc::new(quick)];
    let shared: Arc<crate::cluster::Shared> = Arc::default();
    let breakers = Arc::new(BreakerState::default());
    let spec = ClusterSpec {
        id: ClusterId(3),
        model: Arc::new(model),
        breakers,
        shared: shared.clone(),
        sockets: Default::default(),
    };
    let current = watch::Sender::new(Watched { spec: Arc::new(spec), endpoints });
    let (sender, mut reports) = mpsc::unbounded_channel();
    let resolver = Arc::new(super::super::dns::SystemResolver::default());
    let tools = Tools { registry: Registry::new(), resolver, reports: sender };
    let _task = Task::spawn(run(current.subscribe(), Arc::new(tools)));
    let Some(Report::Checked { cluster, .. }) = reports.recv().await else { panic!() };
    assert_eq!(cluster, ClusterId(3));
    let flags = |address: &Address| shared.host(address).unwrap().flags() & (FAILED_ACTIVE | PENDING_ACTIVE);
    assert_eq!((flags(&address), flags(&dead)), (0, FAILED_ACTIVE));
    let before = shared.epoch();
    good.store(500, SeqCst);
    until("failed", || flags(&address) == FAILED_ACTIVE).await;
    assert!(shared.epoch() > before, "workers are told");
    good.store(200, SeqCst);
    until("back", || flags(&address) == 0).await;
}
