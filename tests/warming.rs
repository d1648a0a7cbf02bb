//! What is not complete yet waits, and what serves goes on serving meanwhile.

use mizzen::app::Proxy;
use mizzen::snapshot::builder::Options;
use mizzen::xds::state::Variant;
use serde_json::json;
use std::net::SocketAddr;
use std::time::Duration;
use support::ads::{Ads, Type};
use support::bolt::{Peer, call};
use support::proxy::{Setup, free_port, wait_listening};
use support::resources::{eds_cluster, endpoints, listener, message, route, rpc_filter};
use support::traffic::{ask, bolt_server};
use tokio::time::sleep;

mod support;

const VARIANTS: [Variant; 2] = [Variant::Sotw, Variant::Delta];
/// Long enough that a proxy on a busy machine had its chance to do the wrong thing.
const A_WHILE: Duration = Duration::from_millis(300);

struct World {
    ads: Ads,
    proxy: Proxy,
    port: u16,
    hosts: [SocketAddr; 2],
}

impl World {
    /// Nothing is published yet.
    async fn new(variant: Variant, change: impl Fn(&mut Options)) -> World {
        let ads = Ads::start();
        let mut setup = Setup::new(variant, 1);
        change(&mut setup.options);
        let proxy = setup.start(ads.address());
        World { ads, proxy, port: free_port(), hosts: [bolt_server("s1").await, bolt_server("s2").await] }
    }

    /// Serving: `one` and `two` are there, routes go to `one`.
    async fn serving(variant: Variant, change: impl Fn(&mut Options)) -> World {
        let world = World::new(variant, change).await;
        world.base();
        world.push().await;
        wait_listening(([127, 0, 0, 1], world.port).into()).await;
        world
    }

    fn base(&self) {
        self.ads.set_clusters(["one", "two"].map(eds_cluster).to_vec());
        self.ads.set_endpoints(vec![endpoints("one", &[self.hosts[0]]), endpoints("two", &[self.hosts[1]])]);
        self.ads.set_listeners(vec![listener("bolt", self.port, &rpc_filter("r"))]);
        self.ads.set_routes(vec![route("r", "one")]);
    }

    async fn push(&self) {
        self.ads.push().await;
        self.ads.wait_all_acked().await;
    }

    fn is_open(&self) -> bool {
        std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok()
    }

    /// Who answers, or the status.
    async fn who(&self) -> String {
        ask(self.port, "0").await.unwrap_or_else(|error| error)
    }

