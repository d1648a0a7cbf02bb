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
