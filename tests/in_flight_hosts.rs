//! Hosts come, go, fail and recover by DNS, outlier detection and health checks over live HTTP/1, WebSocket, HTTP/2
//! and TCP traffic: nothing begun breaks, nothing new fails.

use mizzen::app::Proxy;
use mizzen::control::dns::Resolve;
use mizzen::xds::state::Variant;
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;
use support::ads::{Ads, Type};
use support::http1::get;
use support::http1_traffic::{Clients, server_at};
use support::names::Names;
use support::proxy::{Setup, free_port, wait_listening};
use support::resources::{listener, message, tcp_filter};
use support::traffic::{Load, Traffic};
use support::world::{cluster, host, http, to};
use tokio::time::Instant;

mod support;

/// A proxy with an HTTP and a TCP listener to cluster `c`, and with an HTTP listener to cluster `two`, if there is one.
struct World {
    _ads: Ads,
    proxy: Proxy,
    http: u16,
    tcp: u16,
    two: Option<u16>,
}

impl World {
    async fn start(mut setup: Setup, clusters: &[Value], names: Option<Arc<Names>>) -> World {
        let (ads, http_port, tcp, two) = (Ads::start(), free_port(), free_port(), free_port());
        let two = (clusters.len() > 1).then_some(two);
        setup.resolver = names.map(|names| names as Arc<dyn Resolve>);
        let more = json!({"upgrade_configs": [{"upgrade_type": "websocket"}]});
        let mut listeners = vec![
            listener(
                "http",
                http_port,
                &http(&json!([to(&json!({"cluster": "c", "timeout": "0s"}))]), &more),
            ),
            listener("tcp", tcp, &tcp_filter("c")),
        ];
        let action = json!({"cluster": "two", "timeout": "0s"});
        listeners.extend(two.map(|port| listener("two", port, &http(&json!([to(&action)]), &more))));
        ads.set_clusters(clusters.iter().map(message).collect());
        ads.set_listeners(listeners);
        let proxy = setup.start(ads.address());
        ads.push().await;
        ads.wait_ack(Type::Listener).await;
        for port in [Some(http_port), Some(tcp), two].into_iter().flatten() {
            wait_listening(([127, 0, 0, 1], port).into()).await;
        }
        World { _ads: ads, proxy, http: http_port, tcp, two }
    }

    /// Until `count` requests in a row are answered by one of `wanted`.
    async fn only(&self, wanted: &[&str], count: usize) {
        let end = Instant::now() + Duration::from_secs(20);
        let mut row = 0;
        while row < count {
            let who = get(self.http, "/", &[]).await.body;
            row = if wanted.contains(&who.as_str()) { row + 1 } else { 0 };
            assert!(Instant::now() < end, "{who} still answers, not {wanted:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn traffic(&self) -> (Clients, Option<Traffic>) {
        let mut clients = Clients::default();
        clients.add(self.http, 2);
        clients.add(self.tcp, 2);
        let load = |port| Load { http2: Some((port, 12)), ..Load::default() };
        let streams = match self.two {
            Some(port) => Some(Traffic::start(load(port)).await),
            None => None,
        };
        tokio::time::sleep(Duration::from_millis(200)).await;
        (clients, streams)
    }
}

async fn finish((clients, streams): (Clients, Option<Traffic>)) {
    assert!(clients.finish().await > 100);
    if let Some(streams) = streams {
        streams.finish().await.assert_clean();
    }
}

fn healthy() -> Arc<AtomicBool> {
    Arc::new(AtomicBool::new(true))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_change_what_they_stand_for() {
    let (one, two): (IpAddr, IpAddr) = ([127, 0, 0, 1].into(), [127, 0, 0, 2].into());
    let port = server_at("h1", SocketAddr::new(one, 0), healthy()).await.port();
    server_at("h2", SocketAddr::new(two, port), healthy()).await;
    let streams = support::http2::server_at("s1", SocketAddr::new(one, 0)).await.port();
    support::http2::server_at("s2", SocketAddr::new(two, streams)).await;
    let names = Arc::new(Names::default());
    *names.0.lock().unwrap() = vec![one];
    let by_name = |name: &str, port: u16, more: Value| {
        let address = json!({"socket_address": {"address": "hosts.test", "port_value": port}});
        let mut cluster = cluster(name, &[json!({"endpoint": {"address": address}})], &more);
        (cluster["type"], cluster["dns_refresh_rate"]) = (json!("STRICT_DNS"), json!("0.02s"));
        cluster
    };
    let clusters =
        [by_name("c", port, json!({})), by_name("two", streams, json!({"http2_protocol_options": {}}))];
    let world = World::start(Setup::new(Variant::Delta, 2), &clusters, Some(names.clone())).await;
    let traffic = world.traffic().await;
    for _ in 0..3 {
        *names.0.lock().unwrap() = vec![two];
        world.only(&["h2"], 20).await;
        names.0.lock().unwrap().clear();
        world.only(&["h2"], 20).await;
        *names.0.lock().unwrap() = vec![one, two];
        world.only(&["h1"], 1).await;
        *names.0.lock().unwrap() = vec![one];
        world.only(&["h1"], 20).await;
    }
    finish(traffic).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outliers_are_ejected_and_come_back() {
    let local: SocketAddr = ([127, 0, 0, 1], 0).into();
    let hosts = [server_at("h1", local, healthy()).await, server_at("h2", local, healthy()).await];
    let outliers = json!({"outlier_detection": {"consecutive_5xx": 1, "enforcing_consecutive_5xx": 100,
        "base_ejection_time": "0.2s", "max_ejection_time": "0.2s", "interval": "0.05s", "max_ejection_percent": 50},
        "common_lb_config": {"healthy_panic_threshold": {}}});
    let clusters = [cluster("c", &hosts.map(host), &outliers)];
    let world = World::start(Setup::new(Variant::Sotw, 2), &clusters, None).await;
    let traffic = world.traffic().await;
    let count = |name: &str| world.proxy.registry.number(&format!("cluster.c.outlier_detection.{name}"));
    for round in 1..=3 {
        let end = Instant::now() + Duration::from_secs(20);
        // Only the first host fails, and only these requests.
        while count("ejections_enforced_total") < round {
            get(world.http, "/bad/h1", &[]).await;
            assert!(Instant::now() < end, "no ejection in round {round}");
        }
        world.only(&["h1"], 1).await;
    }
    finish(traffic).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_fail_their_checks_and_recover() {
    let local: SocketAddr = ([127, 0, 0, 1], 0).into();
    let switch = healthy();
    let hosts = [server_at("h1", local, switch.clone()).await, server_at("h2", local, healthy()).await];
    let checks = json!({"health_checks": [{"timeout": "5s", "interval": "0.02s", "no_traffic_interval": "0.02s",
        "unhealthy_threshold": 1, "healthy_threshold": 1, "http_health_check": {"path": "/health"}}],
        "common_lb_config": {"healthy_panic_threshold": {}}});
    let clusters = [cluster("c", &hosts.map(host), &checks)];
    let world = World::start(Setup::new(Variant::Delta, 2), &clusters, None).await;
    let traffic = world.traffic().await;
    for _ in 0..3 {
        switch.store(false, SeqCst);
        world.only(&["h2"], 30).await;
        switch.store(true, SeqCst);
        world.only(&["h1"], 1).await;
    }
    finish(traffic).await;
}
