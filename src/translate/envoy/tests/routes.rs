use std::time::Duration;

use super::*;

fn table(routes: Json) -> Json {
    json!({"name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": routes}]})
}

fn one(route: Json) -> Result<Route, String> {
    read_route(table(json!([route]))).map(|t| Route::clone(&t.virtual_hosts[0].routes[0]))
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
fn what_is_traced_may_differ_by_route() {
    let given = json!({"client_sampling": {"numerator": 7, "denominator": "MILLION"}, "random_sampling": {}});
    let read = one(json!({"match": {"prefix": "/"}, "route": {"cluster": "c"}, "tracing": given})).unwrap();
    let wanted = Sampling { client: (7, 1_000_000), random: (0, 100), overall: (100, 100) };
    assert_eq!(read.tracing.as_deref(), Some(&wanted));
    assert_eq!(one(json!({"match": {"prefix": "/"}, "route": {"cluster": "c"}})).unwrap().tracing, None);
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
        "runtime_fraction": {"runtime_key": "k", "default_value": {"numerator": 25, "denominator": "HUNDRED"}}}))
    .unwrap();
    assert_eq!(read.path, PathMatch::Exact { value: "/a".into(), ignore_case: true });
    assert!(read.grpc);
    let fraction = Fraction { numerator: 25, denominator: 100, runtime_key: "k".into() };
    assert_eq!(read.fraction.as_deref(), Some(&fraction));
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
    refused(
        matching(json!({"prefix": "/", "runtime_fraction": {"runtime_key": "k"}})),
        &[&format!("{at}.runtime_fraction.default_value: is required")],
    );
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
    assert_eq!(*list[1].request_headers.edits, [HeaderEdit::Set { name: "k".into(), value: "100%".into() }]);
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
    let limits = to(json!({"rate_limits": [{"actions": [{}]}]}));
    refused(limits, &["routes[0].route.rate_limits[0].actions[0]: this action is not supported"]);
    for (field, value) in [("cors", json!({})), ("internal_redirect_policy", json!({}))] {
        refused(to(json!({field: value})), &[&format!("virtual_hosts[0].routes[0].route.{field}: ")]);
    }
    let fault = json!({"x": {"@type": "type.googleapis.com/google.protobuf.Duration", "value": "1s"}});
    refused(
        one(json!({"match": {"prefix": "/"}, "route": {"cluster": "c"}, "typed_per_filter_config": fault})),
        &[
            "routes[0].typed_per_filter_config[\"x\"]: type.googleapis.com/google.protobuf.Duration: this filter",
        ],
    );
    refused(one(json!({"match": {"prefix": "/"}})), &["routes[0]: no action"]);
}

