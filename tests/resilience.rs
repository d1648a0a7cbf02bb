//! Bad hosts are found and left alone, and good ones come and go, while traffic is in flight.

use mizzen::app::Proxy;
use mizzen::proto::envoy::config::cluster::v3::Cluster;
use mizzen::protocol::bolt::Status;
use mizzen::xds::state::Variant;
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;
use support::ads::{Ads, Type};
use support::names::Names;
use support::proxy::{Setup, free_port, wait_listening};
use support::resources::{eds_cluster, endpoints, listener, message, route, rpc_filter};
use support::traffic::{Load, Traffic, ask, bolt_server};
use support::upstream::{Upstream, say};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

mod support;

struct World {
    ads: Ads,
    _proxy: Proxy,
    port: u16,
}

impl World {
    /// Serving `cluster`, with `hosts` for its endpoints.
    async fn serving(setup: Setup, cluster: Cluster, hosts: &[SocketAddr]) -> World {
        let (ads, port) = (Ads::start(), free_port());
        let name = cluster.name.clone();
        ads.set_clusters(vec![cluster]);
        if !hosts.is_empty() {
            ads.set_endpoints(vec![endpoints(&name, hosts)]);
        }
        ads.set_listeners(vec![listener("bolt", port, &rpc_filter("r"))]);
        ads.set_routes(vec![route("r", &name)]);
        let proxy = setup.start(ads.address());
        ads.push().await;
        for kind in [Type::Cluster, Type::Listener, Type::Route] {
            ads.wait_ack(kind).await;
        }
        wait_listening(([127, 0, 0, 1], port).into()).await;
        World { ads, _proxy: proxy, port }
    }

