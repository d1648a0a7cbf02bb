//! Runtime by RTDS: values reach what reads them at once, and nothing in flight notices.

mod support;

use mizzen::model::{Layer, LayerSource, Runtime, RuntimeValue};
use mizzen::xds::state::Variant;
use serde_json::json;
use support::ads::Type;
use support::http1::{Answer, Server, Text, get};
use support::proxy::{Setup, wait_until};
use support::resources::message;
use support::world::{World, cluster, host, http};

fn runtime(values: &serde_json::Value) -> (String, prost_types::Any) {
    type Message = mizzen::proto::envoy::service::runtime::v3::Runtime;
    let message: Message = message(&json!({"name": "far", "layer": values}));
    ("far".to_owned(), support::ads::any(Type::Runtime, &message))
}

async fn start(variant: Variant) -> (World, Server) {
    let server = Server::start(|_, request| match request.path() {
        "/slow" => Answer::ok("late").after(400),
        _ => Answer::ok("soon"),
    })
    .await;
    let mut setup = Setup::new(variant, 1);
    let mut base = Runtime::default();
    base.set("share", RuntimeValue::Number(0.0));
    setup.layers = vec![
        Layer { name: "base".into(), source: LayerSource::Static, values: base },
        Layer { name: "rtds".into(), source: LayerSource::Rtds("far".into()), values: Runtime::default() },
    ];
    let routes = json!([
        {"match": {"prefix": "/", "runtime_fraction": {"default_value": {"numerator": 100}, "runtime_key": "share"}},
            "direct_response": {"status": 418}},
        {"match": {"prefix": "/"}, "route": {"cluster": "a"}}]);
    let fault = json!({"name": "fault", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
        "headers": [{"name": "x-fault", "present_match": true}],
        "abort": {"http_status": 503, "percentage": {"numerator": 100}}}});
    let filters = json!({"http_filters": [fault, support::world::router(&json!({}))]});
    let hosts = [host(server.address)];
    let world = World::with(setup, &http(&routes, &filters), &[cluster("a", &hosts, &json!({}))]).await;
    (world, server)
}