#[test]
fn direct_responses_and_redirects_are_read() {
    let direct = |d: Json| one(json!({"match": {"prefix": "/"}, "direct_response": d})).map(|r| r.action);
    let body = json!({"status": 404, "body": {"inline_string": "no"}});
    assert_eq!(direct(body).unwrap(), Action::Direct(DirectResponse { status: 404, body: (*b"no").into() }));
    refused(
        direct(json!({"status": 42})),
        &["direct_response.status: 42: must be 200 to 599 (nearest valid 200)"],
    );
    refused(
        direct(json!({"status": 200, "body": {"filename": "/no/such/file"}})),
        &["direct_response.body.filename: /no/such/file: No such file"],
    );
    let file = std::env::temp_dir().join(format!("mizzen-body-{}", std::process::id()));
    std::fs::write(&file, "from a file").unwrap();
    let read = direct(json!({"status": 200, "body": {"filename": file.to_str().unwrap()}}));
    std::fs::remove_file(&file).unwrap();
    assert_eq!(read.unwrap(), Action::Direct(DirectResponse { status: 200, body: (*b"from a file").into() }));
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
    assert_eq!(*read.request_headers.edits, [HeaderEdit::Set { name: "k".into(), value: "v".into() }]);
    let read = edit(json!({"header": {"key": "k", "value": "a%REQ(x)%"}, "keep_empty_value": true})).unwrap();
    let format = Format::parse("a%REQ(x)%").unwrap();
    let value = EditValue::Format { format, keep_empty: true };
    assert_eq!(*read.request_headers.edits, [HeaderEdit::Append { name: "k".into(), value }]);
    let read = edit(json!({"header": {"key": "k", "value": ""}})).unwrap();
    assert!(read.request_headers.edits.is_empty(), "an empty value is left out unless kept");
    let at = "virtual_hosts[0].routes[0].request_headers_to_add[0].header";
    refused(
        edit(json!({"header": {"key": "k", "value": "%NONSENSE(x)%"}})),
        &[&format!("{at}.value: k: %NONSENSE%: no such operator")],
    );
    refused(
        edit(json!({"header": {"key": "k", "value": "%BYTES_SENT%"}})),
        &[&format!("{at}.value: k: %BYTES_SENT%: not known when this is written")],
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
    assert_eq!(
        text,
        "RouteConfiguration r: virtual_hosts: 100001 routes: a table holds 100000 at most (nearest valid 100000)"
    );
}

#[test]
fn paths_and_hosts_are_rewritten_one_way_at_a_time() {
    let path = |extra: Json| to(extra).unwrap().path_rewrite.map(|rewrite| *rewrite);
    let host = |extra: Json| to(extra).unwrap().host_rewrite.map(|rewrite| *rewrite);
    assert_eq!(path(json!({"prefix_rewrite": "/x"})), Some(PathRewrite::Prefix("/x".into())));
    let format = Format::parse("/%REQ(a)%").unwrap();
    assert_eq!(path(json!({"path_rewrite": "/%REQ(a)%"})), Some(PathRewrite::Format(format)));
    let regex = json!({"pattern": {"regex": "a(b)"}, "substitution": "\\1"});
    assert!(
        matches!(path(json!({"regex_rewrite": regex})), Some(PathRewrite::Regex(_, text)) if text == "\\1")
    );
    refused(
        to(json!({"prefix_rewrite": "/x", "regex_rewrite": regex})),
        &["route.regex_rewrite: excludes prefix_rewrite"],
    );
    assert_eq!(host(json!({"host_rewrite_literal": "h"})), Some(HostRewrite::Literal("h".into())));
    assert_eq!(host(json!({"host_rewrite_header": "X-H"})), Some(HostRewrite::Header("x-h".into())));
    assert_eq!(host(json!({"auto_host_rewrite": true})), Some(HostRewrite::Auto));
    assert_eq!(host(json!({"auto_host_rewrite": false})), None);
    assert!(matches!(host(json!({"host_rewrite_path_regex": regex})), Some(HostRewrite::PathRegex(..))));
    refused(to(json!({"host_rewrite": "%NO%"})), &["route.host_rewrite: %NO%: %NO%: no such operator"]);
}

#[test]
fn path_templates_are_read() {
    const MATCH: &str =
        "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig";
    const REWRITE: &str =
        "type.googleapis.com/envoy.extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig";
    let read = |path: &str, rewrite: &str| {
        let matcher = json!({"path_match_policy": {"name": "m", "typed_config": {"@type": MATCH, "path_template": path}}});
        let policy =
            json!({"name": "r", "typed_config": {"@type": REWRITE, "path_template_rewrite": rewrite}});
        one(json!({"match": matcher, "route": {"cluster": "c", "path_rewrite_policy": policy}}))
    };
    let route = read("/a/{x}", "/{x}/b").unwrap();
    assert!(matches!(&route.matcher.path, PathMatch::Template(template) if template.as_str() == "/a/{x}"));
    let Action::Route(action) = route.action else { panic!() };
    let parts =
        vec![TemplatePart::Text("/".into()), TemplatePart::Variable(0), TemplatePart::Text("/b".into())];
    assert_eq!(action.path_rewrite, Some(Box::new(PathRewrite::Template(parts))));
    refused(read("/a/{x", "/"), &["match.path_match_policy.typed_config.path_template: /a/{x: a brace"]);
    refused(
        read("/a/{x}", "/{y}"),
        &["path_rewrite_policy.typed_config.path_template_rewrite: /{y}: names no variable"],
    );
    let policy = json!({"name": "r", "typed_config": {"@type": REWRITE, "path_template_rewrite": "/"}});
    refused(to(json!({"path_rewrite_policy": policy})), &["path_template_rewrite: /: needs a match by path"]);
    assert_eq!(matching(json!({"connect_matcher": {}})).unwrap().path, PathMatch::Connect);
}

#[test]
fn rare_options_are_read() {
    let options = |extra: Json| to(extra).unwrap().options.map(|options| *options).unwrap_or_default();
    assert_eq!(to(json!({})).unwrap().options, None);
    let read = options(json!({"hash_policy": [
        {"header": {"header_name": "X-A"}, "terminal": true}, {"cookie": {"name": "c", "ttl": "5s"}},
        {"connection_properties": {"source_ip": true}}, {"connection_properties": {}}, {"query_parameter": {"name": "q"}}]}));
    let header = HashSource::Header { name: "x-a".into(), rewrite: None };
    assert_eq!(read.hash[0], HashPolicy { source: header, terminal: true });
    assert!(matches!(&read.hash[1].source, HashSource::Cookie { ttl: Some(ttl), .. } if ttl.as_secs() == 5));
    assert_eq!((read.hash.len(), &read.hash[2].source), (4, &HashSource::SourceIp));
    refused(to(json!({"hash_policy": [{}]})), &["route.hash_policy[0]: no source"]);
    refused(
        to(json!({"hash_policy": [{"filter_state": {"key": "k"}}]})),
        &["route.hash_policy[0].filter_state: not supported"],
    );
    let read = options(
        json!({"max_stream_duration": {"max_stream_duration": "0s", "grpc_timeout_header_max": "1s"}}),
    );
    let limits = read.max_stream.unwrap();
    assert_eq!((limits.limit, limits.grpc_header_max), (Some(Duration::ZERO), Some(Duration::from_secs(1))));
    assert_eq!(to(json!({"max_grpc_timeout": "0s"})).unwrap().max_grpc_timeout, Some(Duration::ZERO));
    let read = options(json!({"request_mirror_policies": [{"cluster": "m",
        "runtime_fraction": {"default_value": {"numerator": 5}}, "disable_shadow_host_suffix_append": true}]}));
    assert_eq!(read.mirrors[0].cluster, ClusterChoice::Single("m".into()));
    assert!(read.mirrors[0].keep_host && read.mirrors[0].fraction.as_ref().unwrap().numerator == 5);
    refused(to(json!({"request_mirror_policies": [{}]})), &["request_mirror_policies[0]: no cluster"]);
    let read = options(json!({"upgrade_configs": [{"upgrade_type": "WebSocket", "enabled": false},
        {"upgrade_type": "CONNECT", "connect_config": {"allow_post": true}}]}));
    assert_eq!(read.upgrades[0], Upgrade { kind: "websocket".into(), enabled: false, raw: None });
    assert_eq!(read.upgrades[1].raw, Some(true));
    refused(
        to(json!({"upgrade_configs": [{"upgrade_type": "a"}, {"upgrade_type": "A", "connect_config": {}}]})),
        &[
            "upgrade_configs[1].upgrade_type: a: given twice",
            "upgrade_configs[1].connect_config: a: only for",
        ],
    );
    let shares = json!([{"cluster_header": "To", "weight": 1, "host_rewrite_literal": "h"}]);
    let read = to(json!({"weighted_clusters": {"clusters": shares, "header_name": "N"}})).unwrap();
    assert_eq!(read.options.unwrap().draw, DrawBy::Header("n".into()));
    let ClusterChoice::Weighted(list) = read.cluster else { panic!() };
    assert_eq!((list[0].header.as_deref(), list[0].host_rewrite.as_deref()), (Some("to"), Some("h")));
    let both = json!([{"name": "a", "cluster_header": "b", "weight": 1}]);
    refused(
        to(json!({"weighted_clusters": {"clusters": both}})),
        &["clusters[0].cluster_header: b: name and cluster_header exclude each other"],
    );
}

#[test]
fn tables_and_virtual_hosts_hand_down() {
    let disabled =
        json!({"f": {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": true}});
    let read = read_route(json!({"name": "r", "ignore_path_parameters_in_path_matching": true,
        "internal_only_headers": ["X-In"], "request_mirror_policies": [{"cluster": "m"}],
        "virtual_hosts": [{"name": "v", "domains": ["*"], "require_tls": "EXTERNAL_ONLY",
            "include_request_attempt_count": true, "request_body_buffer_limit": "9",
            "typed_per_filter_config": disabled}]}))
    .unwrap();
    assert!(read.ignore_path_parameters && read.internal_only_headers == ["x-in"]);
    assert_eq!(read.mirrors.len(), 1);
    let host = &read.virtual_hosts[0];
    assert_eq!((host.require_tls, host.buffer_limit), (RequireTls::External, Some(9)));
    assert!(host.attempt_count_in_request && !host.attempt_count_in_response);
    assert_eq!(host.filters["f"], RouteFilter::Disabled);
}

#[test]
fn equal_retry_policies_are_kept_once() {
    let policy = json!({"retry_on": "5xx"});
    let route = json!({"match": {"prefix": "/"}, "route": {"cluster": "c", "retry_policy": policy}});
    let read = read_route(table(json!([route, route]))).unwrap();
    let of = |at: usize| match &read.virtual_hosts[0].routes[at].action {
        Action::Route(action) => action.retry.clone().unwrap(),
        other => panic!("{other:?}"),
    };
    assert!(std::sync::Arc::ptr_eq(&of(0), &of(1)));
}

#[test]
fn retries_know_headers_and_pauses() {
    let policy = json!({"retry_on": "retriable-headers,envoy-ratelimited", "per_try_idle_timeout": "1s",
        "retriable_headers": [{"name": "a"}], "retriable_request_headers": [{"name": "b"}],
        "rate_limited_retry_back_off": {"reset_headers": [{"name": "Retry-After"}, {"name": "r", "format": "UNIX_TIMESTAMP"}]}});
    let read = to(json!({"retry_policy": policy})).unwrap().retry.unwrap();
    assert!(read.on.retriable_headers && read.on.envoy_ratelimited);
    assert_eq!((read.headers[0].name.as_str(), read.request_headers[0].name.as_str()), ("a", "b"));
    assert_eq!(read.per_try_idle_timeout, Some(Duration::from_secs(1)));
    let asked = read.rate_limited.clone().unwrap();
    assert_eq!(asked.max_interval, Duration::from_secs(300));
    let wanted =
        [("retry-after".to_owned(), ResetFormat::Seconds), ("r".to_owned(), ResetFormat::UnixTimestamp)];
    assert_eq!(asked.headers, wanted);
    refused(
        to(json!({"retry_policy": {"rate_limited_retry_back_off": {}}})),
        &["retry_policy.rate_limited_retry_back_off.reset_headers: at least one"],
    );
}