    async fn becomes(&self, wanted: &str) {
        let end = tokio::time::Instant::now() + Duration::from_secs(10);
        loop {
            let now = self.who().await;
            if now == wanted {
                return;
            }
            assert!(tokio::time::Instant::now() < end, "{now} instead of {wanted}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn stays(&self, wanted: &str) {
        let end = tokio::time::Instant::now() + A_WHILE;
        while tokio::time::Instant::now() < end {
            assert_eq!(self.who().await, wanted);
            sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_opens_when_its_routes_and_their_clusters_are_there() {
    for variant in VARIANTS {
        let world = World::new(variant, |_| {}).await;
        world.base();
        world.ads.withhold(Type::Route, true);
        world.ads.withhold(Type::Endpoint, true);
        world.ads.push().await;
        // The verdict does not wait for what is missing.
        world.ads.wait_ack(Type::Listener).await;
        world.ads.wait_ack(Type::Cluster).await;
        sleep(A_WHILE).await;
        assert!(!world.is_open());
        world.ads.withhold(Type::Route, false);
        world.ads.push_everything().await;
        world.ads.wait_ack(Type::Route).await;
        sleep(A_WHILE).await;
        assert!(!world.is_open(), "opened before its cluster had hosts");
        world.ads.withhold(Type::Endpoint, false);
        world.ads.push_everything().await;
        wait_listening(([127, 0, 0, 1], world.port).into()).await;
        assert_eq!(world.who().await, "s1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_cluster_holds_a_listener_for_a_bounded_time() {
    let world = World::new(Variant::Delta, |o| o.listener_cluster_wait = Duration::from_millis(600)).await;
    world.base();
    world.ads.withhold(Type::Endpoint, true);
    world.ads.push().await;
    world.ads.wait_ack(Type::Route).await;
    sleep(A_WHILE).await;
    assert!(!world.is_open());
    wait_listening(([127, 0, 0, 1], world.port).into()).await;
    assert_eq!(world.who().await, "status 6");
    assert_eq!(world.proxy.registry.number("rpc.rpc.failure.cluster_warming"), 1);
    world.ads.withhold(Type::Endpoint, false);
    world.ads.push_everything().await;
    world.becomes("s1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_to_a_cold_cluster_keep_their_old_body_until_it_is_warm() {
    for variant in VARIANTS {
        let world = World::serving(variant, |_| {}).await;
        world.ads.set_clusters(["one", "two", "late"].map(eds_cluster).to_vec());
        world.ads.set_routes(vec![route("r", "late")]);
        world.push().await;
        world.stays("s1").await;
        let late = endpoints("late", &[world.hosts[1]]);
        world.ads.upsert(Type::Endpoint, "late", support::ads::any(Type::Endpoint, &late));
        world.push().await;
        world.becomes("s2").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn holding_back_routes_ends_and_is_counted() {
    let world = World::serving(Variant::Delta, |options| {
        options.route_hold = Duration::from_millis(700);
        options.missing_cluster_hold = Duration::from_millis(700);
    })
    .await;
    world.ads.set_clusters(["one", "two", "late"].map(eds_cluster).to_vec());
    for (name, cause) in [("late", "cluster_warming"), ("ghost", "cluster_not_found")] {
        let expired = world.proxy.registry.number("mizzen.route_hold_expired");
        world.ads.set_routes(vec![route("r", name)]);
        world.push().await;
        world.stays("s1").await;
        world.becomes("status 6").await;
        assert!(world.proxy.registry.number(&format!("rpc.rpc.failure.{cause}")) > 0, "{name}");
        // Counted by the thread that builds, which may come to it after the workers have the new table.
        let counted = || world.proxy.registry.number("mizzen.route_hold_expired");
        let end = tokio::time::Instant::now() + Duration::from_secs(10);
        while counted() == expired && tokio::time::Instant::now() < end {
            sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(counted(), expired + 1, "{name}");
        world.ads.set_routes(vec![route("r", "one")]);
        world.push().await;
        world.becomes("s1").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_cluster_whose_hosts_are_held_is_warm_at_once() {
    for variant in VARIANTS {
        let world = World::serving(variant, |_| {}).await;
        world.ads.withhold(Type::Endpoint, true);
        let changed = json!({"name": "one", "type": "EDS", "connect_timeout": "1s",
            "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3"}},
            "circuit_breakers": {"thresholds": [{"max_requests": 0}]}});
        world.ads.set_clusters(vec![message(&changed), eds_cluster("two")]);
        world.ads.push().await;
        world.ads.wait_ack(Type::Cluster).await;
        // Its new breakers say that it is in force.
        world.becomes("status 4").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_listener_serves_by_its_old_version_until_the_new_one_is_warm() {
    for variant in VARIANTS {
        let world = World::serving(variant, |_| {}).await;
        let mut client = Peer::connect(world.port).await;
        world.ads.set_listeners(vec![listener("bolt", world.port, &rpc_filter("r2"))]);
        world.push().await;
        world.stays("s1").await;
        assert_eq!(client.ask(&call(1, -1, &[], b"x")).await, (1, 0));
        world.ads.set_routes(vec![route("r", "one"), route("r2", "two")]);
        world.push().await;
        world.becomes("s2").await;
        client.send(&call(2, -1, &[], b"x")).await;
        let answer = client.next().await.unwrap();
        assert_eq!(answer.header(b"sample_server"), Some(&b"s2"[..]), "an open connection follows too");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn withdrawn_hosts_and_routes_stay_while_they_are_referred_to() {
    for variant in VARIANTS {
        let world = World::serving(variant, |_| {}).await;
        world.ads.set_endpoints(vec![]);
        world.ads.set_routes(vec![]);
        world.ads.push().await;
        world.stays("s1").await;
        // Also for connections that come later and after further pushes.
        world.ads.set_clusters(["one", "two", "three"].map(eds_cluster).to_vec());
        world.ads.push().await;
        world.ads.wait_ack(Type::Cluster).await;
        world.stays("s1").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_cluster_serves_its_old_routes_for_a_bounded_time() {
    for variant in VARIANTS {
        let world = World::serving(variant, |o| o.removed_cluster_linger = Duration::from_millis(800)).await;
        world.ads.set_clusters(vec![eds_cluster("two")]);
        world.push().await;
        world.stays("s1").await;
        world.becomes("status 6").await;
        assert!(world.proxy.registry.number("rpc.rpc.failure.cluster_not_found") > 0);
        world.ads.set_routes(vec![route("r", "two")]);
        world.push().await;
        world.becomes("s2").await;
    }
}
