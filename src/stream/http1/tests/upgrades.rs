//! Connections that change their protocol.

use super::*;
use crate::stream::http2::tests::{Client, request};
use bytes::Bytes;
use h2::ext::Protocol;

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nhost: h\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";

/// Agrees to every upgrade and then echoes.
async fn websocket() -> Server {
    Server::start(|mut peer| async move {
        let head = peer.head().await.unwrap();
        if field(&head, "upgrade").is_none() {
            return peer.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        }
        peer.send(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello ",
        )
        .await;
        loop {
            let early = std::mem::take(&mut peer.early);
            peer.stream.write_all(&early).await.unwrap();
            if !peer.fill().await {
                return;
            }
        }
    })
    .await
}

async fn allowing(server: &Server) -> Proxy {
    let upgrades = vec![Upgrade { kind: "websocket".into(), enabled: true, raw: None }];
    let edge = Edge { upgrades, ..Edge::default() };
    proxy_with(HttpManager { edge, ..http_manager() }, server.address).await
}

#[test]
fn an_upgrade_is_refused_unless_allowed() {
    run(async {
        let server = websocket().await;
        let mut client = Peer::connect(proxy(&server).await.address).await;
        client.send(UPGRADE).await;
        assert_eq!(status(&client.head().await.unwrap()), 403);
        assert_eq!(server.connections.get(), 0);
        let mut client = Peer::connect(proxy(&server).await.address).await;
        client.send("GET / HTTP/1.1\r\nhost: h\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AA\r\n\r\n").await;
        assert_eq!(status(&client.head().await.unwrap()), 200, "h2c is passed over");
        assert!(!server.seen().contains("h2c") && !server.seen().contains("http2-settings"));
    });
}

#[test]
fn an_upgrade_becomes_a_tunnel() {
    run(async {
        let server = websocket().await;
        let proxy = allowing(&server).await;
        let mut client = Peer::connect(proxy.address).await;
        client.send(UPGRADE).await;
        let head = client.head().await.unwrap();
        assert_eq!(
            (status(&head), field(&head, "upgrade"), field(&head, "connection")),
            (101, Some("websocket"), Some("upgrade"))
        );
        client.until("hello ").await.unwrap();
        for _ in 0..3 {
            client.send("ping").await;
            assert_eq!(client.until("ping").await.unwrap(), "ping");
        }
        client.stream.shutdown().await.unwrap();
        assert_eq!(client.rest().await, "");
    });
}

#[test]
fn what_follows_a_refused_upgrade_is_http() {
    run(async {
        let server = Server::answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno").await;
        let proxy = allowing(&server).await;
        let mut client = Peer::connect(proxy.address).await;
        client.send(&format!("{UPGRADE}GET /next HTTP/1.1\r\nhost: h\r\n\r\n")).await;
        for _ in 0..2 {
            assert_eq!(status(&client.message(2).await.unwrap().0), 200);
        }
        assert!(server.seen().contains("GET /next HTTP/1.1\r\n"));
    });
}

#[test]
fn an_extended_connect_reaches_an_http_1_server() {
    run(async {
        let server = websocket().await;
        let proxy = allowing(&server).await;
        let mut client = Client::connect(proxy.address).await;
        sleep(50).await;
        let mut connect = request("CONNECT", "/chat");
        connect.extensions_mut().insert(Protocol::from("websocket"));
        let (response, mut sink) = client.send(connect, false).await;
        let response = response.await.unwrap();
        assert_eq!(response.status().as_u16(), 200);
        let mut body = response.into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "hello ");
        sink.send_data(Bytes::from_static(b"ping"), false).unwrap();
        assert_eq!(body.data().await.unwrap().unwrap(), "ping");
        let seen = server.seen();
        assert!(seen.starts_with("GET /chat HTTP/1.1\r\n") && seen.contains("sec-websocket-key: "), "{seen}");
    });
}
