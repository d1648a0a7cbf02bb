//! Every kind of push over live bolt, HTTP/2 and TCP: nothing begun breaks, nothing new fails.
//!
//! All traffic runs through all stages, so that each push finds everything in flight, and every connection
//! lives through every push.

use mizzen::app::Proxy;
use mizzen::xds::state::Variant;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;
use support::ads::{Ads, Type};
use support::http2;
use support::proxy::{Setup, free_port, wait_listening, wait_until};
use support::resources::{
    eds_cluster, endpoints, http_filter, http2_cluster, listener, message, route, rpc_filter, tcp_filter,
};
use support::traffic::{Load, Traffic, ask, bolt_server, greet, tcp_server};
use tokio::time::sleep;

mod support;

/// How long a stage lasts: about as long as the longest call, so that every push finds calls of every age.
const STAGE: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(10);

/// A proxy with a listener per protocol, two servers per protocol, and its control plane.
struct World {
    ads: Ads,
    proxy: Proxy,
    bolt: u16,
    http: u16,
    tcp: u16,
    /// b1 b2 h1 h2 t1 t2
    hosts: [SocketAddr; 6],
}

const NAMES: [&str; 6] = ["b1", "b2", "h1", "h2", "t1", "t2"];

impl World {
    async fn start(variant: Variant, workers: usize) -> World {
        let ads = Ads::start();
        let hosts = [
            bolt_server("b1").await,
            bolt_server("b2").await,
            http2::server("h1").await,
            http2::server("h2").await,
            tcp_server("t1").await,
            tcp_server("t2").await,
        ];
        let proxy = Setup::new(variant, workers).start(ads.address());
        let world = World { ads, proxy, bolt: free_port(), http: free_port(), tcp: free_port(), hosts };
        world.clusters(&NAMES);
        world.endpoints(&NAMES, &world.hosts);
        world.routes("1");
        world.listeners(["bolt", "http", "tcp"], [rpc_filter("r"), http_filter("h"), tcp_filter("t1")]);
        world.push().await;
        for port in [world.bolt, world.http, world.tcp] {
            wait_listening(([127, 0, 0, 1], port).into()).await;
        }
        world.reaches("1").await;
        world
    }

    fn clusters(&self, names: &[&str]) {
        let cluster = |name: &&str| if name.contains('h') { http2_cluster(name) } else { eds_cluster(name) };
        self.ads.set_clusters(names.iter().map(cluster).collect());
    }

    fn endpoints(&self, names: &[&str], hosts: &[SocketAddr]) {
        self.ads
            .set_endpoints(names.iter().zip(hosts).map(|(name, host)| endpoints(name, &[*host])).collect());
    }

    /// bolt to `b{to}`, HTTP/2 to `h{to}`.
    fn routes(&self, to: &str) {
        self.ads.set_routes(vec![route("r", &format!("b{to}")), route("h", &format!("h{to}"))]);
    }

    fn listeners(&self, names: [&str; 3], filters: [Value; 3]) {
        let ports = [self.bolt, self.http, self.tcp];
        let all = names.iter().zip(ports).zip(&filters);
        self.ads.set_listeners(all.map(|((name, port), filter)| listener(name, port, filter)).collect());
    }

    async fn push(&self) {
        self.ads.push().await;
        self.ads.wait_all_acked().await;
    }

    /// Waits until what is new goes to the servers `b{to}`, `h{to}`, `t{to}`.
    async fn reaches(&self, to: &str) {
        let wanted = [format!("b{to}"), format!("h{to}"), format!("t{to}")];
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            let now = [
                ask(self.bolt, "0").await.unwrap_or_else(|e| e),
                http2::Client::new(self.http).unary(0).await.unwrap_or_else(|e| e),
                greet(self.tcp).await.map_or_else(|e| e, |(_, name)| name),
            ];
            if now == wanted {
                return;
            }
            assert!(tokio::time::Instant::now() < end, "{now:?} instead of {wanted:?}");
            sleep(Duration::from_millis(10)).await;
        }
    }
}

fn with(mut value: Value, changes: &[(&str, Value)]) -> Value {
    for (key, new) in changes {
        value[*key] = new.clone();
    }
    value
}

