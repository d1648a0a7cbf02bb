//! What a connection manager makes of answers of the proxy's own, and further settings of its own.

mod support;

use mizzen::xds::state::Variant;
use serde_json::{Value, json};
use std::time::Duration;
use support::http1::{Answer, Server, Text, get};
use support::proxy::{Setup, wait_until};
use support::world::{World, cluster, host, http, merged, router, to};

const FILE: &str = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog";

fn status(op: &str, value: u16) -> Value {
    json!({"status_code_filter": {"comparison": {"op": op, "value": {"default_value": value, "runtime_key": "k"}}}})
}

async fn start(more: &Value) -> World {
    let routes = json!([
        {"match": {"prefix": "/gone"}, "route": {"cluster": "none"}},
        {"match": {"prefix": "/direct"}, "direct_response": {"status": 403, "body": {"inline_string": "no"}}},
        {"match": {"prefix": "/moved"}, "redirect": {"path_redirect": "/there"}}]);
    World::start(&http(&routes, more), &[]).await
}

#[tokio::test]
async fn the_first_mapper_that_fits_counts() {
    let header =
        json!({"header_filter": {"header": {"name": "x-kind", "string_match": {"exact": "special"}}}});
    let mappers = json!([
        {"filter": {"and_filter": {"filters": [status("EQ", 404), header]}}, "status_code": 418,
            "body": {"inline_string": "a teapot"},
            "headers_to_add": [{"header": {"key": "x-why", "value": "%RESPONSE_CODE_DETAILS%"}}]},
        {"filter": status("EQ", 403), "body_format_override": {"json_format": {
            "code": "%RESPONSE_CODE%", "text": "%LOCAL_REPLY_BODY%", "path": "%REQ(:path)%"}}},
        {"filter": {"response_flag_filter": {"flags": ["NR"]}}, "status_code": 421}]);
    let format = json!({"text_format_source": {"inline_string": "<%RESPONSE_CODE% %LOCAL_REPLY_BODY%>"},
        "content_type": "text/html"});
    let world = start(&json!({"local_reply_config": {"mappers": mappers, "body_format": format}})).await;

    let answer = get(world.port, "/none", &["x-kind: special"]).await;
    assert_eq!((answer.status(), answer.body.as_str()), (418, "<418 a teapot>"));
    assert_eq!(answer.header("x-why"), Some("route_not_found"));
    assert_eq!(answer.header("content-type"), Some("text/html"));
    assert_eq!(answer.header("content-length"), Some("14"));

    let answer = get(world.port, "/direct", &[]).await;
    assert_eq!(answer.status(), 403);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let body: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(body, json!({"code": 403, "text": "no", "path": "/direct"}));

    let answer = get(world.port, "/none", &[]).await;
    assert_eq!((answer.status(), answer.body.as_str()), (421, "<421 route_not_found>"));
    assert_eq!(get(world.port, "/gone", &[]).await.status(), 503);
    let answer = get(world.port, "/moved", &[]).await;
    assert_eq!((answer.status(), answer.body.as_str()), (301, "<301 >"));

    // A gRPC client gets the same in its own form.
    let answer = get(world.port, "/none", &["x-kind: special", "content-type: application/grpc"]).await;
    assert_eq!((answer.status(), answer.header("grpc-status")), (200, Some("2")));
    assert_eq!(answer.header("grpc-message"), Some("<418 a teapot>"));
}

#[tokio::test]
async fn filters_see_what_the_answer_has_become() {
    let mutation = json!({"name": "m", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
        "mutations": {"response_mutations": [
            {"append": {"header": {"key": "x-seen", "value": "%RESPONSE_CODE%"}}}]}}});
    let replies = json!({"mappers": [{"filter": status("GE", 400), "status_code": 599}]});
    let filters = json!([mutation, router(&json!({}))]);
    let world = start(&json!({"local_reply_config": replies, "http_filters": filters})).await;
    let answer = get(world.port, "/none", &[]).await;
    assert_eq!((answer.status(), answer.header("x-seen")), (599, Some("599")));
}

#[tokio::test]
async fn bad_mappers_and_files_that_cannot_be_opened_are_refused() {
    let world = start(&json!({})).await;
    let log = json!({"name": "f", "typed_config": {"@type": FILE, "path": "/proc/version/under/it"}});
    let replies =
        json!({"mappers": [{"filter": status("EQ", 404), "status_code": 700}, {"status_code": 200}]});
    let filter = http(&json!([]), &json!({"local_reply_config": replies, "access_log": [log]}));
    world.ads.set_listeners(vec![support::resources::listener("l", world.port, &filter)]);
    world.ads.push().await;
    let nack = world.ads.wait_nack(support::ads::Type::Listener).await;
    for part in [
        "local_reply_config.mappers[0].status_code: 700:",
        "local_reply_config.mappers[1].filter: is required",
        "access_log[0].typed_config.path: /proc/version/under/it: cannot be opened",
    ] {
        assert!(nack.contains(part), "{nack}");
    }
}

#[tokio::test]
async fn lines_are_written_before_the_end_where_they_are_wanted() {
    let dir = support::process::Dir::new();
    let path = dir.0.join("log");
    let format = "%ACCESS_LOG_TYPE% %RESPONSE_CODE% %DYNAMIC_METADATA(a:b)%\n";
    let log = |more: &Value| {
        merged(
            json!({"name": "f", "typed_config": {"@type": FILE, "path": path,
        "log_format": {"text_format_source": {"inline_string": format}}}}),
            more,
        )
    };
    // The second log takes only what has metadata, which nothing has.
    let absent = json!({"filter": {"metadata_filter": {"match_if_key_not_found": false, "matcher": {
        "filter": "a", "path": [{"key": "b"}], "value": {"string_match": {"exact": "x"}}}}}});
    let server = Server::start(|_, _| Answer::ok("late").after(350)).await;
    let more = json!({"access_log": [log(&json!({})), log(&absent)],
        "access_log_options": {"flush_access_log_on_new_request": true, "access_log_flush_interval": "0.1s"},
        "add_user_agent": true, "delayed_close_timeout": "0s"});
    let mut setup = Setup::new(Variant::Delta, 1);
    setup.options.node_name = ("the-id".into(), "the-cluster".into());
    let filter = http(&json!([to(&json!({"cluster": "a"}))]), &more);
    let world = World::with(setup, &filter, &[cluster("a", &[host(server.address)], &json!({}))]).await;

    let mut client = Text::connect(world.port).await.unwrap();
    client.send("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    assert_eq!(client.message().await.unwrap().status(), 200);
    let seen = server.only();
    assert_eq!(seen.header("user-agent"), Some("the-cluster"));
    assert_eq!(seen.header("x-envoy-downstream-service-cluster"), Some("the-cluster"));
    assert_eq!(seen.header("x-envoy-downstream-service-node"), Some("the-id"));
    world.proxy.flush_logs().await;
    mizzen::telemetry::files::flush(Duration::from_secs(5));
    let read = || std::fs::read_to_string(&path).unwrap_or_default();
    wait_until("the lines are written", || read().contains("DownstreamEnd")).await;
    let lines = read();
    assert!(lines.starts_with("DownstreamStart 0 -\n"), "{lines}");
    assert!(lines.ends_with("DownstreamEnd 200 -\n"), "{lines}");
    assert_eq!(lines.matches("DownstreamEnd").count(), 1, "{lines}");
}
