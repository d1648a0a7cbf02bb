//! Requests go to the hosts their routes say: by hash, by metadata, whatever protocol they come in.

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use support::bolt::{Peer, call};
use support::http1::{self, Server};
use support::http2;
use support::traffic::{bolt_server, server_of};
use support::world::{World, bolt, cluster, host, host_with, http, merged, to};

mod support;

const NAMES: [&str; 4] = ["s1", "s2", "s3", "s4"];

async fn http_hosts() -> Vec<SocketAddr> {
    let mut hosts = Vec::new();
    for name in NAMES {
        hosts.push(Server::named(name).await.address);
    }
    hosts
}

async fn bolt_hosts() -> Vec<SocketAddr> {
    let mut hosts = Vec::new();
    for name in NAMES {
        hosts.push(bolt_server(name).await);
    }
    hosts
}

fn hosts(addresses: &[SocketAddr]) -> Vec<Value> {
    addresses.iter().copied().map(host).collect()
}

fn by_header() -> Value {
    to(&json!({"cluster": "c", "hash_policy": [{"header": {"header_name": "x-user"}}]}))
}

/// Users go to the hosts `ask` tells, each always to the same one, and not all to one.
fn assert_sticky(asked: &[(String, String)]) {
    let all: BTreeSet<_> = asked.iter().map(|(_, host)| host).collect();
    assert!(all.len() > 1, "all users at {all:?}");
    for (user, host) in asked {
        let same = asked.iter().filter(|(other, _)| other == user).all(|(_, other)| other == host);
        assert!(same, "{user} goes here and there: {asked:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_stay_with_their_host_in_both_http_versions() {
    let hosts = hosts(&http_hosts().await);
    for policy in ["RING_HASH", "MAGLEV"] {
        let clusters = [cluster("c", &hosts, &json!({"lb_policy": policy}))];
        let world = World::start(&http(&json!([by_header()]), &json!({})), &clusters).await;
        let mut asked = Vec::new();
        for round in 0..60 {
            let user = format!("user-{}", round % 12);
            let one = http1::get(world.port, "/", &[&format!("x-user: {user}")]).await;
            let two = http2::get(world.port, "/", &[("x-user", &user)]).await;
            asked.push((user.clone(), one.body));
            asked.push((user, String::from_utf8(two.into_body().to_vec()).unwrap()));
        }
        assert_sticky(&asked);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bolt_callers_stay_with_their_host() {
    let hosts = hosts(&bolt_hosts().await);
    let clusters = [cluster("c", &hosts, &json!({"lb_policy": "RING_HASH"}))];
    let world = World::start(&bolt(&json!([by_header()])), &clusters).await;
    let mut peer = Peer::connect(world.port).await;
    let mut asked = Vec::new();
    for id in 0..60 {
        let user = format!("user-{}", id % 12);
        peer.send(&call(id, 5000, &[("x-user", &user)], b"x")).await;
        asked.push((user, server_of(&peer.next().await.unwrap())));
    }
    assert_sticky(&asked);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cookie_is_made_up_once_and_keeps_its_client_at_its_host() {
    let hosts = hosts(&http_hosts().await);
    let policy = json!([{"cookie": {"name": "sid", "ttl": "60s", "path": "/p"}}]);
    let routes = json!([to(&json!({"cluster": "c", "hash_policy": policy}))]);
    let ring = [cluster("c", &hosts, &json!({"lb_policy": "RING_HASH"}))];
    let world = World::start(&http(&routes, &json!({})), &ring).await;
    let mut owners = BTreeSet::new();
    for _ in 0..12 {
        let first = http1::get(world.port, "/", &[]).await;
        let cookie = first.header("set-cookie").expect("a cookie").to_owned();
        assert!(cookie.starts_with("sid=\"") && cookie.contains("; Max-Age=60; Path=/p"), "{cookie}");
        let pair = cookie.split(';').next().unwrap();
        for _ in 0..3 {
            let next = http1::get(world.port, "/", &[&format!("cookie: a=b; {pair}")]).await;
            assert_eq!((next.body.as_str(), next.has("set-cookie")), (first.body.as_str(), false));
        }
        owners.insert(first.body);
    }
    assert!(owners.len() > 1, "all new clients at {owners:?}");
    // Where nothing is hashed no cookie is set, as in Envoy.
    let plain = World::start(&http(&routes, &json!({})), &[cluster("c", &hosts, &json!({}))]).await;
    assert!(!http1::get(plain.port, "/", &[]).await.has("set-cookie"));
}

/// Two hosts of version 1, one of 2, one without; one of each stage.
fn labelled(addresses: &[SocketAddr]) -> Vec<Value> {
    let labels = [
        json!({"version": "1", "stage": "prod"}),
        json!({"version": "1", "stage": "dev"}),
        json!({"version": "2", "stage": "prod"}),
        json!({}),
    ];
    addresses.iter().zip(&labels).map(|(address, labels)| host_with(*address, labels)).collect()
}

fn subsets(fallback: &str) -> Value {
    json!({"lb_subset_config": {"fallback_policy": fallback, "default_subset": {"version": "2"},
        "subset_selectors": [{"keys": ["version"]}, {"keys": ["stage", "version"]}]}})
}

fn wanting(labels: &Value) -> Value {
    json!({"filter_metadata": {"envoy.lb": labels}})
}

/// A route by path whose hosts must say `labels`.
fn route(path: &str, labels: &Value) -> Value {
    json!({"match": {"path": path}, "route": {"cluster": "c", "metadata_match": wanting(labels)}})
}

async fn answers(port: u16, path: &str) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for _ in 0..16 {
        let answer = http1::get(port, path, &[]).await;
        all.insert(if answer.status() == 200 { answer.body } else { answer.status().to_string() });
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_picks_a_subset_and_what_has_none_falls_back() {
    let hosts = labelled(&http_hosts().await);
    let weighted = json!({"match": {"path": "/share"}, "route": {
        "metadata_match": wanting(&json!({"version": "1", "stage": "dev"})),
        "weighted_clusters": {"clusters": [
            {"name": "c", "weight": 1, "metadata_match": wanting(&json!({"stage": "prod"}))}]}}});
    let routes = json!([
        route("/1", &json!({"version": "1"})),
        route("/2", &json!({"version": "2"})),
        route("/both", &json!({"stage": "dev", "version": "1"})),
        route("/unknown", &json!({"version": "9"})),
        route("/no-selector", &json!({"stage": "prod"})),
        weighted,
        to(&json!({"cluster": "c"})),
    ]);
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    for (policy, fallback) in
        [("NO_FALLBACK", set(&["503"])), ("ANY_ENDPOINT", set(&NAMES)), ("DEFAULT_SUBSET", set(&["s3"]))]
    {
        let world = World::start(&http(&routes, &json!({})), &[cluster("c", &hosts, &subsets(policy))]).await;
        assert_eq!(answers(world.port, "/1").await, set(&["s1", "s2"]), "{policy}");
        assert_eq!(answers(world.port, "/2").await, set(&["s3"]), "{policy}");
        assert_eq!(answers(world.port, "/both").await, set(&["s2"]), "{policy}");
        assert_eq!(
            answers(world.port, "/share").await,
            set(&["s1"]),
            "{policy}: the share has the last word"
        );
        for path in ["/unknown", "/no-selector", "/other"] {
            assert_eq!(answers(world.port, path).await, fallback, "{policy} {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bolt_calls_go_to_their_subset_and_never_to_sick_hosts_by_default() {
    let mut hosts = labelled(&bolt_hosts().await);
    let by_version = |version: &str| {
        json!({"match": {"prefix": "/", "headers": [{"name": "v", "string_match": {"exact": version}}]},
            "route": {"cluster": "c", "metadata_match": wanting(&json!({"version": version}))}})
    };
    let routes = json!([by_version("1"), by_version("2")]);
    // A whole subset is sick, and more than half of the other: far below the default panic threshold.
    hosts[0] = merged(hosts[0].clone(), &json!({"health_status": "UNHEALTHY"}));
    hosts[2] = merged(hosts[2].clone(), &json!({"health_status": "UNHEALTHY"}));
    hosts[3] = merged(
        hosts[3].clone(),
        &json!({"health_status": "UNHEALTHY", "metadata": {"filter_metadata": {"envoy.lb": {"version": "1"}}}}),
    );
    let world = World::start(&bolt(&routes), &[cluster("c", &hosts, &subsets("NO_FALLBACK"))]).await;
    let mut peer = Peer::connect(world.port).await;
    for id in 0..20 {
        peer.send(&call(id, 5000, &[("v", "1")], b"x")).await;
        assert_eq!(server_of(&peer.next().await.unwrap()), "s2");
        let (_, status) = peer.ask(&call(100 + id, 5000, &[("v", "2")], b"x")).await;
        assert_eq!(status, 6, "nobody healthy serves version 2");
    }
    assert!(!world.proxy.is_broken());
}
