//! Scoped routes: a key made of headers leads to a table, inline or by SRDS and RDS.

mod support;

use mizzen::xds::state::Variant;
use prost_types::Any;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use support::ads::{Ads, Type, any};
use support::http1::get;
use support::proxy::{Setup, free_port, wait_listening};
use support::resources::{listener, message};
use support::world::{http, merged};

/// A table that answers with `text`.
fn table(name: &str, text: &str) -> Value {
    json!({"name": name, "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
        {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": text}}}]}]})
}

fn scope(name: &str, key: &str, routes: &Value) -> (String, Any) {
    type Message = mizzen::proto::envoy::config::route::v3::ScopedRouteConfiguration;
    let body = merged(json!({"name": name, "key": {"fragments": [{"string_key": key}]}}), routes);
    let message: Message = message(&body);
    (name.to_owned(), any(Type::ScopedRoute, &message))
}

fn by_name(table: &str) -> Value {
    json!({"route_configuration_name": table})
}

/// A manager whose scope is what follows `tenant=` in `x-scope`.
fn manager(scopes: &Value) -> Value {
    let extractor = json!({"name": "x-scope", "element_separator": ";",
        "element": {"separator": "=", "key": "tenant"}});
    let scoped = json!({"name": "scopes", "rds_config_source": {"ads": {}},
        "scope_key_builder": {"fragments": [{"header_value_extractor": extractor}]}});
    let mut filter = http(&json!([]), &json!({"scoped_routes": merged(scoped, scopes)}));
    filter.as_object_mut().unwrap().remove("route_config");
    filter
}

fn srds() -> Value {
    manager(&json!({"scoped_rds": {"scoped_rds_config_source": {"ads": {}}}}))
}

async fn ask(port: u16, tenant: &str) -> String {
    let answer = get(port, "/", &[&format!("x-scope: a=b;tenant={tenant}")]).await;
    if answer.status() == 200 { answer.body } else { answer.status().to_string() }
}

/// Asks until the answer is `wanted`.
async fn becomes(port: u16, tenant: &str, wanted: &str) {
    let begin = Instant::now();
    loop {
        let answer = ask(port, tenant).await;
        if answer == wanted {
            return;
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "{tenant}: {answer}, expected {wanted}");
    }
}

fn routes(ads: &Ads, tables: &[(&str, &str)]) {
    ads.set_routes(tables.iter().map(|(name, text)| message(&table(name, text))).collect());
}

async fn follows_scopes(variant: Variant) {
    let (ads, port) = (Ads::start(), free_port());
    ads.set_listeners(vec![listener("l", port, &srds())]);
    ads.set(Type::ScopedRoute, [scope("one", "x", &by_name("rx")), scope("two", "y", &by_name("ry"))]);
    routes(&ads, &[("rx", "first"), ("ry", "second")]);
    let proxy = Setup::new(variant, 1).start(ads.address());
    ads.push().await;
    wait_listening(([127, 0, 0, 1], port).into()).await;
    // Open means warm: scopes and tables are here.
    assert_eq!((ask(port, "x").await, ask(port, "y").await), ("first".into(), "second".into()));
    assert_eq!(ask(port, "z").await, "404");
    assert_eq!(get(port, "/", &[]).await.status(), 404, "no header, no scope");
    ads.wait_ack(Type::ScopedRoute).await;

    // Another table that has not come: the old one serves until it is here.
    ads.withhold(Type::Route, true);
    ads.set(
        Type::ScopedRoute,
        [
            scope("one", "x", &by_name("later")),
            scope("two", "y", &by_name("ry")),
            scope(
                "in",
                "z",
                &json!({
            "route_configuration": table("written", "third")}),
            ),
        ],
    );
    ads.push().await;
    becomes(port, "z", "third").await;
    assert_eq!((ask(port, "x").await, ask(port, "y").await), ("first".into(), "second".into()));
    ads.wait_request("the table of the new scope", |seen| {
        seen.is(Type::Route) && seen.names.iter().any(|name| name == "later")
    })
    .await;
    routes(&ads, &[("rx", "first"), ("ry", "second"), ("later", "fourth")]);
    ads.withhold(Type::Route, false);
    ads.push().await;
    becomes(port, "x", "fourth").await;

    // Keys change hands in one set; a scope that goes takes its key with it.
    ads.set(Type::ScopedRoute, [scope("one", "y", &by_name("later")), scope("two", "x", &by_name("ry"))]);
    if variant == Variant::Delta {
        ads.remove(Type::ScopedRoute, "in");
    }
    ads.push().await;
    becomes(port, "y", "fourth").await;
    becomes(port, "x", "second").await;
    becomes(port, "z", "404").await;

    // A key that is taken is refused by name, and nothing else changes.
    ads.upsert(Type::ScopedRoute, "bad", scope("bad", "x", &by_name("rx")).1);
    ads.push().await;
    let nack = ads.wait_nack(Type::ScopedRoute).await;
    assert!(nack.contains("ScopedRouteConfiguration bad: key: [\"x\"]: scope two has the same"), "{nack}");
    assert_eq!(ask(port, "x").await, "second");
    drop(proxy);
}

#[tokio::test]
async fn scopes_follow_their_resources() {
    follows_scopes(Variant::Delta).await;
}

#[tokio::test]
async fn scopes_follow_their_resources_by_state_of_the_world() {
    follows_scopes(Variant::Sotw).await;
}

#[tokio::test]
async fn scopes_that_are_written_in_the_listener_need_only_their_tables() {
    let (ads, port) = (Ads::start(), free_port());
    let list = json!([
        {"name": "one", "key": {"fragments": [{"string_key": "x"}]}, "route_configuration_name": "rx"},
        {"name": "two", "key": {"fragments": [{"string_key": "y"}]}, "route_configuration": table("t", "written")}]);
    let filter = manager(&json!({"scoped_route_configurations_list": {"scoped_route_configurations": list}}));
    ads.set_listeners(vec![listener("l", port, &filter)]);
    routes(&ads, &[("rx", "by name")]);
    let _proxy = Setup::new(Variant::Delta, 1).start(ads.address());
    ads.push().await;
    wait_listening(([127, 0, 0, 1], port).into()).await;
    assert_eq!((ask(port, "x").await, ask(port, "y").await), ("by name".into(), "written".into()));
    assert!(ads.requests_of(Type::ScopedRoute).is_empty(), "nobody has use for SRDS");
}

#[tokio::test]
async fn what_is_wrong_with_scopes_is_told() {
    let (ads, port) = (Ads::start(), free_port());
    let fragment = json!({"header_value_extractor": {"name": "x", "index": 2}});
    let mut bad = srds();
    bad["scoped_routes"]["scope_key_builder"] = json!({"fragments": [fragment]});
    ads.set_listeners(vec![listener("l", port, &bad)]);
    let _proxy = Setup::new(Variant::Delta, 1).start(ads.address());
    ads.push().await;
    let nack = ads.wait_nack(Type::Listener).await;
    assert!(nack.contains("scope_key_builder.fragments[0].header_value_extractor.index: 2:"), "{nack}");
}