async fn changes(variant: Variant) {
    let (world, _server) = start(variant).await;
    // The static layer has the last word until the resource comes.
    assert_eq!(get(world.port, "/", &[]).await.status(), 200);
    assert_eq!(get(world.port, "/", &["x-fault: 1"]).await.status(), 503);
    let mut slow = Text::connect(world.port).await.unwrap();
    slow.send("GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;

    let values = json!({"share": 100, "fault": {"http": {"abort": {"http_status": 429}}}});
    world.ads.set(Type::Runtime, [runtime(&values)]);
    world.push(&[Type::Runtime]).await;
    wait_until("the pushed values are published", || {
        world.proxy.store.load().runtime.number("share") == Some(100.0)
    })
    .await;
    let status = async |path: &'static str, fields: &'static [&'static str]| {
        get(world.port, path, fields).await.status()
    };
    let began = std::time::Instant::now();
    while status("/", &[]).await != 418 {
        assert!(began.elapsed().as_secs() < 20, "the new share is in use");
    }
    assert_eq!(status("/", &["x-fault: 1"]).await, 429);
    let late = slow.message().await.unwrap();
    assert_eq!((late.status(), late.body.as_str()), (200, "late"), "what was in flight goes on");
    slow.send("GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert_eq!(slow.message().await.unwrap().status(), 418, "on the same connection too");

    // What is no value is refused; what was there stays.
    world.ads.set(Type::Runtime, [runtime(&json!({"share": [1]}))]);
    world.push(&[]).await;
    let nack = world.ads.wait_nack(Type::Runtime).await;
    assert!(nack.contains("Runtime far: layer[\"share\"]"), "{nack}");
    assert_eq!(status("/", &[]).await, 418);

    if variant == Variant::Delta {
        // Taken back: the layer says nothing any more.
        world.ads.remove(Type::Runtime, "far");
        world.push(&[]).await;
        let began = std::time::Instant::now();
        while status("/", &[]).await != 200 {
            assert!(began.elapsed().as_secs() < 20, "the layer below holds again");
        }
    }
}

#[tokio::test]
async fn a_push_changes_shares_without_cutting_anything() {
    changes(Variant::Delta).await;
}

#[tokio::test]
async fn a_push_changes_shares_by_state_of_the_world_too() {
    changes(Variant::Sotw).await;
}

/// Publishes these values and waits until workers go by them, which `seen` tells.
async fn say(world: &World, values: &serde_json::Value, seen: impl AsyncFn() -> bool) {
    world.ads.set(Type::Runtime, [runtime(values)]);
    world.push(&[Type::Runtime]).await;
    let began = std::time::Instant::now();
    while !seen().await {
        assert!(began.elapsed().as_secs() < 20, "{values} has no effect");
    }
}

#[tokio::test]
async fn numbers_of_clusters_routes_and_filters_follow_runtime() {
    let page = "text ".repeat(50);
    let server = Server::start(move |_, request| match request.path() {
        "/broken" => Answer::of(503, &[], ""),
        _ => Answer::of(200, &["content-type: text/plain"], &page),
    })
    .await;
    let other = Server::start(|_, _| Answer::of(201, &[], "")).await;
    let mut setup = Setup::new(Variant::Delta, 1);
    setup.layers = vec![Layer {
        name: "rtds".into(),
        source: LayerSource::Rtds("far".into()),
        values: Runtime::default(),
    }];
    let log = std::env::temp_dir().join(format!("mizzen-runtime-{}.log", std::process::id()));
    let share = |name: &str, weight: u32| json!({"name": name, "weight": weight});
    let routes = json!([
        {"match": {"prefix": "/shares"}, "route": {"weighted_clusters": {"runtime_key_prefix": "shares",
            "clusters": [share("a", 1), share("b", 0)]}}},
        {"match": {"prefix": "/traced"}, "route": {"cluster": "a"},
            "tracing": {"random_sampling": {"numerator": 100}}},
        {"match": {"prefix": "/"}, "route": {"cluster": "a",
            "retry_policy": {"retry_on": "5xx", "num_retries": 1}}}]);
    let types = "type.googleapis.com/envoy.extensions";
    let gzip = json!({"name": "gzip", "typed_config": {
        "@type": format!("{types}.filters.http.compressor.v3.Compressor"),
        "response_direction_config": {"common_config": {
            "enabled": {"default_value": false, "runtime_key": "gzip.on"}}},
        "compressor_library": {"name": "g", "typed_config": {
            "@type": format!("{types}.compression.gzip.compressor.v3.Gzip")}}}});
    let from = json!({"op": "GE", "value": {"default_value": 600, "runtime_key": "log.from"}});
    let more = json!({"http_filters": [gzip, support::world::router(&json!({}))],
        "tracing": {"random_sampling": {"value": 0}},
        "access_log": [{"name": "file", "filter": {"status_code_filter": {"comparison": from}}, "typed_config": {
            "@type": format!("{types}.access_loggers.file.v3.FileAccessLog"), "path": log,
            "log_format": {"text_format_source": {"inline_string": "%RESPONSE_CODE% %REQ(:PATH)%\n"}}}}]});
    let clusters =
        [cluster("a", &[host(server.address)], &json!({})), cluster("b", &[host(other.address)], &json!({}))];
    let world = World::with(setup, &http(&routes, &more), &clusters).await;
    let status = async |path: &'static str| get(world.port, path, &[]).await.status();
    // Whoever could have had it smaller is told what that depends on.
    let coded = async || get(world.port, "/", &[]).await.has("vary");
    let digit = |at: usize| server.seen()[at].header("x-request-id").unwrap().as_bytes()[14];
    let last = || server.seen().len() - 1;

    // What holds while runtime says nothing.
    assert_eq!((status("/shares").await, status("/").await), (200, 200));
    assert!(!coded().await);
    assert_eq!(digit(last()), b'4');
    assert_eq!(status("/traced").await, 200);
    assert_eq!(digit(last()), b'9', "the route has a share of its own");
    assert_eq!(status("/broken").await, 503);
    assert_eq!(server.seen().iter().filter(|request| request.path() == "/broken").count(), 2, "one retry");

    say(&world, &json!({"shares": {"a": 0, "b": 5}}), async || status("/shares").await == 201).await;
    say(&world, &json!({"gzip.on": true}), coded).await;
    let traced = async || {
        status("/traced").await;
        digit(last()) == b'4'
    };
    say(&world, &json!({"tracing": {"global_enabled": 0}}), traced).await;
    let refused = async || status("/").await == 503;
    say(&world, &json!({"upstream.maintenance_mode.a": 100}), refused).await;
    assert_eq!(get(world.port, "/", &[]).await.header("x-envoy-overloaded"), Some("true"));
    assert!(world.number("cluster.a.upstream_rq_maintenance_mode") >= 1);
    let served = async || status("/").await == 200;
    let full = async || status("/").await == 503 && world.number("cluster.a.upstream_rq_active_overflow") > 0;
    say(&world, &json!({"circuit_breakers.a.default.max_requests": 0}), full).await;
    say(&world, &json!({"upstream.use_retry": 0, "log.from": 503}), served).await;
    let before = server.seen().len();
    assert_eq!(status("/broken").await, 503);
    assert_eq!(server.seen().len(), before + 1, "no retry");
    // The line is written when the stream is over, which its client need not wait for.
    let began = std::time::Instant::now();
    let lines = loop {
        world.proxy.flush_logs().await;
        let lines = std::fs::read_to_string(&log).unwrap_or_default();
        if !lines.is_empty() || began.elapsed().as_secs() >= 20 {
            break lines;
        }
    };
    let _ = std::fs::remove_file(&log);
    assert_eq!(lines, "503 /broken\n");
}