    /// Waits until `count` calls in a row are answered by one of `wanted`.
    async fn only(&self, wanted: &[&str], count: usize) {
        let end = tokio::time::Instant::now() + Duration::from_secs(20);
        let mut row = 0;
        while row < count {
            let who = ask(self.port, "0").await.unwrap_or_else(|error| error);
            row = if wanted.contains(&who.as_str()) { row + 1 } else { 0 };
            assert!(tokio::time::Instant::now() < end, "{who} still answers, not {wanted:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

fn with(mut cluster: Value, more: &Value) -> Cluster {
    cluster.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    message(&cluster)
}

fn eds(more: &Value) -> Cluster {
    let base = json!({"name": "c", "type": "EDS", "connect_timeout": "1s",
        "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3"}}});
    assert_eq!(message::<Cluster>(&base), eds_cluster("c"));
    with(base, more)
}

/// A host that answers every call with a server exception.
async fn failing() -> Upstream {
    Upstream::start(|frame, out| {
        say(out, mizzen::protocol::bolt::reply(frame.request_id(), Status::ServerException));
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_host_is_ejected_for_all_workers_and_pushes_keep_it_out() {
    let (bad, good) = (failing().await, bolt_server("s2").await);
    let cluster = |timeout: &str| {
        eds(&json!({"connect_timeout": timeout,
            "outlier_detection": {"consecutive_5xx": 3, "base_ejection_time": "600s", "max_ejection_percent": 50}}))
    };
    let setup = Setup::new(Variant::Delta, 2);
    let world = World::serving(setup, cluster("1s"), &[bad.address, good]).await;
    world.only(&["s2"], 60).await;
    let seen = bad.frames();
    // A changed cluster, and a host more.
    let third = bolt_server("s3").await;
    world.ads.set_clusters(vec![cluster("2s")]);
    world.ads.set_endpoints(vec![endpoints("c", &[bad.address, good, third])]);
    world.ads.push().await;
    world.ads.wait_all_acked().await;
    world.only(&["s2", "s3"], 60).await;
    assert_eq!(bad.frames(), seen, "the ejected host got requests after a push");
}

/// A server whose health is what the switch says.
async fn health_server(healthy: Arc<AtomicBool>) -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = socket.accept().await {
            let healthy = healthy.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 1024];
                while let Ok(1..) = stream.read(&mut buffer).await {
                    let status = if healthy.load(SeqCst) { "200 OK" } else { "503 No" };
                    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_that_fail_their_checks_get_no_new_requests_and_keep_those_they_have() {
    let hosts = [bolt_server("s1").await, bolt_server("s2").await];
    let switch = Arc::new(AtomicBool::new(true));
    let ports = [health_server(switch.clone()).await, health_server(Arc::new(true.into())).await];
    let check = json!({"health_checks": [{"timeout": "2s", "interval": "0.02s", "no_traffic_interval": "0.02s",
        "unhealthy_threshold": 1, "healthy_threshold": 1, "http_health_check": {"path": "/"}}]});
    let list: Vec<Value> = hosts
        .iter()
        .zip(ports)
        .map(|(host, port)| {
            let address = json!({"socket_address": {"address": "127.0.0.1", "port_value": host.port()}});
            json!({"endpoint": {"address": address, "health_check_config": {"port_value": port}}})
        })
        .collect();
    let mut cluster = json!({"name": "c", "type": "STATIC",
        "load_assignment": {"cluster_name": "c", "endpoints": [{"lb_endpoints": list}]}});
    cluster["common_lb_config"] = json!({"healthy_panic_threshold": {}});
    let world = World::serving(Setup::new(Variant::Sotw, 2), with(cluster, &check), &[]).await;
    let traffic = Traffic::start(Load { bolt: Some((world.port, 20)), ..Load::default() }).await;
    for round in 0..3 {
        traffic.stage(&format!("round {round}: failed"));
        switch.store(false, SeqCst);
        world.only(&["s2"], 30).await;
        traffic.stage(&format!("round {round}: back"));
        switch.store(true, SeqCst);
        world.only(&["s1"], 1).await;
    }
    traffic.finish().await.assert_clean();
}

/// A bolt server at the given address of this machine.
async fn bolt_at(name: &str, ip: IpAddr, port: u16) -> u16 {
    let socket = TcpListener::bind((ip, port)).await.unwrap();
    let port = socket.local_addr().unwrap().port();
    let settings = mizzen::sample::Settings { name: name.into(), delay: Duration::ZERO };
    tokio::spawn(mizzen::sample::serve(socket, settings));
    port
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_change_what_they_stand_for_while_calls_are_in_flight() {
    let (one, two): (IpAddr, IpAddr) = ([127, 0, 0, 1].into(), [127, 0, 0, 2].into());
    let port = bolt_at("s1", one, free_port()).await;
    bolt_at("s2", two, port).await;
    let names = Arc::new(Names::default());
    *names.0.lock().unwrap() = vec![one];
    let address = json!({"socket_address": {"address": "hosts.test", "port_value": port}});
    let cluster = json!({"name": "c", "type": "STRICT_DNS", "dns_refresh_rate": "0.02s",
        "load_assignment": {"cluster_name": "c", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}});
    let mut setup = Setup::new(Variant::Sotw, 2);
    setup.resolver = Some(names.clone());
    let world = World::serving(setup, message(&cluster), &[]).await;
    let traffic = Traffic::start(Load { bolt: Some((world.port, 20)), ..Load::default() }).await;
    for round in 0..3 {
        traffic.stage(&format!("round {round}: the other address"));
        *names.0.lock().unwrap() = vec![two];
        world.only(&["s2"], 20).await;
        traffic.stage(&format!("round {round}: no answer keeps it"));
        names.0.lock().unwrap().clear();
        world.only(&["s2"], 20).await;
        traffic.stage(&format!("round {round}: both"));
        *names.0.lock().unwrap() = vec![one, two];
        world.only(&["s1"], 1).await;
        *names.0.lock().unwrap() = vec![one];
        world.only(&["s1"], 20).await;
    }
    traffic.finish().await.assert_clean();
}
