//! Addresses that are not the machine's: hosts see where clients are, and listeners take what is led to them.

use mizzen::proto::envoy::config::listener::v3::Listener;
use mizzen::translate::envoy;
use mizzen::xds::state::Variant;
use prost::Message;
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use support::ads::{Ads, Type};
use support::http1::Text;
use support::netns;
use support::proxy::{Setup, wait_listening};
use support::resources::{message, tcp_filter};
use support::world::{cluster, host, http, merged, to};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

mod support;

const FILTER: &str = "type.googleapis.com/envoy.extensions.filters.listener.original_src.v3.OriginalSrc";

/// Answers each request with the address it came from, one connection after the other as often as asked.
async fn mirror(http: bool) -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, peer)) = socket.accept().await {
            tokio::spawn(async move {
                let body = peer.to_string();
                if !http {
                    return stream.write_all(body.as_bytes()).await;
                }
                let mut read = Vec::new();
                loop {
                    let mut part = [0; 1024];
                    match stream.read(&mut part).await? {
                        0 => return Ok(()),
                        n => read.extend_from_slice(&part[..n]),
                    }
                    if read.ends_with(b"\r\n\r\n") {
                        read.clear();
                        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                        stream.write_all(head.as_bytes()).await?;
                    }
                }
            });
        }
    });
    address
}

fn listener(name: &str, address: &str, filter: &Value, more: &Value) -> Listener {
    let address: SocketAddr = address.parse().unwrap();
    let base = json!({"name": name,
        "address": {"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}},
        "filter_chains": [{"filters": [{"name": "f", "typed_config": filter}]}]});
    message(&merged(base, more))
}

async fn dial(from: &str, to: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from.parse::<IpAddr>().unwrap(), 0).into()).unwrap();
    socket.connect(to.parse().unwrap()).await.unwrap()
}

async fn said(mut stream: TcpStream) -> String {
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text).await;
    text.rsplit_once(':').map(|(ip, _)| ip.to_owned()).unwrap_or_default()
}

async fn ask(text: &mut Text) -> String {
    text.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    text.message().await.unwrap().body
}

#[test]
fn hosts_see_where_clients_are() {
    netns::run("hosts_see_where_clients_are", || async {
        let (raw, app) = (mirror(false).await, mirror(true).await);
        let clusters = [cluster("raw", &[host(raw)], &json!({})), cluster("app", &[host(app)], &json!({}))];
        let source =
            json!({"listener_filters": [{"name": "s", "typed_config": {"@type": FILTER, "mark": 7}}]});
        let manager = http(&json!([to(&json!({"cluster": "app"}))]), &json!({}));
        let ads = Ads::start();
        ads.set_clusters(clusters.iter().map(message).collect());
        ads.set_listeners(vec![
            listener("raw", "127.0.0.1:15001", &tcp_filter("raw"), &source),
            listener("http", "127.0.0.1:15002", &manager, &source),
            listener("plain", "127.0.0.1:15003", &tcp_filter("raw"), &json!({})),
            listener("free", "203.0.113.9:15004", &tcp_filter("raw"), &json!({"freebind": true})),
            listener("any", "203.0.113.10:15005", &tcp_filter("raw"), &json!({"transparent": true})),
        ]);
        let proxy = Setup::new(Variant::Delta, 1).start(ads.address());
        ads.push().await;
        ads.wait_ack(Type::Listener).await;
        for port in 15001..=15003 {
            wait_listening(([127, 0, 0, 1], port).into()).await;
        }
        assert_eq!(said(dial("127.0.0.7", "127.0.0.1:15001").await).await, "127.0.0.7");
        assert_eq!(said(dial("127.0.0.7", "127.0.0.1:15003").await).await, "127.0.0.1");
        // Connections of one client are its own.
        let mut texts = Vec::new();
        for client in ["127.0.0.7", "127.0.0.8", "127.0.0.7"] {
            texts.push(Text::of(dial(client, "127.0.0.1:15002").await));
        }
        let mut seen = Vec::new();
        for text in &mut texts {
            seen.push(ask(text).await);
        }
        assert!(seen[0].starts_with("127.0.0.7:") && seen[1].starts_with("127.0.0.8:"), "{seen:?}");
        assert_eq!(seen[0], seen[2], "the connection of the same client is used again");
        assert_eq!(proxy.registry.number("cluster.app.upstream_cx_total"), 2);
        // Who is led there meets the listener, whose address was nobody's when it came.
        let led = Command::new("ip").args(["route", "add", "local", "203.0.113.0/24", "dev", "lo"]).output();
        assert!(led.unwrap().status.success());
        for address in ["203.0.113.9:15004", "203.0.113.10:15005"] {
            wait_listening(address.parse().unwrap()).await;
            assert_eq!(said(TcpStream::connect(address).await.unwrap()).await, "127.0.0.1", "{address}");
        }
    });
}

#[test]
fn without_the_right_it_is_refused_with_the_reason() {
    let refused = std::thread::spawn(|| {
        use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
        let none = CapabilitySet::empty();
        set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
            .unwrap();
        let source = json!({"listener_filters": [{"name": "s", "typed_config": {"@type": FILTER}}]});
        let transparent = json!({"transparent": true});
        [source, transparent].map(|more| {
            let listener = listener("l", "127.0.0.1:1", &tcp_filter("c"), &more);
            envoy::listener(&listener.encode_to_vec()).unwrap_err().to_string()
        })
    });
    for why in refused.join().unwrap() {
        assert!(why.contains("CAP_NET_ADMIN"), "{why}");
    }
    let port =
        json!({"listener_filters": [{"name": "s", "typed_config": {"@type": FILTER, "bind_port": true}}]});
    let listener = listener("l", "127.0.0.1:1", &tcp_filter("c"), &port);
    let why = envoy::listener(&listener.encode_to_vec()).unwrap_err().to_string();
    assert!(why.contains("bind_port: true: not supported"), "{why}");
}
