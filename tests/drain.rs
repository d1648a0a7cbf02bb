//! Leaving in good order: nothing that came in is lost, and the end comes as soon as nobody is left.

use mizzen::app::Proxy;
use mizzen::protocol::rpc::Kind;
use mizzen::xds::state::Variant;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};
use support::ads::Ads;
use support::bolt::{Peer, call};
use support::http2;
use support::process::{Dir, Program, Signal, fixed, page};
use support::proxy::{Setup, free_port, wait_listening, wait_until};
use support::resources::{
    eds_cluster, endpoints, http_filter, http2_cluster, listener, route, rpc_filter, tcp_filter,
};
use support::traffic::{bolt_server, echo, greet, tcp_server};
use tokio::task::JoinHandle;
use tokio::time::sleep;

mod support;

struct World {
    _ads: Ads,
    proxy: Arc<Proxy>,
    bolt: u16,
    http: u16,
    tcp: u16,
}

impl World {
    async fn start(workers: usize) -> World {
        let ads = Ads::start();
        let proxy = Arc::new(Setup::new(Variant::Sotw, workers).start(ads.address()));
        let (bolt, http, tcp) = (free_port(), free_port(), free_port());
        let (b, h, t) = (bolt_server("b1").await, http2::server("h1").await, tcp_server("t1").await);
        ads.set_clusters(vec![eds_cluster("b"), http2_cluster("h"), eds_cluster("t")]);
        ads.set_endpoints(vec![endpoints("b", &[b]), endpoints("h", &[h]), endpoints("t", &[t])]);
        ads.set_listeners(vec![
            listener("bolt", bolt, &rpc_filter("r")),
            listener("http", http, &http_filter("h")),
            listener("tcp", tcp, &tcp_filter("t")),
        ]);
        ads.set_routes(vec![route("r", "b"), route("h", "h")]);
        ads.push().await;
        ads.wait_all_acked().await;
        for port in [bolt, http, tcp] {
            wait_listening(([127, 0, 0, 1], port).into()).await;
        }
        World { _ads: ads, proxy, bolt, http, tcp }
    }

    fn drain(&self, accept: Duration, limit: Duration) -> JoinHandle<Duration> {
        let (proxy, begin) = (self.proxy.clone(), Instant::now());
        tokio::spawn(async move {
            proxy.drain(accept, limit).await;
            begin.elapsed()
        })
    }
}

/// 16 connections with 4 calls in flight each, until told to stop; calls made and lost.
struct Load {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicU32>,
    tasks: Vec<JoinHandle<Vec<Peer>>>,
}

