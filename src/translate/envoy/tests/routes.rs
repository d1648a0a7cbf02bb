use std::time::Duration;

use super::*;

fn table(routes: Json) -> Json {
    json!({"name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": routes}]})
}

fn one(route: Json) -> Result<Route, String> {
    read_route(table(json!([route]))).map(|t| t.virtual_hosts[0].routes[0].clone())
}

fn to(extra: Json) -> Result<RouteAction, String> {
    let mut action = json!({"cluster": "c"});
    action.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    if extra.get("weighted_clusters").is_some() {
        action.as_object_mut().unwrap().remove("cluster");
    }
    one(json!({"match": {"prefix": "/"}, "route": action})).map(|r| match r.action {
        Action::Route(action) => action,
        other => panic!("{other:?}"),
    })
}

fn matching(matcher: Json) -> Result<RouteMatch, String> {
    one(json!({"match": matcher, "route": {"cluster": "c"}})).map(|r| r.matcher)
}

#[test]
fn timeouts_default_to_15_s_and_zero_is_off() {
    assert_eq!(to(json!({})).unwrap().timeout, Some(Duration::from_secs(15)));
    assert_eq!(to(json!({"timeout": "0s"})).unwrap().timeout, None);
    assert_eq!(to(json!({"timeout": "1.5s"})).unwrap().timeout, Some(Duration::from_millis(1500)));
    refused(
        to(json!({"timeout": "-1s"})),
        &["virtual_hosts[0].routes[0].route.timeout: -1s: must not be negative"],
    );
}

#[test]
fn an_unknown_route_table_is_an_empty_one() {
    assert!(read_route(json!({"name": "r"})).unwrap().virtual_hosts.is_empty());
    refused(read_route(json!({})), &["RouteConfiguration (unnamed): name: must not be empty"]);
}

#[test]
fn paths_headers_and_queries_are_read() {
    let read = matching(json!({"path": "/a", "case_sensitive": false, "grpc": {},
        "headers": [{"name": "service", "string_match": {"exact": "s", "ignore_case": true}},
            {"name": "x", "present_match": true, "invert_match": true}, {"name": "n", "range_match": {"start": "1", "end": "5"}},
            {"name": "old", "prefix_match": "p"}],
        "query_parameters": [{"name": "q", "string_match": {"safe_regex": {"regex": "a+"}}}],
        "runtime_fraction": {"default_value": {"numerator": 25, "denominator": "HUNDRED"}}}))
    .unwrap();
    assert_eq!(read.path, PathMatch::Exact { value: "/a".into(), ignore_case: true });
    assert!(read.grpc);
    assert_eq!(read.fraction, Some(250_000));
    let exact = StringMatch::Exact { value: "s".into(), ignore_case: true };
    assert_eq!(read.headers[0].kind, HeaderMatchKind::Text(exact));
    assert!(read.headers[1].invert);
    assert_eq!(read.headers[2].kind, HeaderMatchKind::Range { start: 1, end: 5 });
    assert!(read.query[0].value.as_ref().unwrap().matches(b"aaa"));
    let separated = matching(json!({"path_separated_prefix": "/a/b"})).unwrap();
    assert_eq!(separated.path, PathMatch::SeparatedPrefix { value: "/a/b".into(), ignore_case: false });
}

#[test]
fn bad_matches_name_their_field() {
    let at = "virtual_hosts[0].routes[0].match";
    refused(matching(json!({})), &[&format!("{at}: no path condition")]);
    refused(matching(json!({"safe_regex": {"regex": "(("}})), &[&format!("{at}.safe_regex.regex: ((: ")]);
    refused(
        matching(json!({"safe_regex": {"regex": "(a{1000}){1000}"}})),
        &["safe_regex.regex: (a{1000}){1000}: needs more than"],
    );
    refused(
        matching(json!({"path_separated_prefix": "/a/"})),
        &["path_separated_prefix: /a/: ", "nearest valid \"/a\""],
    );
    refused(
        matching(json!({"prefix": "/", "headers": [{"name": ""}, {"name": "a", "string_match": {}}]})),
        &[
            &format!("{at}.headers[0].name: must not be empty"),
            &format!("{at}.headers[1].string_match: no pattern"),
        ],
    );
    refused(matching(json!({"connect_matcher": {}})), &[&format!("{at}.connect_matcher: CONNECT is not")]);
    refused(
        matching(json!({"prefix": "/", "tls_context": {}})),
        &[&format!("{at}.tls_context: matching on this")],
    );
}

