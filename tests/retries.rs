//! Retries as configured and as requests from inside ask for them, what hosts and clients are told of them, and
//! limits by priority.

use mizzen::xds::state::Variant;
use serde_json::{Value, json};
use std::time::Duration;
use support::http1::{self, Answer, Message, Server, get};
use support::proxy::{Setup, wait_until};
use support::world::{World, cluster, host, http, http_host, merged, router, to};

mod support;

/// Fails its first requests with this answer, then succeeds.
async fn failing(times: usize, answer: Answer) -> Server {
    Server::start(move |before, _| if before < times { answer.clone() } else { Answer::ok("good") }).await
}

async fn world_of(server: &Server, action: &Value) -> World {
    let routes = json!([to(&merged(json!({"cluster": "c"}), action))]);
    World::start(&http(&routes, &json!({})), &[cluster("c", &[host(server.address)], &json!({}))]).await
}

fn millis(message: &Message, name: &str) -> u64 {
    message.header(name).unwrap_or_else(|| panic!("no {name}: {}", message.head)).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_from_inside_ask_for_retries_and_nobody_hears_of_it() {
    let server = failing(2, Answer::of(503, &[], "")).await;
    let world = world_of(&server, &json!({})).await;
    let asks = [
        "x-envoy-retry-on: 5xx",
        "x-envoy-max-retries: 2",
        "x-envoy-hedge-on-per-try-timeout: true",
        "x-envoy-upstream-rq-timeout-ms: 9000",
        "x-envoy-upstream-rq-per-try-timeout-ms: 4000",
    ];
    let answer = get(world.port, "/", &asks).await;
    assert_eq!((answer.status(), answer.body.as_str()), (200, "good"));
    let seen = server.seen();
    assert_eq!(seen.len(), 3);
    for request in &seen {
        for ask in asks {
            assert!(!request.has(ask.split(':').next().unwrap()), "{}", request.head);
        }
        assert_eq!(millis(request, "x-envoy-expected-rq-timeout-ms"), 4000, "the limit of one try");
        assert_eq!(request.header("x-envoy-internal"), Some("true"));
    }
    assert_eq!(world.number("cluster.c.upstream_rq_retry"), 2);
    assert_eq!(world.number("cluster.c.upstream_rq_retry_success"), 1);
    // Codes and headers that make an answer worth another try.
    for (answer, asks) in [
        (
            Answer::of(418, &[], ""),
            ["x-envoy-retry-on: retriable-status-codes", "x-envoy-retriable-status-codes: 418"],
        ),
        (
            Answer::of(200, &["again: 1"], ""),
            ["x-envoy-retry-on: retriable-headers", "x-envoy-retriable-header-names: Again"],
        ),
        (
            Answer::of(200, &["grpc-status: 14"], ""),
            ["x-envoy-retry-grpc-on: unavailable", "x-envoy-max-retries: 1"],
        ),
    ] {
        let server = failing(1, answer).await;
        let world = world_of(&server, &json!({})).await;
        assert_eq!(get(world.port, "/", &asks).await.body, "good", "{asks:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_from_outside_ask_for_nothing() {
    let server = failing(2, Answer::of(503, &[], "")).await;
    let routes = json!([to(&json!({"cluster": "c"}))]);
    let outside = json!({"internal_address_config": {"cidr_ranges": []},
        "route_config": {"name": "r", "internal_only_headers": ["x-secret"],
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]}});
    let clusters = [cluster("c", &[host(server.address)], &json!({}))];
    let world = World::start(&http(&routes, &outside), &clusters).await;
    let asks = ["x-envoy-retry-on: 5xx", "x-envoy-upstream-rq-timeout-ms: 1", "x-secret: yes", "x-open: yes"];
    assert_eq!(get(world.port, "/", &asks).await.status(), 503);
    let request = server.only();
    assert!(!request.has("x-envoy-retry-on") && !request.has("x-secret") && request.has("x-open"));
    assert_eq!(millis(&request, "x-envoy-expected-rq-timeout-ms"), 15_000, "the route's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_are_told_of_tries_and_times_unless_that_is_suppressed() {
    let policy = json!({"cluster": "c", "timeout": "10s", "prefix_rewrite": "/new/",
        "retry_policy": {"retry_on": "5xx", "num_retries": 3}});
    let vhost = json!({"routes": [to(&policy)],
        "include_request_attempt_count": true, "include_attempt_count_in_response": true});
    for suppressed in [false, true] {
        let server = failing(2, Answer::of(503, &[], "")).await;
        let more = json!({"http_filters": [router(&json!({"suppress_envoy_headers": suppressed}))]});
        let clusters = [cluster("c", &[host(server.address)], &json!({}))];
        let world = World::start(&http_host(&vhost, &more), &clusters).await;
        let answer = get(world.port, "/old", &[]).await;
        assert_eq!(answer.header("x-envoy-attempt-count"), Some("3"), "told in any case");
        assert_eq!(answer.has("x-envoy-upstream-service-time"), !suppressed);
        for (number, request) in (1..).zip(server.seen()) {
            assert_eq!(millis(&request, "x-envoy-attempt-count"), number);
            assert_eq!(request.header("x-envoy-original-path"), (!suppressed).then_some("/old"));
            match suppressed {
                true => assert!(!request.has("x-envoy-expected-rq-timeout-ms")),
                false => assert!((1..=10_000).contains(&millis(&request, "x-envoy-expected-rq-timeout-ms"))),
            }
        }
    }
    // An answer of our own tells the tries too.
    let clusters = [cluster("c", &[], &json!({}))];
    let world = World::start(&http_host(&vhost, &json!({})), &clusters).await;
    let answer = get(world.port, "/old", &[]).await;
    assert_eq!((answer.status(), answer.header("x-envoy-attempt-count")), (503, Some("1")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_is_refused_where_that_is_asked() {
    let server = Server::named("s").await;
    let strict = router(
        &json!({"strict_check_headers": ["X-Envoy-Max-Retries"], "respect_expected_rq_timeout": true}),
    );
    let routes = json!([to(&json!({"cluster": "c"}))]);
    let filter = http(&routes, &json!({"http_filters": [strict]}));
    let world = World::start(&filter, &[cluster("c", &[host(server.address)], &json!({}))]).await;
    assert_eq!(get(world.port, "/", &["x-envoy-max-retries: many"]).await.status(), 400);
    assert_eq!(get(world.port, "/", &["x-envoy-expected-rq-timeout-ms: 777"]).await.status(), 200);
    assert_eq!(millis(&server.only(), "x-envoy-expected-rq-timeout-ms"), 777);
    assert_eq!(world.number("http.http.failure.invalid_envoy_header"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_tries_end_and_the_next_may_answer() {
    let server =
        Server::start(
            |before, _| {
                if before == 0 { Answer::ok("late").after(20_000) } else { Answer::ok("good") }
            },
        )
        .await;
    for (limit, counter) in [
        ("per_try_timeout", "upstream_rq_per_try_timeout"),
        ("per_try_idle_timeout", "upstream_rq_per_try_idle_timeout"),
    ] {
        let silent =
            Server::start(
                |before, _| {
                    if before == 0 { Answer::ok("late").after(20_000) } else { Answer::ok("good") }
                },
            )
            .await;
        let policy = json!({"retry_policy": {"retry_on": "5xx", limit: "1.5s"}, "timeout": "15s"});
        let world = world_of(&silent, &policy).await;
        assert_eq!(get(world.port, "/", &[]).await.body, "good", "{limit}");
        assert_eq!(world.number(&format!("cluster.c.{counter}")), 1);
    }
    // Without another try it is a timeout.
    let world = world_of(
        &server,
        &json!({"retry_policy": {"retry_on": "reset-before-request",
        "per_try_idle_timeout": "0.5s"}}),
    )
    .await;
    assert_eq!(get(world.port, "/", &[]).await.status(), 504);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_says_when_to_come_again() {
    let server = failing(1, Answer::of(503, &["retry-after: 1"], "")).await;
    let policy = json!({"retry_policy": {"retry_on": "5xx", "num_retries": 1,
        "rate_limited_retry_back_off": {"reset_headers": [{"name": "Retry-After", "format": "SECONDS"}]}}});
    let world = world_of(&server, &policy).await;
    let begin = std::time::Instant::now();
    assert_eq!(get(world.port, "/", &[]).await.body, "good");
    assert!(begin.elapsed() >= Duration::from_secs(1), "not sooner than asked");
    assert_eq!(world.number("cluster.c.upstream_rq_retry_backoff_ratelimited"), 1);
    assert_eq!(world.number("cluster.c.upstream_rq_retry_backoff_exponential"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_too_large_to_keep_are_sent_once() {
    let server = failing(1, Answer::of(503, &[], "")).await;
    let route = merged(
        to(&json!({"cluster": "c", "retry_policy": {"retry_on": "5xx"}})),
        &json!({"request_body_buffer_limit": 4096}),
    );
    let clusters = [cluster("c", &[host(server.address)], &json!({}))];
    let world = World::start(&http(&json!([route]), &json!({})), &clusters).await;
    let post = |size: usize| {
        format!("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: {size}\r\n\r\n{}", "x".repeat(size))
    };
    assert_eq!(http1::ask(world.port, &post(100_000)).await.status(), 503);
    assert_eq!(world.number("cluster.c.retry_or_shadow_abandoned"), 1);
    let server = failing(1, Answer::of(503, &[], "")).await;
    let world = world_of(&server, &json!({"retry_policy": {"retry_on": "5xx"}})).await;
    assert_eq!(http1::ask(world.port, &post(100_000)).await.body, "good");
    assert_eq!(server.seen()[1].body.len(), 100_000, "sent again whole");
    assert_eq!(world.number("cluster.c.retry_or_shadow_abandoned"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_says_its_own_limit() {
    let server = Server::start(|_, _| Answer::ok("late").after(20_000)).await;
    let call = ["content-type: application/grpc", "grpc-timeout: 200m"];
    let ends = |action: Value, told: Option<&'static str>| {
        let server = server.clone();
        async move {
            let before = server.seen().len();
            let world = world_of(&server, &action).await;
            let answer = get(world.port, "/", &call).await;
            assert!(answer.status() == 200 && answer.has("grpc-status"), "{}", answer.head);
            assert_eq!(server.seen()[before].header("grpc-timeout"), told);
        }
    };
    // Without a cap, as Istio sends it; with one; and the newer form, where it bounds the stream.
    ends(json!({"timeout": "0s", "max_grpc_timeout": "0s"}), Some("200m")).await;
    ends(json!({"timeout": "0s", "max_grpc_timeout": "0.1s"}), Some("100m")).await;
    ends(json!({"timeout": "0s", "max_stream_duration": {"grpc_timeout_header_max": "0s"}}), Some("200m"))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn urgent_requests_have_limits_of_their_own() {
    let server = Server::start(|_, request| {
        if request.path() == "/slow" { Answer::ok("slow").after(4_000) } else { Answer::ok("fast") }
    })
    .await;
    let limits = json!({"circuit_breakers": {"thresholds": [
        {"priority": "DEFAULT", "max_requests": 1, "track_remaining": true},
        {"priority": "HIGH", "max_requests": 1}]}});
    let high = json!({"match": {"prefix": "/", "headers": [{"name": "urgent", "present_match": true}]},
        "route": {"cluster": "c", "priority": "HIGH"}});
    let routes = json!([high, to(&json!({"cluster": "c"}))]);
    let clusters = [cluster("c", &[host(server.address)], &limits)];
    let world = World::with(Setup::new(Variant::Delta, 2), &http(&routes, &json!({})), &clusters).await;
    let port = world.port;
    let slow = tokio::spawn(async move { get(port, "/slow", &[]).await });
    wait_until("the slow one", || !server.seen().is_empty()).await;
    let refused = get(port, "/", &[]).await;
    assert_eq!((refused.status(), refused.header("x-envoy-overloaded")), (503, Some("true")));
    let urgent = get(port, "/", &["urgent: yes"]).await;
    assert_eq!((urgent.status(), urgent.has("x-envoy-overloaded")), (200, false));
    let active = |count: i64| world.number("cluster.c.upstream_rq_active") == count;
    wait_until("its place", || active(1)).await;
    let busy = tokio::spawn(async move { get(port, "/slow", &["urgent: yes"]).await });
    wait_until("the urgent one", || server.seen().len() == 3).await;
    assert_eq!(get(port, "/", &["urgent: yes"]).await.status(), 503);
    assert_eq!(slow.await.unwrap().body, "slow");
    assert_eq!(busy.await.unwrap().body, "slow");
    wait_until("all places", || active(0)).await;
    assert_eq!(get(port, "/", &[]).await.status(), 200, "the place is free again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_bounds_retries_whatever_the_limit() {
    let server = Server::start(|_, _| Answer::of(503, &[], "")).await;
    let budget = json!({"circuit_breakers": {"thresholds": [{"max_retries": 100,
        "retry_budget": {"budget_percent": {"value": 0.0}, "min_retry_concurrency": 0}}]}});
    let routes = json!([to(&json!({"cluster": "c", "retry_policy": {"retry_on": "5xx", "num_retries": 5}}))]);
    let clusters = [cluster("c", &[host(server.address)], &budget)];
    let world = World::start(&http(&routes, &json!({})), &clusters).await;
    assert_eq!(get(world.port, "/", &[]).await.status(), 503);
    assert_eq!(server.seen().len(), 1);
    assert_eq!(world.number("cluster.c.upstream_rq_retry_overflow"), 1);
}
