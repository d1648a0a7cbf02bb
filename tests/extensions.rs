//! Filters that come by a resource of their own (ECDS): listeners wait for them, follow them, and refuse what is
//! no good.

use mizzen::proto::envoy::config::core::v3::TypedExtensionConfig;
use mizzen::xds::state::Variant;
use serde_json::{Value, json};
use support::ads::{Type, any};
use support::http1::{Server, Text, get};
use support::proxy::{Setup, free_port, wait_listening, wait_until};
use support::resources::{message, tcp_filter};
use support::traffic::tcp_server;
use support::world::{World, cluster, host, http, merged, router, to};

mod support;

const HTTP: &str = "type.googleapis.com/envoy.extensions.filters.http";
const MUTATION: &str = "header_mutation.v3.HeaderMutation";

/// A filter that says `value` in responses.
fn says(value: &str) -> Value {
    json!({"@type": format!("{HTTP}.{MUTATION}"), "mutations": {"response_mutations":
        [{"append": {"header": {"key": "x-said", "value": value},
            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}}]}})
}

fn discovered(name: &str, types: &[&str], more: &Value) -> Value {
    let types: Vec<String> = types.iter().map(|kind| format!("{HTTP}.{kind}")).collect();
    let base = json!({"config_source": {"ads": {}}, "type_urls": types});
    json!({"name": name, "config_discovery": merged(base, more)})
}

fn listener(port: u16, filter: &Value) -> mizzen::proto::envoy::config::listener::v3::Listener {
    let filters = json!({"http_filters": [filter, router(&json!({}))]});
    support::resources::listener("l", port, &http(&json!([to(&json!({"cluster": "app"}))]), &filters))
}

fn give(world: &World, name: &str, config: &Value) {
    let extension: TypedExtensionConfig = message(&json!({"name": name, "typed_config": config}));
    world.ads.upsert(Type::Extension, name, any(Type::Extension, &extension));
    world.ads.push_now();
}

async fn world(variant: Variant) -> World {
    let app = Server::named("app").await;
    let first = json!({"name": "say", "typed_config": says("first")});
    let filters = json!({"http_filters": [first, router(&json!({}))]});
    let manager = http(&json!([to(&json!({"cluster": "app"}))]), &filters);
    World::with(Setup::new(variant, 1), &manager, &[cluster("app", &[host(app.address)], &json!({}))]).await
}

/// What the filter says on a connection that stays.
async fn said(text: &mut Text) -> Option<String> {
    text.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    text.message().await.unwrap().header("x-said").map(str::to_owned)
}

