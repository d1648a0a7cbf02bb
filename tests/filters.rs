//! HTTP filters in their configured order, on real sockets: what requests and responses become on their way.

use serde_json::{Value, json};
use std::time::{Duration, Instant};
use support::http1::{Answer, Server, ask, get};
use support::world::{World, cluster, host, http, http_host, merged, router, to};

mod support;

const HTTP: &str = "type.googleapis.com/envoy.extensions.filters.http";

/// A filter of the chain by its package and message.
fn filter(name: &str, kind: &str, config: &Value) -> Value {
    json!({"name": name, "typed_config": typed(kind, config)})
}

fn typed(kind: &str, config: &Value) -> Value {
    merged(json!({"@type": format!("{HTTP}.{kind}")}), config)
}

/// The chain of these filters and the router.
fn chain(filters: &[Value]) -> Value {
    let mut all = filters.to_vec();
    all.push(router(&json!({})));
    json!({"http_filters": all})
}

/// A route for a path, with filter configuration.
fn route(path: &str, filters: &Value) -> Value {
    json!({"match": {"path": path}, "route": {"cluster": "c"}, "typed_per_filter_config": filters})
}

async fn world(server: &Server, routes: &Value, filters: &[Value]) -> World {
    let clusters = [cluster("c", &[host(server.address)], &json!({}))];
    World::start(&http(routes, &chain(filters)), &clusters).await
}

fn everything() -> Value {
    json!([to(&json!({"cluster": "c"}))])
}

fn percent(number: u32) -> Value {
    json!({"numerator": number, "denominator": "HUNDRED"})
}

