use std::time::Duration;

use super::*;

const TCP: &str = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const HCM: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const RPC: &str = "type.googleapis.com/mizzen.v1.RpcProxy";
const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
const STRUCT: &str = "type.googleapis.com/google.protobuf.Duration";

fn tcp() -> Json {
    json!({"name": "any", "typed_config": {"@type": TCP, "stat_prefix": "t", "cluster": "c"}})
}

pub fn with_filters(filters: Json) -> Json {
    json!({"name": "l", "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": filters}]})
}

fn with(extra: Json) -> Json {
    let mut listener = with_filters(json!([tcp()]));
    listener.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    listener
}

pub fn manager(extra: Json) -> Json {
    let mut config = json!({"@type": HCM, "stat_prefix": "h",
        "rds": {"route_config_name": "r", "config_source": {"ads": {}}},
        "http_filters": [{"name": "x", "typed_config": {"@type": ROUTER}}]});
    config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    with_filters(json!([{"name": "f", "typed_config": config}]))
}

fn filter(verdict: Result<Listener, String>) -> NetworkFilter {
    verdict.unwrap().filter_chains.remove(0).filter
}

#[test]
fn a_plain_listener_has_envoys_defaults() {
    let read = read_listener(with(json!({}))).unwrap();
    assert_eq!(read.addresses, [Address::Ip("127.0.0.1:0".parse().unwrap())]);
    assert_eq!((read.bind_to_port, read.exact_balance, read.buffer_limit), (true, false, 1 << 20));
    let NetworkFilter::Tcp(tcp) = &read.filter_chains[0].filter else { panic!() };
    assert_eq!((tcp.idle_timeout, tcp.max_connect_attempts), (Some(Duration::from_secs(3600)), 1));
    assert_eq!(tcp.clusters[0].name, "c");
}

#[test]
fn listeners_that_others_hand_connections_to() {
    let read =
        read_listener(with(json!({"use_original_dst": true, "ignore_global_conn_limit": true}))).unwrap();
    assert!(read.use_original_dst && read.unlimited && read.bind_to_port && !read.internal);
    let read = read_listener(with(json!({"bind_to_port": false}))).unwrap();
    assert!(!read.bind_to_port && !read.use_original_dst && !read.unlimited);
    let mut inner = with(json!({"internal_listener": {}}));
    inner.as_object_mut().unwrap().remove("address");
    let read = read_listener(inner).unwrap();
    assert!(read.internal && !read.bind_to_port && read.addresses.is_empty());
}

#[test]
fn listeners_refuse_what_is_not_built() {
    let unknown = json!({"@type": STRUCT, "value": "1s"});
    refused(
        read_listener(with(json!({"listener_filters": [{"name": "x", "typed_config": unknown}]}))),
        &["Listener l: listener_filters[0].typed_config: "],
    );
    let socket = json!({"internal_listener": {}, "use_original_dst": true});
    refused(
        read_listener(with(socket)),
        &["address: an internal listener", "use_original_dst: true: not on"],
    );
    refused(read_listener(with(json!({"udp_listener_config": {}}))), &["udp_listener_config: not supported"]);
    let udp = json!({"socket_address": {"protocol": "UDP", "address": "127.0.0.1", "port_value": 1}});
    refused(
        read_listener(with(json!({"address": udp}))),
        &["address.socket_address.protocol: UDP: only TCP"],
    );
    let name = json!({"socket_address": {"address": "localhost", "port_value": 99999}});
    refused(
        read_listener(with(json!({"address": name}))),
        &[
            "address.socket_address.port_value: 99999: ",
            "address.socket_address.address: localhost: must be an IP",
        ],
    );
    let socket = json!({"name": "tls", "typed_config": {"@type": STRUCT, "value": "1s"}});
    refused(
        read_listener(with(json!({"filter_chains": [{"filters": [tcp()], "transport_socket": socket}]}))),
        &["filter_chains[0].transport_socket.typed_config: type.googleapis.com/google.protobuf.Duration: "],
    );
}

#[test]
fn chains_need_a_terminal_filter_at_the_end() {
    refused(read_listener(with(json!({"filter_chains": []}))), &["filter_chains: at least one filter chain"]);
    refused(read_listener(with_filters(json!([]))), &["filter_chains[0].filters: no filters"]);
    refused(
        read_listener(with_filters(json!([tcp(), tcp()]))),
        &["filter_chains[0].filters[0].typed_config: type.googleapis.com/envoy", "must be the last filter"],
    );
    let other = json!({"name": "tcp_proxy", "typed_config": {"@type": STRUCT, "value": "1s"}});
    refused(
        read_listener(with_filters(json!([other.clone(), other]))),
        &[
            "filters[0].typed_config: type.googleapis.com/google.protobuf.Duration: this filter is not supported;",
            "filters[1].typed_config: type.googleapis.com/google.protobuf.Duration: this filter is not supported (nearest",
        ],
    );
    refused(
        read_listener(with_filters(json!([{"name": "envoy.tcp_proxy"}]))),
        &["filters[0].typed_config: envoy.tcp_proxy: "],
    );
}