async fn until_said(text: &mut Text, wanted: &str) {
    while said(text).await.as_deref() != Some(wanted) {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_waits_for_its_filter_and_follows_it() {
    for variant in [Variant::Delta, Variant::Sotw] {
        let world = world(variant).await;
        let mut text = Text::connect(world.port).await.unwrap();
        assert_eq!(said(&mut text).await.as_deref(), Some("first"));
        world.ads.set_listeners(vec![listener(world.port, &discovered("say", &[MUTATION], &json!({})))]);
        world.push(&[Type::Listener]).await;
        let warming = || world.number("listener_manager.total_listeners_warming");
        wait_until("it waits", || warming() == 1).await;
        world
            .ads
            .wait_request("the filter is asked for", |seen| {
                seen.is(Type::Extension) && seen.names.contains(&"say".to_owned())
            })
            .await;
        assert_eq!(said(&mut text).await.as_deref(), Some("first"), "the last version serves");
        give(&world, "say", &says("one"));
        until_said(&mut text, "one").await;
        wait_until("it waits no more", || warming() == 0).await;
        give(&world, "say", &says("two"));
        until_said(&mut text, "two").await;
        // Bad ones are refused, and change nothing.
        let bad = [
            (
                json!({"@type": format!("{HTTP}.{MUTATION}"), "mutations": {"response_mutations": [{}]}}),
                "response_mutations",
            ),
            (
                json!({"@type": format!("{HTTP}.buffer.v3.Buffer"), "max_request_bytes": 1}),
                "is none of type_urls",
            ),
        ];
        for (config, why) in bad {
            give(&world, "say", &config);
            let refused = || {
                world
                    .ads
                    .last_nack(Type::Extension)
                    .is_some_and(|said| said.contains("TypedExtensionConfig say") && said.contains(why))
            };
            wait_until(why, refused).await;
            assert_eq!(said(&mut text).await.as_deref(), Some("two"));
        }
        assert_eq!(world.number("mizzen.xds.ecds.held"), 1);
        // Nobody names it any more: it is not asked for any more.
        let plain = json!({"name": "say", "typed_config": says("plain")});
        world.ads.set_listeners(vec![listener(world.port, &plain)]);
        world.ads.push_now();
        until_said(&mut text, "plain").await;
        wait_until("it is forgotten", || world.number("mizzen.xds.ecds.held") == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defaults_serve_at_once_or_when_the_wait_is_over() {
    let world = world(Variant::Delta).await;
    let at_once = json!({"default_config": says("default"), "apply_default_config_without_warming": true});
    let mut text = Text::connect(world.port).await.unwrap();
    world.ads.set_listeners(vec![listener(world.port, &discovered("a", &[MUTATION], &at_once))]);
    world.push(&[Type::Listener]).await;
    until_said(&mut text, "default").await;
    give(&world, "a", &says("own"));
    until_said(&mut text, "own").await;
    let later = json!({"default_config": says("late"),
        "config_source": {"ads": {}, "initial_fetch_timeout": "0.2s"}});
    world.ads.set_listeners(vec![listener(world.port, &discovered("b", &[MUTATION], &later))]);
    world.push(&[Type::Listener]).await;
    until_said(&mut text, "late").await;
    give(&world, "b", &says("after all"));
    until_said(&mut text, "after all").await;
    // A new listener does not listen before its filter is here.
    let port = free_port();
    let mut new = listener(port, &discovered("c", &[MUTATION], &json!({})));
    new.name = "new".into();
    world.ads.set_listeners(vec![new]);
    world.push(&[Type::Listener]).await;
    wait_until("it waits", || world.number("listener_manager.total_listeners_warming") == 1).await;
    assert!(tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err());
    give(&world, "c", &says("here"));
    wait_listening(([127, 0, 0, 1], port).into()).await;
    assert_eq!(get(port, "/", &[]).await.header("x-said"), Some("here"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_never_be_served_is_refused_at_once() {
    let world = world(Variant::Delta).await;
    let nack = async |kind: Type, why: &str| {
        let refused = || world.ads.last_nack(kind).is_some_and(|said| said.contains(why));
        wait_until(why, refused).await;
    };
    let bad_default = json!({"default_config": {"@type": format!("{HTTP}.{MUTATION}"),
        "mutations": {"response_mutations": [{}]}}});
    for (filter, why) in [
        (discovered("w", &["wasm.v3.Wasm"], &json!({})), "WebAssembly is not run here"),
        (
            discovered("x", &["csrf.v3.CsrfPolicy", "lua.v3.Lua"], &json!({})),
            "none of these types can be served",
        ),
        (discovered("d", &[MUTATION], &bad_default), "config_discovery.default_config"),
        (
            discovered("n", &[MUTATION], &json!({"apply_default_config_without_warming": true})),
            "default_config: is required",
        ),
    ] {
        world.ads.set_listeners(vec![listener(world.port, &filter)]);
        world.ads.push_now();
        nack(Type::Listener, why).await;
    }
    // One that may be something good, and is Lua.
    world
        .ads
        .set_listeners(vec![listener(world.port, &discovered("m", &[MUTATION, "lua.v3.Lua"], &json!({})))]);
    world.ads.push_now();
    give(
        &world,
        "m",
        &json!({"@type": "type.googleapis.com/udpa.type.v1.TypedStruct",
        "type_url": format!("{HTTP}.lua.v3.Lua"), "value": {}}),
    );
    nack(Type::Extension, "Lua is not run here").await;
    assert_eq!(get(world.port, "/", &[]).await.header("x-said"), Some("first"), "the last good one serves");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn network_filters_are_discovered_too() {
    let (one, two) = (tcp_server("s1").await, tcp_server("s2").await);
    let clusters = [cluster("one", &[host(one)], &json!({})), cluster("two", &[host(two)], &json!({}))];
    let world = World::start(&tcp_filter("one"), &clusters).await;
    let port = free_port();
    let source = json!({"config_source": {"ads": {}},
        "type_urls": ["type.googleapis.com/envoy.extensions.filters.network.set_filter_state.v3.Config"]});
    world.ads.set_listeners(vec![message(&json!({"name": "n",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "steer", "config_discovery": source},
            {"name": "last", "typed_config": tcp_filter("one")}]}]}))]);
    world.push(&[Type::Listener]).await;
    give(
        &world,
        "steer",
        &json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.set_filter_state.v3.Config",
        "on_new_connection": [{"object_key": "envoy.tcp_proxy.cluster",
            "format_string": {"text_format_source": {"inline_string": "two"}}}]}),
    );
    wait_listening(([127, 0, 0, 1], port).into()).await;
    let (_stream, greeting) = support::traffic::greet(port).await.unwrap();
    assert_eq!(greeting, "s2");
}
