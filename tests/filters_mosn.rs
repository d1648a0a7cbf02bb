//! MOSN's stream filters on bolt listeners, from a configuration file.

use mizzen::protocol::bolt::{self, Status};
use serde_json::{Value, json};
use std::io::Read;
use std::time::{Duration, Instant};
use support::bolt::{Peer, call};
use support::process::{Dir, Program};
use support::proxy::{free_port, wait_listening};
use support::traffic::{bolt_server, server_of};

mod support;

struct World {
    _program: Program,
    _dir: Dir,
    port: u16,
}

/// A bolt listener with these filters; calls that say so go to the second route.
async fn start(filters: Value, second: Value) -> World {
    let (one, two) = (bolt_server("one").await, bolt_server("two").await);
    let (port, admin, dir) = (free_port(), free_port(), Dir::new());
    let service = |value: &str| json!({"headers": [{"name": "service", "value": value}]});
    let hosts = json!([
        {"address": one.to_string(), "metadata": {"filter_metadata": {"mosn.lb": {"version": "1"}}}},
        {"address": two.to_string(), "metadata": {"filter_metadata": {"mosn.lb": {"version": "2"}}}}]);
    let config = json!({
        "servers": [{"default_log_path": "stdout", "listeners": [{
            "name": "l", "address": format!("127.0.0.1:{port}"), "bind_port": true, "stream_filters": filters,
            "filter_chains": [{"filters": [{"type": "proxy", "config": {
                "downstream_protocol": "bolt", "upstream_protocol": "bolt",
                "virtual_hosts": [{"name": "v", "domains": ["*"], "routers": [
                    {"match": service("special"), "route": {"cluster_name": "c"}, "per_filter_config": second},
                    {"match": service(".*"), "route": {"cluster_name": "c"}}]}]}}]}]}]}],
        "cluster_manager": {"clusters": [{"name": "c", "type": "SIMPLE", "lb_type": "LB_ROUNDROBIN", "hosts": hosts,
            "lb_subset_config": {"fall_back_policy": 1, "subset_selectors": [["version"]]}}]},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin}}}});
    let program = Program::start(&dir.write("mosn.json", &config), &[], None);
    wait_listening(([127, 0, 0, 1], port).into()).await;
    World { _program: program, _dir: dir, port }
}