#[test]
fn chain_matches_are_read_and_must_not_overlap() {
    let chain = |matcher: Json| json!({"filters": [tcp()], "filter_chain_match": matcher});
    let chains = |list: &[Json]| {
        read_listener(with(
            json!({"filter_chains": list.iter().map(|m| chain(m.clone())).collect::<Vec<_>>()}),
        ))
    };
    let read = chains(&[
        json!({"destination_port": 80, "prefix_ranges": [{"address_prefix": "10.1.2.3", "prefix_len": 8}],
        "server_names": ["*.Example.com"], "source_type": "EXTERNAL", "source_ports": [1]}),
    ])
    .unwrap();
    let matcher = &read.filter_chains[0].matcher;
    assert_eq!((matcher.destination_port, matcher.source_type), (Some(80), SourceType::External));
    assert_eq!(matcher.server_names, ["*.example.com"]);
    assert_eq!(matcher.prefix_ranges, [Cidr::new("10.0.0.0".parse().unwrap(), 8).unwrap()]);
    refused(
        chains(&[
            json!({"application_protocols": ["a", "b"]}),
            json!({}),
            json!({"application_protocols": ["b"]}),
        ]),
        &["filter_chains[2].filter_chain_match: matches the same connections as filter_chains[0]"],
    );
    refused(
        chains(&[json!({"destination_port": 0, "server_names": ["a*.b"], "transport_protocol": "quic",
            "prefix_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 33}, {"address_prefix": "x"}]})]),
        &[
            "filter_chain_match.destination_port: 0: must be 1 to 65535 (nearest valid 1)",
            "server_names[0]: a*.b: ",
            "transport_protocol: quic: ",
            "prefix_ranges[0].prefix_len: 33: must be 0 to 32 (nearest valid 32)",
            "prefix_ranges[1].address_prefix: x: must be an IP address",
        ],
    );
    let many: Vec<_> = (0..=MAX_CHAINS).map(|i| json!({"source_ports": [i + 1]})).collect();
    refused(chains(&many), &["filter_chains: 1001: a listener has 1000 filter chains at most"]);
    assert_eq!(chains(&many[1..]).unwrap().filter_chains.len(), MAX_CHAINS);
}

#[test]
fn tcp_weights_must_be_positive() {
    let weighted = |list: Json| {
        let config = json!({"@type": TCP, "stat_prefix": "t", "idle_timeout": "0s", "weighted_clusters": {"clusters": list}});
        read_listener(with_filters(json!([{"name": "x", "typed_config": config}])))
    };
    let NetworkFilter::Tcp(tcp) =
        filter(weighted(json!([{"name": "a", "weight": 1}, {"name": "b", "weight": 3}])))
    else {
        panic!()
    };
    assert_eq!((tcp.clusters.len(), tcp.clusters[1].weight, tcp.idle_timeout), (2, 3, None));
    refused(weighted(json!([{"name": "a"}])), &["weighted_clusters.clusters[0].weight: 0: must be 1 to"]);
    refused(weighted(json!([])), &["weighted_clusters.clusters: 0: the weights must add up"]);
}

#[test]
fn what_becomes_of_heads_is_read() {
    let NetworkFilter::Http(http) = filter(read_listener(manager(json!({
        "codec_type": "HTTP1", "request_timeout": "3s", "request_headers_timeout": "2s",
        "max_request_headers_kb": 8, "normalize_path": true, "merge_slashes": true,
        "path_with_escaped_slashes_action": "UNESCAPE_AND_REDIRECT", "strip_any_host_port": true,
        "server_name": "istio-envoy", "server_header_transformation": "PASS_THROUGH",
        "use_remote_address": true, "xff_num_trusted_hops": 2, "skip_xff_append": true, "via": "mesh",
        "generate_request_id": false, "preserve_external_request_id": true, "proxy_100_continue": true,
        "forward_client_cert_details": "ALWAYS_FORWARD_ONLY",
        "scheme_header_transformation": {"scheme_to_overwrite": "https"},
        "internal_address_config": {"cidr_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}]},
        "upgrade_configs": [{"upgrade_type": "WebSocket"}, {"upgrade_type": "CONNECT", "enabled": false}],
        "http_protocol_options": {"accept_http_10": true, "default_host_for_http_10": "h",
            "allow_custom_methods": true},
        "common_http_protocol_options": {"max_headers_count": 7, "max_requests_per_connection": 5,
            "headers_with_underscores_action": "DROP_HEADER"}}))))
    else {
        panic!()
    };
    assert_eq!(http.codec, Codec::Http1);
    let limits = RequestLimits {
        head_bytes: 8192,
        max_headers: Some(7),
        headers_timeout: Some(Duration::from_secs(2)),
        request_timeout: Some(Duration::from_secs(3)),
        per_connection: Some(5),
    };
    assert_eq!(http.limits, limits);
    let http1 = Http1Options {
        accept_http_10: true,
        default_host: "h".into(),
        custom_methods: true,
        ..Http1Options::default()
    };
    assert_eq!(http.http2.header_list, Some(8192));
    assert_eq!(http.http1, http1);
    let upgrade = |kind: &str, enabled| Upgrade { kind: kind.into(), enabled, raw: None };
    let edge = Edge {
        add_user_agent: false,
        underscores: Underscores::Drop,
        normalize_path: true,
        merge_slashes: true,
        escaped_slashes: EscapedSlashes::Redirect,
        strip_port: StripPort::Any,
        strip_trailing_dot: false,
        server_header: ServerHeader::PassThrough,
        use_remote_address: true,
        trusted_hops: 2,
        skip_xff_append: true,
        append_port: false,
        internal: vec![Cidr::new("10.0.0.0".parse().unwrap(), 8).unwrap()],
        request_id: RequestId {
            generate: false,
            preserve_external: true,
            in_response: false,
            ..RequestId::default()
        },
        via: "mesh".into(),
        upgrades: vec![upgrade("websocket", true), upgrade("connect", false)],
        proxy_100_continue: true,
        client_cert: ClientCert { mode: CertMode::AlwaysForwardOnly, ..ClientCert::default() },
        scheme: Some(RequestScheme::Https),
    };
    assert_eq!(http.edge, edge);
    refused(
        read_listener(manager(json!({"max_request_headers_kb": 9000, "upgrade_configs": [{}],
            "http_protocol_options": {"header_key_format": {"proper_case_words": {}}}}))),
        &["max_request_headers_kb: 9000: ", "upgrade_type: ", "proper_case_words: "],
    );
}

#[test]
fn leniency_is_asked_for_in_metadata() {
    let with = |word: Json| {
        let mut listener = with_filters(json!([]));
        listener["metadata"] = json!({"filter_metadata": {"mizzen": {"http1": word}, "other": {"http1": 1}}});
        listener["filter_chains"] = json!([{"filters": [{"name": "h", "typed_config": {
            "@type": HCM, "stat_prefix": "s", "route_config": {},
            "http_filters": [{"name": "r", "typed_config": {"@type": ROUTER}}]}}]}]);
        read_listener(listener)
    };
    let lenient = |word: &str| match filter(with(json!(word))) {
        NetworkFilter::Http(http) => http.http1.lenient,
        _ => panic!(),
    };
    assert!(lenient("lenient") && !lenient("strict"));
    refused(
        with(json!("lax")),
        &["metadata.filter_metadata.mizzen.http1: lax: nearest valid: lenient, strict"],
    );
    refused(with(json!(true)), &["metadata.filter_metadata.mizzen.http1: "]);
}

#[test]
fn http_takes_codec_auto_and_http2_with_the_router() {
    let NetworkFilter::Http(http) = filter(read_listener(manager(json!({
        "codec_type": "HTTP2", "stream_idle_timeout": "0s",
        "http2_protocol_options": {"max_concurrent_streams": 50}}))))
    else {
        panic!()
    };
    assert_eq!((http.codec, http.stream_idle_timeout, http.max_concurrent_streams), (Codec::Http2, None, 50));
    assert_eq!((http.server_name.as_str(), http.idle_timeout), ("envoy", Some(Duration::from_secs(3600))));
    let fifteen = Some(Duration::from_secs(15));
    assert_eq!(http.routes, RouteSource::Rds { name: "r".into(), initial_fetch_timeout: fifteen });
    let at = "filter_chains[0].filters[0].typed_config";
    refused(
        read_listener(manager(json!({"codec_type": "HTTP3"}))),
        &[&format!("{at}.codec_type: HTTP3: this codec")],
    );
    refused(
        read_listener(manager(json!({"http_filters": []}))),
        &[&format!("{at}.http_filters: the last filter must")],
    );
}

#[test]
fn optional_unknown_http_filters_are_skipped_and_others_refused() {
    let unknown = |optional: bool| {
        let any = prost_types::Any { type_url: "type.googleapis.com/no.such.Filter".into(), value: vec![1] };
        let message = bytes("listener", "Listener", &manager(json!({})));
        let mut message = config::listener::v3::Listener::decode(message.as_slice()).unwrap();
        let filter = &mut message.filter_chains[0].filters[0];
        let Some(config::listener::v3::filter::ConfigType::TypedConfig(outer)) = &mut filter.config_type
        else {
            panic!()
        };
        use crate::proto::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
        let mut inner = hcm::HttpConnectionManager::decode(outer.value.as_slice()).unwrap();
        let typed = Some(hcm::http_filter::ConfigType::TypedConfig(any));
        let extra =
            hcm::HttpFilter { name: "x".into(), is_optional: optional, config_type: typed, disabled: false };
        inner.http_filters.insert(0, extra);
        outer.value = inner.encode_to_vec();
        listener(&message.encode_to_vec())
    };
    let skipped = unknown(true).unwrap();
    assert_eq!(skipped.notes[0].path, "filter_chains[0].filters[0].typed_config.http_filters[0]");
    let text = unknown(false).unwrap_err().to_string();
    assert!(
        text.contains("http_filters[0].typed_config: type.googleapis.com/no.such.Filter: this HTTP filter"),
        "{text}"
    );
}

#[test]
fn rpc_proxy_comes_direct_and_in_both_typed_structs() {
    let source = json!({"route_config_name": "r", "config_source": {"ads": {}}});
    let direct = json!({"@type": RPC, "stat_prefix": "s", "downstream_protocol": "bolt", "upstream_protocol": "http2",
        "rds": source, "idle_timeout": "5s", "drain_goaway": true, "max_frame_bytes": 4096});
    let expected = RpcProxy {
        stat_prefix: "s".into(),
        downstream: Protocol::Bolt,
        upstream: Some(Protocol::Http2),
        routes: RouteSource::Rds { name: "r".into(), initial_fetch_timeout: Some(Duration::from_secs(15)) },
        idle_timeout: Some(Duration::from_secs(5)),
        drain_goaway: true,
        max_frame: 4096,
        application_errors: false,
        access_log: Default::default(),
        filters: Vec::new(),
    };
    let read =
        |config: &Json| filter(read_listener(with_filters(json!([{"name": "x", "typed_config": config}]))));
    assert_eq!(read(&direct), NetworkFilter::Rpc(expected.clone()));
    let mut value = direct.clone();
    value.as_object_mut().unwrap().remove("@type");
    for envelope in ["udpa.type.v1.TypedStruct", "xds.type.v3.TypedStruct"] {
        let wrapped =
            json!({"@type": format!("type.googleapis.com/{envelope}"), "type_url": RPC, "value": value});
        assert_eq!(read(&wrapped), NetworkFilter::Rpc(expected.clone()));
    }
}

#[test]
fn rpc_proxy_faults_are_named_in_and_out_of_typed_struct() {
    let read = |config: Json| read_listener(with_filters(json!([{"name": "x", "typed_config": config}])));
    refused(
        read(
            json!({"@type": RPC, "downstream_protocol": "dubbo", "upstream_protocol": "auto", "max_frame_bytes": 9}),
        ),
        &[
            "max_frame_bytes: 9: must be 1024 to 67108864 (nearest valid 1024)",
            "typed_config.stat_prefix: must not be empty",
            "downstream_protocol: dubbo: no such protocol (nearest valid: bolt",
            "upstream_protocol: auto: no such protocol",
            "typed_config: no routes (one of rds, route_config)",
        ],
    );
    let wrapped = |url: &str, value: Json| json!({"@type": "type.googleapis.com/udpa.type.v1.TypedStruct", "type_url": url, "value": value});
    refused(
        read(wrapped(RPC, json!({"stat_prefix": "s", "surprise": 1}))),
        &["filters[0].typed_config.value: type.googleapis.com/mizzen.v1.RpcProxy: ", "surprise"],
    );
    refused(
        read(wrapped("type.googleapis.com/a.b.C", json!({"x": 1}))),
        &["filters[0].typed_config: type.googleapis.com/a.b.C: this filter is not supported"],
    );
}

#[test]
fn a_filter_that_restricts_is_never_skipped() {
    use crate::translate::envoy::extension::Extension;
    for (name, expected) in [("rbac", true), ("jwt_authn", true), ("grpc_stats", false), ("rbac_x", false)] {
        let type_url = format!("type.googleapis.com/envoy.extensions.filters.http.{name}.v3.X");
        let any = prost_types::Any { type_url, value: Vec::new() };
        let extension = Extension::open(&Path::ROOT, &any, &mut Findings::default()).unwrap();
        assert_eq!(extension.restricts(), expected, "{name}");
    }
}
