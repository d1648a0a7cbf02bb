//! Everything that can go wrong with a bolt call: answered in bolt, at once, with the caller's id, and counted
//! by its cause; and what bad bytes do to a connection.

use bytes::Bytes;
use mizzen::app::Proxy;
use mizzen::protocol::bolt::{self, Status};
use mizzen::protocol::rpc::{Frame, Kind};
use mizzen::xds::state::Variant;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::ads::Ads;
use support::bolt::{Peer, call_to};
use support::proxy::{Setup, free_port, wait_listening, wait_until};
use support::resources::{eds_cluster, endpoints, listener, message, rpc_filter};
use support::upstream::{Out, Say, Upstream, ok, say};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::sleep;

mod support;

/// "At once": far below every timeout involved, far above what a busy machine takes.
const AT_ONCE: Duration = Duration::from_secs(2);

struct World {
    _ads: Ads,
    proxy: Proxy,
    port: u16,
}

/// A route from the header `service` to the cluster of that name.
fn by_service(cluster: &str, more: &Value) -> Value {
    let mut route = json!({
        "match": {"prefix": "/", "headers": [{"name": "service", "string_match": {"exact": cluster}}]},
        "route": {"cluster": cluster, "timeout": "5s"}});
    for (key, value) in more.as_object().unwrap() {
        route[key] = value.clone();
    }
    route
}

impl World {
    /// `hosts`: clusters and their hosts; `ghosts`: clusters that routes name and nobody configures.
    async fn start(workers: usize, hosts: &[(&str, Vec<SocketAddr>)], ghosts: &[&str]) -> World {
        Self::start_with(workers, hosts, ghosts, |_| {}).await
    }

    async fn start_with(
        workers: usize,
        hosts: &[(&str, Vec<SocketAddr>)],
        ghosts: &[&str],
        more: impl Fn(&Ads),
    ) -> World {
        let ads = Ads::start();
        let mut setup = Setup::new(Variant::Delta, workers);
        setup.options.route_hold = Duration::from_millis(100);
        setup.options.missing_cluster_hold = Duration::from_millis(100);
        setup.options.listener_cluster_wait = Duration::from_millis(100);
        let proxy = setup.start(ads.address());
        let port = free_port();
        ads.set_clusters(hosts.iter().map(|(name, _)| eds_cluster(name)).collect());
        ads.set_endpoints(hosts.iter().map(|(name, hosts)| endpoints(name, hosts)).collect());
        ads.set_listeners(vec![listener("bolt", port, &rpc_filter("r"))]);
        let routes: Vec<_> = hosts
            .iter()
            .map(|(name, _)| *name)
            .chain(ghosts.iter().copied())
            .map(|n| by_service(n, &json!({})))
            .collect();
        ads.set_routes(vec![table(&routes)]);
        more(&ads);
        ads.push().await;
        ads.wait_all_acked().await;
        wait_listening(([127, 0, 0, 1], port).into()).await;
        World { _ads: ads, proxy, port }
    }

    async fn client(&self) -> Peer {
        Peer::connect(self.port).await
    }

    fn count(&self, cause: &str) -> i64 {
        self.proxy.registry.number(&format!("rpc.rpc.failure.{cause}"))
    }
}

fn table(routes: &[Value]) -> mizzen::proto::envoy::config::route::v3::RouteConfiguration {
    message(&json!({"name": "r", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]}))
}

fn with_breakers(name: &str, thresholds: &Value) -> mizzen::proto::envoy::config::cluster::v3::Cluster {
    message(&json!({"name": name, "type": "EDS", "connect_timeout": "1s",
        "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3"}},
        "circuit_breakers": {"thresholds": [thresholds]}}))
}

/// An address nobody listens on.
fn nobody() -> SocketAddr {
    ([127, 0, 0, 1], free_port()).into()
}

