//! Pushes that take something away: what has it goes on with it, what comes is told so, and nothing is left over.

use mizzen::app::Proxy;
use mizzen::sample::Client;
use mizzen::xds::state::Variant;
use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use support::ads::{Ads, Type};
use support::bolt::{Peer, call};
use support::proxy::{Setup, free_port, wait_listening, wait_until};
use support::resources::{eds_cluster, endpoints, listener, message, route, rpc_filter, tcp_filter};
use support::traffic::{LIMIT, bolt_server, echo, greet, server_of, tcp_server};
use support::upstream::{Upstream, ok, say};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::sleep;

mod support;

const CASES: [(Variant, usize); 4] =
    [(Variant::Sotw, 1), (Variant::Sotw, 2), (Variant::Delta, 1), (Variant::Delta, 2)];

/// How long a removed cluster serves on for routes that still name it.
const LINGER: Duration = Duration::from_millis(500);

/// A proxy with a bolt listener to cluster `b` and a TCP listener to cluster `t`.
struct World {
    ads: Ads,
    proxy: Proxy,
    bolt: u16,
    tcp: u16,
}

impl World {
    async fn start(variant: Variant, workers: usize, b: SocketAddr) -> World {
        let ads = Ads::start();
        let mut setup = Setup::new(variant, workers);
        setup.options.removed_cluster_linger = LINGER;
        let proxy = setup.start(ads.address());
        let world = World { ads, proxy, bolt: free_port(), tcp: free_port() };
        let t = tcp_server("t1").await;
        world.ads.set_clusters(["b", "t"].map(eds_cluster).to_vec());
        world.ads.set_endpoints(vec![endpoints("b", &[b]), endpoints("t", &[t])]);
        world.ads.set_listeners(vec![
            listener("bolt", world.bolt, &rpc_filter("r")),
            listener("tcp", world.tcp, &tcp_filter("t")),
        ]);
        world.ads.set_routes(vec![route("r", "b")]);
        world.push().await;
        wait_listening(([127, 0, 0, 1], world.bolt).into()).await;
        wait_listening(([127, 0, 0, 1], world.tcp).into()).await;
        world
    }

    async fn push(&self) {
        self.ads.push().await;
        self.ads.wait_all_acked().await;
    }

