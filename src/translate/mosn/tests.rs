use super::*;
use crate::model::*;
use serde_json::json;
use std::time::Duration;

fn no_folder(folder: &str) -> Result<Vec<(String, Value)>, Vec<Finding>> {
    Err(vec![Finding::error("", folder, "no such folder")])
}

fn read(doc: &Value) -> Translated {
    translate(doc, &no_folder, false)
}

/// All findings, one a line: `E path: value: message`.
fn lines(out: &Translated) -> Vec<String> {
    let mark = |f: &Finding| if f.is_error() { "E" } else { "W" };
    out.findings.iter().map(|f| format!("{} {f}", mark(f))).collect()
}

fn clean(doc: &Value) -> Translated {
    let out = read(doc);
    assert_eq!(lines(&out), Vec::<String>::new());
    out
}

fn rpc(listener: &Listener) -> &RpcProxy {
    match &listener.filter_chains[0].filter {
        NetworkFilter::Rpc(rpc) => rpc,
        other => panic!("{other:?}"),
    }
}

fn table(listener: &Listener) -> &RouteConfig {
    match &rpc(listener).routes {
        RouteSource::Inline(table) => table,
        other => panic!("{other:?}"),
    }
}

/// A document with one bolt listener whose proxy has `virtual_hosts`, and the cluster `c`.
fn with_hosts(hosts: Value) -> Value {
    with_proxy(json!({"downstream_protocol": "bolt", "virtual_hosts": hosts}))
}

fn with_proxy(config: Value) -> Value {
    with_listener(json!({
        "name": "l", "address": "127.0.0.1:1", "bind_port": true,
        "filter_chains": [{"filters": [{"type": "proxy", "config": config}]}],
    }))
}

fn with_listener(listener: Value) -> Value {
    json!({
        "servers": [{"listeners": [listener]}],
        "cluster_manager": {"clusters": [{"name": "c", "hosts": [{"address": "127.0.0.1:2"}]}]},
    })
}

fn with_cluster(cluster: Value) -> Value {
    json!({
        "servers": [{"listeners": [{
            "name": "l", "address": "127.0.0.1:1", "bind_port": true,
            "filter_chains": [{"filters": [{"type": "tcp_proxy", "config": {"cluster": "c"}}]}],
        }]}],
        "cluster_manager": {"clusters": [cluster]},
    })
}

fn one_route(route: Value) -> Value {
    with_hosts(json!([{"name": "h", "domains": ["*"], "routers": [route]}]))
}

