//! What every client needs.

use super::*;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Case: Kept\r\n\r\nok";
const GET: &str = "GET /a HTTP/1.1\r\nHost: svc.test\r\nX-Case: Kept\r\n\r\n";

#[test]
fn connections_are_kept_and_names_keep_their_case() {
    run(async {
        let server = Server::answering(OK).await;
        let proxy = proxy(&server).await;
        let mut client = Peer::connect(proxy.address).await;
        for _ in 0..5 {
            client.send(GET).await;
            let (head, body) = client.message(2).await.unwrap();
            assert_eq!((status(&head), body.as_str(), field(&head, "server")), (200, "ok", Some("envoy")));
            assert!(head.contains("X-Case: Kept") && head.contains("date: "), "{head}");
            assert!(field(&head, "connection").is_none() && field(&head, "transfer-encoding").is_none());
        }
        assert_eq!(server.connections.get(), 1);
        let seen = server.seen();
        assert!(
            seen.starts_with("GET /a HTTP/1.1\r\nHost: svc.test\r\n") && seen.contains("X-Case: Kept"),
            "{seen}"
        );
        assert!(seen.contains("x-forwarded-proto: http") && seen.contains("x-request-id: "), "{seen}");
        let stats = proxy.local.http_stats("in");
        assert_eq!((stats.downstream_cx_http1_total.get(), stats.downstream_rq_http1_total.get()), (1, 5));
        assert_eq!((stats.downstream_rq_active.get(), stats.downstream_rq_completed.get()), (0, 5));
    });
}

#[test]
fn pipelined_requests_are_answered_in_order_one_after_the_other() {
    run(async {
        let busy = Rc::new(Cell::new(0));
        let count = busy.clone();
        let server = Server::start(move |mut peer| {
            let busy = count.clone();
            async move {
                while let Some(head) = peer.head().await {
                    busy.set(busy.get() + 1);
                    assert_eq!(busy.get(), 1, "one at a time");
                    sleep(5).await;
                    busy.set(busy.get() - 1);
                    let path = head.split(' ').nth(1).unwrap();
                    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{path}", path.len());
                    peer.send(&answer).await;
                }
            }
        })
        .await;
        let proxy = proxy(&server).await;
        let mut client = Peer::connect(proxy.address).await;
        let all: String = (0..9).map(|i| format!("GET /{i} HTTP/1.1\r\nhost: h\r\n\r\n")).collect();
        client.send(&all).await;
        for i in 0..9 {
            let (head, body) = client.message(2).await.unwrap();
            assert_eq!((status(&head), body), (200, format!("/{i}")));
        }
        client.send("GET /9 HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").await;
        let (head, _) = client.message(2).await.unwrap();
        assert_eq!(field(&head, "connection"), Some("close"));
        assert_eq!(client.rest().await, "");
    });
}

