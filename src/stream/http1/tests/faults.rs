//! Messages that are not whole or not HTTP.

use super::*;

#[test]
fn a_faulty_head_is_answered_and_no_server_sees_it() {
    run(async {
        let server = Server::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        let proxy = proxy(&server).await;
        for (bad, expected) in [
            ("GET / HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nhost: h\r\n folded: x\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400),
            ("nonsense\r\n\r\n", 400),
            ("GET / HTTP/3.0\r\nhost: h\r\n\r\n", 505),
        ] {
            let mut client = Peer::connect(proxy.address).await;
            client.send(bad).await;
            let all = client.rest().await;
            assert_eq!((status(&all), field(&all, "connection")), (expected, Some("close")), "{bad}");
        }
        let many: String = (0..101).map(|i| format!("x{i}: 1\r\n")).collect();
        let mut client = Peer::connect(proxy.address).await;
        client.send(&format!("GET / HTTP/1.1\r\nhost: h\r\n{many}\r\n")).await;
        assert_eq!(status(&client.rest().await), 431);
        assert_eq!(server.connections.get(), 0);
        assert_eq!(proxy.local.http_stats("in").downstream_cx_protocol_error.get(), 7);
    });
}

#[test]
fn a_faulty_body_is_never_completed_upstream() {
    run(async {
        let ended = Rc::new(RefCell::new(Vec::new()));
        let ends = ended.clone();
        let server = Server::start(move |mut peer| {
            let ends = ends.clone();
            async move {
                peer.head().await;
                let got = peer.rest().await;
                ends.borrow_mut().push(got);
            }
        })
        .await;
        let proxy = proxy(&server).await;
        let mut client = Peer::connect(proxy.address).await;
        client.send("POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n").await;
        sleep(50).await;
        client.send("zz\r\n").await;
        let all = client.rest().await;
        assert_eq!(status(&all), 400, "{all}");
        let mut client = Peer::connect(proxy.address).await;
        client.send("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 10\r\n\r\nabc").await;
        sleep(50).await;
        drop(client);
        while ended.borrow().len() < 2 {
            sleep(10).await;
        }
        assert_eq!(*ended.borrow(), ["3\r\nabc\r\n", "abc"]);
    });
}

#[test]
fn a_response_cut_short_does_not_look_whole() {
    run(async {
        let server = Server::start(|mut peer| async move {
            let head = peer.head().await.unwrap();
            let answer = match head.split(' ').nth(1).unwrap() {
                "/length" => "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc",
                "/chunked" => "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
                "/bad" => "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nx\r\n",
                _ => "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nabc",
            };
            peer.send(answer).await;
        })
        .await;
        let proxy = proxy(&server).await;
        for path in ["/length", "/chunked", "/bad"] {
            let mut client = Peer::connect(proxy.address).await;
            client.send(&format!("GET {path} HTTP/1.1\r\nhost: h\r\n\r\n")).await;
            let all = client.rest().await;
            assert_eq!(status(&all), 200, "{path}");
            assert!(
                !all.contains("0\r\n\r\n") && (all.ends_with("abc") || all.ends_with("abc\r\n")),
                "{path}: {all}"
            );
        }
        let mut client = Peer::connect(proxy.address).await;
        client.send("GET /two HTTP/1.1\r\nhost: h\r\n\r\n").await;
        let head = client.head().await.unwrap();
        assert_eq!(status(&head), 502);
    });
}

#[test]
fn a_connection_its_server_closes_costs_no_request() {
    run(async {
        let server = Server::start(|mut peer| async move {
            peer.head().await;
            peer.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        })
        .await;
        let proxy = proxy(&server).await;
        let mut client = Peer::connect(proxy.address).await;
        for i in 0..20u32 {
            client.send("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n").await;
            let (head, _) = client.message(2).await.unwrap();
            assert_eq!(status(&head), 200);
            sleep(20).await;
            assert_eq!(server.connections.get(), i + 1);
        }
    });
}

#[test]
fn a_client_that_leaves_takes_its_request_with_it() {
    run(async {
        let left = Rc::new(Cell::new(false));
        let gone = left.clone();
        let server = Server::start(move |mut peer| {
            let gone = gone.clone();
            async move {
                peer.head().await;
                gone.set(!peer.fill().await);
            }
        })
        .await;
        let proxy = proxy(&server).await;
        let mut client = Peer::connect(proxy.address).await;
        client.send("GET / HTTP/1.1\r\nhost: h\r\n\r\n").await;
        while server.connections.get() == 0 {
            sleep(5).await;
        }
        drop(client);
        while !left.get() {
            sleep(5).await;
        }
        assert_eq!(proxy.local.http_stats("in").downstream_rq_rx_reset.get(), 1);
    });
}