fn always() -> Value {
    json!({"default_value": percent(100)})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_delay_and_abort_by_configuration_and_by_header() {
    let server = Server::named("up").await;
    let abort = |status: u16| {
        json!({"fault": typed("fault.v3.HTTPFault",
        &json!({"abort": {"http_status": status, "percentage": percent(100)}}))})
    };
    let delay = json!({"fault": typed("fault.v3.HTTPFault",
        &json!({"delay": {"fixed_delay": "0.2s", "percentage": percent(100)}}))});
    let never = json!({"fault": typed("fault.v3.HTTPFault",
        &json!({"abort": {"http_status": 500, "percentage": percent(0)}}))});
    let header = json!({"fault": typed("fault.v3.HTTPFault",
        &json!({"abort": {"header_abort": {}, "percentage": percent(100)}}))});
    let grpc = json!({"fault": typed("fault.v3.HTTPFault",
        &json!({"abort": {"grpc_status": 8, "percentage": percent(100)}}))});
    let routes = json!([
        route("/abort", &abort(418)),
        route("/delay", &delay),
        route("/never", &never),
        route("/header", &header),
        route("/grpc", &grpc),
        to(&json!({"cluster": "c"})),
    ]);
    let world = world(&server, &routes, &[filter("fault", "fault.v3.HTTPFault", &json!({}))]).await;
    let aborted = get(world.port, "/abort", &[]).await;
    assert_eq!((aborted.status(), aborted.body.as_str()), (418, "fault filter abort"));
    let begin = Instant::now();
    assert_eq!(get(world.port, "/delay", &[]).await.body, "up");
    assert!(begin.elapsed() >= Duration::from_millis(190), "not delayed");
    assert_eq!(get(world.port, "/never", &[]).await.body, "up");
    assert_eq!(get(world.port, "/other", &[]).await.body, "up");
    assert_eq!(get(world.port, "/header", &[]).await.status(), 200);
    assert_eq!(get(world.port, "/header", &["x-envoy-fault-abort-request: 599"]).await.status(), 599);
    let told = ["x-envoy-fault-abort-request: 599", "x-envoy-fault-abort-request-percentage: 0"];
    assert_eq!(get(world.port, "/header", &told).await.status(), 200);
    let failed = get(world.port, "/grpc", &["content-type: application/grpc"]).await;
    assert_eq!((failed.status(), failed.header("grpc-status")), (200, Some("8")));
    assert_eq!(world.number("http.http.fault.aborts_injected"), 3);
    assert_eq!(world.number("http.http.fault.delays_injected"), 1);
    assert_eq!(world.number("http.http.fault.active_faults"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_have_a_limit_and_slow_responses_down() {
    let body = "x".repeat(2048);
    let server = Server::start(move |_, _| Answer::ok(&body)).await;
    let slow = json!({"fault": typed("fault.v3.HTTPFault",
        &json!({"response_rate_limit": {"fixed_limit": {"limit_kbps": 8}, "percentage": percent(100)}}))});
    let limited = json!({"fault": typed("fault.v3.HTTPFault",
        &json!({"max_active_faults": 0, "abort": {"http_status": 500, "percentage": percent(100)}}))});
    let routes = json!([route("/slow", &slow), route("/limited", &limited)]);
    let world = world(&server, &routes, &[filter("fault", "fault.v3.HTTPFault", &json!({}))]).await;
    let begin = Instant::now();
    assert_eq!(get(world.port, "/slow", &[]).await.body.len(), 2048);
    assert!(begin.elapsed() >= Duration::from_millis(150), "2 KiB at 8 KiB/s came at once");
    assert_eq!(get(world.port, "/limited", &[]).await.status(), 200);
    assert_eq!(world.number("http.http.fault.faults_overflow"), 1);
    assert_eq!(world.number("http.http.fault.response_rl_injected"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn preflights_are_answered_and_origins_told() {
    let server = Server::named("up").await;
    let policy = json!({"cors": typed("cors.v3.CorsPolicy", &json!({
        "allow_origin_string_match": [{"suffix": ".good.test"}], "allow_methods": "GET,PUT",
        "allow_headers": "x-a", "expose_headers": "x-b", "max_age": "60", "allow_credentials": true,
        "forward_not_matching_preflights": false}))});
    let world =
        world(&server, &json!([route("/p", &policy)]), &[filter("cors", "cors.v3.Cors", &json!({}))]).await;
    let preflight = |origin: &str| {
        let request = format!(
            "OPTIONS /p HTTP/1.1\r\nhost: h\r\norigin: {origin}\r\naccess-control-request-method: PUT\r\n\r\n"
        );
        let port = world.port;
        async move { ask(port, &request).await }
    };
    let answer = preflight("https://a.good.test").await;
    let seen = |name: &str| answer.header(name).unwrap_or_default().to_owned();
    assert_eq!((answer.status(), server.seen().len()), (200, 0), "answered here");
    assert_eq!(seen("access-control-allow-origin"), "https://a.good.test");
    assert_eq!(seen("access-control-allow-methods"), "GET,PUT");
    assert_eq!(seen("access-control-allow-headers"), "x-a");
    assert_eq!(
        (seen("access-control-max-age"), seen("access-control-allow-credentials")),
        ("60".into(), "true".into())
    );
    let bad = preflight("https://bad.test").await;
    assert_eq!((bad.status(), bad.has("access-control-allow-origin"), server.seen().len()), (200, false, 0));
    let plain = get(world.port, "/p", &["origin: https://a.good.test"]).await;
    assert_eq!(plain.header("access-control-allow-origin"), Some("https://a.good.test"));
    assert_eq!(plain.header("access-control-expose-headers"), Some("x-b"));
    let other = get(world.port, "/p", &["origin: https://bad.test"]).await;
    assert_eq!((other.body.as_str(), other.has("access-control-allow-origin")), ("up", false));
    assert_eq!(
        (world.number("http.http.cors.origin_valid"), world.number("http.http.cors.origin_invalid")),
        (2, 2)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_and_queries_are_mutated_in_order_and_by_level() {
    let server =
        Server::start(|_, _| Answer::of(200, &["x-up: 1", "x-secret-a: 1", "x-secret-b: 2"], "")).await;
    let append = |key: &str, value: &str, action: &str| json!({"append": {"header": {"key": key, "value": value}, "append_action": action}});
    let own = json!({"mutations": {
        "request_mutations": [{"remove": "x-gone"}, append("x-path", "%REQ(:path)%", "OVERWRITE_IF_EXISTS_OR_ADD"),
            append("x-last", "chain", "OVERWRITE_IF_EXISTS_OR_ADD")],
        "query_parameter_mutations": [{"append": {"record": {"key": "q", "value": "2"}, "action": "OVERWRITE_IF_EXISTS"}}],
        "response_mutations": [{"remove_on_match": {"key_matcher": {"prefix": "x-secret"}}},
            append("x-asked", "%REQ(x-who)%", "ADD_IF_ABSENT")]}});
    let at = |value: &str| {
        let mutations = json!({"mutations": {"request_mutations": [append("x-last", value, "OVERWRITE_IF_EXISTS_OR_ADD")]}});
        json!({"m": typed("header_mutation.v3.HeaderMutationPerRoute", &mutations)})
    };
    let virtual_host = json!({"routes": [route("/a", &at("route"))], "typed_per_filter_config": at("host")});
    let clusters = [cluster("c", &[host(server.address)], &json!({}))];
    for (most_specific, last) in [(false, "host"), (true, "route")] {
        let config = merged(own.clone(), &json!({"most_specific_header_mutations_wins": most_specific}));
        let filters = chain(&[filter("m", "header_mutation.v3.HeaderMutation", &config)]);
        let world = World::start(&http_host(&virtual_host, &filters), &clusters).await;
        let answer = get(world.port, "/a?q=1&r=3", &["x-gone: 1", "x-who: me"]).await;
        assert_eq!((answer.header("x-asked"), answer.header("x-up")), (Some("me"), Some("1")));
        assert!(!answer.has("x-secret-a") && !answer.has("x-secret-b"), "{}", answer.head);
        let seen = server.seen().pop().unwrap();
        assert_eq!((seen.has("x-gone"), seen.header("x-path")), (false, Some("/a?q=1&r=3")));
        assert_eq!((seen.header("x-last"), seen.path()), (Some(last), "/a?q=2&r=3"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_buffered_up_to_their_limit() {
    let server = Server::named("up").await;
    let off = json!({"buffer": typed("buffer.v3.BufferPerRoute", &json!({"disabled": true}))});
    let routes = json!([route("/off", &off), to(&json!({"cluster": "c"}))]);
    let world =
        world(&server, &routes, &[filter("buffer", "buffer.v3.Buffer", &json!({"max_request_bytes": 10}))])
            .await;
    let chunked = |path: &str, body: &str| {
        let head = format!("POST {path} HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n");
        let request = format!("{head}{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        let port = world.port;
        async move { ask(port, &request).await.status() }
    };
    assert_eq!(chunked("/", "0123456789").await, 200);
    let seen = server.only();
    assert_eq!((seen.header("content-length"), seen.body.as_str()), (Some("10"), "0123456789"));
    assert_eq!(chunked("/", "0123456789a").await, 413);
    assert_eq!(server.seen().len(), 1, "the upstream saw a request that was too long");
    assert_eq!(chunked("/off", "0123456789a").await, 200);
    assert!(!server.seen()[1].has("content-length"));
}

fn limit(config: &Value) -> Value {
    let base = json!({"stat_prefix": "limit", "filter_enabled": always(), "filter_enforced": always(),
        "token_bucket": {"max_tokens": 2, "tokens_per_fill": 1, "fill_interval": "3600s"}});
    merged(base, config)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rate_limits_hold_over_all_workers_and_survive_other_pushes() {
    let server = Server::named("up").await;
    let config = limit(&json!({"enable_x_ratelimit_headers": "DRAFT_VERSION_03", "status": {"code": 503},
        "response_headers_to_add": [{"header": {"key": "x-limited", "value": "%REQ(:path)%"}}]}));
    let filters = [filter("limit", "local_ratelimit.v3.LocalRateLimit", &config)];
    let listener = http(&everything(), &chain(&filters));
    let clusters = [cluster("c", &[host(server.address)], &json!({}))];
    let setup = support::proxy::Setup::new(mizzen::xds::state::Variant::Delta, 2);
    let world = World::with(setup, &listener, &clusters).await;
    let first = get(world.port, "/", &[]).await;
    assert_eq!((first.status(), first.header("x-ratelimit-limit")), (200, Some("2")));
    assert_eq!(first.header("x-ratelimit-remaining"), Some("1"));
    assert_eq!(get(world.port, "/", &[]).await.status(), 200);
    // Another filter of the same chain changes; the bucket stays what it was.
    let more = [filters[0].clone(), filter("cors", "cors.v3.Cors", &json!({}))];
    world.ads.set_listeners(vec![support::resources::listener(
        "l",
        world.port,
        &http(&everything(), &chain(&more)),
    )]);
    world.ads.push().await;
    world.ads.wait_ack(support::ads::Type::Listener).await;
    for _ in 0..6 {
        let refused = get(world.port, "/p", &[]).await;
        assert_eq!((refused.status(), refused.body.as_str()), (503, "local_rate_limited"));
        assert_eq!(refused.header("x-limited"), Some("/p"));
    }
    let number = |name: &str| world.number(&format!("limit.http_local_rate_limit.{name}"));
    assert_eq!((number("enabled"), number("ok"), number("rate_limited"), number("enforced")), (8, 2, 6, 6));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rate_limits_sort_requests_by_their_routes_rules() {
    let server = Server::named("up").await;
    let bucket = |max: u32| json!({"max_tokens": max, "fill_interval": "3600s"});
    let config = limit(&json!({"token_bucket": bucket(100), "descriptors": [
        {"entries": [{"key": "user", "value": "a"}], "token_bucket": bucket(1)},
        {"entries": [{"key": "user", "value": "b"}, {"key": "generic_key", "value": "g"}], "token_bucket": bucket(2)}]}));
    let user = json!({"request_headers": {"header_name": "x-user", "descriptor_key": "user"}});
    let generic = json!({"generic_key": {"descriptor_value": "g"}});
    let limits = json!([{"actions": [user]}, {"actions": [user, generic]}]);
    let routes = json!([to(&json!({"cluster": "c", "rate_limits": limits}))]);
    let world =
        world(&server, &routes, &[filter("limit", "local_ratelimit.v3.LocalRateLimit", &config)]).await;
    let mut answers = Vec::new();
    for user in ["a", "a", "b", "b", "b", "c", "c"] {
        answers.push(get(world.port, "/", &[&format!("x-user: {user}")]).await.status());
    }
    assert_eq!(answers, [200, 429, 200, 200, 429, 200, 200]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rate_limits_are_off_where_nothing_enables_them_and_can_only_count() {
    let server = Server::named("up").await;
    let bucket = json!({"max_tokens": 1, "fill_interval": "3600s"});
    let silent = json!({"stat_prefix": "silent", "token_bucket": bucket});
    let counting = json!({"stat_prefix": "count", "token_bucket": bucket, "filter_enabled": always(),
        "request_headers_to_add_when_not_enforced": [{"header": {"key": "x-over", "value": "yes"}}]});
    let kind = "local_ratelimit.v3.LocalRateLimit";
    let world =
        world(&server, &everything(), &[filter("a", kind, &silent), filter("b", kind, &counting)]).await;
    for _ in 0..3 {
        assert_eq!(get(world.port, "/", &[]).await.status(), 200);
    }
    let over: Vec<bool> = server.seen().iter().map(|seen| seen.has("x-over")).collect();
    assert_eq!(over, [false, true, true]);
    assert_eq!(world.number("silent.http_local_rate_limit.enabled"), 0);
    assert_eq!(world.number("count.http_local_rate_limit.rate_limited"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_checks_are_answered_here_or_passed_and_remembered() {
    let server = Server::start(|before, _| Answer::of(if before == 0 { 204 } else { 500 }, &[], "")).await;
    let on = |path: &str| json!([{"name": ":path", "string_match": {"exact": path}}]);
    let filters = [
        filter(
            "own",
            "health_check.v3.HealthCheck",
            &json!({"pass_through_mode": false, "headers": on("/own")}),
        ),
        filter(
            "full",
            "health_check.v3.HealthCheck",
            &json!({"pass_through_mode": false, "headers": on("/full"),
            "cluster_min_healthy_percentages": {"c": {"value": 50}}}),
        ),
        filter(
            "none",
            "health_check.v3.HealthCheck",
            &json!({"pass_through_mode": false, "headers": on("/none"),
            "cluster_min_healthy_percentages": {"nobody": {"value": 50}}}),
        ),
        filter(
            "cached",
            "health_check.v3.HealthCheck",
            &json!({"pass_through_mode": true, "cache_time": "600s", "headers": on("/cached")}),
        ),
    ];
    let world = world(&server, &everything(), &filters).await;
    for (path, status) in [("/own", 200), ("/full", 200), ("/none", 503)] {
        assert_eq!(get(world.port, path, &[]).await.status(), status, "{path}");
    }
    assert!(server.seen().is_empty());
    assert_eq!(get(world.port, "/cached", &[]).await.status(), 204);
    assert_eq!(get(world.port, "/cached", &[]).await.status(), 204);
    assert_eq!(server.seen().len(), 1, "the second check was answered from memory");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_of_headers_decides_what_policies_admit() {
    let server = Server::named("up").await;
    let to_metadata = json!({"request_rules": [
        {"header": "x-role", "on_header_present": {"metadata_namespace": "m", "key": "role"},
            "on_header_missing": {"metadata_namespace": "m", "key": "role", "value": "nobody"}, "remove": true},
        {"cookie": "level", "on_header_present": {"metadata_namespace": "m", "key": "level", "type": "NUMBER"}}]});
    let set = json!({"metadata": [{"metadata_namespace": "s", "value": {"list": ["x", "y"]}}]});
    let metadata = |namespace: &str, key: &str, value: &Value| json!({"metadata": {"filter": namespace, "path": [{"key": key}], "value": value}});
    let admin = metadata("m", "role", &json!({"string_match": {"exact": "admin"}}));
    let high = metadata("m", "level", &json!({"double_match": {"range": {"start": 3, "end": 9}}}));
    let listed = metadata("s", "list", &json!({"list_match": {"one_of": {"string_match": {"exact": "y"}}}}));
    let rules = json!({"rules": {"action": "ALLOW", "policies": {"p": {"permissions": [listed],
        "principals": [{"or_ids": {"ids": [admin, high]}}]}}}});
    let filters = [
        filter("h", "header_to_metadata.v3.Config", &to_metadata),
        filter("s", "set_metadata.v3.Config", &set),
        filter("r", "rbac.v3.RBAC", &rules),
    ];
    let routes = json!([merged(
        to(&json!({"cluster": "c"})),
        &json!({"request_headers_to_add":
        [{"header": {"key": "x-known", "value": "%DYNAMIC_METADATA(m:role)%"}}]})
    )]);
    let world = world(&server, &routes, &filters).await;
    assert_eq!(get(world.port, "/", &["x-role: admin"]).await.status(), 200);
    let seen = server.only();
    assert_eq!((seen.has("x-role"), seen.header("x-known")), (false, Some("admin")));
    assert_eq!(get(world.port, "/", &["x-role: guest"]).await.status(), 403);
    assert_eq!(get(world.port, "/", &["cookie: level=4"]).await.status(), 200);
    assert_eq!(get(world.port, "/", &["cookie: level=9"]).await.status(), 403);
    assert_eq!(get(world.port, "/", &[]).await.status(), 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_are_disabled_and_enabled_by_routes() {
    let server = Server::named("up").await;
    let wrap = |config: &Value| json!({"m": merged(json!({"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig"}), config)});
    let set =
        json!({"mutations": {"request_mutations": [{"append": {"header": {"key": "x-m", "value": "1"}}}]}});
    for (disabled, want) in [(false, [true, false, true]), (true, [false, false, true])] {
        let mut one = filter("m", "header_mutation.v3.HeaderMutation", &set);
        one["disabled"] = disabled.into();
        let routes = json!([
            route("/off", &wrap(&json!({"disabled": true}))),
            route(
                "/on",
                &wrap(&json!({"config": typed("header_mutation.v3.HeaderMutationPerRoute", &json!({}))}))
            ),
            to(&json!({"cluster": "c"})),
        ]);
        let before = server.seen().len();
        let world = world(&server, &routes, &[one]).await;
        for path in ["/", "/off", "/on"] {
            assert_eq!(get(world.port, path, &[]).await.status(), 200);
        }
        let seen: Vec<bool> = server.seen()[before..].iter().map(|seen| seen.has("x-m")).collect();
        assert_eq!(seen, want, "disabled: {disabled}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_of_filters_pass_the_response_filters_too() {
    let server = Server::named("up").await;
    let deny = json!({"rules": {"action": "DENY", "policies": {"p q": {"permissions": [{"any": true}],
        "principals": [{"header": {"name": "x-bad", "present_match": true}}]}}}});
    let mark = json!({"mutations": {"response_mutations": [{"append": {"header": {"key": "x-mark", "value": "1"}}}]}});
    let filters =
        [filter("m", "header_mutation.v3.HeaderMutation", &mark), filter("r", "rbac.v3.RBAC", &deny)];
    let world = world(&server, &everything(), &filters).await;
    let denied = get(world.port, "/", &["x-bad: 1"]).await;
    assert_eq!((denied.status(), denied.body.as_str()), (403, "RBAC: access denied"));
    assert_eq!(denied.header("x-mark"), Some("1"));
    let grpc = get(world.port, "/", &["x-bad: 1", "content-type: application/grpc"]).await;
    assert_eq!(
        (grpc.header("grpc-status"), grpc.header("grpc-message")),
        (Some("7"), Some("RBAC: access denied"))
    );
    assert_eq!(get(world.port, "/", &[]).await.header("x-mark"), Some("1"));
    assert_eq!((world.number("http.http.rbac.denied"), world.number("http.http.rbac.allowed")), (2, 1));
}