fn weighted(
    name: &str,
    clusters: [(&str, u32); 2],
) -> mizzen::proto::envoy::config::route::v3::RouteConfiguration {
    let clusters = clusters.map(|(name, weight)| json!({"name": name, "weight": weight}));
    message(&json!({"name": name, "virtual_hosts": [{"name": "all", "domains": ["*"],
        "routes": [{"match": {"prefix": "/"}, "route": {"weighted_clusters": {"clusters": clusters}, "timeout": "60s"}}]}]}))
}

async fn every_kind_of_push(variant: Variant, workers: usize) {
    let mut world = World::start(variant, workers).await;
    let load =
        Load { bolt: Some((world.bolt, 200)), http2: Some((world.http, 200)), tcp: Some((world.tcp, 50)) };
    let traffic = Traffic::start(load).await;
    routes_and_clusters(&world, &traffic).await;
    listeners(&world, &traffic).await;
    everything(&mut world, &traffic).await;
    traffic.finish().await.assert_clean();
    for kind in Type::ALL {
        assert_eq!(world.ads.last_nack(kind), None);
    }
}

async fn routes_and_clusters(world: &World, traffic: &Traffic) {
    let filters = |to: &str| [rpc_filter("r"), http_filter("h"), tcp_filter(to)];
    const LISTENERS: [&str; 3] = ["bolt", "http", "tcp"];

    traffic.stage("routes retargeted");
    world.routes("2");
    world.listeners(LISTENERS, filters("t2"));
    world.push().await;
    world.reaches("2").await;
    sleep(STAGE).await;

    traffic.stage("retargeted to clusters that arrive later");
    world.routes("-late");
    world.listeners(LISTENERS, filters("t-late"));
    world.ads.push().await;
    sleep(STAGE).await;
    let late = [&NAMES[..], &["b-late", "h-late", "t-late"]].concat();
    world.clusters(&late);
    world.ads.push().await;
    sleep(STAGE).await;
    let [b1, _, h1, _, t1, _] = world.hosts;
    let late_hosts = [&world.hosts[..], &[b1, h1, t1]].concat();
    world.endpoints(&late, &late_hosts);
    world.push().await;
    world.reaches("1").await;
    sleep(STAGE).await;

    traffic.stage("weights changed");
    for weights in [[90, 10], [10, 90], [0, 100]] {
        let [one, two] = weights;
        world.ads.set_routes(vec![
            weighted("r", [("b1", one), ("b2", two)]),
            weighted("h", [("h1", one), ("h2", two)]),
        ]);
        world.push().await;
        sleep(STAGE / 2).await;
    }
    world.listeners(LISTENERS, filters("t2"));
    world.push().await;
    world.reaches("2").await;

    traffic.stage("endpoints replaced");
    let [b1, b2, h1, h2, t1, t2] = world.hosts;
    world.endpoints(&NAMES, &[b2, b1, h2, h1, t2, t1]);
    world.push().await;
    world.reaches("1").await;
    sleep(STAGE).await;
    world.endpoints(&NAMES, &world.hosts);
    world.push().await;
    world.reaches("2").await;

    traffic.stage("clusters changed");
    for change in [
        json!({"connect_timeout": "3s"}),
        json!({"lb_policy": "LEAST_REQUEST"}),
        // Bound to connections: the old ones drain.
        json!({"upstream_connection_options": {"tcp_keepalive": {"keepalive_time": 30}}}),
    ] {
        let changed = NAMES.map(|name| {
            let mut cluster = json!({"name": name, "type": "EDS", "connect_timeout": "1s",
                "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3"}}});
            if name.starts_with('h') {
                cluster["http2_protocol_options"] = json!({});
            }
            for (key, value) in change.as_object().unwrap() {
                cluster[key] = value.clone();
            }
            message(&cluster)
        });
        world.ads.set_clusters(changed.to_vec());
        world.push().await;
        sleep(STAGE / 2).await;
    }

    traffic.stage("clusters removed before their routes");
    world.clusters(&["b1", "h1", "t1"]);
    world.push().await;
    sleep(STAGE).await;
    world.routes("1");
    world.listeners(LISTENERS, filters("t1"));
    world.push().await;
    world.reaches("1").await;
    world.clusters(&NAMES);
    world.push().await;
}

