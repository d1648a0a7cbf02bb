//! Copies of requests: sent whole, by themselves, and of no consequence for the request.

use serde_json::{Value, json};
use std::time::Duration;
use support::bolt::{Peer, call};
use support::http1::{self, Answer, Server, get};
use support::http2;
use support::proxy::wait_until;
use support::traffic::{bolt_server, server_of};
use support::upstream::Upstream;
use support::world::{World, bolt, cluster, host, http, merged, to};
use tokio::time::{Instant, sleep};

mod support;

fn mirrored(policies: &Value) -> Value {
    json!([to(&json!({"cluster": "main", "timeout": "10s", "request_mirror_policies": policies}))])
}

async fn world_of(main: &Server, copy: &Server, policies: &Value, more: &Value) -> World {
    let clusters =
        [cluster("main", &[host(main.address)], &json!({})), cluster("copy", &[host(copy.address)], more)];
    World::start(&http(&mirrored(policies), &json!({})), &clusters).await
}

fn post(size: usize) -> String {
    format!("POST /p HTTP/1.1\r\nhost: h.test:80\r\ncontent-length: {size}\r\n\r\n{}", "x".repeat(size))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_are_whole_and_named_as_such() {
    let main = Server::named("main").await;
    let (first, second) = (Server::named("first").await, Server::named("second").await);
    let policies =
        json!([{"cluster": "first"}, {"cluster": "second", "disable_shadow_host_suffix_append": true}]);
    let clusters = [("main", &main), ("first", &first), ("second", &second)]
        .map(|(name, server)| cluster(name, &[host(server.address)], &json!({})));
    let world = World::start(&http(&mirrored(&policies), &json!({})), &clusters).await;
    assert_eq!(http1::ask(world.port, &post(50_000)).await.body, "main");
    wait_until("both copies", || first.seen().len() + second.seen().len() == 2).await;
    let (copy, other) = (first.only(), second.only());
    assert_eq!((copy.path(), copy.body.len(), copy.header("host")), ("/p", 50_000, Some("h.test-shadow:80")));
    assert_eq!((other.body.len(), other.header("host")), (50_000, Some("h.test:80")));
    assert_eq!(main.only().header("host"), Some("h.test:80"));
    // Without a body, and from an HTTP/2 client.
    http2::get(world.port, "/two", &[("x-a", "b")]).await;
    wait_until("both copies", || first.seen().len() + second.seen().len() == 4).await;
    let copy = first.seen().pop().unwrap();
    assert_eq!(
        (copy.path(), copy.header("host"), copy.header("x-a")),
        ("/two", Some("h.test-shadow"), Some("b"))
    );
    wait_until("their answers", || world.number("cluster.first.upstream_rq_completed") == 2).await;
    assert_eq!(world.number("cluster.first.upstream_rq_200"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunked_bodies_keep_their_trailers_and_http_2_copies_work() {
    let (main, copy) = (Server::named("main").await, http2::server("copy").await);
    let clusters = [
        cluster("main", &[host(main.address)], &json!({})),
        cluster("copy", &[host(copy)], &json!({"http2_protocol_options": {}})),
    ];
    let world = World::start(&http(&mirrored(&json!([{"cluster": "copy"}])), &json!({})), &clusters).await;
    let request = "POST /p HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\ntrailer: t\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    assert_eq!(http1::ask(world.port, request).await.body, "main");
    wait_until("its answer", || world.number("cluster.copy.upstream_rq_completed") == 1).await;
    assert_eq!(world.number("cluster.copy.upstream_rq_200"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_never_delays_or_harms_its_request() {
    let main = Server::named("main").await;
    let copy = Server::start(|before, _| match before {
        0 => Answer::ok("late").after(20_000),
        _ => Answer::close(),
    })
    .await;
    // Two requests at most, and a single failure would eject the only host.
    let limits = json!({"circuit_breakers": {"thresholds": [{"max_requests": 2}]},
        "outlier_detection": {"consecutive_5xx": 1, "max_ejection_percent": 100}});
    let world = world_of(&main, &copy, &json!([{"cluster": "copy"}]), &limits).await;
    let begin = Instant::now();
    for _ in 0..10 {
        assert_eq!(get(world.port, "/", &[]).await.body, "main");
    }
    assert!(begin.elapsed() < Duration::from_secs(10), "nobody waited for the first copy");
    wait_until("the others' end", || world.number("cluster.copy.upstream_rq_active") == 1).await;
    assert!(copy.seen().len() > 1, "a failed copy ejects nobody");
    assert_eq!(world.number("cluster.main.upstream_rq_completed"), 10);
    wait_until("the last one's end", || world.number("cluster.main.upstream_rq_active") == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_are_made_of_a_share_of_what_can_be_kept() {
    let (main, copy) = (Server::named("main").await, Server::named("copy").await);
    let none = json!({"default_value": {"numerator": 0, "denominator": "HUNDRED"}});
    let world =
        world_of(&main, &copy, &json!([{"cluster": "copy", "runtime_fraction": none}]), &json!({})).await;
    get(world.port, "/", &[]).await;
    // A limit that the body does not fit.
    let small = merged(
        to(&json!({"cluster": "main", "request_mirror_policies": [{"cluster": "copy"}]})),
        &json!({"request_body_buffer_limit": 1024}),
    );
    let clusters = [("main", &main), ("copy", &copy)]
        .map(|(name, server)| cluster(name, &[host(server.address)], &json!({})));
    let limited = World::start(&http(&json!([small]), &json!({})), &clusters).await;
    assert_eq!(http1::ask(limited.port, &post(5_000)).await.body, "main");
    assert_eq!(limited.number("cluster.main.retry_or_shadow_abandoned"), 1);
    assert_eq!(http1::ask(limited.port, &post(1_000)).await.body, "main");
    wait_until("the copy", || !copy.seen().is_empty()).await;
    sleep(Duration::from_millis(100)).await;
    assert_eq!(copy.only().body.len(), 1_000, "the other two were not copied");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bolt_calls_are_copied_too() {
    let (main, copy) = (bolt_server("main").await, Upstream::start(|_, _| {}).await);
    let clusters =
        [cluster("main", &[host(main)], &json!({})), cluster("copy", &[host(copy.address)], &json!({}))];
    let world = World::start(&bolt(&mirrored(&json!([{"cluster": "copy"}]))), &clusters).await;
    let mut peer = Peer::connect(world.port).await;
    for id in 1..=3 {
        peer.send(&call(id, 5000, &[], b"x")).await;
        assert_eq!(server_of(&peer.next().await.unwrap()), "main");
    }
    wait_until("the copies", || copy.frames() == 3).await;
}
