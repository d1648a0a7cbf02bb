//! Bodies, back-pressure, resets, time limits and tries.

use super::*;

#[test]
fn requests_pass_with_bodies_and_trailers() {
    run(async {
        let proxy = Proxy::to(&[server(echo).await]).await;
        let mut client = Client::connect(proxy.address).await;
        let plain = client.get("/a").await;
        assert_eq!((plain.status, plain.body.len(), plain.trailers.is_none()), (200, 0, true));
        assert_eq!(
            (&plain.headers["path"], &plain.headers["to"]),
            (&"/a".parse().unwrap(), &"svc.test".parse().unwrap())
        );
        assert_eq!(plain.headers["server"], "envoy");
        for size in [1, 255, 16_384, 16_385, 300_000, 3_000_000] {
            let body: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
            let got = client.post("/b", &body).await;
            assert!(got.body == body, "{size}");
        }
        let (response, mut sink) = client.send(request("POST", "/c"), false).await;
        sink.send_data(Bytes::from_static(b"x"), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        sink.send_trailers(trailers.clone()).unwrap();
        let got = got(response).await;
        assert_eq!((got.body, got.trailers), (b"x".to_vec(), Some(trailers)));
        let cluster = proxy.local.cluster(ClusterId(0), &proxy.local.view()).unwrap();
        assert_eq!(cluster.stats.upstream_cx_total.get(), 1, "one connection carried all");
        assert_eq!((cluster.stats.upstream_rq_total.get(), cluster.stats.upstream_rq_active.get()), (8, 0));
    });
}

/// Sends until told to stop or nothing more is taken for a while; gives how much was taken.
async fn pour(sink: &mut SendStream<Bytes>, piece: &'static [u8], total: usize) -> usize {
    let mut sent = 0;
    while sent < total {
        sink.reserve_capacity(piece.len());
        while sink.capacity() < piece.len() {
            let waited = tokio::time::timeout(
                Duration::from_millis(300),
                std::future::poll_fn(|cx| sink.poll_capacity(cx)),
            );
            if !matches!(waited.await, Ok(Some(Ok(_)))) {
                return sent;
            }
        }
        sink.send_data(Bytes::from_static(piece), false).unwrap();
        sent += piece.len();
    }
    sent
}

#[test]
fn a_slow_reader_slows_its_server_and_nobody_else() {
    run(async {
        let sent = Rc::new(Cell::new(0));
        let count = sent.clone();
        let upstream = server(move |request, mut respond| {
            let count = count.clone();
            async move {
                if request.uri().path() == "/quick" {
                    return echo(request, respond).await;
                }
                let mut sink = respond.send_response(Response::new(()), false).unwrap();
                count.set(pour(&mut sink, &[7; 8192], 4 << 20).await);
                // Whatever was taken by then, the rest follows once the client reads.
                let rest = (4 << 20) - count.get();
                sink.send_data(Bytes::from(vec![7; rest]), true).unwrap();
            }
        })
        .await;
        let proxy = Proxy::to(&[upstream]).await;
        let mut client = Client::connect(proxy.address).await;
        let (response, _sink) = client.send(request("GET", "/slow"), true).await;
        let (_, mut body) = response.await.unwrap().into_parts();
        sleep(600).await;
        let held = sent.get();
        assert!(held > 0 && held <= 1400 << 10, "{held} bytes were taken from the server");
        for _ in 0..20 {
            assert_eq!(client.post("/quick", &[1; 40_000]).await.body.len(), 40_000);
        }
        let mut got = 0;
        while let Some(part) = body.data().await {
            let part = part.unwrap();
            got += part.len();
            body.flow_control().release_capacity(part.len()).unwrap();
        }
        assert_eq!(got, 4 << 20);
    });
}

#[test]
fn a_slow_server_slows_its_client() {
    run(async {
        let upstream = server(|request: Request<RecvStream>, mut respond: SendResponse<Bytes>| async move {
            let mut body = request.into_body();
            sleep(900).await;
            let mut got = 0;
            while let Some(Ok(part)) = body.data().await {
                let _ = body.flow_control().release_capacity(part.len());
                got += part.len();
            }
            let response = Response::builder().header("got", got).body(()).unwrap();
            respond.send_response(response, true).unwrap();
        })
        .await;
        let proxy = Proxy::to(&[upstream]).await;
        let mut client = Client::connect(proxy.address).await;
        let (response, mut sink) = client.send(request("POST", "/"), false).await;
        let first = pour(&mut sink, &[1; 4096], 8 << 20).await;
        assert!(first <= 1400 << 10, "{first} bytes were taken from the client");
        let rest = pour(&mut sink, &[1; 4096], (2 << 20) - first).await;
        sink.send_data(Bytes::new(), true).unwrap();
        assert_eq!(got(response).await.headers["got"], (first + rest).to_string().as_str());
    });
}

#[test]
fn many_stalled_streams_of_small_messages_disturb_nobody() {
    run(async {
        let upstream = server(|request: Request<RecvStream>, mut respond: SendResponse<Bytes>| async move {
            if request.uri().path() == "/quick" {
                return echo(request, respond).await;
            }
            let mut sink = respond.send_response(Response::new(()), false).unwrap();
            let sent = pour(&mut sink, &[3; 16], 400_000).await;
            sink.send_data(Bytes::from(vec![3; 400_000 - sent]), true).unwrap();
        })
        .await;
        let proxy = Proxy::to(&[upstream]).await;
        let mut client = Client::connect(proxy.address).await;
        let mut stalled = Vec::new();
        for _ in 0..50 {
            let (response, sink) = client.send(request("GET", "/stall"), true).await;
            stalled.push((response.await.unwrap().into_body(), sink));
        }
        sleep(1000).await;
        for _ in 0..20 {
            assert_eq!(client.post("/quick", &[1; 30_000]).await.body.len(), 30_000);
        }
        for (mut body, _sink) in stalled {
            let mut got = 0;
            while let Some(part) = body.data().await {
                let part = part.unwrap();
                got += part.len();
                body.flow_control().release_capacity(part.len()).unwrap();
            }
            assert_eq!(got, 400_000);
        }
        let cluster = proxy.local.cluster(ClusterId(0), &proxy.local.view()).unwrap();
        assert_eq!(cluster.stats.upstream_cx_total.get(), 1);
    });
}

#[test]
fn resets_travel_both_ways() {
    run(async {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let log = seen.clone();
        let upstream = server(move |request: Request<RecvStream>, mut respond: SendResponse<Bytes>| {
            let log = log.clone();
            async move {
                match request.uri().path() {
                    "/wait" => {
                        let reason = std::future::poll_fn(|cx| respond.poll_reset(cx)).await.unwrap();
                        log.borrow_mut().push(reason);
                    }
                    "/begin" => {
                        let mut sink = respond.send_response(Response::new(()), false).unwrap();
                        sink.send_data(Bytes::from_static(b"x"), false).unwrap();
                        let reason = std::future::poll_fn(|cx| sink.poll_reset(cx)).await.unwrap();
                        log.borrow_mut().push(reason);
                    }
                    "/refuse-late" => {
                        let mut sink = respond.send_response(Response::new(()), false).unwrap();
                        sink.send_data(Bytes::from_static(b"x"), false).unwrap();
                        sleep(50).await;
                        sink.send_reset(h2::Reason::REFUSED_STREAM);
                    }
                    "/cancel-late" => {
                        let mut sink = respond.send_response(Response::new(()), false).unwrap();
                        sink.send_data(Bytes::from_static(b"x"), false).unwrap();
                        sleep(50).await;
                        sink.send_reset(h2::Reason::CANCEL);
                    }
                    _ => respond.send_reset(h2::Reason::INTERNAL_ERROR),
                }
            }
        })
        .await;
        let proxy = Proxy::to(&[upstream]).await;
        let mut client = Client::connect(proxy.address).await;
        // The client gives up: before the response, and in the middle of it.
        let (response, mut sink) = client.send(request("GET", "/wait"), true).await;
        sleep(100).await;
        sink.send_reset(h2::Reason::CANCEL);
        drop(response);
        for (method, whole) in [("POST", false), ("GET", true)] {
            let (response, mut sink) = client.send(request(method, "/begin"), whole).await;
            let body = response.await.unwrap().into_body();
            sink.send_reset(h2::Reason::CANCEL);
            drop(body);
        }
        sleep(200).await;
        assert_eq!(*seen.borrow(), [h2::Reason::CANCEL; 3]);
        // The server gives up.
        let got = client.get("/at-once").await;
        assert_eq!((got.status, got.headers["content-type"].to_str().unwrap()), (503, "text/plain"));
        for (path, reason) in
            [("/refuse-late", h2::Reason::INTERNAL_ERROR), ("/cancel-late", h2::Reason::CANCEL)]
        {
            let (response, _sink) = client.send(request("GET", path), true).await;
            let mut body = response.await.unwrap().into_body();
            assert_eq!(body.data().await.unwrap().unwrap(), "x");
            let error = body.data().await.unwrap().unwrap_err();
            assert_eq!(error.reason(), Some(reason), "{path}");
        }
        let cluster = proxy.local.cluster(ClusterId(0), &proxy.local.view()).unwrap();
        assert_eq!((cluster.stats.upstream_rq_active.get(), cluster.stats.upstream_cx_total.get()), (0, 1));
        assert_eq!(proxy.handle().streams(), 0);
    });
}

#[test]
fn an_answer_may_come_before_the_request_has_ended() {
    run(async {
        let upstream = server(|_request, mut respond: SendResponse<Bytes>| async move {
            let response = Response::builder().status(413).body(()).unwrap();
            respond.send_response(response, true).unwrap();
        })
        .await;
        let proxy = Proxy::to(&[upstream]).await;
        let mut client = Client::connect(proxy.address).await;
        let (response, mut sink) = client.send(request("POST", "/"), false).await;
        sink.send_data(Bytes::from_static(b"begin"), false).unwrap();
        assert_eq!(got(response).await.status, 413);
        let reason = std::future::poll_fn(|cx| sink.poll_reset(cx)).await.unwrap();
        assert_eq!(reason, h2::Reason::NO_ERROR);
        assert_eq!(client.get("/").await.status, 413);
    });
}

fn retry(on: RetryOn, retries: u32) -> RetryPolicy {
    RetryPolicy {
        on,
        retries,
        base_interval: Duration::from_millis(5),
        max_interval: Duration::from_millis(10),
        ..RetryPolicy::default()
    }
}

#[test]
fn failed_tries_are_repeated_with_their_body() {
    run(async {
        let tries = Rc::new(Cell::new(0));
        let count = tries.clone();
        let upstream = server(move |request: Request<RecvStream>, mut respond: SendResponse<Bytes>| {
            let count = count.clone();
            async move {
                count.set(count.get() + 1);
                if request.uri().path() == "/large" {
                    let mut body = request.into_body();
                    while let Some(Ok(part)) = body.data().await {
                        let _ = body.flow_control().release_capacity(part.len());
                    }
                    drop(respond.send_response(Response::builder().status(503).body(()).unwrap(), true));
                    return;
                }
                match count.get() % 3 {
                    1 => drop(respond.send_response(Response::builder().status(503).body(()).unwrap(), true)),
                    2 => {
                        let mut body = request.into_body();
                        let _ = body.data().await;
                        respond.send_reset(h2::Reason::INTERNAL_ERROR);
                    }
                    _ => echo(request, respond).await,
                }
            }
        })
        .await;
        let policy = retry(RetryOn { five_xx: true, reset: true, ..RetryOn::default() }, 2);
        let action = RouteAction { retry: Some(policy.into()), ..action("up") };
        let proxy = Proxy::start(
            http(http_manager()),
            vec![route("/", Action::Route(action))],
            &[cluster("up", &[upstream])],
        )
        .await;
        let mut client = Client::connect(proxy.address).await;
        for size in [0, 10, 200_000] {
            let got = client.post("/", &vec![5; size]).await;
            assert_eq!((got.status, got.body.len()), (200, size));
        }
        assert_eq!(tries.get(), 9);
        let before = tries.get();
        // More than can be kept goes once.
        let got = client.post("/large", &vec![5; 2 << 20]).await;
        assert_eq!((got.status, tries.get() - before), (503, 1));
    });
}

#[test]
fn refused_streams_go_elsewhere_without_a_policy() {
    run(async {
        let refusing = server(|_request, mut respond: SendResponse<Bytes>| async move {
            respond.send_reset(h2::Reason::REFUSED_STREAM);
        })
        .await;
        let proxy = Proxy::to(&[refusing, server(echo).await]).await;
        let mut client = Client::connect(proxy.address).await;
        for _ in 0..6 {
            let got = client.post("/", b"once").await;
            assert_eq!((got.status, &got.body[..]), (200, &b"once"[..]));
        }
    });
}

#[test]
fn time_limits_answer_in_the_clients_form() {
    run(async {
        let upstream = server(|request: Request<RecvStream>, mut respond: SendResponse<Bytes>| async move {
            if request.uri().path() == "/begin" {
                let mut sink = respond.send_response(Response::new(()), false).unwrap();
                let _ = sink.send_data(Bytes::from_static(b"x"), false);
                let _ = std::future::poll_fn(|cx| sink.poll_reset(cx)).await;
                return;
            }
            let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
        })
        .await;
        let timed = RouteAction { timeout: Some(Duration::from_millis(150)), ..action("up") };
        let idle = RouteAction { idle_timeout: Some(Duration::from_millis(150)), ..action("up") };
        let routes = vec![route("/idle", Action::Route(idle)), route("/", Action::Route(timed))];
        let proxy = Proxy::start(http(http_manager()), routes, &[cluster("up", &[upstream])]).await;
        let mut client = Client::connect(proxy.address).await;
        assert_eq!(client.get("/").await.status, 504);
        assert_eq!(client.get("/idle").await.status, 408);
        let mut grpc = request("POST", "/svc/Call");
        grpc.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        let (response, _sink) = client.send(grpc, true).await;
        let answer = got(response).await;
        assert_eq!((answer.status, &answer.headers["grpc-status"]), (200, &"14".parse().unwrap()));
        // The limit holds until the response's end, and counts from the request's.
        let (response, mut sink) = client.send(request("POST", "/begin"), false).await;
        let mut body = response.await.unwrap().into_body();
        sleep(300).await;
        assert_eq!(body.data().await.unwrap().unwrap(), "x");
        sink.send_data(Bytes::new(), true).unwrap();
        assert_eq!(body.data().await.unwrap().unwrap_err().reason(), Some(h2::Reason::INTERNAL_ERROR));
    });
}

#[test]
fn local_answers_and_rewrites() {
    run(async {
        let upstream = server(echo).await;
        let direct = DirectResponse { status: 418, body: vec![b'b'; 100_000].into() };
        let redirect = Redirect { status: 301, host: Some("new.test".into()), ..Redirect::default() };
        let rewritten = RouteAction {
            path_rewrite: Some(Box::new(PathRewrite::Prefix("/new/".into()))),
            host_rewrite: Some(Box::new(HostRewrite::Literal("inner.test".into()))),
            ..action("up")
        };
        let mut edited = route("/old/", Action::Route(rewritten));
        edited.response_headers.edits =
            Box::new([HeaderEdit::Set { name: "X-Out".into(), value: "1".into() }]);
        edited.response_headers.remove = Box::new(["to".into()]);
        let routes = vec![
            route("/direct", Action::Direct(direct)),
            route("/redirect", Action::Redirect(Box::new(redirect))),
            edited,
            route("/gone", Action::Route(action("none"))),
            route("/empty", Action::Route(action("empty"))),
        ];
        let clusters = [cluster("up", &[upstream]), cluster("empty", &[])];
        let proxy = Proxy::start(http(http_manager()), routes, &clusters).await;
        let mut client = Client::connect(proxy.address).await;
        let got = client.get("/direct").await;
        assert_eq!((got.status, got.body.len()), (418, 100_000));
        let got = client.get("/redirect?q").await;
        assert_eq!(
            (got.status, got.headers["location"].to_str().unwrap()),
            (301, "http://new.test/redirect?q")
        );
        let got = client.get("/old/x").await;
        assert_eq!(
            (&got.headers["path"], &got.headers["x-out"]),
            (&"/new/x".parse().unwrap(), &"1".parse().unwrap())
        );
        assert!(!got.headers.contains_key("to"));
        assert_eq!(client.get("/nowhere").await.status, 404);
        assert_eq!(client.get("/gone").await.status, 503);
        let got = client.get("/empty").await;
        assert_eq!((got.status, &got.body[..]), (503, &b"no_healthy_upstream"[..]));
    });
}
