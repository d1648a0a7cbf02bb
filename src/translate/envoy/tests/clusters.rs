use std::time::Duration;

use super::*;

fn with(extra: Json) -> Json {
    let mut cluster = json!({"name": "c"});
    cluster.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    cluster
}

fn host(address: &str, port: u32) -> Json {
    json!({"endpoint": {"address": {"socket_address": {"address": address, "port_value": port}}}})
}

#[test]
fn absent_fields_mean_envoys_defaults() {
    let read = read_cluster(json!({"name": "c"})).unwrap();
    let expected = Cluster::new(
        "c",
        Discovery::Static(Endpoints { name: "c".into(), overprovisioning: 140, ..Default::default() }.into()),
    );
    assert_eq!(read, expected);
    assert_eq!(read.connect_timeout, Duration::from_secs(5));
    assert_eq!(read.breakers.default.max_retries, 3);
    assert_eq!(read.panic_threshold, 50);
}

#[test]
fn eds_takes_service_name_and_fetch_timeout() {
    let eds = |config: Json| read_cluster(with(json!({"type": "EDS", "eds_cluster_config": config})));
    let read = eds(json!({"eds_config": {"ads": {}}})).unwrap();
    let fifteen = Some(Duration::from_secs(15));
    assert_eq!(read.discovery, Discovery::Eds { service_name: "c".into(), initial_fetch_timeout: fifteen });
    let source = json!({"ads": {}, "initial_fetch_timeout": "0s"});
    let read = eds(json!({"service_name": "s", "eds_config": source})).unwrap();
    assert_eq!(read.discovery, Discovery::Eds { service_name: "s".into(), initial_fetch_timeout: None });
    refused(
        eds(json!({"eds_config": {"path_config_source": {"path": "/x"}}})),
        &["eds_cluster_config.eds_config.path_config_source: only the ADS stream"],
    );
    refused(read_cluster(with(json!({"type": "EDS"}))), &["eds_cluster_config: an EDS cluster needs it"]);
}

#[test]
fn dns_takes_names_and_static_does_not() {
    let assignment = json!({"cluster_name": "c", "endpoints": [{"lb_endpoints": [host("svc.local", 80)]}]});
    let dns = json!({"type": "LOGICAL_DNS", "load_assignment": assignment, "dns_lookup_family": "V4_ONLY"});
    let read = read_cluster(with(dns)).unwrap();
    let Discovery::Dns { endpoints, logical, refresh, family, .. } = read.discovery else { panic!() };
    assert_eq!((logical, refresh, family), (true, Duration::from_secs(5), DnsFamily::V4Only));
    assert_eq!(endpoints.iter().next().unwrap().address, Address::Name("svc.local".into(), 80));
    refused(
        read_cluster(with(json!({"load_assignment": assignment}))),
        &[
            "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address: svc.local: must be an IP",
        ],
    );
    refused(
        read_cluster(with(json!({"type": "LOGICAL_DNS"}))),
        &["load_assignment: 0 endpoints: a LOGICAL_DNS cluster has exactly one endpoint"],
    );
}

#[test]
fn anything_that_encrypts_is_refused_by_type() {
    let tls = json!({"name": "raw_buffer", "typed_config": {
        "@type": "type.googleapis.com/google.protobuf.Struct", "value": {}}});
    let raw = json!({"name": "tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"}});
    assert!(read_cluster(with(json!({"transport_socket": raw}))).is_ok());
    refused(
        read_cluster(with(json!({"transport_socket": tls}))),
        &["transport_socket.typed_config: type.googleapis.com/google.protobuf.Struct: this transport socket"],
    );
    let matches = json!([{"name": "a", "transport_socket": raw}, {"name": "b", "transport_socket": tls}]);
    refused(
        read_cluster(with(json!({"transport_socket_matches": matches}))),
        &[
            "c: transport_socket_matches[1].transport_socket.typed_config: type.googleapis.com/google.protobuf",
        ],
    );
    refused(read_cluster(with(json!({"transport_socket": {"name": "tls"}}))), &["transport_socket: tls: "]);
}

#[test]
fn every_fault_is_found_not_just_the_first() {
    let bad =
        json!({"name": "", "type": "ORIGINAL_DST", "filters": [{"name": "f"}], "connect_timeout": "-1s"});
    refused(
        read_cluster(bad),
        &[
            "Cluster (unnamed): name: must not be empty",
            "lb_policy: 0: must be CLUSTER_PROVIDED",
            "filters[0].typed_config: f: ",
        ],
    );
    refused(
        read_cluster(with(json!({"connect_timeout": "0s"}))),
        &["connect_timeout: 0s: must be at least 1 ms"],
    );
    refused(
        read_cluster(with(json!({"connect_timeout": "-1s"}))),
        &["connect_timeout: -1s: must not be negative"],
    );
}