    async fn wait_closed(&self, ports: &[u16]) {
        wait_until("the ports are closed", || {
            ports.iter().all(|port| std::net::TcpStream::connect(("127.0.0.1", *port)).is_err())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_listener_refuses_new_connections_and_its_old_ones_go_on() {
    for (variant, workers) in CASES {
        let upstream = Upstream::echo().await;
        let world = World::start(variant, workers, upstream.address).await;
        let (mut raw, _) = greet(world.tcp).await.unwrap();
        let mut client = Peer::connect(world.bolt).await;
        assert_eq!(client.ask(&call(1, -1, &[], b"x")).await, (1, 0));

        world.ads.set_listeners(vec![]);
        world.ads.set_clusters(vec![]);
        world.push().await;
        world.wait_closed(&[world.bolt, world.tcp]).await;
        sleep(2 * LINGER).await;
        echo(&mut raw, b"still here").await.unwrap();
        for id in 2..40 {
            assert_eq!(client.ask(&call(id, -1, &[], b"x")).await, (id, 0));
        }
        // A cluster that is gone keeps its connections for those who still use it: no dial per call.
        assert!(upstream.accepted() <= 3, "{} upstream connections", upstream.accepted());
        drop((client, raw));
        wait_until("upstream connections of what is gone are closed", || upstream.open() == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_connection_of_a_removed_listener_frees_its_snapshot() {
    for (variant, workers) in [CASES[0], CASES[3]] {
        let world = World::start(variant, workers, bolt_server("b1").await).await;
        let mut client = Client::connect(&format!("127.0.0.1:{}", world.bolt)).await.unwrap();
        client.call(&[("service", "s")], b"x", LIMIT).await.unwrap();
        let weak = Arc::downgrade(&world.proxy.store.load());
        world.ads.set_listeners(vec![]);
        world.push().await;
        world.wait_closed(&[world.bolt, world.tcp]).await;
        let answer = client.call(&[("service", "s")], b"x", LIMIT).await.unwrap();
        assert_eq!(answer.status(), 0);
        drop(client);
        // No further push comes.
        wait_until("the old snapshot is freed", || weak.strong_count() == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_outlive_a_listener_that_speaks_another_protocol_now() {
    for (variant, workers) in CASES {
        let world = World::start(variant, workers, bolt_server("b1").await).await;
        let mut client = Client::connect(&format!("127.0.0.1:{}", world.bolt)).await.unwrap();
        client.call(&[("service", "s")], b"x", LIMIT).await.unwrap();
        world.ads.set_listeners(vec![listener("bolt", world.bolt, &tcp_filter("t"))]);
        world.ads.set_routes(vec![]);
        world.push().await;
        let mut name = String::new();
        for _ in 0..200 {
            // Still bolt, it waits for a frame and says nothing.
            if let Ok(Ok((_, now))) =
                tokio::time::timeout(Duration::from_millis(100), greet(world.bolt)).await
            {
                name = now;
                break;
            }
        }
        assert_eq!(name, "t1");
        for _ in 0..5 {
            let answer = client.call(&[("service", "s")], b"x", LIMIT).await.unwrap();
            assert_eq!((answer.status(), server_of(&answer)), (0, "b1".to_owned()));
            // Further generations do not take away what it is served by.
            world.ads.set_clusters(["b", "t", "more"].map(eds_cluster).to_vec());
            world.push().await;
            sleep(Duration::from_millis(300)).await;
            world.ads.set_clusters(["b", "t"].map(eds_cluster).to_vec());
            world.push().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_comes_right_back_meets_no_socket_of_its_own() {
    for (variant, workers) in [CASES[1], CASES[2]] {
        let world = World::start(variant, workers, bolt_server("b1").await).await;
        let all = || {
            vec![listener("bolt", world.bolt, &rpc_filter("r")), listener("tcp", world.tcp, &tcp_filter("t"))]
        };
        for _ in 0..40 {
            world.ads.set_listeners(vec![]);
            world.ads.push().await;
            world.ads.set_listeners(all());
            world.ads.push().await;
            world.ads.wait_ack(Type::Listener).await;
        }
        assert_eq!(world.ads.last_nack(Type::Listener), None);
        wait_listening(([127, 0, 0, 1], world.bolt).into()).await;
        wait_listening(([127, 0, 0, 1], world.tcp).into()).await;
    }
}

/// Inodes of the sockets that listen on `port`.
fn listening(port: u16) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let local = format!(":{port:04X}");
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut inodes: Vec<String> = rows
        .filter(|row| row.get(1).is_some_and(|at| at.ends_with(&local)) && row.get(3) == Some(&"0A"))
        .map(|row| row[9].to_owned())
        .collect();
    inodes.sort();
    inodes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_at_an_unchanged_address_keeps_its_sockets() {
    for (variant, workers) in CASES {
        let world = World::start(variant, workers, bolt_server("b1").await).await;
        let before = [listening(world.bolt), listening(world.tcp)];
        assert_eq!((before[0].len(), before[1].len()), (1, workers));
        for (names, prefix, tcp) in [
            (["bolt", "tcp"], "changed", "t"),
            (["renamed", "renamed-too"], "changed", "t"),
            (["tcp", "bolt"], "again", "t"),
        ] {
            let mut filter = rpc_filter("r");
            filter["stat_prefix"] = json!(prefix);
            world.ads.set_listeners(vec![
                listener(names[0], world.bolt, &filter),
                listener(names[1], world.tcp, &tcp_filter(tcp)),
            ]);
            world.push().await;
            sleep(Duration::from_millis(50)).await;
            assert_eq!([listening(world.bolt), listening(world.tcp)], before, "{names:?}");
        }
        // Another kind of filter, which would have opened another number of sockets.
        world.ads.set_listeners(vec![
            listener("a", world.tcp, &rpc_filter("r")),
            listener("b", world.bolt, &tcp_filter("t")),
        ]);
        world.push().await;
        sleep(Duration::from_millis(50)).await;
        assert_eq!([listening(world.bolt), listening(world.tcp)], before);
        world.ads.set_listeners(vec![]);
        world.push().await;
        wait_until("sockets are closed", || {
            listening(world.bolt).is_empty() && listening(world.tcp).is_empty()
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_policy_reaches_open_connections_with_their_next_request() {
    for (variant, workers) in CASES {
        let world = World::start(variant, workers, bolt_server("b1").await).await;
        let mut client = Peer::connect(world.bolt).await;
        assert_eq!(client.ask(&call(1, -1, &[("sample_delay_ms", "600")], b"x")).await, (1, 0));
        let table = |body: serde_json::Value| {
            let mut all = json!({"name": "r", "virtual_hosts": [{"name": "all", "domains": ["*"],
                "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "b", "timeout": "60s"}}]}]});
            for (key, value) in body.as_object().unwrap() {
                all["virtual_hosts"][0]["routes"][0][key] = value.clone();
            }
            all
        };
        let shorter = table(json!({"route": {"cluster": "b", "timeout": "0.2s"}}));
        world.ads.set_routes(vec![message(&shorter)]);
        world.push().await;
        sleep(Duration::from_millis(100)).await;
        assert_eq!(client.ask(&call(2, -1, &[("sample_delay_ms", "600")], b"x")).await, (2, 7));

        let added = json!([{"header": {"key": "added", "value": "yes"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}]);
        let edited = table(json!({"request_headers_to_add": added}));
        world.ads.set_routes(vec![message(&edited)]);
        world.push().await;
        sleep(Duration::from_millis(100)).await;
        client.send(&call(3, -1, &[], b"x")).await;
        let answer = client.next().await.unwrap();
        assert_eq!(answer.header(b"added"), Some(&b"yes"[..]));

        // The routes move into the listener's filter: another chain for the same connection.
        let mut filter = rpc_filter("r");
        filter.as_object_mut().unwrap().remove("rds");
        filter["route_config"] = table(json!({"route": {"cluster": "b", "timeout": "0.2s"}}));
        filter["stat_prefix"] = json!("inline");
        world.ads.set_listeners(vec![listener("renamed", world.bolt, &filter)]);
        world.push().await;
        sleep(Duration::from_millis(100)).await;
        assert_eq!(client.ask(&call(4, -1, &[("sample_delay_ms", "600")], b"x")).await, (4, 7));
        for prefix in ["rpc", "inline"] {
            let timeouts = format!("rpc.{prefix}.failure.timeout");
            assert_eq!(world.proxy.registry.number(&timeouts), 1, "{timeouts}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_of_removed_hosts_drain() {
    for (variant, workers) in [CASES[0], CASES[3]] {
        let slow = |frame: mizzen::protocol::rpc::Frame, out: &support::upstream::Out| {
            let (answer, out) = (ok(&frame), out.clone());
            tokio::spawn(async move {
                sleep(Duration::from_millis(700)).await;
                say(&out, answer);
            });
        };
        let (old, new) = (Upstream::start(slow).await, Upstream::echo().await);
        let world = World::start(variant, workers, old.address).await;
        let mut client = Peer::connect(world.bolt).await;
        client.send(&call(1, -1, &[], b"x")).await;
        wait_until("the call is there", || old.frames() == 1).await;
        world.ads.set_endpoints(vec![endpoints("b", &[new.address])]);
        world.push().await;
        sleep(Duration::from_millis(100)).await;
        assert_eq!(client.ask(&call(2, -1, &[], b"x")).await, (2, 0));
        assert_eq!((old.open(), old.frames(), new.frames()), (1, 1, 1));
        let late = client.next().await.unwrap();
        assert_eq!((late.request_id(), late.status()), (1, 0));
        wait_until("the old host's connection is closed", || old.open() == 0).await;

        // An idle one closes at once.
        world.ads.set_endpoints(vec![endpoints("b", &[])]);
        world.push().await;
        wait_until("the new host's connection is closed", || new.open() == 0).await;
        assert_eq!(client.ask(&call(3, -1, &[], b"x")).await, (3, 6));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_know_goaway_are_told_and_leave_when_they_are_done() {
    for (variant, workers) in [CASES[1], CASES[2]] {
        let world = World::start(variant, workers, bolt_server("b1").await).await;
        let mut filter = rpc_filter("r");
        filter["drain_goaway"] = json!(true);
        world.ads.set_listeners(vec![listener("bolt", world.bolt, &filter)]);
        world.push().await;
        sleep(Duration::from_millis(100)).await;
        let mut client = Peer::connect(world.bolt).await;
        client.send(&call(1, -1, &[("sample_delay_ms", "1500")], b"x")).await;
        sleep(Duration::from_millis(100)).await;
        world.ads.set_listeners(vec![]);
        world.push().await;
        let told = client.next().await.unwrap();
        assert_eq!(told.kind(), mizzen::protocol::rpc::Kind::GoAway);
        // What is in flight finishes, and what crosses the word on its way is served.
        client.send(&call(2, -1, &[], b"x")).await;
        for id in [2, 1] {
            let answer = client.next().await.unwrap();
            assert_eq!((answer.request_id(), answer.status()), (id, 0));
        }
        assert!(client.next().await.is_none(), "silent for a second, it is closed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn half_close_reaches_the_other_side() {
    let world = World::start(Variant::Delta, 1, bolt_server("b1").await).await;
    let mut raw = TcpStream::connect(("127.0.0.1", world.tcp)).await.unwrap();
    let text = vec![7; 1 << 20];
    let (mut read, mut write) = raw.split();
    let (sent, got) = tokio::join!(
        async {
            tokio::io::AsyncWriteExt::write_all(&mut write, &text).await?;
            tokio::io::AsyncWriteExt::shutdown(&mut write).await
        },
        async {
            let mut got = Vec::new();
            read.read_to_end(&mut got).await.unwrap();
            got
        }
    );
    sent.unwrap();
    assert!(got.starts_with(b"t1") && got.len() == text.len() + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_stat_prefix_counts_the_next_call_of_open_connections() {
    let upstream = Upstream::echo().await;
    let world = World::start(Variant::Delta, 1, upstream.address).await;
    let number = |name: &str| world.proxy.registry.number(name);
    let mut client = Peer::connect(world.bolt).await;
    assert_eq!(client.ask(&call(1, -1, &[], b"x")).await, (1, 0));
    let mut renamed = rpc_filter("r");
    renamed["stat_prefix"] = json!("other");
    world.ads.set_listeners(vec![
        listener("bolt", world.bolt, &renamed),
        listener("tcp", world.tcp, &tcp_filter("t")),
    ]);
    world.push().await;
    let mut id = 1;
    wait_until_async("the new prefix counts", async || {
        id += 1;
        assert_eq!(client.ask(&call(id, -1, &[], b"x")).await, (id, 0));
        number("rpc.other.request_total") > 0
    })
    .await;
    let before = number("rpc.rpc.request_total");
    assert_eq!(client.ask(&call(99, -1, &[], b"x")).await, (99, 0));
    assert_eq!(number("rpc.rpc.request_total"), before);
    assert_eq!(number("rpc.other.response_success"), number("rpc.other.request_total"));
    assert_eq!((number("rpc.rpc.request_active"), number("rpc.other.request_active")), (0, 0));
}

async fn wait_until_async(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let end = tokio::time::Instant::now() + LIMIT;
    while !done().await {
        assert!(tokio::time::Instant::now() < end, "waited in vain for {what}");
        sleep(Duration::from_millis(5)).await;
    }
}
