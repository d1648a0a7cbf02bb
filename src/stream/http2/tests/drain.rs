//! Leaving without losing anything.

use super::*;
use crate::stream::Drain;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[test]
fn a_connection_told_to_leave_finishes_its_streams() {
    run(async {
        let proxy = Proxy::to(&[server(echo).await]).await;
        for drain in [Drain::Told, Drain::Leaving] {
            let stream = TcpStream::connect(proxy.address).await.unwrap();
            let (sender, connection) = h2::client::handshake(stream).await.unwrap();
            let ended = spawn_local(async move { connection.await.is_ok() });
            let mut client = Client(sender);
            let (response, mut sink) = client.send(request("POST", "/"), false).await;
            sleep(50).await;
            proxy.handle().drain(drain);
            sleep(1500).await;
            assert!(!ended.is_finished(), "a stream is under way");
            sink.send_data(Bytes::from_static(b"whole"), true).unwrap();
            assert_eq!(got(response).await.body, b"whole");
            drop(client);
            assert!(ended.await.unwrap());
        }
    });
}

#[test]
fn a_client_that_acknowledges_nothing_is_left_when_quiet() {
    run(async {
        let proxy = Proxy::to(&[server(echo).await]).await;
        let mut stream = limits::raw(proxy.address).await;
        stream
            .write_all(&limits::frame(1, 5, 1, &[0x82, 0x86, 0x84, 0x01, 3, b's', b'v', b'c']))
            .await
            .unwrap();
        sleep(100).await;
        proxy.handle().drain(Drain::Told);
        let begin = Instant::now();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        let took = begin.elapsed();
        assert!(took >= Duration::from_millis(800) && took < Duration::from_secs(4), "{took:?}");
        let goaways = all.windows(9).filter(|w| w[..4] == [0, 0, 8, 7] && w[5..] == [0; 4]).count();
        assert_eq!(goaways, 2);
    });
}

#[test]
fn now_means_now() {
    run(async {
        let proxy = Proxy::to(&[server(echo).await]).await;
        let mut client = Client::connect(proxy.address).await;
        let (response, _sink) = client.send(request("POST", "/"), false).await;
        let mut body = response.await.unwrap().into_body();
        proxy.handle().drain(Drain::Now);
        assert!(body.data().await.is_none_or(|part| part.is_err()));
        sleep(100).await;
        assert_eq!(proxy.handle().streams(), 0);
    });
}

#[test]
fn an_upstream_that_leaves_costs_no_request() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = listener.local_addr().unwrap();
        let accepted = Rc::new(Cell::new(0));
        let count = accepted.clone();
        spawn_local(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.set(count.get() + 1);
                spawn_local(async move {
                    let mut connection = h2::server::handshake(stream).await.unwrap();
                    let mut served = 0;
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        spawn_local(echo(request, respond));
                        served += 1;
                        if served == 10 {
                            connection.graceful_shutdown();
                        }
                    }
                });
            }
        });
        let proxy = Proxy::to(&[upstream]).await;
        let mut client = Client::connect(proxy.address).await;
        let mut waiting = Vec::new();
        for i in 0..200 {
            let (response, mut sink) = client.send(request("POST", "/"), false).await;
            sink.send_data(Bytes::from_static(b"body"), true).unwrap();
            waiting.push(response);
            if i % 7 == 0 {
                tokio::task::yield_now().await;
            }
        }
        for response in waiting {
            let got = got(response).await;
            assert_eq!((got.status, &got.body[..]), (200, &b"body"[..]));
        }
        assert!(accepted.get() > 1);
    });
}

#[test]
fn a_removed_host_finishes_its_streams_and_closes() {
    run(async {
        let (old, new) = (server(echo).await, server(echo).await);
        let proxy = Proxy::to(&[old]).await;
        let mut client = Client::connect(proxy.address).await;
        let (response, mut sink) = client.send(request("POST", "/"), false).await;
        sink.send_data(Bytes::from_static(b"one"), false).unwrap();
        let response = response.await.unwrap();
        let before = proxy.local.cluster(ClusterId(0), &proxy.local.view()).unwrap();
        proxy
            .local
            .set_view(snapshot(vec![route("/", Action::Route(action("up")))], &[cluster("up", &[new])]));
        assert_eq!(client.post("/", b"new").await.status, 200);
        sink.send_data(Bytes::from_static(b"two"), true).unwrap();
        let mut body = response.into_body();
        let mut all = Vec::new();
        while let Some(part) = body.data().await {
            all.extend_from_slice(&part.unwrap());
        }
        assert_eq!(all, b"onetwo");
        sleep(100).await;
        assert_eq!((before.stats.upstream_cx_total.get(), before.stats.upstream_cx_active.get()), (2, 1));
    });
}

#[test]
fn connections_are_replaced_after_their_share_of_requests() {
    run(async {
        let mut few = cluster("up", &[server(echo).await]);
        few.max_requests_per_connection = 3;
        let proxy =
            Proxy::start(http(http_manager()), vec![route("/", Action::Route(action("up")))], &[few]).await;
        let mut client = Client::connect(proxy.address).await;
        for _ in 0..10 {
            assert_eq!(client.post("/", b"x").await.status, 200);
        }
        sleep(100).await;
        let cluster = proxy.local.cluster(ClusterId(0), &proxy.local.view()).unwrap();
        assert_eq!((cluster.stats.upstream_cx_total.get(), cluster.stats.upstream_cx_active.get()), (4, 1));
    });
}
