//! Services that are asked who may pass, on real sockets: of requests and of connections.

use mizzen::proto::envoy::config::core::v3::{HeaderValueOption, QueryParameter, address, socket_address};
use mizzen::proto::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer};
use mizzen::proto::envoy::service::auth::v3::{AttributeContext, CheckRequest, OkHttpResponse};
use prost_types::{Struct, value::Kind};
use serde_json::{Value, json};
use std::time::Duration;
use support::authz::{Authz, consent, field, refusal};
use support::chain::{at, chain, everything, filter, typed, world};
use support::http1::{Answer, Server, Text, ask, get};
use support::world::{World, cluster, host, merged, to};

mod support;

const AUTHZ: &str = "ext_authz.v3.ExtAuthz";

/// A filter that asks the cluster `authz` by gRPC.
fn by_grpc(more: &Value) -> Value {
    let service = json!({"envoy_grpc": {"cluster_name": "authz"}, "timeout": "5s"});
    let config = json!({"grpc_service": service, "transport_api_version": "V3"});
    filter("authz", AUTHZ, &merged(config, more))
}

fn asks(address: std::net::SocketAddr) -> [Value; 1] {
    [cluster("authz", &[host(address)], &json!({}))]
}

fn attributes(request: &CheckRequest) -> &AttributeContext {
    request.attributes.as_ref().unwrap()
}

