//! Pushes of every kind over live HTTP/1 traffic: slow responses, bodies both ways, WebSockets, pipelines.
//! Nothing begun breaks, nothing new fails, and connections live through what does not concern them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use mizzen::app::Proxy;
use mizzen::xds::state::Variant;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use support::ads::Ads;
use support::http1::Text;
use support::proxy::{Setup, free_port, wait_listening};
use support::resources::{eds_cluster, endpoints, http_filter, listener, message, route};
use tokio::net::TcpListener;
use tokio::time::sleep;

mod support;

/// How long a stage lasts.
const STAGE: Duration = Duration::from_millis(400);

/// A server that answers with its name: slowly, in chunks as they come, or as a WebSocket.
async fn server(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(Text::of(stream), name));
        }
    });
    address
}

async fn serve(mut peer: Text, name: &str) -> Result<(), String> {
    loop {
        let head = peer.until("\r\n\r\n").await?;
        match head.split(' ').nth(1).unwrap() {
            "/echo" => {
                peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
                loop {
                    let size = peer.until("\r\n").await?;
                    let rest = peer.until("\r\n").await?;
                    peer.send(&format!("{size}{rest}")).await?;
                    if size == "0\r\n" {
                        break;
                    }
                }
            }
            "/chat" => {
                peer.send(
                    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
                )
                .await?;
                loop {
                    let early = String::from_utf8(std::mem::take(&mut peer.early)).unwrap();
                    peer.send(&early).await?;
                    peer.fill().await?;
                }
            }
            path => {
                let pause = path.strip_prefix("/slow/").map_or(0, |ms| ms.parse().unwrap());
                sleep(Duration::from_millis(pause)).await;
                peer.send(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len()))
                    .await?;
            }
        }
    }
}

/// What the clients share.
#[derive(Default)]
struct Ledger {
    stop: AtomicBool,
    done: AtomicU64,
}

impl Ledger {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn count(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }
}

/// Requests one after the other, `at_once` of them in one write, on connections that are kept while they last.
async fn requests(port: u16, ledger: Arc<Ledger>, pause: u64, at_once: usize) -> Result<(), String> {
    let one = format!("GET /slow/{pause} HTTP/1.1\r\nhost: h\r\n\r\n");
    while ledger.goes_on() {
        let mut text = Text::connect(port).await?;
        let mut open = true;
        while open && ledger.goes_on() {
            text.send(&one.repeat(at_once)).await?;
            for left in (0..at_once).rev() {
                let (keeps, body) = text.response().await?;
                if !body.starts_with('h') {
                    return Err(format!("{body:?} instead of a name"));
                }
                if !keeps && left > 0 {
                    return Err("closed with requests waiting".into());
                }
                open = keeps;
                ledger.count();
            }
        }
    }
    Ok(())
}

/// One body that grows both ways for as long as the test lasts.
async fn both_ways(port: u16, ledger: Arc<Ledger>) -> Result<(), String> {
    let mut text = Text::connect(port).await?;
    text.send("POST /echo HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n").await?;
    text.until("\r\n\r\n").await?;
    while ledger.goes_on() {
        text.send("5\r\nhello\r\n").await?;
        text.until("5\r\nhello\r\n").await?;
        ledger.count();
        sleep(Duration::from_millis(10)).await;
    }
    text.send("0\r\n\r\n").await?;
    text.until("0\r\n\r\n").await.map(drop)
}

/// One WebSocket for as long as the test lasts.
async fn socket(port: u16, ledger: Arc<Ledger>) -> Result<(), String> {
    let mut text = Text::connect(port).await?;
    text.send("GET /chat HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await?;
    let head = text.until("\r\n\r\n").await?;
    if !head.starts_with("HTTP/1.1 101 ") {
        return Err(head);
    }
    while ledger.goes_on() {
        text.send("ping").await?;
        text.until("ping").await?;
        ledger.count();
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

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
    let (port, ledger) = (world.port, Arc::new(Ledger::default()));
    let mut clients = tokio::task::JoinSet::new();
    for (pause, at_once) in [(0, 1), (2, 1), (60, 1), (0, 5), (3, 4)] {
        clients.spawn(requests(port, ledger.clone(), pause, at_once));
    }
    for _ in 0..3 {
        clients.spawn(both_ways(port, ledger.clone()));
        clients.spawn(socket(port, ledger.clone()));
    }
    sleep(STAGE).await;
    world.stages().await;
    ledger.stop.store(true, Ordering::Relaxed);
    while let Some(client) = clients.join_next().await {
        assert_eq!(client.unwrap(), Ok(()));
    }
    assert!(ledger.done.load(Ordering::Relaxed) > 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushes_break_no_http_1_traffic_sotw() {
    nothing_breaks(Variant::Sotw).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushes_break_no_http_1_traffic_delta() {
    nothing_breaks(Variant::Delta).await;
}
