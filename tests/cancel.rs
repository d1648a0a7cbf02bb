//! Clients that go, and calls that are given up: what they asked for is cancelled behind the proxy at once, and
//! nobody else on the same connections notices.

use bytes::Bytes;
use mizzen::app::Proxy;
use mizzen::proto::envoy::config::cluster::v3::Cluster;
use mizzen::protocol::bolt;
use mizzen::protocol::rpc::{Frame, Kind};
use mizzen::xds::state::Variant;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use support::ads::Ads;
use support::bolt::{Peer, call};
use support::proxy::{Setup, free_port, wait_listening, wait_until};
use support::resources::{endpoints, listener, message, route, rpc_filter};
use support::upstream::{Out, Upstream, ok, say};
use tokio::net::TcpListener;

mod support;

struct World {
    _ads: Ads,
    proxy: Proxy,
    port: u16,
}

impl World {
    /// A bolt listener in front of one cluster `up` that allows three requests at a time.
    async fn start(host: SocketAddr, cluster: Value, filter: Value) -> World {
        let ads = Ads::start();
        let proxy = Setup::new(Variant::Delta, 1).start(ads.address());
        let port = free_port();
        let mut up = json!({"name": "up", "type": "EDS", "connect_timeout": "1s",
            "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3"}},
            "circuit_breakers": {"thresholds": [{"max_requests": 3}]}});
        merge(&mut up, cluster);
        ads.set_clusters(vec![message::<Cluster>(&up)]);
        ads.set_endpoints(vec![endpoints("up", &[host])]);
        ads.set_routes(vec![route("r", "up")]);
        let mut rpc = rpc_filter("r");
        merge(&mut rpc, filter);
        ads.set_listeners(vec![listener("bolt", port, &rpc)]);
        ads.push().await;
        ads.wait_all_acked().await;
        wait_listening(([127, 0, 0, 1], port).into()).await;
        World { _ads: ads, proxy, port }
    }

    fn number(&self, name: &str) -> i64 {
        self.proxy.registry.number(name)
    }

    async fn wait(&self, name: &str, value: i64) {
        wait_until(&format!("{name} = {value}"), || self.number(name) == value).await;
    }
}

fn merge(to: &mut Value, from: Value) {
    for (key, value) in from.as_object().unwrap() {
        to[key] = value.clone();
    }
}

fn oneway(id: u32) -> Bytes {
    let head = bolt::Head { request_id: id, cmd_type: 2, ..bolt::Head::REQUEST };
    let pairs = [(Some(&b"service"[..]), Some(&b"s"[..]))];
    bolt::encode(head, b"c", pairs, &b"one way"[..]).unwrap().into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_takes_its_bolt_calls_with_it() {
    // Holds every call back until one says "now", then answers that one last.
    let held: Arc<Mutex<Vec<Bytes>>> = Arc::default();
    let keep = held.clone();
    let upstream = Upstream::start(move |frame: Frame, out: &Out| {
        if frame.kind() == Kind::Oneway {
            return;
        }
        keep.lock().unwrap().push(ok(&frame));
        if frame.content() == b"now" {
            keep.lock().unwrap().drain(..).for_each(|answer| say(out, answer));
        }
    })
    .await;
    let world = World::start(upstream.address, json!({}), json!({})).await;
    for (round, abrupt) in [(1, false), (2, true)] {
        let mut leaver = Peer::connect(world.port).await;
        let mut other = Peer::connect(world.port).await;
        let calls = [call(1, 60_000, &[], b"a"), call(2, 60_000, &[], b"b"), call(3, 60_000, &[], b"c")];
        leaver.send(&calls.concat()).await;
        world.wait("cluster.up.upstream_rq_active", 3).await;
        assert_eq!(other.ask(&call(9, -1, &[], b"now")).await, (9, 4), "the breaker is full");
        if abrupt {
            leaver.stream.set_zero_linger().unwrap();
        }
        drop(leaver);
        world.wait("cluster.up.upstream_rq_active", 0).await;
        world.wait("rpc.rpc.request_active", 0).await;
        assert_eq!(world.number("cluster.up.upstream_rq_cancelled"), 3 * round);
        assert_eq!(world.number("rpc.rpc.request_reset"), 3 * round);
        // The late answers come first; each of them would be another call's.
        other.send(&call(10, 5000, &[], b"now")).await;
        let answer = other.next().await.unwrap();
        assert_eq!((answer.request_id(), answer.status(), answer.content()), (10, 0, &b"now"[..]));
    }
    assert_eq!(upstream.accepted(), 1, "the connection is not ended for it");
    assert_eq!(world.number("cluster.up.upstream_rq_timeout"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_way_calls_outlive_their_client() {
    let upstream = Upstream::start(|_, _| {}).await;
    let world = World::start(upstream.address, json!({}), json!({})).await;
    for round in 1..=20 {
        let mut client = Peer::connect(world.port).await;
        client.send(&oneway(1)).await;
        drop(client);
        wait_until("the one-way call arrives", || upstream.frames() == round).await;
    }
    assert_eq!(world.number("cluster.up.upstream_rq_cancelled"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_resets_its_streams() {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let seen: Arc<Mutex<Vec<h2::Reason>>> = Arc::default();
    let keep = seen.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = socket.accept().await {
            let keep = keep.clone();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let keep = keep.clone();
                    tokio::spawn(async move {
                        let _request = request;
                        let reset = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
                        keep.lock().unwrap().push(reset.unwrap());
                    });
                }
            });
        }
    });
    let http2 = json!({"http2_protocol_options": {}});
    let world = World::start(address, http2, json!({"upstream_protocol": "http2"})).await;
    let mut client = Peer::connect(world.port).await;
    client.send(&[call(1, 60_000, &[], b"a"), call(2, 60_000, &[], &[7; 200_000])].concat()).await;
    world.wait("cluster.up.upstream_rq_active", 2).await;
    let mut witness = Peer::connect(world.port).await;
    witness.send(&call(3, 60_000, &[], b"stays")).await;
    world.wait("cluster.up.upstream_rq_active", 3).await;
    drop(client);
    wait_until("both streams are reset", || seen.lock().unwrap().len() == 2).await;
    assert_eq!(*seen.lock().unwrap(), [h2::Reason::CANCEL; 2]);
    assert_eq!(world.number("cluster.up.upstream_rq_cancelled"), 2);
    assert_eq!(world.number("cluster.up.upstream_rq_active"), 1, "the other client's call goes on");
}