fn asked(request: &CheckRequest) -> &HttpRequest {
    attributes(request).request.as_ref().unwrap().http.as_ref().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consent_changes_requests_and_responses_and_a_refusal_is_the_services_own() {
    let server = Server::start(|_, _| Answer::of(200, &["x-up: 1", "x-both: up"], "up")).await;
    let service = Authz::start(|request| {
        if asked(request).path.starts_with("/no") {
            let fields = vec![
                field("set-cookie", "a=1"),
                field("set-cookie", "b=2"),
                field("content-type", "text/html"),
                field("content-length", "7"),
            ];
            return Ok(refusal(429, fields, "<b>slow down</b>"));
        }
        let appended = HeaderValueOption { append: Some(true), ..field("x-list", "own") };
        let mut consented = consent(OkHttpResponse {
            headers: vec![field("x-user", "bob"), appended, field(":path", "/stolen"), field("host", "evil")],
            headers_to_remove: vec!["X-Secret".into(), "host".into(), ":method".into()],
            response_headers_to_add: vec![field("x-authz", "yes"), field("x-both", "authz")],
            query_parameters_to_set: vec![QueryParameter { key: "who".into(), value: "bob".into() }],
            query_parameters_to_remove: vec!["token".into()],
            ..OkHttpResponse::default()
        });
        let team = Some(Kind::StringValue("blue".into()));
        let fields = [("team".to_owned(), prost_types::Value { kind: team })].into();
        consented.dynamic_metadata = Some(Struct { fields });
        Ok(consented)
    })
    .await;
    let context = |value: &Value| json!({"authz": typed("ext_authz.v3.ExtAuthzPerRoute", &json!({"check_settings": {"context_extensions": value}}))});
    let team = json!({"filter": "envoy.filters.http.ext_authz", "path": [{"key": "team"}],
        "value": {"string_match": {"exact": "blue"}}});
    let rbac = json!({"rules": {"policies": {"p": {"permissions": [{"any": true}], "principals": [{"metadata": team}]}}}});
    let filters = [
        by_grpc(&json!({"metadata_context_namespaces": ["given"], "include_tls_session": true})),
        filter("rbac", "rbac.v3.RBAC", &rbac),
    ];
    let given =
        json!({"metadata": [{"metadata_namespace": "given", "value": {"n": 1.5, "l": ["a", true, null]}}]});
    let filters = [filter("set", "set_metadata.v3.Config", &given), filters[0].clone(), filters[1].clone()];
    let routes = json!([{"match": {"prefix": "/"}, "route": {"cluster": "c"},
        "typed_per_filter_config": context(&json!({"level": "route"}))}]);
    let listener = merged(
        support::world::http_host(
            &json!({"routes": routes, "typed_per_filter_config": context(&json!({"level": "host", "more": "x"}))}),
            &chain(&filters),
        ),
        &json!({}),
    );
    let clusters = [cluster("c", &[host(server.address)], &json!({})), asks(service.address)[0].clone()];
    let world = World::start(&listener, &clusters).await;
    let fields = [
        "x-user: eve",
        "x-list: client",
        "x-secret: s",
        "x-envoy-auth-partial-body: true",
        "x-two: 1",
        "x-two: 2",
    ];
    let answer = get(world.port, "/p?a=1&token=t&b=2", &fields).await;
    assert_eq!((answer.status(), answer.body.as_str()), (200, "up"));
    assert_eq!((answer.header("x-authz"), answer.header("x-both")), (Some("yes"), Some("up")));
    let seen = server.only();
    assert_eq!((seen.path(), seen.header("host")), ("/p?a=1&b=2&who=bob", Some("h.test")));
    assert_eq!((seen.header("x-user"), seen.has("x-secret")), (Some("bob"), false));
    assert_eq!(seen.header("x-list"), Some("client,own"));

    let request = &service.seen()[0];
    let told = asked(request);
    assert_eq!(
        (told.method.as_str(), told.path.as_str(), told.host.as_str()),
        ("GET", "/p?a=1&token=t&b=2", "h.test")
    );
    assert_eq!((told.protocol.as_str(), told.scheme.as_str(), told.size), ("HTTP/1.1", "http", 0));
    assert_eq!((told.headers["x-user"].as_str(), told.headers["x-two"].as_str()), ("eve", "1,2"));
    assert_eq!(told.headers[":path"], "/p?a=1&token=t&b=2");
    assert!(!told.headers.contains_key("x-envoy-auth-partial-body"), "a client's word");
    let whole = attributes(request);
    assert_eq!(
        whole.context_extensions,
        [("level".to_owned(), "route".to_owned()), ("more".into(), "x".into())].into()
    );
    let given = &whole.metadata_context.as_ref().unwrap().filter_metadata["given"];
    assert_eq!(given.fields["n"].kind, Some(Kind::NumberValue(1.5)));
    assert!(matches!(&given.fields["l"].kind, Some(Kind::ListValue(list)) if list.values.len() == 3));
    let port = |peer: &Option<Peer>| {
        let address = peer.as_ref().unwrap().address.as_ref().unwrap().address.clone();
        let Some(address::Address::SocketAddress(socket)) = address else { panic!("no address") };
        assert_eq!(socket.address, "127.0.0.1");
        let Some(socket_address::PortSpecifier::PortValue(port)) = socket.port_specifier else {
            panic!("no port")
        };
        port
    };
    assert_eq!(port(&whole.destination), u32::from(world.port));
    assert_ne!(port(&whole.source), u32::from(world.port));

    let refused = get(world.port, "/no", &[]).await;
    assert_eq!((refused.status(), refused.body.as_str()), (429, "<b>slow down</b>"));
    assert_eq!(
        (refused.header("content-type"), refused.header("content-length")),
        (Some("text/html"), Some("16"))
    );
    assert!(refused.head.contains("set-cookie: a=1") && refused.head.contains("set-cookie: b=2"));
    assert_eq!(server.seen().len(), 1, "the upstream saw what was refused");
    let number = |name: &str| world.number(name);
    assert_eq!((number("http.http.ext_authz.ok"), number("http.http.ext_authz.denied")), (1, 1));
    assert_eq!(number("cluster.c.ext_authz.denied"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_is_no_denial_and_what_becomes_of_it_is_configured() {
    let server = Server::named("up").await;
    let late = Authz::slow(Duration::from_secs(60), |_| Ok(consent(OkHttpResponse::default()))).await;
    let broken = Authz::start(|_| Err(tonic::Status::internal("broken"))).await;
    let short = json!({"grpc_service": {"envoy_grpc": {"cluster_name": "authz"}, "timeout": "0.05s"}});
    let off = json!({"authz": typed("ext_authz.v3.ExtAuthzPerRoute", &json!({"disabled": true}))});
    let routes = json!([at("/off", "c", &off), to(&json!({"cluster": "c"}))]);
    let none = json!({"default_value": {"numerator": 0, "denominator": "HUNDRED"}});
    for (address, config, status, allowed) in [
        (late.address, short, 403, None),
        (broken.address, json!({"status_on_error": {"code": "ServiceUnavailable"}}), 503, None),
        (
            broken.address,
            json!({"failure_mode_allow": true, "failure_mode_allow_header_add": true}),
            200,
            Some("true"),
        ),
        (([127, 0, 0, 1], support::proxy::free_port()).into(), json!({}), 403, None),
        (broken.address, json!({"filter_enabled": none}), 200, None),
        (
            broken.address,
            json!({"filter_enabled": none, "deny_at_disable": {"default_value": true}}),
            403,
            None,
        ),
    ] {
        let world = world(&server, &routes, &[by_grpc(&config)], &asks(address)).await;
        let before = server.seen().len();
        let answer = get(world.port, "/", &[]).await;
        assert_eq!(answer.status(), status, "{config}");
        assert_eq!(server.seen().len() - before, usize::from(status == 200), "{config}");
        if status == 200 {
            assert_eq!(server.seen().pop().unwrap().header("x-envoy-auth-failure-mode-allowed"), allowed);
        }
        assert_eq!(get(world.port, "/off", &[]).await.status(), 200, "{config}");
        let disabled = i64::from(config.get("filter_enabled").is_some());
        assert_eq!(world.number("http.http.ext_authz.error"), 1 - disabled, "{config}");
        assert_eq!(world.number("http.http.ext_authz.disabled"), disabled, "{config}");
        assert_eq!(world.number("http.http.ext_authz.denied"), 0, "an error is no denial");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_sees_bodies_and_the_upstream_gets_them_whole() {
    let server = Server::named("up").await;
    let service = Authz::start(|_| Ok(consent(OkHttpResponse::default()))).await;
    let most =
        |more: &Value| by_grpc(&json!({"with_request_body": merged(json!({"max_request_bytes": 10}), more)}));
    let request = |body: &str| {
        let head = format!("POST /b HTTP/1.1\r\nhost: h\r\ncontent-length: {}\r\n\r\n", body.len());
        head + body
    };
    let whole = world(&server, &everything(), &[most(&json!({}))], &asks(service.address)).await;
    assert_eq!(ask(whole.port, &request("0123456789")).await.status(), 200);
    assert_eq!(ask(whole.port, &request("0123456789a")).await.status(), 413);
    assert_eq!(get(whole.port, "/", &[]).await.status(), 200);
    let seen = service.seen();
    assert_eq!((seen.len(), server.seen().len()), (2, 2), "asked about what is too long");
    assert_eq!((asked(&seen[0]).body.as_str(), asked(&seen[0]).size), ("0123456789", 10));
    assert_eq!(asked(&seen[0]).headers["x-envoy-auth-partial-body"], "false");
    assert_eq!(
        (asked(&seen[1]).body.as_str(), asked(&seen[1]).headers.contains_key("x-envoy-auth-partial-body")),
        ("", false)
    );

    let partial = json!({"allow_partial_message": true, "pack_as_bytes": true});
    let partial = world(&server, &everything(), &[most(&partial)], &asks(service.address)).await;
    let long = "y".repeat(300_000);
    assert_eq!(ask(partial.port, &request(&long)).await.status(), 200);
    assert_eq!(server.seen().pop().unwrap().body, long, "bytes were lost");
    let seen = service.seen().pop().unwrap();
    assert_eq!((asked(&seen).raw_body.as_slice(), asked(&seen).size), (&b"yyyyyyyyyy"[..], 300_000));
    assert_eq!(asked(&seen).headers["x-envoy-auth-partial-body"], "true");
    // The body comes only after the answer to `Expect` that nobody else gives.
    let mut client = Text::connect(partial.port).await.unwrap();
    client
        .send("POST / HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n")
        .await
        .unwrap();
    assert!(client.until("\r\n\r\n").await.unwrap().starts_with("HTTP/1.1 100"));
    client.send("abc").await.unwrap();
    assert_eq!(client.message().await.unwrap().status(), 200);
    assert_eq!(server.seen().pop().unwrap().body, "abc");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_speaks_http_gets_and_says_what_is_listed() {
    let server = Server::named("up").await;
    let service = Server::start(|_, request| match request.path() {
        "/check/no" => Answer::of(401, &["www-authenticate: Basic", "x-why: w", "x-inner: i"], "no"),
        "/check/broken" => Answer::of(500, &[], "broken"),
        _ => Answer::of(
            200,
            &[
                "x-user: bob",
                "x-more: m",
                "x-inner: i",
                "x-cookie: c",
                "x-envoy-auth-headers-to-remove: x-secret",
            ],
            "",
        ),
    })
    .await;
    let exact = |names: &[&str]| json!({"patterns": names.iter().map(|name| json!({"exact": name})).collect::<Vec<_>>()});
    let config = json!({"http_service": {
        "server_uri": {"uri": "http://ignored.test", "cluster": "authz", "timeout": "5s"}, "path_prefix": "/check",
        "authorization_request": {"headers_to_add": [{"key": "x-own", "value": "mizzen"}]},
        "authorization_response": {"allowed_upstream_headers": exact(&["X-User"]),
            "allowed_upstream_headers_to_append": exact(&["x-more"]), "allowed_client_headers": exact(&["x-why"]),
            "allowed_client_headers_on_success": exact(&["x-cookie"])}},
        "allowed_headers": exact(&["x-asked"]), "with_request_body": {"max_request_bytes": 100}});
    let world =
        world(&server, &everything(), &[filter("authz", AUTHZ, &config)], &asks(service.address)).await;
    let request = "POST /yes?q=1 HTTP/1.1\r\nhost: h.test\r\nauthorization: t\r\nx-asked: a\r\nx-other: o\r\nx-own: eve\r\n\
        x-user: eve\r\nx-more: 1\r\nx-secret: s\r\ncontent-length: 4\r\n\r\nbody";
    let answer = ask(world.port, request).await;
    assert_eq!((answer.status(), answer.header("x-cookie"), answer.has("x-inner")), (200, Some("c"), false));
    let asked = service.only();
    assert!(asked.head.starts_with("POST /check/yes?q=1 "), "{}", asked.head);
    assert_eq!((asked.header("host"), asked.header("authorization")), (Some("h.test"), Some("t")));
    assert_eq!(
        (asked.header("x-asked"), asked.header("x-own"), asked.has("x-other")),
        (Some("a"), Some("mizzen"), false)
    );
    assert_eq!((asked.body.as_str(), asked.header("x-envoy-auth-partial-body")), ("body", Some("false")));
    let seen = server.only();
    assert_eq!(
        (seen.header("x-user"), seen.has("x-secret"), seen.has("x-inner")),
        (Some("bob"), false, false)
    );
    assert_eq!(seen.header("x-more"), Some("1,m"));

    let refused = get(world.port, "/no", &[]).await;
    assert_eq!((refused.status(), refused.body.as_str()), (401, "no"));
    assert_eq!((refused.header("www-authenticate"), refused.header("x-why")), (Some("Basic"), Some("w")));
    assert!(!refused.has("x-inner"), "a refusal passes only what is listed");
    assert_eq!(get(world.port, "/broken", &[]).await.status(), 403);
    assert_eq!(world.number("http.http.ext_authz.error"), 1);
    assert_eq!(server.seen().len(), 1);
}

/// What istiod sends of a CUSTOM AuthorizationPolicy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_in_the_shadow_chooses_whom_the_service_is_asked_about() {
    let server = Server::named("up").await;
    let service = Authz::start(|_| Ok(refusal(0, Vec::new(), ""))).await;
    let policy = json!({"permissions": [{"url_path": {"path": {"prefix": "/secret"}}}], "principals": [{"any": true}]});
    let shadow = json!({"shadow_rules": {"action": "DENY", "policies": {"istio-ext-authz-ns[a]-policy[p]-rule[0]": policy}},
        "shadow_rules_stat_prefix": "istio_ext_authz_"});
    let wanted = |namespace: &str| {
        json!({"filter": namespace,
        "path": [{"key": "istio_ext_authz_shadow_effective_policy_id"}],
        "value": {"string_match": {"prefix": "istio-ext-authz"}}})
    };
    let filters = [
        filter("rbac", "rbac.v3.RBAC", &shadow),
        by_grpc(&json!({"filter_enabled_metadata": wanted("envoy.filters.http.rbac")})),
    ];
    let http = world(&server, &everything(), &filters, &asks(service.address)).await;
    assert_eq!(get(http.port, "/free", &[]).await.status(), 200);
    assert_eq!(get(http.port, "/secret", &[]).await.status(), 403);
    assert_eq!((service.seen().len(), server.seen().len()), (1, 1));

    // The same of connections.
    let network = |kind: &str, config: &Value| {
        let kind = json!({"@type": format!("type.googleapis.com/envoy.extensions.filters.network.{kind}")});
        json!({"name": "guard", "typed_config": merged(kind, config)})
    };
    let greeter = support::traffic::tcp_server("tcp").await;
    let clusters = [cluster("tcp", &[host(greeter)], &json!({})), asks(service.address)[0].clone()];
    for (port_wanted, passes) in [(1, true), (0, false)] {
        let (ads, port) = (support::ads::Ads::start(), support::proxy::free_port());
        let port_wanted = if port_wanted == 1 { 1 } else { u32::from(port) };
        let policy =
            json!({"permissions": [{"destination_port": port_wanted}], "principals": [{"any": true}]});
        let rbac = json!({"stat_prefix": "tcp.", "shadow_rules": {"action": "DENY",
            "policies": {"istio-ext-authz-p": policy}}, "shadow_rules_stat_prefix": "istio_ext_authz_"});
        let authz = json!({"stat_prefix": "guard", "transport_api_version": "V3",
            "grpc_service": {"envoy_grpc": {"cluster_name": "authz"}, "timeout": "5s"},
            "filter_enabled_metadata": wanted("envoy.filters.network.rbac")});
        let proxy = json!({"stat_prefix": "t", "cluster": "tcp"});
        let chain = json!({"filters": [network("rbac.v3.RBAC", &rbac), network("ext_authz.v3.ExtAuthz", &authz),
            network("tcp_proxy.v3.TcpProxy", &proxy)]});
        let listener = json!({"name": "l", "filter_chains": [chain],
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}});
        ads.set_clusters(clusters.iter().map(support::resources::message).collect());
        ads.set_listeners(vec![support::resources::message(&listener)]);
        let setup = support::proxy::Setup::new(mizzen::xds::state::Variant::Delta, 1);
        let proxy = setup.start(ads.address());
        ads.push().await;
        ads.wait_ack(support::ads::Type::Listener).await;
        support::proxy::wait_listening(([127, 0, 0, 1], port).into()).await;
        let greeted = support::traffic::greet(port).await;
        assert_eq!(greeted.is_ok(), passes, "{:?}", greeted.err());
        let denied = proxy.registry.number("ext_authz.guard.denied");
        assert_eq!(denied > 0, !passes);
    }
}