const OK: u16 = 0;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_meet_faults_and_routes_have_their_own() {
    let abort = json!({"abort": {"status": 503, "percentage": 100}});
    let delay = json!({"fault": {"delay": {"fixed_delay": "200ms", "percentage": 100}}});
    let world = start(json!([{"type": "fault", "config": abort}]), delay).await;
    let mut peer = Peer::connect(world.port).await;
    let busy = Status::ServerThreadpoolBusy.code();
    assert_eq!(peer.ask(&call(7, 5000, &[], b"x")).await, (7, busy));
    let begin = Instant::now();
    let special = support::bolt::call_to("special", 8, 5000, &[], b"x");
    assert_eq!(peer.ask(&special).await, (8, OK));
    assert!(begin.elapsed() >= Duration::from_millis(190), "not delayed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_are_admitted_by_lists() {
    let lists = |action: &str| {
        json!([{"type": "ip_access", "config": {"default_action": "allow",
            "ips": [{"action": action, "addrs": ["127.0.0.0/8", "10.1.1.1"]}]}}])
    };
    let refused = Status::ServerException.code();
    for (action, status) in [("allow", OK), ("deny", refused)] {
        let world = start(lists(action), json!({})).await;
        let mut peer = Peer::connect(world.port).await;
        assert_eq!(peer.ask(&call(1, 5000, &[], b"x")).await, (1, status), "{action}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_choose_the_subset() {
    let rules = json!([{"type": "header_to_metadata", "config": {"request_rules": [
        {"header": "x-version", "on_header_present": {"key": "version"}, "remove": true}]}}]);
    let world = start(rules, json!({})).await;
    let mut peer = Peer::connect(world.port).await;
    for id in 0..6 {
        for (version, name) in [("1", "one"), ("2", "two")] {
            peer.send(&call(id, 5000, &[("x-version", version)], b"x")).await;
            assert_eq!(server_of(&peer.next().await.unwrap()), name);
        }
    }
}

/// A bolt listener with these filters, whose one route has calls copied to another cluster.
async fn mirrored(filters: Value, one: std::net::SocketAddr, to: std::net::SocketAddr) -> World {
    let (port, admin, dir) = (free_port(), free_port(), Dir::new());
    let routers = json!([{"match": {"headers": [{"name": "service", "value": ".*"}]}, "route": {"cluster_name": "c"},
        "request_mirror_policies": {"cluster": "copy", "percent": 100}}]);
    let cluster = |name: &str, host: std::net::SocketAddr| json!({"name": name, "type": "SIMPLE", "lb_type": "LB_RANDOM", "hosts": [{"address": host.to_string()}]});
    let config = json!({
        "servers": [{"default_log_path": "stdout", "listeners": [{
            "name": "l", "address": format!("127.0.0.1:{port}"), "bind_port": true, "stream_filters": filters,
            "filter_chains": [{"filters": [{"type": "proxy", "config": {
                "downstream_protocol": "bolt", "upstream_protocol": "bolt",
                "virtual_hosts": [{"name": "v", "domains": ["*"], "routers": routers}]}}]}]}]}],
        "cluster_manager": {"clusters": [cluster("c", one), cluster("copy", to)]},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin}}}});
    let program = Program::start(&dir.write("mosn.json", &config), &[], None);
    wait_listening(([127, 0, 0, 1], port).into()).await;
    World { _program: program, _dir: dir, port }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_copied_as_often_as_the_filter_says_and_not_without_it() {
    for (filters, copies) in [
        (json!([]), 0),
        (json!([{"type": "mirror", "config": {}}]), 3),
        (json!([{"type": "mirror", "config": {"amplification": 2}}]), 6),
    ] {
        let upstream = support::upstream::Upstream::echo().await;
        let world = mirrored(filters, bolt_server("one").await, upstream.address).await;
        let mut peer = Peer::connect(world.port).await;
        for id in 1..=3 {
            assert_eq!(peer.ask(&call(id, 5000, &[], b"x")).await, (id, OK));
        }
        support::proxy::wait_until("the copies have come", || upstream.frames() >= copies).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(upstream.frames(), copies);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_meet_the_filters_too() {
    const LONG: &[u8] = &[b'x'; 2000];
    let upstream = support::upstream::Upstream::start(|frame, out| {
        let content = if frame.content() == b"nothing" { &[][..] } else { LONG };
        let answer =
            bolt::response(frame.request_id(), Status::Success, b"com.A", [(&b"k"[..], &b"v"[..])], content);
        support::upstream::say(out, answer.unwrap().into_bytes());
    })
    .await;
    let gzip = json!([{"type": "gzip", "config": {"gzip_level": 6, "content_length": 10}}]);
    let world = mirrored(gzip, upstream.address, upstream.address).await;
    let mut peer = Peer::connect(world.port).await;
    let mut answer = async |id: u32, headers: &[(&str, &str)], content: &[u8]| {
        peer.send(&call(id, 5000, headers, content)).await;
        let answer = peer.next().await.unwrap();
        assert_eq!(
            (answer.request_id(), answer.class(), answer.header(b"k")),
            (id, &b"com.A"[..], Some(&b"v"[..]))
        );
        answer
    };
    let accepts = [("accept-encoding", "gzip")];
    let small = answer(1, &accepts, b"x").await;
    assert_eq!(small.header(b"content-encoding"), Some(&b"gzip"[..]));
    assert!(small.content().len() < 200);
    let mut whole = Vec::new();
    flate2::read::GzDecoder::new(small.content()).read_to_end(&mut whole).unwrap();
    assert_eq!(whole, LONG);
    for (headers, content, got) in [(&[][..], &b"x"[..], LONG), (&accepts[..], b"nothing", b"")] {
        let plain = answer(2, headers, content).await;
        assert_eq!((plain.content(), plain.header(b"content-encoding")), (got, None));
    }
}
