//! Clusters without hosts of their own: requests go where their clients meant to go, and never back to this
//! proxy.

use serde_json::{Value, json};
use support::ads::Type;
use support::bolt::{Peer, call};
use support::http1::{Server, get};
use support::proxy::{free_port, wait_listening};
use support::resources::{listener, message};
use support::traffic::{bolt_server, server_of};
use support::world::{World, bolt, http, merged, to};

mod support;

fn passthrough(lb: &Value) -> Value {
    json!({"name": "p", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED", "connect_timeout": "1s",
        "cleanup_interval": "1s", "original_dst_lb_config": lb})
}

fn routes() -> Value {
    json!([to(&json!({"cluster": "p"}))])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_names_the_host() {
    let servers = [Server::named("s1").await, Server::named("s2").await];
    let world =
        World::start(&http(&routes(), &json!({})), &[passthrough(&json!({"use_http_header": true}))]).await;
    for (at, name) in [(0, "s1"), (1, "s2"), (0, "s1")] {
        let header = format!("x-envoy-original-dst-host: {}", servers[at].address);
        assert_eq!(get(world.port, "/", &[&header]).await.body, name);
    }
    assert_eq!(world.number("cluster.p.upstream_rq_total"), 3);
    // Connections are kept as to any host.
    assert_eq!(world.number("cluster.p.upstream_cx_total"), 2);
    for bad in ["nowhere", "127.0.0.1", "127.0.0.1:99999"] {
        let answer = get(world.port, "/", &[&format!("x-envoy-original-dst-host: {bad}")]).await;
        assert_eq!(answer.status(), 503, "{bad}");
    }
    assert_eq!(world.number("cluster.p.original_dst_host_invalid"), 3);
    // Nobody says where to.
    assert_eq!(get(world.port, "/", &[]).await.status(), 503);
    assert_eq!(world.number("cluster.p.upstream_cx_none_healthy"), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_come_back_is_refused() {
    let server = Server::named("s").await;
    let lb = json!({"use_http_header": true, "http_header_name": "X-Dst"});
    let filter = http(&routes(), &json!({}));
    let world = World::start(&filter, &[passthrough(&lb)]).await;
    let own = format!("x-dst: 127.0.0.1:{}", world.port);
    assert_eq!(get(world.port, "/", &[&own]).await.status(), 503);
    assert_eq!(world.number("cluster.p.original_dst_own_address"), 1);
    assert_eq!(world.number("cluster.p.upstream_cx_total"), 0);
    assert_eq!(get(world.port, "/", &[&format!("x-dst: {}", server.address)]).await.body, "s");
    // A listener on every address is met at each of this machine's.
    let wide = free_port();
    let everywhere = merged(
        json!({"name": "wide", "filter_chains": [{"filters": [{"name": "f", "typed_config": filter}]}]}),
        &json!({"address": {"socket_address": {"address": "0.0.0.0", "port_value": wide}}}),
    );
    world.ads.set_listeners(vec![listener("l", world.port, &filter), message(&everywhere)]);
    world.push(&[Type::Listener]).await;
    wait_listening(([127, 0, 0, 1], wide).into()).await;
    for (ip, refused) in [("127.0.0.1", 2), ("127.0.0.9", 3)] {
        assert_eq!(get(world.port, "/", &[&format!("x-dst: {ip}:{wide}")]).await.status(), 503, "{ip}");
        assert_eq!(world.number("cluster.p.original_dst_own_address"), refused, "{ip}");
    }
    // A port in place of the one that was meant.
    let lb = merged(lb, &json!({"upstream_port_override": server.address.port()}));
    let other = World::start(&filter, &[passthrough(&lb)]).await;
    assert_eq!(get(other.port, "/", &["x-dst: 127.0.0.1:1"]).await.body, "s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bolt_calls_follow_a_header_too() {
    let server = bolt_server("b1").await;
    let lb = json!({"use_http_header": true, "http_header_name": "dst"});
    let world = World::start(&bolt(&routes()), &[passthrough(&lb)]).await;
    let mut peer = Peer::connect(world.port).await;
    peer.send(&call(1, 5000, &[("dst", &server.to_string())], b"x")).await;
    assert_eq!(server_of(&peer.next().await.unwrap()), "b1");
    assert_eq!(peer.ask(&call(2, 5000, &[], b"x")).await, (2, 6));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_listener_filter_is_accepted_and_connections_that_were_not_redirected_are_served() {
    let server = Server::named("s").await;
    let direct = json!([{"match": {"prefix": "/direct"}, "route": {"cluster": "p"}}]);
    let world =
        World::start(&http(&direct, &json!({})), &[passthrough(&json!({"use_http_header": true}))]).await;
    let mut with_filter = json!({"name": "l"});
    with_filter["listener_filters"] = json!([{"name": "original_dst", "typed_config":
        {"@type": "type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst"}}]);
    let with_filter = merged(
        with_filter,
        &json!({"address": {"socket_address": {"address": "127.0.0.1", "port_value": world.port}},
            "filter_chains": [{"filters": [{"name": "f", "typed_config": http(&direct, &json!({}))}]}]}),
    );
    world.ads.set_listeners(vec![message(&with_filter)]);
    world.push(&[Type::Listener]).await;
    assert_eq!(world.ads.last_nack(Type::Listener), None);
    let header = format!("x-envoy-original-dst-host: {}", server.address);
    assert_eq!(get(world.port, "/direct", &[&header]).await.body, "s");
    assert_eq!(get(world.port, "/direct", &[]).await.status(), 503, "nothing was restored");
}
