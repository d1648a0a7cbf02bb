//! The xDS client against a real gRPC server: sockets, reconnects, verdicts on the wire.
//!
//! The build thread is played by a thread that accepts every resource whose bytes do not contain `bad`, asks
//! for the endpoints of every cluster and for a route table named like each listener.

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use mizzen::proto::envoy::config::cluster::v3::Cluster;
use mizzen::proto::envoy::config::core::v3::Node;
use mizzen::proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use mizzen::proto::envoy::config::listener::v3::Listener;
use mizzen::proto::envoy::config::route::v3::RouteConfiguration;
use mizzen::proto::envoy::service::discovery::v3::{DeltaDiscoveryResponse, Resource};
use mizzen::xds::client::{self, Address, AdsConfig, ClientEvent};
use mizzen::xds::driver::{Driver, request_channel};
use mizzen::xds::message::{RawResource, Rejection};
use mizzen::xds::state::{StateConfig, Variant};
use mizzen::xds::stats::XdsStats;
use support::ads::{ASKED, Ads, Seen, Type, any};
use tokio::sync::{mpsc, oneshot};

mod support;

const BOTH: [Variant; 2] = [Variant::Sotw, Variant::Delta];

/// A client with its control and build threads.
struct Proxy {
    stats: Arc<XdsStats>,
    /// Names in the order in which they were found changed or gone.
    log: Arc<Mutex<Vec<String>>>,
    stop: Option<oneshot::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Proxy {
    fn start(address: Address, variant: Variant) -> Self {
        Self::start_with(AdsConfig::new(vec![address], variant), Vec::new())
    }

    fn start_with(mut config: AdsConfig, restored: Vec<(Type, RawResource)>) -> Self {
        // Reconnects in tests should not take half a second each.
        config.backoff_base = Duration::from_millis(50);
        let (stats, log) = (Arc::new(XdsStats::default()), Arc::default());
        let (to_build, events) = mpsc::channel(4);
        let (to_client, from_build) = request_channel();
        let node = Node { id: "node-1".into(), cluster: "tests".into(), ..Node::default() };
        let mut driver = Driver::new(StateConfig::new(config.variant), node, Arc::clone(&stats), to_client);
        for (kind, raw) in restored {
            driver.state.restore(kind, vec![raw]);
        }
        let (stop, stopped) = oneshot::channel::<()>();
        let build_log = Arc::clone(&log);
        let threads = vec![
            std::thread::spawn(move || on_runtime(build(driver, events, &build_log))),
            std::thread::spawn(move || {
                on_runtime(client::run::<ClientEvent>(config, to_build, from_build, async {
                    let _ = stopped.await;
                }));
            }),
        ];
        Self { stats, log, stop: Some(stop), threads }
    }

    /// What was logged since the last call, sorted.
    fn news(&self) -> Vec<String> {
        let mut news = std::mem::take(&mut *self.log.lock().unwrap());
        news.sort();
        news
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

fn on_runtime(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
}

async fn build(mut driver: Driver, mut events: mpsc::Receiver<ClientEvent>, log: &Mutex<Vec<String>>) {
    loop {
        let due = driver.next_timeout().map(tokio::time::Instant::from_std);
        let event = match due {
            Some(due) => tokio::time::timeout_at(due, events.recv()).await,
            None => Ok(events.recv().await),
        };
        match event {
            Err(_) => driver.on_timeout(),
            Ok(None) => return,
            Ok(Some(event)) => {
                let Some(update) = driver.on_event(event) else { continue };
                let bad = |raw: &&RawResource| raw.bytes.windows(3).any(|window| window == b"bad");
                let text = |raw: &RawResource| {
                    format!("{} {}: field[0]: bad: not liked", update.kind.noun(), raw.name)
                };
                let rejections: Vec<Rejection> = update
                    .changed
                    .iter()
                    .filter(bad)
                    .map(|raw| Rejection { name: raw.name.clone(), text: text(raw) })
                    .collect();
                let label = update.kind.label();
                let mut log = log.lock().unwrap();
                log.extend(update.changed.iter().map(|raw| format!("{label} {}", raw.name)));
                log.extend(update.removed.iter().map(|name| format!("{label} -{name}")));
                drop(log);
                let referred = match update.kind {
                    Type::Cluster => Some(Type::Endpoint),
                    Type::Listener => Some(Type::Route),
                    _ => None,
                };
                if let Some(referred) = referred {
                    let mut names: Vec<_> =
                        driver.state.dump(update.kind).resources.into_iter().map(|r| r.name).collect();
                    names.retain(|name| !update.removed.contains(name));
                    names.extend(update.changed.iter().map(|raw| raw.name.clone()));
                    driver.state.set_interest(mizzen::xds::driver::now(), referred, names);
                    driver.flush();
                }
                driver.on_verdicts(update, rejections);
            }
        }
    }
}

fn cluster(name: &str, alt: &str) -> Cluster {
    Cluster { name: name.into(), alt_stat_name: alt.into(), ..Cluster::default() }
}

/// Two clusters with endpoints, a listener with its table.
fn serve_basics(ads: &Ads) {
    let endpoints =
        |name: &str| ClusterLoadAssignment { cluster_name: name.into(), ..ClusterLoadAssignment::default() };
    ads.set_clusters(vec![cluster("c1", ""), cluster("c2", "")]);
    ads.set_endpoints(vec![endpoints("c1"), endpoints("c2")]);
    ads.set_listeners(vec![Listener { name: "l1".into(), ..Listener::default() }]);
    ads.set_routes(vec![RouteConfiguration { name: "l1".into(), ..RouteConfiguration::default() }]);
}

fn first_requests(seen: &[Seen], stream: u64) -> Vec<Type> {
    let mut order = Vec::new();
    for seen in seen.iter().filter(|seen| seen.stream == stream) {
        let kind = Type::from_type_url(&seen.type_url).unwrap();
        if !order.contains(&kind) {
            order.push(kind);
        }
    }
    order
}

#[tokio::test]
async fn fresh_start_asks_in_order_and_acknowledges_all() {
    for variant in BOTH {
        let ads = Ads::start();
        serve_basics(&ads);
        ads.push().await;
        let proxy = Proxy::start(Address::Socket(ads.address()), variant);
        ads.wait_streams(1).await;
        ads.wait_all_acked().await;
        let seen = ads.requests();
        assert_eq!(first_requests(&seen, 1), ASKED);
        assert!(seen[0].with_node && seen[0].node_id == "node-1");
        assert!(seen[1..].iter().all(|seen| !seen.with_node), "the node goes once");
        assert!(seen.iter().all(|seen| seen.error.is_none()));
        assert_eq!(proxy.news(), ["cds c1", "cds c2", "eds c1", "eds c2", "lds l1", "rds l1"]);
        assert!(proxy.stats.connected.get());
        // The endpoint request is in front of the CDS ACK.
        let eds = seen.iter().position(|seen| seen.is(Type::Endpoint)).unwrap();
        let ack = seen.iter().position(|seen| seen.is(Type::Cluster) && seen.is_ack()).unwrap();
        assert!(eds < ack);
    }
}

#[tokio::test]
async fn bad_resource_is_named_and_its_neighbours_apply() {
    for variant in BOTH {
        let ads = Ads::start();
        serve_basics(&ads);
        ads.push().await;
        let proxy = Proxy::start(Address::Socket(ads.address()), variant);
        ads.wait_ack(Type::Route).await;
        proxy.news();
        ads.set_clusters(vec![cluster("c1", "bad"), cluster("c2", ""), cluster("c3", "")]);
        ads.push().await;
        assert_eq!(ads.wait_nack(Type::Cluster).await, "Cluster c1: field[0]: bad: not liked");
        let nack = ads.requests_of(Type::Cluster).pop().unwrap();
        assert_eq!(nack.error_code, 13);
        if variant == Variant::Sotw {
            assert_eq!(nack.version, "1", "the last version accepted");
        }
        assert_eq!(proxy.news(), ["cds c1", "cds c3"]);
        ads.set_clusters(vec![cluster("c1", "good"), cluster("c3", "")]);
        ads.push().await;
        ads.wait_ack(Type::Cluster).await;
        assert_eq!(proxy.news(), ["cds -c2", "cds c1"]);
        assert_eq!(proxy.stats.of(Type::Cluster).update_rejected.get(), 1);
        assert_eq!(proxy.stats.of(Type::Cluster).rejected.get(), 0);
    }
}

#[tokio::test]
async fn killed_control_plane_is_found_again_and_told_what_is_held() {
    for variant in BOTH {
        let mut ads = Ads::start();
        serve_basics(&ads);
        ads.push().await;
        let proxy = Proxy::start(Address::Socket(ads.address()), variant);
        ads.wait_ack(Type::Route).await;
        ads.kill();
        ads.set_clusters(vec![cluster("c2", ""), cluster("c9", "")]);
        ads.restart();
        ads.wait_streams(2).await;
        ads.wait_request("RDS on the new stream", |seen| seen.stream >= 2 && seen.is(Type::Route)).await;
        let last = ads.streams();
        let seen = ads.requests();
        assert_eq!(first_requests(&seen, last), ASKED);
        let first = seen.iter().find(|seen| seen.stream == last).unwrap();
        assert!(first.with_node && first.nonce.is_empty());
        match variant {
            Variant::Sotw => assert_eq!(first.version, "1"),
            Variant::Delta => assert_eq!(first.initial_versions.keys().collect::<Vec<_>>(), ["c1", "c2"]),
        }
        proxy.news();
        ads.push().await;
        ads.wait_ack(Type::Cluster).await;
        let news = proxy.news();
        assert!(news.contains(&"cds -c1".to_owned()) && news.contains(&"cds c9".to_owned()), "{news:?}");
        assert!(!news.contains(&"cds c2".to_owned()), "unchanged: {news:?}");
        assert!(proxy.stats.of(Type::Cluster).update_failure.get() >= 1);
    }
}

#[tokio::test]
async fn repeated_push_changes_nothing_with_and_without_versions() {
    for variant in BOTH {
        for empty in [false, true] {
            let ads = Ads::start();
            if empty {
                ads.empty_versions();
            }
            serve_basics(&ads);
            ads.push().await;
            let proxy = Proxy::start(Address::Socket(ads.address()), variant);
            ads.wait_ack(Type::Route).await;
            proxy.news();
            ads.push_everything().await;
            ads.wait_all_acked().await;
            assert_eq!(proxy.news(), Vec::<String>::new());
            assert!(proxy.stats.of(Type::Cluster).unchanged.get() >= 2);
        }
    }
}

#[tokio::test]
async fn withheld_type_holds_up_no_other() {
    for variant in BOTH {
        let ads = Ads::start();
        serve_basics(&ads);
        ads.withhold(Type::Endpoint, true);
        ads.push().await;
        let proxy = Proxy::start(Address::Socket(ads.address()), variant);
        ads.wait_ack(Type::Cluster).await;
        ads.wait_ack(Type::Route).await;
        assert!(!proxy.news().iter().any(|name| name.starts_with("eds")));
        ads.withhold(Type::Endpoint, false);
        ads.push_everything().await;
        ads.wait_ack(Type::Endpoint).await;
        assert_eq!(proxy.news(), ["eds c1", "eds c2"]);
    }
}

#[tokio::test]
async fn server_that_repeats_what_was_refused_does_not_spin_us() {
    for variant in BOTH {
        let ads = Ads::start();
        ads.resend_on_nack();
        ads.set_clusters(vec![cluster("c1", "bad")]);
        ads.push().await;
        let proxy = Proxy::start(Address::Socket(ads.address()), variant);
        // The first answer leaves at once, the second after at least half a second.
        let started = std::time::Instant::now();
        ads.wait_for("two NACKs", |seen| seen.iter().filter(|seen| seen.error.is_some()).count() >= 2).await;
        assert!(started.elapsed() >= Duration::from_millis(490), "{:?}", started.elapsed());
        assert!(proxy.stats.of(Type::Cluster).delayed_answers.get() >= 1);
    }
}

#[tokio::test]
async fn unix_socket_and_host_name_are_targets() {
    let folder = std::env::temp_dir().join(format!("mizzen-xds-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("ads.sock");
    let ads = Ads::start_unix(&path);
    serve_basics(&ads);
    ads.push().await;
    let proxy = Proxy::start(Address::Unix(path), Variant::Delta);
    ads.wait_ack(Type::Route).await;
    drop((proxy, ads));
    std::fs::remove_dir_all(&folder).unwrap();

    let ads = Ads::start();
    serve_basics(&ads);
    ads.push().await;
    let address = Address::Dns { host: "localhost".into(), port: ads.address().port() };
    let _proxy = Proxy::start(address, Variant::Sotw);
    ads.wait_ack(Type::Route).await;
}

#[tokio::test]
async fn addresses_are_tried_in_turn_and_failures_are_counted() {
    let ads = Ads::start();
    serve_basics(&ads);
    ads.push().await;
    let refused = Address::Unix("/nonexistent/mizzen.sock".into());
    let config = AdsConfig::new(vec![refused.clone(), Address::Socket(ads.address())], Variant::Delta);
    let proxy = Proxy::start_with(config, Vec::new());
    ads.wait_ack(Type::Route).await;
    assert_eq!(proxy.stats.disconnects.get(), 0, "one attempt covers all addresses");
    let lost = Proxy::start(refused, Variant::Delta);
    while lost.stats.disconnects.get() < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(
        lost.stats.last_error.get().starts_with("/nonexistent/mizzen.sock: "),
        "{}",
        lost.stats.last_error.get()
    );
    assert!(lost.stats.of(Type::Cluster).update_failure.get() >= 1 && !lost.stats.connected.get());
}

#[tokio::test]
async fn ended_stream_leads_to_a_new_one_and_an_unknown_type_to_nothing() {
    let ads = Ads::start();
    serve_basics(&ads);
    ads.push().await;
    let proxy = Proxy::start(Address::Socket(ads.address()), Variant::Delta);
    ads.wait_ack(Type::Route).await;
    ads.end_streams(&tonic::Status::unavailable("going away"));
    ads.wait_streams(2).await;
    ads.wait_ack(Type::Route).await;
    assert_eq!(&*proxy.stats.last_error.get(), "Unavailable: going away");
    assert_eq!(proxy.stats.of(Type::Cluster).held.get(), 2);
    // A type nobody knows is counted; the stream stays.
    ads.send_delta(DeltaDiscoveryResponse {
        type_url: "type.googleapis.com/x.Y".into(),
        nonce: "x".into(),
        ..Default::default()
    });
    let resource = Resource {
        name: "c7".into(),
        resource: Some(any(Type::Cluster, &cluster("c7", ""))),
        ..Default::default()
    };
    ads.send_delta(DeltaDiscoveryResponse {
        type_url: Type::Cluster.type_url().into(),
        nonce: "own".into(),
        resources: vec![resource],
        ..Default::default()
    });
    ads.wait_request("the ACK of the test's own response", |seen| seen.nonce == "own" && seen.is_ack()).await;
    assert_eq!((proxy.stats.unknown_type.get(), ads.streams()), (1, 2));
}

#[tokio::test]
async fn restored_resources_are_asked_for_without_versions() {
    let ads = Ads::start();
    serve_basics(&ads);
    ads.push().await;
    let stored = |name: &str| {
        let bytes = Bytes::from(any(Type::Cluster, &cluster(name, "")).value);
        (Type::Cluster, RawResource::new(Arc::from(name), bytes, Arc::from("from disk")))
    };
    let config = AdsConfig::new(vec![Address::Socket(ads.address())], Variant::Delta);
    let proxy = Proxy::start_with(config, vec![stored("c1"), stored("gone")]);
    ads.wait_ack(Type::Route).await;
    let first = &ads.requests()[0];
    let versions: Vec<_> =
        first.initial_versions.iter().map(|(name, version)| (name.as_str(), version.as_str())).collect();
    assert_eq!(versions, [("c1", ""), ("gone", "")]);
    let news = proxy.news();
    assert_eq!(&news[..2], ["cds -gone", "cds c2"], "c1 is unchanged: {news:?}");
    assert!(!proxy.stats.of(Type::Cluster).stale.get());
}

/// What a real istiod sent: every name is read, and the same response again changes nothing.
#[test]
fn captured_responses_are_read_and_their_repetition_is_a_no_op() {
    use mizzen::xds::{convert, driver, state::AdsState};
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/xds");
    let mut count = 0;
    for file in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if file.extension().is_none_or(|extension| extension != "pb") {
            continue;
        }
        let bytes = std::fs::read(&file).unwrap();
        let mut response = convert::decode(Variant::Delta, bytes.as_slice()).unwrap();
        // The files hold every version of a resource; a response holds one.
        let mut seen = std::collections::HashSet::new();
        response.items.retain(|item| seen.insert(item.name.clone()));
        let mut state = AdsState::new(StateConfig::new(Variant::Delta), Arc::default());
        state.restore(Type::Cluster, vec![RawResource::new(Arc::from("x"), Bytes::new(), Arc::from(""))]);
        let names: Vec<Arc<str>> = response.items.iter().map(|item| Arc::from(item.name.as_str())).collect();
        for kind in [Type::Endpoint, Type::Route] {
            state.set_interest(driver::now(), kind, names.clone());
        }
        state.on_connected(driver::now(), 1);
        let update = state.on_response(driver::now(), response.clone()).unwrap();
        let changed: Vec<Arc<str>> = update.changed.iter().map(|raw| raw.name.clone()).collect();
        assert_eq!(changed, names, "{}", file.display());
        count += changed.len();
        state.on_verdicts(driver::now(), update, Vec::new());
        assert!(state.on_response(driver::now(), response).unwrap().is_noop(), "{}", file.display());
    }
    assert!(count > 50, "{count}");
}

#[tokio::test]
async fn silent_server_is_noticed_by_ping() {
    // Accepts and says nothing: a half-open peer.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = AdsConfig::new(vec![Address::Socket(listener.local_addr().unwrap())], Variant::Delta);
    (config.ping_interval, config.ping_timeout) = (Duration::from_millis(50), Duration::from_millis(50));
    let proxy = Proxy::start_with(config, Vec::new());
    let first = listener.accept().await.unwrap();
    let second = tokio::time::timeout(Duration::from_secs(20), listener.accept()).await.unwrap().unwrap();
    drop((first, second));
    assert!(proxy.stats.disconnects.get() >= 1);
}

#[tokio::test]
async fn large_push_arrives_whole_and_a_larger_one_than_allowed_does_not() {
    let ads = Ads::start();
    let filler = "x".repeat(1500);
    ads.set_clusters((0..2_000).map(|n| cluster(&format!("c{n}"), &filler)).collect());
    ads.push().await;
    let proxy = Proxy::start(Address::Socket(ads.address()), Variant::Sotw);
    ads.wait_ack(Type::Cluster).await;
    assert_eq!(proxy.stats.of(Type::Cluster).held.get(), 2_000);
    let mut config = AdsConfig::new(vec![Address::Socket(ads.address())], Variant::Delta);
    config.max_message = 1024 * 1024;
    let small = Proxy::start_with(config, Vec::new());
    while !small.stats.last_error.get().contains("more than the limit of 1048576") {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(small.stats.of(Type::Cluster).held.get(), 0);
}
