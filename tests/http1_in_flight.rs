//! Pushes of every kind over live HTTP/1 traffic: slow responses, bodies both ways, WebSockets, pipelines.
//! Nothing begun breaks, nothing new fails, and connections live through what does not concern them.

use mizzen::app::Proxy;
use mizzen::xds::state::Variant;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;
use support::ads::Ads;
use support::http1_traffic::{Clients, server};
use support::proxy::{Setup, free_port, wait_listening};
use support::resources::{eds_cluster, endpoints, http_filter, listener, message, route};
use tokio::time::sleep;

mod support;

/// How long a stage lasts.
const STAGE: Duration = Duration::from_millis(400);

struct World {
    ads: Ads,
    _proxy: Proxy,
    port: u16,
    hosts: [SocketAddr; 2],
}

impl World {
    async fn start(variant: Variant) -> World {
        let ads = Ads::start();
        let hosts = [server("h1").await, server("h2").await];
        let proxy = Setup::new(variant, 2).start(ads.address());
        let world = World { ads, _proxy: proxy, port: free_port(), hosts };
        world.ads.set_clusters(vec![eds_cluster("h1"), eds_cluster("h2")]);
        world.ads.set_endpoints(vec![endpoints("h1", &hosts[..1]), endpoints("h2", &hosts[1..])]);
        world.ads.set_routes(vec![route("r", "h1")]);
        world.listener("l", &filter(&[]));
        world.push().await;
        wait_listening(([127, 0, 0, 1], world.port).into()).await;
        world
    }

    fn listener(&self, name: &str, filter: &Value) {
        self.ads.set_listeners(vec![listener(name, self.port, filter)]);
    }

    async fn push(&self) {
        self.ads.push().await;
        self.ads.wait_all_acked().await;
        sleep(STAGE).await;
    }

    /// Every kind of push there is.
    async fn stages(&self) {
        self.ads.set_routes(vec![route("r", "h2")]);
        self.push().await;
        self.ads.set_endpoints(vec![endpoints("h1", &self.hosts[..1]), endpoints("h2", &self.hosts)]);
        self.push().await;
        let changed = json!({"name": "h2", "type": "EDS", "connect_timeout": "2s",
            "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3"}}});
        self.ads.set_clusters(vec![eds_cluster("h1"), message(&changed)]);
        self.push().await;
        self.listener("l", &filter(&[("stat_prefix", json!("other"))]));
        self.push().await;
        // Another codec setting: connections of before drain.
        self.listener("l", &filter(&[("max_request_headers_kb", json!(61))]));
        self.push().await;
        self.listener("renamed", &filter(&[]));
        self.push().await;
        self.ads.set_clusters(vec![eds_cluster("h1")]);
        self.ads.set_routes(vec![route("r", "h1")]);
        self.ads.set_endpoints(vec![endpoints("h1", &self.hosts)]);
        self.push().await;
    }
}

fn filter(changes: &[(&str, Value)]) -> Value {
    let mut filter = http_filter("r");
    filter["codec_type"] = json!("AUTO");
    filter["upgrade_configs"] = json!([{"upgrade_type": "websocket"}]);
    for (key, value) in changes {
        filter[*key] = value.clone();
    }
    filter
}

async fn nothing_breaks(variant: Variant) {
    let world = World::start(variant).await;
    let mut clients = Clients::default();
    clients.add(world.port, 3);
    sleep(STAGE).await;
    world.stages().await;
    assert!(clients.finish().await > 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushes_break_no_http_1_traffic_sotw() {
    nothing_breaks(Variant::Sotw).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushes_break_no_http_1_traffic_delta() {
    nothing_breaks(Variant::Delta).await;
}