async fn listeners(world: &World, traffic: &Traffic) {
    const LISTENERS: [&str; 3] = ["bolt", "http", "tcp"];
    traffic.stage("filter chains changed");
    world.listeners(
        LISTENERS,
        [
            with(rpc_filter("r"), &[("stat_prefix", json!("other")), ("idle_timeout", json!("30s"))]),
            with(
                http_filter("h"),
                &[
                    ("stat_prefix", json!("other")),
                    ("common_http_protocol_options", json!({"idle_timeout": "30s"})),
                    ("stream_idle_timeout", json!("20s")),
                ],
            ),
            with(tcp_filter("t2"), &[("stat_prefix", json!("other")), ("idle_timeout", json!("30s"))]),
        ],
    );
    world.routes("2");
    world.push().await;
    world.reaches("2").await;
    sleep(STAGE).await;

    traffic.stage("protocol options changed");
    world.listeners(
        LISTENERS,
        [
            with(rpc_filter("r"), &[("downstream_protocol", json!("auto"))]),
            with(http_filter("h"), &[("http2_protocol_options", json!({"max_concurrent_streams": 90}))]),
            tcp_filter("t1"),
        ],
    );
    world.routes("1");
    world.push().await;
    world.reaches("1").await;
    sleep(STAGE).await;

    traffic.stage("listeners renamed");
    world.listeners(["bolt-2", "http-2", "tcp-2"], [rpc_filter("r"), http_filter("h"), tcp_filter("t2")]);
    world.routes("2");
    world.push().await;
    world.reaches("2").await;
    sleep(STAGE).await;
}

async fn everything(world: &mut World, traffic: &Traffic) {
    traffic.stage("everything in one push");
    let fresh = ["new-b1", "new-h1", "new-t1"];
    let [b1, _, h1, _, t1, _] = world.hosts;
    world.clusters(&fresh);
    world.endpoints(&fresh, &[b1, h1, t1]);
    world.ads.set_routes(vec![route("new-r", "new-b1"), route("new-h", "new-h1")]);
    let other = [("stat_prefix", json!("third"))];
    let filters = [rpc_filter("new-r"), http_filter("new-h"), tcp_filter("new-t1")];
    world.listeners(["bolt", "http", "tcp"], filters.map(|filter| with(filter, &other)));
    world.push().await;
    world.reaches("1").await;
    sleep(STAGE).await;
    world.clusters(&[&NAMES[..], &fresh].concat());
    world.endpoints(&[&NAMES[..], &fresh].concat(), &[&world.hosts[..], &[b1, h1, t1]].concat());

    traffic.stage("200 pushes at 50 Hz");
    for round in 0..200 {
        let to = if round % 2 == 0 { "2" } else { "1" };
        world.routes(to);
        let [bolt, http] = if round % 3 == 0 { ["bolt", "http"] } else { ["bolt-2", "http-2"] };
        let tcp = tcp_filter(&format!("t{to}"));
        world.listeners([bolt, http, "tcp"], [rpc_filter("r"), http_filter("h"), tcp]);
        world.ads.push().await;
        sleep(Duration::from_millis(20)).await;
    }
    world.ads.wait_all_acked().await;
    world.reaches("1").await;

    traffic.stage("control plane killed");
    world.ads.kill();
    sleep(STAGE).await;
    world.reaches("1").await;
    traffic.stage("control plane back");
    let streams = world.ads.streams();
    world.ads.restart();
    world.ads.wait_streams(streams + 1).await;
    sleep(STAGE).await;
    world.routes("2");
    world.listeners(["bolt", "http", "tcp"], [rpc_filter("r"), http_filter("h"), tcp_filter("t2")]);
    world.push().await;
    world.reaches("2").await;

    traffic.stage("old snapshots are freed under load");
    let weak = std::sync::Arc::downgrade(&world.proxy.store.load());
    world.routes("1");
    world.push().await;
    wait_until("the old snapshot is freed", || weak.strong_count() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn state_of_the_world_one_worker() {
    every_kind_of_push(Variant::Sotw, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn state_of_the_world_two_workers() {
    every_kind_of_push(Variant::Sotw, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delta_one_worker() {
    every_kind_of_push(Variant::Delta, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delta_two_workers() {
    every_kind_of_push(Variant::Delta, 2).await;
}
