//! Connections that the system redirects: to the listener their clients meant, by the rules of a network
//! namespace of its own.

use mizzen::proto::envoy::config::listener::v3::Listener;
use mizzen::xds::state::Variant;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;
use support::ads::{Ads, Type};
use support::http1::{Server, Text};
use support::netns;
use support::proxy::{Setup, wait_listening};
use support::resources::message;
use support::world::{cluster, host, http, merged, to};

mod support;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Addresses of nobody, redirected to one port or the other.
const RULES: &str = "
    ip addr add 192.0.2.1/32 dev lo && ip addr add 2001:db8:1::1/128 dev lo &&
    ip route add 198.51.100.0/24 dev lo src 192.0.2.1 && ip route add 203.0.113.0/24 dev lo src 192.0.2.1 &&
    ip -6 route add 2001:db8:2::/48 dev lo &&
    iptables -t nat -A OUTPUT -p tcp -d 198.51.100.0/24 -j REDIRECT --to-ports 15001 &&
    iptables -t nat -A OUTPUT -p tcp -d 203.0.113.0/24 -j REDIRECT --to-ports 15006 &&
    ip6tables -t nat -A OUTPUT -p tcp -d 2001:db8:2::/48 -j REDIRECT --to-ports 15001";

fn listener(name: &str, address: &str, cluster: &str, more: &Value) -> Listener {
    let address: SocketAddr = address.parse().unwrap();
    let filter = http(&json!([to(&json!({"cluster": cluster}))]), &json!({}));
    let base = json!({"name": name,
        "address": {"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}},
        "filter_chains": [{"filters": [{"name": "f", "typed_config": filter}]}]});
    message(&merged(base, more))
}

async fn ask(address: &str) -> String {
    let asked = async {
        let stream = tokio::net::TcpStream::connect(address.parse::<SocketAddr>().unwrap()).await.unwrap();
        let mut text = Text::of(stream);
        text.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        text.message().await.unwrap().body
    };
    tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("no answer from {address}"))
}

#[test]
fn redirected_connections_reach_the_listener_that_was_meant_and_inbound_ones_stay() {
    netns::run("redirected_connections", || async {
        let rules = Command::new("sh").args(["-c", RULES]).output().unwrap();
        if !rules.status.success() {
            let why = String::from_utf8_lossy(&rules.stderr).into_owned();
            eprintln!("redirected_connections: skipped, iptables does not redirect here: {why}");
            return;
        }
        let names = ["stay", "exact", "any", "any6", "inbound", "wrong"];
        let mut clusters = Vec::new();
        for name in names {
            let server = Server::named(name).await;
            clusters.push(message(&cluster(name, &[host(server.address)], &json!({}))));
        }
        let hands_on = json!({"use_original_dst": true, "traffic_direction": "OUTBOUND"});
        let unbound = json!({"bind_to_port": false});
        let filter = "type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst";
        let restores = json!({"traffic_direction": "INBOUND",
            "listener_filters": [{"name": "o", "typed_config": {"@type": filter}}]});
        // Only what was meant for port 80 has a chain there.
        let mut inbound = listener("virtualInbound", "0.0.0.0:15006", "inbound", &restores);
        inbound.filter_chains[0].filter_chain_match = Some(message(&json!({"destination_port": 80})));
        let ads = Ads::start();
        ads.set_clusters(clusters);
        ads.set_listeners(vec![
            listener("virtualOutbound", "0.0.0.0:15001", "stay", &hands_on),
            listener("virtualOutbound6", "[::]:15001", "stay", &hands_on),
            inbound,
            listener("exact", "198.51.100.1:80", "exact", &unbound),
            listener("any", "0.0.0.0:80", "any", &unbound),
            listener("any6", "[::]:80", "any6", &unbound),
            listener("wrong", "203.0.113.1:80", "wrong", &unbound),
        ]);
        let proxy = Setup::new(Variant::Delta, 2).start(ads.address());
        ads.push().await;
        ads.wait_ack(Type::Listener).await;
        wait_listening(([127, 0, 0, 1], 15001).into()).await;
        for (meant, served) in [
            ("198.51.100.1:80", "exact"),
            ("198.51.100.2:80", "any"),
            ("198.51.100.1:81", "stay"),
            ("[2001:db8:2::1]:80", "any6"),
            ("[2001:db8:2::1]:81", "stay"),
            ("127.0.0.1:15001", "stay"),
            // Inbound: the chain of the restored port, and never another listener.
            ("203.0.113.1:80", "inbound"),
            ("203.0.113.2:80", "inbound"),
        ] {
            assert_eq!(ask(meant).await, served, "{meant}");
        }
        let count = |name: &str| proxy.registry.number(&format!("listener.{name}.downstream_cx_total"));
        assert_eq!((count("198.51.100.1_80"), count("0.0.0.0_80"), count("203.0.113.1_80")), (1, 1, 0));
        assert_eq!(proxy.registry.number("listener.0.0.0.0_15006.no_filter_chain_match"), 0);
    });
}

#[test]
fn a_cluster_of_original_destinations_goes_where_redirected_clients_meant_to_go() {
    netns::run("original_destinations", || async {
        let rules = "ip addr add 198.51.100.1/32 dev lo && ip addr add 198.51.100.2/32 dev lo &&
            iptables -t nat -A OUTPUT -p tcp -d 198.51.100.0/24 -m mark ! --mark 7 -j REDIRECT --to-ports 15001";
        let rules = Command::new("sh").args(["-c", rules]).output().unwrap();
        if !rules.status.success() {
            let why = String::from_utf8_lossy(&rules.stderr).into_owned();
            eprintln!("original_destinations: skipped, iptables does not redirect here: {why}");
            return;
        }
        let answer =
            |name: &'static str| move |_, _: &support::http1::Message| support::http1::Answer::ok(name);
        let _one = Server::at("198.51.100.1:8080".parse().unwrap(), answer("one")).await;
        let _two = Server::at("198.51.100.2:8080".parse().unwrap(), answer("two")).await;
        let passes = json!({"name": "passthrough", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED",
            "connect_timeout": "1s", "upstream_bind_config": {"socket_options":
                [{"level": 1, "name": 36, "int_value": 7, "state": "STATE_PREBIND"}]}});
        let filter = "type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst";
        let restores = json!({"listener_filters": [{"name": "o", "typed_config": {"@type": filter}}]});
        let ads = Ads::start();
        ads.set_clusters(vec![message(&passes)]);
        ads.set_listeners(vec![listener("l", "0.0.0.0:15001", "passthrough", &restores)]);
        let proxy = Setup::new(Variant::Delta, 1).start(ads.address());
        ads.push().await;
        ads.wait_ack(Type::Listener).await;
        wait_listening(([127, 0, 0, 1], 15001).into()).await;
        for (meant, served) in
            [("198.51.100.1:8080", "one"), ("198.51.100.2:8080", "two"), ("198.51.100.1:8080", "one")]
        {
            assert_eq!(ask(meant).await, served, "{meant}");
        }
        let count = |name: &str| proxy.registry.number(&format!("cluster.passthrough.{name}"));
        assert_eq!((count("upstream_rq_total"), count("original_dst_own_address")), (3, 0));
    });
}
