//! Pushes against live traffic: what is in flight finishes, what is new follows the newest configuration.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::BytesMut;
use mizzen::protocol::rpc::Frame;
use mizzen::sample::{self, Client, DELAY_KEY, Settings};
use mizzen::xds::state::Variant;
use std::net::SocketAddr;
use std::time::Duration;
use support::ads::{Ads, Type};
use support::proxy::{Setup, free_port, wait_listening, wait_until};
use support::resources::{eds_cluster, endpoints, listener, route, rpc_filter, tcp_filter};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

mod support;

const CASES: [(Variant, usize); 4] =
    [(Variant::Sotw, 1), (Variant::Sotw, 2), (Variant::Delta, 1), (Variant::Delta, 2)];
const LIMIT: Duration = Duration::from_secs(20);

/// A bolt server that answers with `name`.
async fn bolt_server(name: &str) -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let settings = Settings { name: name.into(), delay: Duration::ZERO };
    tokio::spawn(sample::serve(socket, settings));
    address
}

/// A TCP server that sends `name` and then echoes.
async fn tcp_server(name: &'static str) -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = socket.accept().await {
            tokio::spawn(async move {
                stream.write_all(name.as_bytes()).await?;
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await?;
                write.shutdown().await
            });
        }
    });
    address
}

fn server_of(answer: &Frame) -> String {
    String::from_utf8(answer.header(b"sample_server").unwrap_or(b"none").to_vec()).unwrap()
}

async fn ask(port: u16, delay: &str) -> Result<String, String> {
    let mut client = Client::connect(&format!("127.0.0.1:{port}")).await.map_err(|e| e.to_string())?;
    let answer = client.call(&[("service", "s"), (DELAY_KEY, delay)], b"x", LIMIT).await;
    let answer = answer.map_err(|e| e.to_string())?;
    if answer.status() == 0 { Ok(server_of(&answer)) } else { Err(format!("status {}", answer.status())) }
}

async fn greeting(stream: &mut TcpStream) -> String {
    let mut name = [0; 2];
    stream.read_exact(&mut name).await.unwrap();
    String::from_utf8(name.to_vec()).unwrap()
}

async fn echo(stream: &mut TcpStream, text: &[u8]) {
    stream.write_all(text).await.unwrap();
    let mut got = vec![0; text.len()];
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(got, text);
}