#[test]
fn weights_must_fit_and_add_up() {
    let weights = |list: Json| to(json!({"weighted_clusters": {"clusters": list}}));
    let read = weights(json!([{"name": "a", "weight": 0}, {"name": "b", "weight": 4294967295u32,
        "request_headers_to_add": [{"header": {"key": "k", "value": "100%%"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}]}]))
    .unwrap();
    let ClusterChoice::Weighted(list) = read.cluster else { panic!() };
    assert_eq!((list[0].weight, list[1].weight), (0, u32::MAX));
    assert_eq!(list[1].request_headers.edits, [HeaderEdit::Set { name: "k".into(), value: "100%".into() }]);
    let at = "virtual_hosts[0].routes[0].route.weighted_clusters.clusters";
    refused(
        weights(json!([{"name": "a", "weight": 4294967295u32}, {"name": "b", "weight": 1}])),
        &[&format!("{at}: 4294967296: the weights add up to more than 4294967295")],
    );
    refused(weights(json!([{"name": "a", "weight": 0}])), &[&format!("{at}: 0: the weights must add up")]);
    refused(
        weights(json!([{"name": "", "weight": 1}, {"name": "x"}])),
        &[&format!("{at}[0].name: must not be empty"), &format!("{at}[1].weight: is required")],
    );
}

#[test]
fn names_and_domains_are_unique() {
    let host = |name: &str, domains: &[&str]| json!({"name": name, "domains": domains});
    let read = read_route(json!({"name": "r", "virtual_hosts": [host("a", &["A.Example", "*.x"])]})).unwrap();
    assert_eq!(read.virtual_hosts[0].domains, ["a.example", "*.x"]);
    refused(
        read_route(
            json!({"name": "r", "virtual_hosts": [host("a", &["x", "y"]), host("a", &["z", "X"]), host("b", &[])]}),
        ),
        &[
            "virtual_hosts[1].name: a: virtual_hosts[0] has this name too",
            "virtual_hosts[1].domains[1]: x: virtual_hosts[0] has this domain too",
            "virtual_hosts[2].domains: at least one domain",
        ],
    );
}

#[test]
fn what_would_change_behaviour_is_refused_by_name() {
    for (field, value) in [
        ("request_mirror_policies", json!([{"cluster": "m"}])),
        ("cors", json!({})),
        ("rate_limits", json!([{}])),
        ("host_rewrite_header", json!("h")),
        ("internal_redirect_policy", json!({})),
        ("path_rewrite", json!("/x")),
    ] {
        refused(to(json!({field: value})), &[&format!("virtual_hosts[0].routes[0].route.{field}: ")]);
    }
    refused(
        to(json!({"max_stream_duration": {"max_stream_duration": "1s"}})),
        &["max_stream_duration: 1s: a limit per route"],
    );
    assert!(
        to(json!({"max_stream_duration": {"max_stream_duration": "0s"}, "max_grpc_timeout": "0s"})).is_ok()
    );
    let fault = json!({"x": {"@type": "type.googleapis.com/google.protobuf.Duration", "value": "1s"}});
    refused(
        one(json!({"match": {"prefix": "/"}, "route": {"cluster": "c"}, "typed_per_filter_config": fault})),
        &[
            "routes[0].typed_per_filter_config[\"x\"]: type.googleapis.com/google.protobuf.Duration: this filter",
        ],
    );
    refused(one(json!({"match": {"prefix": "/"}})), &["routes[0]: no action"]);
    refused(
        read_route(
            json!({"name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"], "require_tls": "ALL"}]}),
        ),
        &["virtual_hosts[0].require_tls: ALL: TLS is not supported"],
    );
}

#[test]
fn direct_responses_and_redirects_are_read() {
    let direct = |d: Json| one(json!({"match": {"prefix": "/"}, "direct_response": d})).map(|r| r.action);
    let body = json!({"status": 404, "body": {"inline_string": "no"}});
    assert_eq!(direct(body).unwrap(), Action::Direct(DirectResponse { status: 404, body: b"no".to_vec() }));
    refused(
        direct(json!({"status": 42})),
        &["direct_response.status: 42: must be 200 to 599 (nearest valid 200)"],
    );
    let secret = direct(json!({"status": 200, "body": {"filename": "/etc/secret"}}));
    refused(secret.clone(), &["direct_response.body: only inline_string"]);
    assert!(!secret.unwrap_err().contains("/etc/secret"));
    let long = json!({"status": 200, "body": {"inline_string": "x".repeat(5000)}});
    refused(direct(long), &["body: 5000 bytes: larger than max_direct_response_body_size_bytes (4096)"]);
    let moved = json!({"https_redirect": true, "response_code": "FOUND", "port_redirect": 8443, "prefix_rewrite": "/b"});
    let read = one(json!({"match": {"prefix": "/a"}, "redirect": moved})).unwrap().action;
    let Action::Redirect(redirect) = read else { panic!() };
    assert_eq!(
        (redirect.status, redirect.port, redirect.scheme.as_deref()),
        (302, Some(8443), Some("https"))
    );
    assert_eq!(redirect.prefix_rewrite.as_deref(), Some("/b"));
}