/// Accepts and never reads.
async fn black_hole() -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = socket.accept().await {
            held.push(stream);
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn every_cause_is_answered_at_once_and_counted_by_its_name() {
    let closes = Upstream::start(|_, out| drop(out.send(Say::Close))).await;
    let silent = Upstream::start(|_, _| {}).await;
    let sick = json!({"cluster_name": "sick", "endpoints": [{"lb_endpoints": [{"health_status": "UNHEALTHY",
        "endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 9}}}}]}]});
    for workers in [1, 2] {
        let hosts = [
            ("empty", vec![]),
            ("refused", vec![nobody()]),
            ("closes", vec![closes.address]),
            ("silent", vec![silent.address]),
            ("busy", vec![silent.address]),
        ];
        let world = World::start_with(workers, &hosts, &["ghost", "warming", "sick"], |ads| {
            let mut clusters: Vec<_> = hosts.iter().map(|(name, _)| eds_cluster(name)).collect();
            let mut unhealthy = eds_cluster("sick");
            // Without the guess that health is wrong when nobody has any.
            unhealthy.common_lb_config = Some(message(&json!({"healthy_panic_threshold": {}})));
            clusters.extend([eds_cluster("warming"), unhealthy]);
            clusters[4] = with_breakers("busy", &json!({"max_requests": 0}));
            ads.set_clusters(clusters);
            ads.upsert(
                support::ads::Type::Endpoint,
                "sick",
                support::ads::any(
                    support::ads::Type::Endpoint,
                    &message::<mizzen::proto::envoy::config::endpoint::v3::ClusterLoadAssignment>(&sick),
                ),
            );
        })
        .await;
        let mut client = world.client().await;
        let cases: [(&str, &[u16], &str); 9] = [
            ("nowhere", &[6], "no_route"),
            ("ghost", &[6], "cluster_not_found"),
            ("warming", &[6], "cluster_warming"),
            ("empty", &[6, 16], "no_endpoints"),
            ("sick", &[6, 16], "all_unhealthy"),
            ("refused", &[6, 16], "connect_failed"),
            ("closes", &[3, 6, 16], "upstream_closed"),
            ("silent", &[7], "timeout"),
            ("busy", &[4], "overflow_requests"),
        ];
        for (id, (service, statuses, cause)) in (100..).zip(cases) {
            let before = world.count(cause);
            let begin = Instant::now();
            let (answered, status) = client.ask(&call_to(service, id, 300, &[], b"x")).await;
            assert!(begin.elapsed() < AT_ONCE, "{service} took {:?}", begin.elapsed());
            assert!(answered == id && statuses.contains(&status), "{service}: {answered} {status}");
            assert_eq!(world.count(cause), before + 1, "{service} is counted as {cause}");
        }
        // One-way calls fail without an answer, and the connection is as good as before.
        let oneway = bolt::Head { request_id: 7, cmd_type: 2, ..bolt::Head::REQUEST };
        let frame =
            bolt::encode(oneway, b"c", [(Some(&b"service"[..]), Some(&b"nowhere"[..]))], &b""[..]).unwrap();
        assert_eq!(frame.kind(), Kind::Oneway);
        client.send(&frame.into_bytes()).await;
        assert_eq!(client.ask(&call_to("nowhere", 8, -1, &[], b"")).await, (8, 6));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_frames_timeout_overrides_the_routes_if_it_is_positive() {
    let silent = Upstream::start(|_, _| {}).await;
    let world = World::start_with(1, &[("silent", vec![silent.address])], &[], |ads| {
        let short = json!({"route": {"cluster": "silent", "timeout": "0.6s"}});
        ads.set_routes(vec![table(&[by_service("silent", &short)])]);
    })
    .await;
    let mut client = world.client().await;
    for (id, given, least, most) in
        [(1, 150, 150, 550), (2, 0, 600, 1500), (3, -1, 600, 1500), (4, 1600, 1600, 3000)]
    {
        let begin = Instant::now();
        assert_eq!(client.ask(&call_to("silent", id, given, &[], b"")).await, (id, 7));
        let took = begin.elapsed().as_millis();
        assert!((least..most).contains(&took), "{given}: {took} ms");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn breakers_are_exact_over_workers() {
    let slow = Upstream::start(|frame, out| {
        let (answer, out) = (ok(&frame), out.clone());
        tokio::spawn(async move {
            sleep(Duration::from_millis(1000)).await;
            say(&out, answer);
        });
    })
    .await;
    let world = World::start_with(2, &[("slow", vec![slow.address])], &[], |ads| {
        ads.set_clusters(vec![with_breakers("slow", &json!({"max_requests": 5}))]);
    })
    .await;
    for round in 0..2 {
        let mut clients = Vec::new();
        for _ in 0..10 {
            clients.push(world.client().await);
        }
        for client in &mut clients {
            client.send(&[call_to("slow", 1, -1, &[], b""), call_to("slow", 2, -1, &[], b"")].concat()).await;
        }
        let mut statuses = Vec::new();
        for client in &mut clients {
            statuses.push(client.next().await.unwrap().status());
            statuses.push(client.next().await.unwrap().status());
        }
        statuses.sort_unstable();
        assert_eq!(statuses, [[0; 5].as_slice(), &[4; 15]].concat(), "round {round}");
    }
    assert_eq!(world.count("overflow_requests"), 30);
}

/// What comes back until the end.
async fn rest(client: &mut Peer) -> Vec<(Kind, u32, u16)> {
    let mut all = Vec::new();
    while let Some(frame) = client.next().await {
        all.push((frame.kind(), frame.request_id(), frame.status()));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_bytes_close_their_connection_after_what_was_good() {
    let echo = Upstream::echo().await;
    let world = World::start(1, &[("echo", vec![echo.address])], &[]).await;
    let mut bystander = world.client().await;
    assert_eq!(bystander.ask(&call_to("echo", 1, -1, &[], b"x")).await, (1, 0));

    let mut client = world.client().await;
    client.send(&[&call_to("echo", 5, -1, &[], b"x")[..], b"\xff\xff garbage"].concat()).await;
    assert_eq!(rest(&mut client).await, [(Kind::Response, 5, 0)]);

    for garbage in [&b"\xde\xad\xbe\xef"[..], b"GET ", b"\x02\x01\x00\x01", b"\x01\x07\x00\x01"] {
        let mut client = world.client().await;
        let begin = Instant::now();
        client.send(garbage).await;
        assert_eq!(rest(&mut client).await, []);
        assert!(begin.elapsed() < AT_ONCE, "{garbage:?}: {:?}", begin.elapsed());
    }

    // A header block whose inner length lies: its own answer, and the next call is served.
    let mut lying = call_to("echo", 6, -1, &[], b"x").to_vec();
    let block = 22 + b"test.Class".len();
    lying[block..block + 4].copy_from_slice(&[0, 0, 0x7f, 0]);
    let mut client = world.client().await;
    client.send(&[lying, call_to("echo", 7, -1, &[], b"x").to_vec()].concat()).await;
    let mut got =
        [client.next().await.unwrap(), client.next().await.unwrap()].map(|f| (f.request_id(), f.status()));
    got.sort_unstable();
    assert_eq!(got, [(6, Status::CodecException.code()), (7, 0)]);
    assert_eq!(client.ask(&call_to("echo", 8, -1, &[], b"x")).await, (8, 0));

    // Too large is told by the header alone.
    let mut huge = call_to("echo", 9, -1, &[], b"").to_vec();
    huge.truncate(22);
    huge[18..22].copy_from_slice(&(17u32 << 20).to_be_bytes());
    let mut client = world.client().await;
    let begin = Instant::now();
    client.send(&huge).await;
    let answers = rest(&mut client).await;
    assert!(begin.elapsed() < AT_ONCE && answers.iter().all(|a| a.1 == 9 && a.2 != 0), "{answers:?}");

    assert_eq!(bystander.ask(&call_to("echo", 2, -1, &[], b"x")).await, (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn large_frames_pass_and_their_memory_is_returned() {
    let echo = Upstream::echo().await;
    let world = World::start(1, &[("echo", vec![echo.address])], &[]).await;
    let mut client = world.client().await;
    for (id, size) in [(1, 8 << 20), (2, 15 << 20), (3, 10)] {
        let content: Vec<u8> = (0..size).map(|i: u32| i as u8).collect();
        client.send(&call_to("echo", id, -1, &[], &content)).await;
        let answer = client.next().await.unwrap();
        assert_eq!((answer.request_id(), answer.status()), (id, 0));
        assert!(answer.content() == content);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_frames_are_bounded_over_all_connections() {
    let echo = Upstream::echo().await;
    let world = World::start(1, &[("echo", vec![echo.address])], &[]).await;
    let whole = call_to("echo", 1, -1, &[], &vec![1; 15 << 20]);
    // 19 of them are more than the 256 MiB of a process.
    let mut clients = Vec::new();
    for _ in 0..19 {
        let mut client = world.client().await;
        // One that is refused stops reading.
        let sent = client.stream.write_all(&whole[..whole.len() - 1]);
        let _ = tokio::time::timeout(Duration::from_secs(5), sent).await;
        clients.push(client);
    }
    let refused = || world.proxy.registry.number("rpc.rpc.frame_too_large");
    wait_until("one is refused", || refused() > 0).await;
    assert!(refused() < 6, "{} refused", refused());
    // The first ones are untouched, and what goes makes room.
    clients.truncate(1);
    clients[0].send(&whole[whole.len() - 1..]).await;
    assert_eq!(clients[0].next().await.unwrap().status(), 0);
    let mut fresh = world.client().await;
    assert_eq!(fresh.ask(&whole).await, (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_come_in_any_order_and_heartbeats_at_once() {
    let world = World::start(1, &[("echo", vec![support::traffic::bolt_server("s").await])], &[]).await;
    let mut client = world.client().await;
    let delayed = |id, delay| call_to("echo", id, -1, &[("sample_delay_ms", delay)], b"x");
    client.send(&[delayed(1, "600"), delayed(2, "300"), delayed(3, "0"), bolt::heartbeat(4)].concat()).await;
    let mut order = Vec::new();
    for _ in 0..4 {
        let frame = client.next().await.unwrap();
        order.push((frame.kind(), frame.request_id()));
    }
    use Kind::{HeartbeatAck, Response};
    assert_eq!(order, [(HeartbeatAck, 4), (Response, 3), (Response, 2), (Response, 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_answer_is_dropped_however_many_calls_came_between() {
    // Holds back the answer to the first call, until told.
    let held: Arc<Mutex<Option<Bytes>>> = Arc::default();
    let keep = held.clone();
    let upstream = Upstream::start(move |frame: Frame, out: &Out| match frame.content() {
        b"late" => *keep.lock().unwrap() = Some(ok(&frame)),
        b"last" => {
            // The late one first, then nothing for this call.
            say(out, keep.lock().unwrap().take().unwrap());
        }
        _ => say(out, ok(&frame)),
    })
    .await;
    let world = World::start(1, &[("s", vec![upstream.address])], &[]).await;
    let mut client = world.client().await;
    // Every distance in calls at which a short generation would come round.
    for distance in [1usize, 2, 4096, 8192] {
        assert_eq!(client.ask(&call_to("s", 1, 100, &[], b"late")).await, (1, 7));
        for id in 0..distance as u32 - 1 {
            client.send(&call_to("s", id, -1, &[], b"between")).await;
            assert_eq!(client.next().await.unwrap().content(), b"between");
        }
        client.send(&call_to("s", 2, 200, &[], b"last")).await;
        let answer = client.next().await.unwrap();
        assert_eq!(
            (answer.request_id(), answer.status(), answer.content()),
            (2, 7, &b""[..]),
            "another call's answer after {distance} calls"
        );
    }
    assert_eq!(upstream.accepted(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_way_calls_arrive_and_edits_touch_the_header_block_only() {
    let seen: Arc<Mutex<Vec<Frame>>> = Arc::default();
    let keep = seen.clone();
    let upstream = Upstream::start(move |frame, out| {
        if frame.kind() == Kind::Request {
            say(out, ok(&frame));
        }
        keep.lock().unwrap().push(frame);
    })
    .await;
    let world = World::start_with(1, &[("plain", vec![upstream.address])], &[], |ads| {
        let edits = json!({
            "match": {"prefix": "/", "headers": [{"name": "service", "string_match": {"exact": "edited"}}]},
            "route": {"cluster": "plain", "timeout": "5s"},
            "request_headers_to_add": [{"header": {"key": "added", "value": "yes"}}],
            "request_headers_to_remove": ["secret"],
            "response_headers_to_add": [{"header": {"key": "seen", "value": "by-proxy"}}]});
        ads.set_routes(vec![table(&[by_service("plain", &json!({})), edits])]);
    })
    .await;
    let mut client = world.client().await;
    let oneway = bolt::Head { request_id: 3, cmd_type: 2, ..bolt::Head::REQUEST };
    let pairs =
        [(Some(&b"service"[..]), Some(&b"plain"[..])), (Some(&b""[..]), None), (None, Some(&b"v"[..]))];
    let frame = bolt::encode(oneway, b"one.way", pairs, &b"content"[..]).unwrap();
    let sent = frame.into_bytes();
    client.send(&sent).await;
    wait_until("the one-way call arrives", || seen.lock().unwrap().len() == 1).await;
    let mut got = seen.lock().unwrap().pop().unwrap();
    got.set_request_id(3);
    assert_eq!(got.into_bytes(), sent, "an unchanged frame keeps every byte but its id");

    client.send(&call_to("edited", 4, -1, &[("secret", "s"), ("Kept-Case", "Ü")], b"body")).await;
    let answer = client.next().await.unwrap();
    let got = seen.lock().unwrap().pop().unwrap();
    assert_eq!((got.class(), got.content()), (&b"test.Class"[..], &b"body"[..]));
    assert_eq!(got.header(b"added"), Some(&b"yes"[..]));
    assert_eq!(got.header(b"secret"), None);
    assert_eq!(got.header(b"Kept-Case"), Some("Ü".as_bytes()));
    assert_eq!(answer.header(b"seen"), Some(&b"by-proxy"[..]));
    // An edit that does not fit any more is an error of its own, never a truncation.
    let big = "b".repeat(65_500);
    assert_eq!(client.ask(&call_to("edited", 5, -1, &[("big", &big)], b"")).await, (5, 9));
    assert_eq!(client.ask(&call_to("plain", 6, -1, &[("big", &big)], b"")).await, (6, 0));
    assert_eq!(world.count("header_overflow"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_says_goaway_gets_no_new_calls_there() {
    let upstream = Upstream::start(|frame, out| {
        if frame.content() == b"leave" {
            say(out, bolt::goaway(1));
        }
        let (answer, out) = (ok(&frame), out.clone());
        tokio::spawn(async move {
            sleep(Duration::from_millis(500)).await;
            say(&out, answer);
        });
    })
    .await;
    let world = World::start(1, &[("s", vec![upstream.address])], &[]).await;
    let mut client = world.client().await;
    client.send(&[call_to("s", 1, -1, &[], b"first"), call_to("s", 2, -1, &[], b"leave")].concat()).await;
    sleep(Duration::from_millis(250)).await;
    client.send(&call_to("s", 3, -1, &[], b"new")).await;
    let mut answers = Vec::new();
    for _ in 0..3 {
        let answer = client.next().await.unwrap();
        answers.push((answer.request_id(), answer.status()));
    }
    answers.sort_unstable();
    assert_eq!(answers, [(1, 0), (2, 0), (3, 0)]);
    assert_eq!(upstream.accepted(), 2);
    wait_until("the left connection is closed", || upstream.open() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_upstream_is_found_within_ten_seconds() {
    let hole = black_hole().await;
    let world = World::start(1, &[("hole", vec![hole])], &[]).await;
    let mut client = world.client().await;
    let begin = Instant::now();
    let (id, status) = client.ask(&call_to("hole", 1, 60_000, &[], b"x")).await;
    assert!(id == 1 && [3, 6, 16].contains(&status), "{status}");
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_large_answers_to_many_small_calls_all_come() {
    const CALLS: u32 = 1500;
    let upstream = Upstream::start(|frame, out| {
        let answer = bolt::response(frame.request_id(), Status::Success, b"", [], &[7u8; 32 << 10][..]);
        say(out, answer.unwrap().into_bytes());
    })
    .await;
    let world = World::start_with(1, &[("s", vec![upstream.address])], &[], |ads| {
        ads.set_clusters(vec![with_breakers(
            "s",
            &json!({"max_requests": 9999, "max_pending_requests": 9999}),
        )]);
    })
    .await;
    let mut client = world.client().await;
    let calls: Vec<u8> = (0..CALLS)
        .flat_map(|id| call_to("s", id, 60_000, &[("pad", &"p".repeat(2000))], b"").to_vec())
        .collect();
    let (mut read, mut write) = client.stream.split();
    let mut got = 0usize;
    let reading = async {
        let mut buf = vec![0; 1 << 16];
        let wanted = CALLS as usize * (20 + (32 << 10));
        while got < wanted {
            match tokio::time::timeout(Duration::from_secs(5), read.read(&mut buf)).await {
                Ok(Ok(n @ 1..)) => got += n,
                other => panic!("{other:?} after {got} of {wanted} bytes"),
            }
        }
    };
    let (sent, ()) = tokio::join!(tokio::io::AsyncWriteExt::write_all(&mut write, &calls), reading);
    sent.unwrap();
}