fn action(out: &Translated) -> &RouteAction {
    match &table(&out.listeners[0]).virtual_hosts[0].routes[0].action {
        Action::Route(action) => action,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_sample_of_2018_converts_on_both_sides() {
    let doc = serde_json::from_str(include_str!("../../../configs/sofarpc/config.json")).unwrap();
    let out = clean(&doc);
    let [server, client] = &out.listeners[..] else { panic!("{:?}", out.listeners) };
    assert_eq!((rpc(server).downstream, rpc(server).upstream), (Protocol::Http2, Some(Protocol::Bolt)));
    assert_eq!((rpc(client).downstream, rpc(client).upstream), (Protocol::Bolt, Some(Protocol::Http2)));
    assert_eq!(server.addresses, [Address::Ip("127.0.0.1:2046".parse().unwrap())]);
    let route = &table(client).virtual_hosts[0].routes[0];
    assert_eq!(route.matcher.headers[0].kind, HeaderMatchKind::Present(true));
    let Action::Route(action) = &route.action else { panic!() };
    assert_eq!(action.timeout, Some(Duration::from_secs(10)), "integers are nanoseconds");
    assert_eq!(out.clusters[0].name, "serverCluster");
    assert_eq!(out.clusters[0].lb, LbPolicy::Random);
    let Discovery::Static(endpoints) = &out.clusters[0].discovery else { panic!() };
    assert_eq!(endpoints.iter().next().unwrap().metadata["version"], "v1");
    assert_eq!(out.settings.admin, Some(Address::Ip("127.0.0.1:34901".parse().unwrap())));
}

#[test]
fn the_samples_of_today_name_their_router() {
    for (text, name, admin) in [
        (include_str!("../../../configs/sofarpc/client_config.json"), "client_router", 34901),
        (include_str!("../../../configs/sofarpc/server_config.json"), "server_router", 34902),
    ] {
        let out = clean(&serde_json::from_str(text).unwrap());
        assert_eq!(table(&out.listeners[0]).name, name);
        assert_eq!(out.settings.admin.unwrap().ip().unwrap().port(), admin);
    }
}

#[test]
fn connection_manager_names_a_table_for_any_proxy() {
    let mut doc = with_proxy(json!({"downstream_protocol": "Http2", "router_config_name": "r"}));
    doc["servers"][0]["listeners"][0]["filter_chains"][0]["filters"].as_array_mut().unwrap().push(json!({
        "type": "connection_manager",
        "config": {"router_config_name": "r", "virtual_hosts": [
            {"name": "h", "domains": ["*"], "routers": [{"match": {"prefix": "/"}, "route": {"cluster_name": "c"}}]},
        ]},
    }));
    let out = clean(&doc);
    assert_eq!((rpc(&out.listeners[0]).downstream, rpc(&out.listeners[0]).upstream), (Protocol::Http2, None));
    assert_eq!(table(&out.listeners[0]).name, "r");
    doc["servers"][0]["listeners"][0]["filter_chains"][0]["filters"][0]["config"]["router_config_name"] =
        "q".into();
    let found = lines(&read(&doc));
    assert!(found[0].contains("filters[0].config.router_config_name: q:") && found[0].contains("known: r"));
}

#[test]
fn mosn_defaults() {
    let out = clean(&one_route(json!({"match": {}, "route": {"cluster_name": "c"}})));
    let action = action(&out);
    assert_eq!(action.timeout, Some(Duration::from_secs(60)));
    let retry = action.retry.as_ref().unwrap();
    assert!(retry.on.connect_failure && !retry.on.five_xx && retry.retries == 3);
    let cluster = &out.clusters[0];
    assert_eq!(cluster.connect_timeout, Duration::from_secs(10));
    assert_eq!(cluster.breakers.default.max_requests, u32::MAX);
    assert_eq!((cluster.idle_timeout, cluster.lb), (None, LbPolicy::RoundRobin));
    assert_eq!(rpc(&out.listeners[0]).idle_timeout, Some(Duration::from_secs(90)));
    assert_eq!(table(&out.listeners[0]).virtual_hosts[0].routes[0].matcher.path, PathMatch::Any);
}

#[test]
fn matches_have_one_kind_of_rule() {
    let matcher = |of: Value| {
        let out = clean(&one_route(json!({"match": of, "route": {"cluster_name": "c"}})));
        table(&out.listeners[0]).virtual_hosts[0].routes[0].matcher.clone()
    };
    let prefix = matcher(json!({"prefix": "/a", "headers": [{"name": "method", "value": "GET"}]}));
    assert_eq!(prefix.path, PathMatch::Prefix { value: "/a".into(), ignore_case: false });
    assert_eq!(prefix.headers[0].name, ":method");
    let exact = matcher(json!({"path": "/A"}));
    assert_eq!(exact.path, PathMatch::Exact { value: "/A".into(), ignore_case: true });
    let PathMatch::Regex(regex) = matcher(json!({"regex": "b+"})).path else { panic!() };
    assert!(regex.is_match(b"/abc"), "a search, not a whole match");
    let rpc = matcher(
        json!({"headers": [{"name": "method", "value": "m"}, {"name": "x", "value": "1|2", "regex": true}]}),
    );
    assert_eq!((rpc.path, rpc.headers[0].name.as_str()), (PathMatch::Any, "method"));
    let HeaderMatchKind::Text(text) = &rpc.headers[1].kind else { panic!() };
    assert!(text.matches(b"a2b") && !text.matches(b"3"));
}

#[test]
fn actions_and_retries() {
    let out = clean(&one_route(json!({"match": {"prefix": "/"}, "route": {
        "weighted_clusters": [{"cluster": {"name": "c", "weight": 1}}, {"Clusters": {"name": "c", "weight": 3}}],
        "timeout": "1m0.5s",
        "retry_policy": {"retry_on": true, "retry_timeout": 5000000, "num_retries": 7, "status_codes": [404]},
        "regex_rewrite": {"pattern": {"regex": "/(a+)\\d"}, "substitution": "/${1}$$\\$1-"},
        "host_rewrite": "h",
        "request_headers_to_add": [
            {"header": {"key": "A", "value": "1"}}, {"header": {"key": "B", "value": "2"}, "append": false},
            {"header": {"key": "Gone", "value": "3"}},
        ],
        "request_headers_to_remove": ["GONE"],
    }})));
    let action = action(&out);
    assert!(
        matches!(&action.cluster, ClusterChoice::Weighted(list) if list.len() == 2 && list[1].weight == 3)
    );
    assert_eq!(action.timeout, Some(Duration::from_millis(60_500)));
    let retry = action.retry.as_ref().unwrap();
    assert_eq!((retry.retries, retry.per_try_timeout), (7, Some(Duration::from_millis(5))));
    assert!(retry.on.reset && retry.on.retriable_status_codes && !retry.on.five_xx);
    let Some(PathRewrite::Regex(_, text)) = action.path_rewrite.as_deref() else { panic!() };
    assert_eq!(text, r"/\1$\\\1-");
    let edits = &table(&out.listeners[0]).virtual_hosts[0].routes[0].request_headers;
    assert_eq!(*edits.remove, ["gone"]);
    assert_eq!(
        *edits.edits,
        [
            HeaderEdit::Append { name: "a".into(), value: "1".into() },
            HeaderEdit::Set { name: "b".into(), value: "2".into() },
        ]
    );
    for (route, wanted) in [
        (json!({"direct_response": {"status": 418, "body": "x"}, "redirect": {}}), "Direct"),
        (json!({"redirect": {"response_code": 308, "host_redirect": "h"}}), "Redirect"),
    ] {
        let out = clean(&one_route(route));
        let made = format!("{:?}", table(&out.listeners[0]).virtual_hosts[0].routes[0].action);
        assert!(made.starts_with(wanted), "{made}");
    }
}

#[test]
fn clusters_in_every_spelling() {
    let out = clean(&with_cluster(json!({
        "NAME": "c", "Type": "STRICT_DNS", "lb_type": "LB_WEIGHTED_ROUNDROBIN", "connect_timeout": "300ms",
        "dns_refresh_rate": "7s", "dns_lookup_family": "V6_ONLY", "idle_timeout": "1h2m", "tls_context": {"status": false},
        "keepalive": {"interval": "3s"}, "health_check": null, "conn_buffer_limit_bytes": 1048577,
        "circuit_breakers": [{"max_connections": 0, "max_requests": 9, "priority": "DEFAULT"}],
        "hosts": [
            {"address": "a.local:1", "weight": 500, "metadata": {"filter_metadata": {"mosn.lb": {"k": "v"}}}},
            {"address": "unix:/tmp/s", "hostname": "s"},
        ],
    })));
    let cluster = &out.clusters[0];
    let Discovery::Dns { endpoints, refresh, family, .. } = &cluster.discovery else { panic!() };
    assert_eq!((*refresh, *family), (Duration::from_secs(7), DnsFamily::V6Only));
    let hosts: Vec<_> = endpoints.iter().collect();
    assert_eq!((hosts[0].weight, hosts[0].metadata["k"].as_str()), (128, "v"));
    assert_eq!(hosts[1].address, Address::Unix("/tmp/s".into()));
    assert_eq!(cluster.heartbeat, Some((Duration::from_secs(3), Duration::from_secs(1))));
    let limits = cluster.breakers.default;
    assert_eq!((limits.max_connections, limits.max_requests), (u32::MAX, 9));
    assert_eq!(cluster.idle_timeout, Some(Duration::from_secs(3720)));
    assert_eq!(cluster.buffer_limit, 1_048_577);
}

#[test]
fn domains_in_mosns_forms() {
    let host = |domains: Value| {
        let route = json!({"route": {"cluster_name": "c"}});
        read(&with_hosts(json!([{"name": "h", "domains": domains, "routers": [route]}])))
    };
    let out = host(json!(["A.com", "b.com:*", "*.c.com:80", "*:8080", "*:*"]));
    assert_eq!(
        table(&out.listeners[0]).virtual_hosts[0].domains,
        ["a.com", "b.com:*", "*.c.com:80", "*:8080", "*"]
    );
    for bad in ["a*b", "a*", "", "*.x:*", "**"] {
        let found = lines(&host(json!(["ok", bad])));
        assert!(found[0].starts_with("E ") && found[0].contains("domains[1]"), "{bad}: {found:?}");
    }
    assert!(lines(&host(json!(["x", "X"])))[0].contains("already"));
}

#[test]
fn tcp_proxies() {
    let tcp = |config: Value| {
        read(&with_listener(json!({
            "address": ":9", "bind_port": true, "connection_idle_timeout": "0s",
            "filter_chains": [{"filters": [{"type": "tcp_proxy", "config": config}]}],
        })))
    };
    let out = tcp(json!({"cluster": "c", "idle_timeout": 5}));
    assert_eq!(lines(&out), Vec::<String>::new());
    let listener = &out.listeners[0];
    assert_eq!((listener.name.as_str(), listener.addresses[0].to_string().as_str()), (":9", "0.0.0.0:9"));
    let NetworkFilter::Tcp(proxy) = &listener.filter_chains[0].filter else { panic!() };
    assert_eq!((proxy.clusters[0].name.as_str(), proxy.idle_timeout), ("c", None));
    let range = json!([{"Address": "0.0.0.0", "Length": 0}]);
    let mut route = json!({
        "cluster": "c", "SourceAddrs": range, "DestinationAddrs": range,
        "SourcePort": "1-65535", "DestinationPort": "1-65535",
    });
    assert_eq!(lines(&tcp(json!({"routes": [route]}))), Vec::<String>::new());
    route["SourcePort"] = "1-100".into();
    assert!(lines(&tcp(json!({"routes": [route]})))[0].contains("config.routes: c: routes by address"));
}

#[test]
fn split_folders_hold_one_item_a_file() {
    let folder = |name: &str| -> Result<Vec<(String, Value)>, Vec<Finding>> {
        Ok(match name {
            "clusters" => vec![
                ("a.json".into(), json!({"name": "c", "hosts": []})),
                ("b.json".into(), json!({"name": "d", "hosts": [{"address": "nope"}]})),
            ],
            _ => vec![(
                "v.json".into(),
                json!({"name": "v", "domains": ["*"], "routers": [{"route": {"cluster_name": "c"}}]}),
            )],
        })
    };
    let mut doc = with_proxy(json!({"downstream_protocol": "bolt", "router_config_name": "r"}));
    doc["servers"][0]["routers"] = json!([{"router_config_name": "r", "router_configs": "vhosts"}]);
    doc["cluster_manager"] = json!({"clusters_configs": "clusters"});
    let out = translate(&doc, &folder, false);
    assert_eq!(
        lines(&out),
        ["E b.json: hosts[0].address: \"nope\": expected ip:port, name:port or unix:/path"]
    );
    assert_eq!(table(&out.listeners[0]).virtual_hosts[0].name, "v");
    assert_eq!(out.clusters.len(), 2);
    assert!(lines(&read(&doc)).iter().any(|line| line.contains("no such folder")));
}

/// What MOSN passes over or falls over, with the place in the file.
#[test]
fn findings_name_their_field() {
    let route = json!({"match": {}, "route": {"cluster_name": "c"}});
    let host = json!({"name": "h", "domains": ["*"], "routers": [route]});
    let base = with_hosts(json!([host]));
    let chain = "/servers/0/listeners/0/filter_chains/0";
    let proxy = format!("{chain}/filters/0/config");
    let at_route = format!("{proxy}/virtual_hosts/0/routers/0");
    for (place, key, value, wanted) in [
        ("", "servers", json!([]), "E servers: expected exactly one"),
        ("", "tracing", json!({"enable": true}), "W tracing: an object: tracing comes later"),
        ("/servers/0", "processor", json!(1.5), "E servers[0].processor: 1.5: expected"),
        (
            "/servers/0",
            "graceful_timeout",
            json!("10"),
            "E servers[0].graceful_timeout: \"10\": unit missing",
        ),
        ("/servers/0", "tyop", json!(1), "W servers[0].tyop: unknown key"),
        (
            "/servers/0/listeners/0",
            "address",
            json!("x"),
            "E servers[0].listeners[0].address: \"x\": expected ip:port",
        ),
        ("/servers/0/listeners/0", "network", json!("udp"), "E servers[0].listeners[0].address: udp: UDP"),
        (
            "/servers/0/listeners/0",
            "use_original_dst",
            json!(true),
            "E servers[0].listeners[0].use_original_dst: true:",
        ),
        (
            "/servers/0/listeners/0",
            "stream_filters",
            json!([{"type": "jwt_authn"}]),
            "E servers[0].listeners[0].stream_filters[0].type: jwt_authn:",
        ),
        (
            "/servers/0/listeners/0",
            "stream_filters",
            json!([{"type": "ip_access", "config": {"default_action": "some"}}]),
            "E servers[0].listeners[0].stream_filters[0].config.default_action: some:",
        ),
        (
            "/servers/0/listeners/0",
            "stream_filters",
            json!([{"type": "healthcheck"}]),
            "W servers[0].listeners[0].stream_filters[0].type: healthcheck:",
        ),
        (
            "/servers/0/listeners/0",
            "filter_chains",
            json!([]),
            "E servers[0].listeners[0].filter_chains: 0: expected exactly one",
        ),
        (
            chain,
            "tls_context",
            json!({"status": true}),
            "E servers[0].listeners[0].filter_chains[0].tls_context.status: true: TLS",
        ),
        (
            chain,
            "tls_context_set",
            json!([{"status": true}]),
            "filter_chains[0].tls_context_set[0].status: true: TLS",
        ),
        (
            &proxy,
            "downstream_protocol",
            json!("Http1"),
            "config.downstream_protocol: \"Http1\": Http1 comes later",
        ),
        (
            &proxy,
            "downstream_protocol",
            json!("quic"),
            "config.downstream_protocol: \"quic\": unknown protocol",
        ),
        (&proxy, "downstream_protocol", json!(7), "config.downstream_protocol: 7: expected a string"),
        (
            &proxy,
            "upstream_protocol",
            json!("Http1"),
            "config.upstream_protocol: \"Http1\": Http1 comes later",
        ),
        (&proxy, "virtual_hosts", Value::Null, "config.router_config_name: missing"),
        (&at_route, "match", json!({"variables": [{}]}), "routers[0].match.variables: a list of 1: matching"),
        (&at_route, "match", json!({"regex": "("}), "routers[0].match.regex: (: not a regular expression"),
        (&at_route, "route", json!({"cluster_name": ""}), "routers[0].route.cluster_name: missing"),
        (
            &at_route,
            "route",
            json!({"cluster_name": "x"}),
            "W cluster_manager.clusters: x: listener \"l\" names",
        ),
        (
            &at_route,
            "route",
            json!({"weighted_clusters": [{"cluster": {"name": "c", "weight": 0}}]}),
            "route.weighted_clusters: 0: expected a total",
        ),
        (
            &at_route,
            "route",
            json!({"cluster_name": "c", "timeout": -5}),
            "route.timeout: -5: expected whole nanoseconds",
        ),
        (
            &at_route,
            "route",
            json!({"cluster_name": "c", "request_headers_to_add": [{}]}),
            "request_headers_to_add[0].header: missing",
        ),
        (&at_route, "redirect", json!({"response_code": 200}), "redirect.response_code: 200: expected 301"),
        ("/cluster_manager/clusters/0", "name", json!(""), "E cluster_manager.clusters[0].name: missing"),
        (
            "/cluster_manager/clusters/0",
            "lb_type",
            json!("LB_FOO"),
            "W cluster_manager.clusters[0].lb_type: LB_FOO: unknown",
        ),
        (
            "/cluster_manager/clusters/0",
            "Name",
            json!("d"),
            "W cluster_manager.clusters[0].Name: ignored: `name` is given",
        ),
        (
            "/cluster_manager/clusters/0",
            "lb_subset_config",
            json!({"subset_selectors": ["a"]}),
            "E cluster_manager.clusters[0].lb_subset_config.subset_selectors[0]:",
        ),
        (
            "/cluster_manager/clusters/0",
            "tls_context",
            json!({"status": true, "private_key": "-----BEGIN"}),
            "E cluster_manager.clusters[0].tls_context.status: true",
        ),
    ] {
        let mut doc = base.clone();
        doc.pointer_mut(place).unwrap()[key] = value;
        let found = lines(&read(&doc));
        assert!(found.iter().any(|line| line.contains(wanted)), "{wanted}: {found:#?}");
        assert!(found.iter().all(|line| !line.contains("BEGIN")), "{found:?}");
    }
}