#[test]
fn a_negative_duration_is_one_fault_also_after_another() {
    let text = read_cluster(with(json!({"lb_policy": "ROUND_ROBIN", "name": "", "connect_timeout": "-1s"})))
        .unwrap_err();
    assert_eq!(text.matches("connect_timeout").count(), 1, "{text}");
}

#[test]
fn breakers_pools_and_keepalive_are_read() {
    let read = read_cluster(with(json!({
        "circuit_breakers": {"thresholds": [
            {"max_connections": 1, "max_requests": 4294967295u32, "track_remaining": true},
            {"priority": "HIGH", "max_retries": 9}]},
        "upstream_connection_options": {"tcp_keepalive": {"keepalive_time": 300}},
        "common_lb_config": {"healthy_panic_threshold": {}},
        "per_connection_buffer_limit_bytes": 1000,
        "lb_policy": "LEAST_REQUEST", "cleanup_interval": "9223372035s", "alt_stat_name": "x;"
    })))
    .unwrap();
    let breakers = read.breakers;
    assert_eq!((breakers.default.max_connections, breakers.default.max_requests), (1, u32::MAX));
    assert_eq!((breakers.default.max_pending_requests, breakers.high.max_retries), (1024, 9));
    assert_eq!(read.tcp_keepalive.unwrap().time, Some(Duration::from_secs(300)));
    assert_eq!((read.panic_threshold, read.buffer_limit), (0, 1000));
    assert_eq!(read.lb, LbPolicy::LeastRequest { choices: 2, bias: 1.0, full_scan: false });
}

#[test]
fn upstream_http_is_known_by_type_url_whatever_the_key() {
    let options = |config: Json| {
        let mut any =
            json!({"@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"});
        any.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
        read_cluster(with(json!({"typed_extension_protocol_options": {"any.key": any}})))
    };
    let read = options(json!({
        "explicit_http_config": {"http2_protocol_options": {"max_concurrent_streams": 7}},
        "common_http_protocol_options": {"idle_timeout": "0s"}}))
    .unwrap();
    assert_eq!((read.protocol, read.http2.max_concurrent_streams), (UpstreamProtocol::Http2, Some(7)));
    assert_eq!(read.idle_timeout, None);
    refused(
        options(
            json!({"explicit_http_config": {"http2_protocol_options": {"initial_stream_window_size": 1}}}),
        ),
        &[
            "[\"any.key\"].explicit_http_config.http2_protocol_options.initial_stream_window_size: 1: ",
            "nearest valid 65535",
        ],
    );
    let auto = json!({"auto_config": {"http2_protocol_options": {"max_concurrent_streams": 3}}});
    let read = options(auto).unwrap();
    assert_eq!((read.protocol, read.http2.max_concurrent_streams), (UpstreamProtocol::Auto, Some(3)));
    let newer = json!({"auto_config": {"http3_protocol_options": {}}});
    refused(options(newer), &["auto_config.http3_protocol_options: ", "HTTP/3 is not supported"]);
    assert_eq!(
        read_cluster(with(json!({"http2_protocol_options": {}}))).unwrap().protocol,
        UpstreamProtocol::Http2
    );
}

#[test]
fn hashing_policies_localities_and_slow_start_are_read() {
    let read = |json| read_cluster(with(json));
    let ring = read(json!({"lb_policy": "RING_HASH", "common_lb_config": {"locality_weighted_lb_config": {},
        "consistent_hashing_lb_config": {"use_hostname_for_hashing": true}},
        "ring_hash_lb_config": {"minimum_ring_size": 10, "maximum_ring_size": 20, "hash_function": "MURMUR_HASH_2"}}))
    .unwrap();
    assert_eq!(ring.lb, LbPolicy::RingHash { min: 10, max: 20, function: HashFunction::MurmurHash2 });
    assert!(ring.locality_weighted && ring.hash_by_hostname);
    assert_eq!(read(json!({"lb_policy": "MAGLEV"})).unwrap().lb, LbPolicy::Maglev { table_size: 65_537 });
    refused(
        read(json!({"lb_policy": "MAGLEV", "maglev_lb_config": {"table_size": 65_536}})),
        &["maglev_lb_config.table_size: 65536: must be a prime"],
    );
    refused(
        read(json!({"lb_policy": "RING_HASH", "common_lb_config":
            {"consistent_hashing_lb_config": {"hash_balance_factor": 150}}})),
        &["common_lb_config.consistent_hashing_lb_config.hash_balance_factor: 150: "],
    );
    let slow = read(json!({"round_robin_lb_config": {"slow_start_config": {"slow_start_window": "60s",
        "aggression": {"default_value": 2.0, "runtime_key": "x"}, "min_weight_percent": {"value": 20}}}}));
    let wanted = SlowStart { window: Duration::from_secs(60), aggression: 2.0, min_weight: 0.2 };
    let slow = slow.unwrap();
    assert_eq!(slow.lb_keys.as_ref().unwrap().aggression, "x");
    assert_eq!(slow.slow_start, Some(wanted.into()));
    let typed = |name: &str, more: Json| {
        let mut config =
            json!({"@type": format!("type.googleapis.com/envoy.extensions.load_balancing_policies.{name}")});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"policies": [{"typed_extension_config": {"name": "x", "typed_config": config}}]})
    };
    let inner = typed("maglev.v3.Maglev", json!({"table_size": 7}));
    let outer = typed("wrr_locality.v3.WrrLocality", json!({"endpoint_picking_policy": inner}));
    let read = read(json!({"load_balancing_policy": outer})).unwrap();
    assert_eq!((read.lb, read.locality_weighted), (LbPolicy::Maglev { table_size: 7 }, true));
}