/// Two clusters, a bolt listener on `bolt` routed to `one`, a TCP listener on `tcp` to `t1`.
async fn base(ads: &Ads, bolt: u16, tcp: u16, hosts: [SocketAddr; 4]) {
    let [one, two, t1, t2] = hosts;
    ads.set_clusters(["one", "two", "t1", "t2"].map(eds_cluster).to_vec());
    ads.set_endpoints(vec![
        endpoints("one", &[one]),
        endpoints("two", &[two]),
        endpoints("t1", &[t1]),
        endpoints("t2", &[t2]),
    ]);
    ads.set_listeners(vec![
        listener("bolt", bolt, &rpc_filter("r")),
        listener("tcp", tcp, &tcp_filter("t1")),
    ]);
    ads.set_routes(vec![route("r", "one")]);
    ads.push().await;
    ads.wait_all_acked().await;
    for port in [bolt, tcp] {
        wait_listening(([127, 0, 0, 1], port).into()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retargeting_keeps_what_is_in_flight_and_moves_what_is_new() {
    let hosts =
        [bolt_server("s1").await, bolt_server("s2").await, tcp_server("t1").await, tcp_server("t2").await];
    for (variant, workers) in CASES {
        let ads = Ads::start();
        let (bolt, tcp) = (free_port(), free_port());
        let _proxy = Setup::new(variant, workers).start(ads.address());
        base(&ads, bolt, tcp, hosts).await;
        assert_eq!(ask(bolt, "0").await.unwrap(), "s1");
        let mut raw = TcpStream::connect(("127.0.0.1", tcp)).await.unwrap();
        assert_eq!(greeting(&mut raw).await, "t1");
        let slow: Vec<_> = (0..50).map(|_| tokio::spawn(ask(bolt, "1500"))).collect();
        tokio::time::sleep(Duration::from_millis(200)).await;

        ads.set_routes(vec![route("r", "two")]);
        ads.set_listeners(vec![
            listener("bolt", bolt, &rpc_filter("r")),
            listener("tcp", tcp, &tcp_filter("t2")),
        ]);
        ads.push().await;
        ads.wait_all_acked().await;
        let mut moved = String::new();
        for _ in 0..200 {
            moved = ask(bolt, "0").await.unwrap();
            if moved == "s2" {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(moved, "s2");
        let mut fresh = TcpStream::connect(("127.0.0.1", tcp)).await.unwrap();
        assert_eq!(greeting(&mut fresh).await, "t2");
        echo(&mut raw, b"still here").await;
        for call in slow {
            assert_eq!(call.await.unwrap().unwrap(), "s1");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_listener_refuses_new_connections_and_finishes_old_ones() {
    let hosts =
        [bolt_server("s1").await, bolt_server("s2").await, tcp_server("t1").await, tcp_server("t2").await];
    for (variant, workers) in CASES {
        let ads = Ads::start();
        let (bolt, tcp) = (free_port(), free_port());
        let _proxy = Setup::new(variant, workers).start(ads.address());
        base(&ads, bolt, tcp, hosts).await;
        let mut raw = TcpStream::connect(("127.0.0.1", tcp)).await.unwrap();
        assert_eq!(greeting(&mut raw).await, "t1");
        let mut client = Client::connect(&format!("127.0.0.1:{bolt}")).await.unwrap();
        client.call(&[("service", "s")], b"x", LIMIT).await.unwrap();

        ads.set_listeners(vec![]);
        ads.set_clusters(vec![]);
        ads.push().await;
        ads.wait_all_acked().await;
        wait_until("the ports are closed", || {
            [bolt, tcp].iter().all(|port| std::net::TcpStream::connect(("127.0.0.1", *port)).is_err())
        })
        .await;
        echo(&mut raw, b"still here").await;
        let answer = client.call(&[("service", "s")], b"x", LIMIT).await.unwrap();
        assert_eq!((answer.status(), server_of(&answer)), (0, "s1".to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_pushes_in_a_row_fail_nothing() {
    let hosts =
        [bolt_server("s1").await, bolt_server("s2").await, tcp_server("t1").await, tcp_server("t2").await];
    for (variant, workers) in CASES {
        let ads = Ads::start();
        let (bolt, tcp) = (free_port(), free_port());
        let proxy = Setup::new(variant, workers).start(ads.address());
        base(&ads, bolt, tcp, hosts).await;
        let stop = tokio::time::Instant::now() + Duration::from_secs(4);
        let loads: Vec<_> = (0..8)
            .map(|_| {
                tokio::spawn(async move {
                    let mut client = Client::connect(&format!("127.0.0.1:{bolt}")).await.unwrap();
                    let mut calls = 0u32;
                    while tokio::time::Instant::now() < stop {
                        let answer = client.call(&[("service", "s")], b"x", LIMIT).await.unwrap();
                        assert_eq!(answer.status(), 0);
                        calls += 1;
                    }
                    calls
                })
            })
            .collect();
        for round in 0..200 {
            let (name, cluster) = if round % 2 == 0 { ("two", "t2") } else { ("one", "t1") };
            ads.set_routes(vec![route("r", name)]);
            ads.set_listeners(vec![
                listener(if round % 3 == 0 { "bolt" } else { "renamed" }, bolt, &rpc_filter("r")),
                listener("tcp", tcp, &tcp_filter(cluster)),
            ]);
            ads.push().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut total = 0;
        for load in loads {
            total += load.await.unwrap();
        }
        assert!(total > 100, "{total} calls");
        ads.wait_all_acked().await;
        assert_eq!(ads.last_nack(Type::Listener), None);
        let weak = std::sync::Arc::downgrade(&proxy.store.load());
        ads.set_routes(vec![route("r", "one"), route("unused", "one")]);
        ads.set_clusters(["one", "two", "t1", "t2", "more"].map(eds_cluster).to_vec());
        ads.push().await;
        wait_until("the old snapshot is freed", || weak.strong_count() == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn half_close_reaches_the_other_side() {
    let hosts =
        [bolt_server("s1").await, bolt_server("s2").await, tcp_server("t1").await, tcp_server("t2").await];
    let ads = Ads::start();
    let (bolt, tcp) = (free_port(), free_port());
    let _proxy = Setup::new(Variant::Delta, 1).start(ads.address());
    base(&ads, bolt, tcp, hosts).await;
    let mut raw = TcpStream::connect(("127.0.0.1", tcp)).await.unwrap();
    let text = vec![7; 1 << 20];
    let (mut read, mut write) = raw.split();
    let (sent, got) = tokio::join!(
        async {
            write.write_all(&text).await.unwrap();
            write.shutdown().await.unwrap();
        },
        async {
            let mut got = BytesMut::new();
            while read.read_buf(&mut got).await.unwrap() > 0 {}
            got
        }
    );
    let () = sent;
    assert!(got.starts_with(b"t1") && got.len() == text.len() + 2);
}