impl Load {
    fn start(port: u16, delays: &'static [&'static str]) -> Load {
        let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let connection = |_| {
            let (stop, made) = (stop.clone(), made.clone());
            tokio::spawn(async move {
                let mut peer = Peer::connect(port).await;
                let mut id = 0u32;
                let mut owed = std::collections::BTreeSet::new();
                loop {
                    while owed.len() < 4 && !stop.load(SeqCst) {
                        id += 1;
                        let delay = delays[id as usize % delays.len()];
                        peer.send(&call(id, -1, &[("sample_delay_ms", delay)], b"x")).await;
                        owed.insert(id);
                    }
                    if owed.is_empty() {
                        return vec![peer];
                    }
                    let answer = peer.next().await.unwrap_or_else(|| panic!("{} calls lost", owed.len()));
                    assert!(owed.remove(&answer.request_id()) && answer.status() == 0);
                    made.fetch_add(1, SeqCst);
                }
            })
        };
        let tasks = (0..16).map(connection).collect();
        Load { stop, made, tasks }
    }

    /// Stops; the connections stay open and idle.
    async fn stop(self) -> (u32, Vec<Peer>) {
        self.stop.store(true, SeqCst);
        let mut peers = Vec::new();
        for task in self.tasks {
            peers.extend(task.await.unwrap());
        }
        (self.made.load(SeqCst), peers)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_steady_load_is_served_to_its_end() {
    for workers in [1, 2] {
        let world = World::start(workers).await;
        // Longer and shorter than the second after which a silent connection is closed.
        let load = Load::start(world.bolt, &["0", "20", "400", "1300"]);
        sleep(Duration::from_millis(500)).await;
        let drained = world.drain(Duration::ZERO, Duration::from_secs(60));
        sleep(Duration::from_millis(300)).await;
        assert!(std::net::TcpStream::connect(("127.0.0.1", world.bolt)).is_err(), "still accepts");
        sleep(Duration::from_millis(2500)).await;
        assert!(!drained.is_finished(), "left while calls came");
        let (made, peers) = load.stop().await;
        assert!(made > 200, "{made} calls");
        // Idle now: closed by the proxy, which is then done.
        let begin = Instant::now();
        drained.await.unwrap();
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
        for mut peer in peers {
            assert!(peer.next().await.is_none());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gradual_drain_tells_each_connection_at_a_moment_of_its_own() {
    const SPREAD: Duration = Duration::from_secs(4);
    let ads = Ads::start();
    let mut setup = Setup::new(Variant::Sotw, 2);
    setup.drain_spread = SPREAD;
    let proxy = setup.start(ads.address());
    let port = free_port();
    let mut filter = rpc_filter("r");
    filter["drain_goaway"] = serde_json::json!(true);
    ads.set_clusters(vec![eds_cluster("b")]);
    ads.set_endpoints(vec![endpoints("b", &[bolt_server("b1").await])]);
    ads.set_listeners(vec![listener("bolt", port, &filter)]);
    ads.set_routes(vec![route("r", "b")]);
    ads.push().await;
    ads.wait_all_acked().await;
    wait_listening(([127, 0, 0, 1], port).into()).await;
    let mut peers = Vec::new();
    for _ in 0..60 {
        let mut peer = Peer::connect(port).await;
        assert_eq!(peer.ask(&call(1, -1, &[], b"x")).await, (1, 0));
        peers.push(peer);
    }
    ads.set_listeners(vec![]);
    ads.push().await;
    let told = peers.into_iter().map(|mut peer| {
        tokio::spawn(async move {
            // Served until told, and until it has been quiet for a second after that.
            let answer = peer.ask(&call(2, -1, &[], b"x")).await;
            let mut told = answer.0 == 0;
            while !told {
                let frame = peer.next().await.expect("told before it is closed");
                told = frame.kind() == Kind::GoAway;
            }
            let at = Instant::now();
            while peer.next().await.is_some() {}
            at
        })
    });
    let mut moments = Vec::new();
    for task in told.collect::<Vec<_>>() {
        moments.push(task.await.unwrap());
    }
    let between = *moments.iter().max().unwrap() - *moments.iter().min().unwrap();
    assert!(between > SPREAD / 4, "all within {between:?} of {SPREAD:?}");
    drop(proxy);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_takes_long_does_not_make_its_connection_idle() {
    let world = World::start(1).await;
    let mut peer = Peer::connect(world.bolt).await;
    let mut drained = None;
    for id in 0..3 {
        peer.send(&call(id, -1, &[("sample_delay_ms", "1400")], b"x")).await;
        sleep(Duration::from_millis(100)).await;
        drained.get_or_insert_with(|| world.drain(Duration::ZERO, Duration::from_secs(60)));
        let answer = peer.next().await.expect("an answer");
        assert_eq!((answer.request_id(), answer.status()), (id, 0));
        // Well within the second.
        sleep(Duration::from_millis(300)).await;
    }
    drained.unwrap().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_protocol_finishes_what_is_in_flight() {
    let world = World::start(2).await;
    let client = Arc::new(http2::Client::new(world.http));
    let mut streams = Vec::new();
    for index in 0..20u64 {
        let client = client.clone();
        streams.push(tokio::spawn(async move {
            if index.is_multiple_of(2) { client.unary(1500).await } else { client.both_ways(15, 100).await }
        }));
    }
    let (mut raw, _) = greet(world.tcp).await.unwrap();
    sleep(Duration::from_millis(300)).await;
    let drained = world.drain(Duration::ZERO, Duration::from_secs(60));
    for _ in 0..8 {
        echo(&mut raw, b"still here").await.unwrap();
        sleep(Duration::from_millis(300)).await;
    }
    for stream in streams {
        assert_eq!(stream.await.unwrap(), Ok("h1".to_owned()));
    }
    // Nothing moves any more, and nobody closes but the proxy.
    let took = tokio::time::timeout(Duration::from_secs(6), drained).await.expect("idle connections close");
    assert!(took.unwrap() >= Duration::from_secs(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_drain_time_is_a_hard_limit_and_accepting_may_go_on_for_a_while() {
    let world = World::start(1).await;
    let mut peer = Peer::connect(world.bolt).await;
    peer.send(&call(1, -1, &[("sample_delay_ms", "9000")], b"x")).await;
    sleep(Duration::from_millis(100)).await;
    let drained = world.drain(Duration::from_millis(600), Duration::from_millis(1500));
    sleep(Duration::from_millis(200)).await;
    let mut fresh = Peer::connect(world.bolt).await;
    assert_eq!(fresh.ask(&call(2, -1, &[], b"x")).await, (2, 0));
    sleep(Duration::from_millis(700)).await;
    assert!(std::net::TcpStream::connect(("127.0.0.1", world.bolt)).is_err(), "still accepts");
    let took = drained.await.unwrap();
    assert!((1400..2600).contains(&took.as_millis()), "{took:?}");
}

struct Child {
    _dir: Dir,
    program: Program,
    port: u16,
    admin: u16,
}

async fn child(arguments: &[&str], files: Option<u32>) -> Child {
    let (dir, port, admin) = (Dir::new(), free_port(), free_port());
    let config = dir.write("bootstrap.json", &fixed(port, admin, bolt_server("b1").await));
    let program = Program::start(&config, &[&["--concurrency", "2"], arguments].concat(), files);
    wait_listening(([127, 0, 0, 1], port).into()).await;
    Child { _dir: dir, program, port, admin }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_loses_nothing_and_the_second_one_ends_at_once() {
    let mut child = child(&[], None).await;
    let load = Load::start(child.port, &["0", "20", "400", "1300"]);
    for harmless in [Signal::HUP, Signal::USR1, Signal::PIPE] {
        child.program.signal(harmless);
    }
    sleep(Duration::from_millis(500)).await;
    wait_until("ready", || page(child.admin, "/ready").is_some_and(|(status, _)| status == 200)).await;
    child.program.signal(Signal::TERM);
    wait_until("not ready", || page(child.admin, "/ready").is_some_and(|(status, _)| status == 503)).await;
    sleep(Duration::from_millis(2000)).await;
    assert!(child.program.is_running());
    let (made, _peers) = load.stop().await;
    assert!(made > 100);
    let status = child.program.ended_within(Duration::from_secs(5)).await.expect("it ends when all are idle");
    assert_eq!(status.code(), Some(0), "{:?}", child.program.said());

    for last in [Signal::INT, Signal::TERM] {
        let mut child = self::child(&[], None).await;
        let mut peer = Peer::connect(child.port).await;
        peer.send(&call(1, -1, &[("sample_delay_ms", "9000")], b"x")).await;
        sleep(Duration::from_millis(100)).await;
        if last == Signal::TERM {
            child.program.signal(Signal::TERM);
            assert!(child.program.ended_within(Duration::from_millis(500)).await.is_none());
        }
        child.program.signal(last);
        let status = child.program.ended_within(Duration::from_secs(2)).await.expect("it ends at once");
        assert_eq!(status.code(), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_descriptors_accepting_pauses_and_resumes() {
    let mut child = child(&[], Some(64)).await;
    let mut held = Vec::new();
    for _ in 0..100 {
        held.push(tokio::net::TcpStream::connect(("127.0.0.1", child.port)).await.unwrap());
    }
    sleep(Duration::from_millis(300)).await;
    let before = child.program.ticks();
    sleep(Duration::from_millis(1500)).await;
    let used = child.program.ticks() - before;
    assert!(child.program.is_running() && used < 40, "{used} ticks of 10 ms in 1.5 s");
    // Some leave: the next ones in the queue come in, and are served.
    held.drain(..90);
    let mut peer = Peer::connect(child.port).await;
    assert_eq!(peer.ask(&call(1, -1, &[], b"x")).await, (1, 0));
    let (_, stats) = page(child.admin, "/stats?filter=accept_paused").expect("the admin answers again");
    let pauses = stats
        .lines()
        .filter_map(|line| line.rsplit_once(": "))
        .filter(|(name, _)| name.ends_with("accept_paused"));
    assert!(pauses.map(|(_, n)| n.trim().parse::<u32>().unwrap()).sum::<u32>() > 0, "{stats}");
}