#[test]
fn subset_selectors_are_read() {
    let config = json!({"fallback_policy": "DEFAULT_SUBSET", "default_subset": {"v": "1"}, "subset_selectors": [
        {"keys": ["b", "a"], "fallback_policy": "KEYS_SUBSET", "fallback_keys_subset": ["a"]},
        {"keys": ["a"]}]});
    let read = read_cluster(with(json!({"lb_subset_config": config}))).unwrap().subsets.unwrap();
    assert_eq!(read.fallback, Fallback::DefaultSubset);
    assert_eq!(read.selectors[0].keys, ["a", "b"]);
    assert_eq!((read.selectors[0].fallback, read.selectors[1].fallback), (Some(Fallback::Keys), None));
    let bad = json!({"list_as_any": true, "subset_selectors": [
        {"keys": ["a"], "fallback_policy": "KEYS_SUBSET", "fallback_keys_subset": ["a"]}]});
    refused(
        read_cluster(with(json!({"lb_subset_config": bad}))),
        &[
            "lb_subset_config.list_as_any: true: ",
            "subset_selectors[0].fallback_keys_subset: a: must be some",
        ],
    );
}

#[test]
fn the_first_known_typed_lb_policy_counts() {
    let policies = |names: &[&str]| {
        let list: Vec<_> = names
            .iter()
            .map(|n| json!({"typed_extension_config": {"name": "x", "typed_config": {"@type": n}}}))
            .collect();
        read_cluster(with(json!({"load_balancing_policy": {"policies": list}})))
    };
    let random = "type.googleapis.com/envoy.extensions.load_balancing_policies.random.v3.Random";
    let other = "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";
    assert_eq!(policies(&[other, random]).unwrap().lb, LbPolicy::Random);
    refused(
        policies(&[other]),
        &[
            "load_balancing_policy.policies: type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer: none",
        ],
    );
}

#[test]
fn endpoints_keep_weight_health_place_and_lb_metadata() {
    let mut one = host("10.0.0.1", 8080);
    one["health_status"] = "DRAINING".into();
    one["load_balancing_weight"] = 3.into();
    one["metadata"] = json!({"filter_metadata": {"envoy.lb": {"v": "1", "n": 2}, "istio": {"x": "y"}}});
    let pipe = json!({"endpoint": {"address": {"pipe": {"path": "/run/x.sock"}}}});
    let read = read_endpoints(json!({"cluster_name": "c", "endpoints": [
        {"locality": {"zone": "z"}, "priority": 1, "load_balancing_weight": 4, "lb_endpoints": [one, pipe]}],
        "policy": {"drop_overloads": [{"category": "a", "drop_percentage": {"numerator": 5}}]}}))
    .unwrap();
    assert_eq!((read.name.as_str(), read.drop_millionths, read.overprovisioning), ("c", 50_000, 140));
    let place = &read.localities[0];
    assert_eq!((place.zone.as_str(), place.priority, place.weight), ("z", 1, 4));
    assert_eq!((place.endpoints[0].health, place.endpoints[0].weight), (Health::Draining, 3));
    assert_eq!(
        place.endpoints[0].metadata,
        [("v".to_owned(), "1".to_owned()), ("n".to_owned(), "\u{0}2".to_owned())].into()
    );
    assert_eq!(place.endpoints[1].address, Address::Unix("/run/x.sock".into()));
    assert!(read_endpoints(json!({"cluster_name": "c"})).unwrap().localities.is_empty());
}