#[test]
fn retries_are_read_word_by_word() {
    let predicate = json!([{"name": "x", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"}}]);
    let policy = json!({"retry_on": "connect-failure, refused-stream,unavailable,cancelled,retriable-status-codes,nonsense",
        "num_retries": 2, "retriable_status_codes": [503], "retry_back_off": {"base_interval": "1s"},
        "host_selection_retry_max_attempts": "5", "retry_host_predicate": predicate});
    let read = to(json!({"retry_policy": policy})).unwrap().retry.unwrap();
    assert!(
        read.on.connect_failure && read.on.refused_stream && read.on.retriable_status_codes && !read.on.reset
    );
    assert_eq!(read.on.grpc_codes, (1 << 1) | (1 << 14));
    assert_eq!((read.retries, read.status_codes.as_slice()), (2, &[503][..]));
    assert_eq!((read.base_interval, read.max_interval), (Duration::from_secs(1), Duration::from_secs(10)));
    assert_eq!(read.previous_hosts_attempts, 0, "that predicate is another one");
    let previous = "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate";
    let policy = json!({"host_selection_retry_max_attempts": "5",
        "retry_host_predicate": [{"name": "x", "typed_config": {"@type": previous}}]});
    assert_eq!(to(json!({"retry_policy": policy})).unwrap().retry.unwrap().previous_hosts_attempts, 5);
    let read = to(json!({"retry_policy": {"retry_on": "5xx"}})).unwrap().retry.unwrap();
    assert_eq!((read.retries, read.base_interval), (1, Duration::from_millis(25)));
    let bad = json!({"retry_back_off": {"base_interval": "2s", "max_interval": "1s"}, "retriable_status_codes": [7]});
    refused(
        to(json!({"retry_policy": bad})),
        &["retry_policy.retry_back_off.max_interval: 1s: ", "retry_policy.retriable_status_codes[0]: 7: "],
    );
}

#[test]
fn header_edits_keep_their_action() {
    let edit = |value: Json| {
        one(json!({"match": {"prefix": "/"}, "route": {"cluster": "c"}, "request_headers_to_add": [value]}))
    };
    let read = edit(json!({"header": {"key": "k", "value": "v"}, "append": false})).unwrap();
    assert_eq!(read.request_headers.edits, [HeaderEdit::Set { name: "k".into(), value: "v".into() }]);
    let read = edit(json!({"header": {"key": "k", "value": ""}})).unwrap();
    assert!(read.request_headers.edits.is_empty(), "an empty value is left out unless kept");
    let at = "virtual_hosts[0].routes[0].request_headers_to_add[0].header";
    refused(
        edit(json!({"header": {"key": "k", "value": "%REQ(x)%"}})),
        &[&format!("{at}.value: k: substitution")],
    );
    refused(edit(json!({"header": {"key": ":path", "value": "v"}})), &[&format!("{at}.key: :path: pseudo")]);
    refused(
        edit(json!({"header": {"key": "k", "value": "a\r\nb"}})),
        &[&format!("{at}.value: k: must not hold")],
    );
}

#[test]
fn a_table_holds_100_000_routes() {
    use crate::proto::envoy::config::route::v3 as pb;
    let table = pb::RouteConfiguration {
        name: "r".into(),
        virtual_hosts: vec![pb::VirtualHost {
            name: "v".into(),
            domains: vec!["*".into()],
            routes: vec![pb::Route::default(); MAX_ROUTES + 1],
            ..Default::default()
        }],
        ..Default::default()
    };
    let text = route(&table.encode_to_vec()).unwrap_err().to_string();
    assert_eq!(text, "RouteConfiguration r: virtual_hosts: 100001 routes: a table holds 100000 at most");
}
