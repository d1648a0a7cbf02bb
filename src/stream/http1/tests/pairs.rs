//! HTTP/1 on one side, HTTP/2 on the other.

use super::*;
use crate::stream::http2::tests::{Client, echo, got, request, server};
use ::http::{HeaderMap, HeaderValue};
use bytes::Bytes;

#[test]
fn http_1_clients_reach_http_2_servers() {
    run(async {
        let proxy = Proxy::to(&[server(echo).await]).await;
        let mut client = Peer::connect(proxy.address).await;
        client.send("GET /a?b HTTP/1.1\r\nHost: svc.test\r\n\r\n").await;
        let head = client.head().await.unwrap();
        assert_eq!(
            (status(&head), field(&head, "path"), field(&head, "to")),
            (200, Some("/a"), Some("svc.test"))
        );
        client.until("0\r\n\r\n").await.unwrap();
        let body = "y".repeat(300_000);
        let size = body.len();
        client.send(&format!("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: {size}\r\n\r\n{body}")).await;
        client.head().await.unwrap();
        let chunks = client.until("0\r\n\r\n").await.unwrap();
        assert_eq!(chunks.matches('y').count(), size);
        client.send("POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-t: v\r\n\r\n").await;
        let head = client.head().await.unwrap();
        assert_eq!(field(&head, "transfer-encoding"), Some("chunked"));
        let chunks = client.until("\r\n0\r\n").await.unwrap();
        assert!(chunks.contains("hi"), "{chunks}");
        assert_eq!(client.until("\r\n\r\n").await.unwrap(), "x-t: v\r\n\r\n");
    });
}

#[test]
fn http_2_clients_reach_http_1_servers() {
    run(async {
        let server = Server::start(|mut peer| async move {
            while let Some(head) = peer.head().await {
                if field(&head, "transfer-encoding").is_none() {
                    peer.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\nkeep-alive: timeout=5\r\n\r\nbare")
                        .await;
                    continue;
                }
                let body = peer.until("0\r\n").await.unwrap();
                let trailers = peer.until("\r\n\r\n").await.unwrap();
                peer.send(&format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{body}{trailers}"))
                    .await;
            }
        })
        .await;
        let proxy = proxy(&server).await;
        let mut client = Client::connect(proxy.address).await;
        let bare = client.get("/x").await;
        assert_eq!((bare.status, bare.body.as_slice()), (200, &b"bare"[..]));
        assert!(!bare.headers.contains_key("keep-alive"));
        let (response, mut sink) = client.send(request("POST", "/y"), false).await;
        sink.send_data(Bytes::from_static(b"abc"), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-t", HeaderValue::from_static("v"));
        sink.send_trailers(trailers.clone()).unwrap();
        let got = got(response).await;
        assert_eq!((got.body.as_slice(), got.trailers), (&b"abc"[..], Some(trailers)));
        assert_eq!(server.connections.get(), 1);
        let seen = server.seen();
        assert!(seen.starts_with("GET /x HTTP/1.1\r\nhost: svc.test\r\n"), "{seen}");
    });
}

#[test]
fn a_response_cut_short_resets_the_stream() {
    run(async {
        let server = Server::start(|mut peer| async move {
            peer.head().await;
            peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n").await;
        })
        .await;
        let proxy = proxy(&server).await;
        let mut client = Client::connect(proxy.address).await;
        let (response, _sink) = client.send(request("GET", "/"), true).await;
        // The reset may overtake what came before it.
        let Ok(response) = response.await else { return };
        let mut body = response.into_body();
        while body.data().await.unwrap().is_ok() {}
    });
}

#[test]
fn what_http_1_could_misread_is_refused() {
    run(async {
        let server = Server::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        let proxy = proxy(&server).await;
        let mut client = Client::connect(proxy.address).await;
        let mut padded = request("GET", "/");
        padded.headers_mut().insert("x", HeaderValue::from_static(" padded"));
        let (response, _sink) = client.send(padded, true).await;
        assert_eq!(got(response).await.status, 400);
        assert_eq!(server.connections.get(), 0);
        let many = |count: usize| {
            let mut request = request("GET", "/");
            for _ in 0..count {
                request.headers_mut().append("cookie", HeaderValue::from_static("a=b"));
            }
            request
        };
        let (response, _sink) = client.send(many(3), true).await;
        assert_eq!(got(response).await.status, 200);
        assert!(server.seen().contains("cookie: a=b; a=b; a=b\r\n"), "{}", server.seen());
    });
}

/// HTTP/1 has such a request whole with its head: sent at once, the server would act on what proves false.
#[test]
fn a_promise_of_no_body_is_kept_before_the_server_hears_of_it() {
    run(async {
        let server = Server::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        let proxy = proxy(&server).await;
        let mut client = Client::connect(proxy.address).await;
        let promise = || {
            let mut request = request("POST", "/");
            request.headers_mut().insert("content-length", HeaderValue::from_static("0"));
            request
        };
        let (response, mut sink) = client.send(promise(), false).await;
        sink.send_data(Bytes::from_static(b"x"), true).unwrap();
        assert!(response.await.is_err());
        assert_eq!(server.connections.get(), 0);
        let (response, mut sink) = client.send(promise(), false).await;
        client.get("/while-it-waits").await;
        assert!(!server.seen().contains("POST"), "{}", server.seen());
        sink.send_data(Bytes::new(), true).unwrap();
        assert_eq!(got(response).await.status, 200);
        assert!(server.seen().contains("POST / HTTP/1.1"));
    });
}