#[test]
fn bad_endpoints_are_named_by_index() {
    let mut zero = host("10.0.0.1", 1);
    zero["load_balancing_weight"] = 0.into();
    let list = json!([{"lb_endpoints": [host("10.0.0.1", 80)]},
        {"lb_endpoints": [host("10.0.0.1", 70000), host("name", 1), zero, {}], "priority": 200}]);
    refused(
        read_endpoints(json!({"cluster_name": "c", "endpoints": list})),
        &[
            "endpoints[1].lb_endpoints[0].endpoint.address.socket_address.port_value: 70000: must be 0 to 65535",
            "endpoints[1].lb_endpoints[1].endpoint.address.socket_address.address: name: ",
            "endpoints[1].lb_endpoints[2].load_balancing_weight: 0: must be 1 to",
            "endpoints[1].lb_endpoints[3].endpoint: no endpoint",
            "endpoints[1].priority: 200: must be 0 to 128 (nearest valid 128)",
        ],
    );
    let heavy = |w: u32| {
        let mut h = host("10.0.0.1", 1);
        h["load_balancing_weight"] = w.into();
        h
    };
    refused(
        read_endpoints(
            json!({"cluster_name": "c", "endpoints": [{"lb_endpoints": [heavy(u32::MAX), heavy(1)]}]}),
        ),
        &["endpoints[0].lb_endpoints: the weights of a locality add up"],
    );
    refused(read_endpoints(json!({})), &["ClusterLoadAssignment (unnamed): cluster_name: must not be empty"]);
}

#[test]
fn health_checks_outliers_and_names_are_read() {
    let check = json!({"timeout": "1s", "interval": "5s", "unhealthy_threshold": 3, "healthy_threshold": 2,
        "tcp_health_check": {"send": {"text": "50494e47"}, "receive": [{"text": "2b504f4e47"}]}});
    let read = read_cluster(with(json!({"health_checks": [check],
        "outlier_detection": {"consecutive_5xx": 7, "base_ejection_time": "600s", "interval": "9223372035s"}})))
    .unwrap();
    let check = &read.health_checks[0];
    assert_eq!(
        (check.no_traffic_interval, check.unhealthy_edge_interval),
        (Duration::from_secs(60), Duration::from_secs(5))
    );
    assert_eq!(check.check, Check::Tcp { send: b"PING".to_vec(), receive: vec![b"+PONG".to_vec()] });
    let outlier = read.outlier.unwrap();
    assert_eq!((outlier.consecutive_5xx, outlier.max_ejection_time), (7, Duration::from_secs(600)));
    refused(
        read_cluster(with(json!({"health_checks": [{"timeout": "1s", "http_health_check": {"path": "x"}}]}))),
        &[
            "health_checks[0].interval: is required",
            "http_health_check.path: x: must begin",
            "healthy_threshold: is required",
        ],
    );
    refused(
        read_cluster(with(json!({"outlier_detection": {"max_ejection_percent": 101}}))),
        &["outlier_detection.max_ejection_percent: 101: must be 0 to 100"],
    );
    let dns = json!({"type": "STRICT_DNS", "respect_dns_ttl": true, "dns_jitter": "1s",
        "dns_failure_refresh_rate": {"base_interval": "2s"},
        "load_assignment": {"cluster_name": "c", "endpoints": [{"lb_endpoints": [host("a.b", 1)]}]}});
    let Discovery::Dns { pace, .. } = read_cluster(with(dns)).unwrap().discovery else { panic!() };
    assert_eq!(pace.failure, Some((Duration::from_secs(2), Duration::from_secs(20))));
    assert!(pace.respect_ttl);
}

#[test]
fn sockets_and_budgets_are_read() {
    let read = read_cluster(with(json!({
        "circuit_breakers": {"thresholds": [{"retry_budget": {"budget_percent": {"value": 12.5}}}]},
        "upstream_bind_config": {"source_address": {"address": "127.0.0.6", "port_value": 0},
            "socket_options": [{"level": 1, "name": 36, "int_value": 1337}]}})))
    .unwrap();
    let budget = RetryBudget { budget_permyriad: 1_250, min_concurrency: 3 };
    assert_eq!(read.breakers.default.retry_budget, Some(budget));
    let bind = read.bind.unwrap();
    assert_eq!(
        (bind.source.clone(), bind.options[0].word()),
        (vec![([127, 0, 0, 6].into(), 0)], Some("SO_MARK"))
    );
    refused(
        read_cluster(with(
            json!({"upstream_bind_config": {"socket_options": [{"level": 6, "name": 99, "int_value": 1}]}}),
        )),
        &["upstream_bind_config.socket_options[0].name: level 6 name 99: this socket option"],
    );
    refused(
        read_cluster(with(json!({"circuit_breakers": {"per_host_thresholds": [{}]}}))),
        &["circuit_breakers.per_host_thresholds: "],
    );
}