#[test]
fn bodies_and_trailers_pass_as_they_come() {
    run(async {
        let server = Server::start(|mut peer| async move {
            while let Some(head) = peer.head().await {
                if field(&head, "transfer-encoding").is_some() {
                    let body = peer.until("0\r\n").await.unwrap();
                    let trailers = peer.until("\r\n\r\n").await.unwrap();
                    peer.send(&format!(
                        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{body}{trailers}"
                    ))
                    .await;
                } else {
                    let size = field(&head, "content-length").map_or(0, |size| size.parse().unwrap());
                    while peer.early.len() < size {
                        assert!(peer.fill().await);
                    }
                    let body = String::from_utf8(peer.early.drain(..size).collect()).unwrap();
                    peer.send(&format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n{body}")).await;
                }
            }
        })
        .await;
        let proxy = proxy(&server).await;
        let mut client = Peer::connect(proxy.address).await;
        for size in [0, 1, 2049, 70_000, 500_000] {
            let body = "x".repeat(size);
            client.send(&format!("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: {size}\r\n\r\n{body}")).await;
            let (_, got) = client.message(size).await.unwrap();
            assert!(got == body, "{size}");
        }
        let chunked = "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n";
        client.send(chunked).await;
        client.send("3\r\nabc\r\n").await;
        sleep(10).await;
        client.send("2\r\nde\r\n0\r\nx-sum: 5\r\n\r\n").await;
        let head = client.head().await.unwrap();
        assert_eq!(
            (field(&head, "transfer-encoding"), field(&head, "content-length")),
            (Some("chunked"), None)
        );
        let body = client.until("0\r\nx-sum: 5\r\n\r\n").await.unwrap();
        assert!(body.contains("abc") && body.contains("de"), "{body}");
        assert_eq!(server.connections.get(), 1);
    });
}

#[test]
fn messages_without_bodies_have_none() {
    run(async {
        let server = Server::start(|mut peer| async move {
            while let Some(head) = peer.head().await {
                let answer = match head.split(' ').nth(1).unwrap() {
                    "/204" => "HTTP/1.1 204 No Content\r\n\r\n",
                    "/304" => "HTTP/1.1 304 Not Modified\r\ncontent-length: 77\r\n\r\n",
                    _ => "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n",
                };
                peer.send(answer).await;
            }
        })
        .await;
        let proxy = proxy(&server).await;
        let mut client = Peer::connect(proxy.address).await;
        for (line, length) in
            [("HEAD /", Some("9")), ("GET /204", None), ("GET /304", Some("77")), ("HEAD /x", Some("9"))]
        {
            client.send(&format!("{line} HTTP/1.1\r\nhost: h\r\n\r\n")).await;
            let head = client.head().await.unwrap();
            assert_eq!(field(&head, "content-length"), length, "{line}: {head}");
        }
        assert_eq!(server.connections.get(), 1);
        client.send("HEAD /none HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").await;
        assert!(client.rest().await.ends_with("\r\n\r\n"));
    });
}

#[test]
fn http_10_is_served_only_where_allowed() {
    run(async {
        let server = Server::start(|mut peer| async move {
            peer.head().await;
            peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n").await;
            peer.head().await;
        })
        .await;
        let refusing = proxy(&server).await;
        let mut client = Peer::connect(refusing.address).await;
        client.send("GET / HTTP/1.0\r\nhost: h\r\n\r\n").await;
        assert_eq!(status(&client.rest().await), 426);
        let http1 = Http1Options { accept_http_10: true, ..Http1Options::default() };
        let proxy = proxy_with(HttpManager { http1, ..http_manager() }, server.address).await;
        let mut client = Peer::connect(proxy.address).await;
        client.send("GET / HTTP/1.0\r\nhost: h\r\n\r\n").await;
        let all = client.rest().await;
        assert!(all.starts_with("HTTP/1.0 200 OK\r\n") || all.starts_with("HTTP/1.1 200 OK\r\n"), "{all}");
        assert!(all.ends_with("\r\n\r\nok") && field(&all, "transfer-encoding").is_none(), "{all}");
    });
}

#[test]
fn whoever_waits_for_a_100_gets_one() {
    run(async {
        let server = Server::start(|mut peer| async move {
            while let Some(head) = peer.head().await {
                let asked = field(&head, "expect").is_some();
                if asked {
                    peer.send("HTTP/1.1 100 Continue\r\n\r\n").await;
                }
                while peer.early.len() < 2 {
                    if !peer.fill().await {
                        return;
                    }
                }
                peer.early.drain(..2);
                peer.send(&format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nasked: {asked}\r\n\r\n")).await;
            }
        })
        .await;
        for (passes, asked) in [(false, "false"), (true, "true")] {
            let edge = Edge { proxy_100_continue: passes, ..Edge::default() };
            let proxy = proxy_with(HttpManager { edge, ..http_manager() }, server.address).await;
            let mut client = Peer::connect(proxy.address).await;
            for _ in 0..2 {
                client
                    .send("POST / HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
                    .await;
                assert_eq!(status(&client.head().await.unwrap()), 100);
                client.send("ab").await;
                let head = client.head().await.unwrap();
                assert_eq!((status(&head), field(&head, "asked")), (200, Some(asked)));
            }
        }
    });
}

#[test]
fn answers_of_our_own_keep_the_connection_where_they_can() {
    run(async {
        let direct = Action::Direct(DirectResponse { status: 200, body: b"fixed"[..].into() });
        let proxy = Proxy::start(http(http_manager()), vec![route("/direct", direct)], &[]).await;
        let mut client = Peer::connect(proxy.address).await;
        client.send("GET /direct HTTP/1.1\r\nhost: h\r\n\r\n").await;
        assert_eq!(client.message(5).await.unwrap().1, "fixed");
        client.send("POST /none HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\nabc").await;
        let head = client.head().await.unwrap();
        assert_eq!((status(&head), field(&head, "connection")), (404, None));
        let size = field(&head, "content-length").unwrap().parse().unwrap();
        while client.early.len() < size {
            assert!(client.fill().await);
        }
        client.early.clear();
        client.send("HEAD /none HTTP/1.1\r\nhost: h\r\n\r\n").await;
        assert!(client.head().await.unwrap().starts_with("HTTP/1.1 404 "));
        client.send("POST /none HTTP/1.1\r\nhost: h\r\ncontent-length: 3000\r\n\r\nabc").await;
        let all = client.rest().await;
        assert_eq!((status(&all), field(&all, "connection")), (404, Some("close")));
    });
}
