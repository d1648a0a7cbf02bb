use prost_types::Any;
use serde_json::json;

use super::*;
use crate::proto;
use crate::proto::envoy::config::cluster::v3::Cluster;
use crate::proto::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter::ConfigType};

const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";

#[test]
fn both_spellings_are_read_and_snake_case_is_printed() {
    let snake = json!({"name": "l", "filter_chains": [{"filters": [{"name": "tcp", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "t", "cluster": "c", "idle_timeout": "3600s"}}]}]});
    let camel = json!({"name": "l", "filterChains": [{"filters": [{"name": "tcp", "typedConfig": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "statPrefix": "t", "cluster": "c", "idleTimeout": "3600s"}}]}]});
    let bytes = decode_json(LISTENER, &snake).unwrap();
    assert_eq!(bytes, decode_json(LISTENER, &camel).unwrap());
    assert_eq!(to_json(LISTENER, &bytes), snake);
}

#[test]
fn presence_wrappers_enums_and_wide_numbers_survive() {
    let cluster = json!({"name": "c", "type": "EDS", "common_lb_config": {"healthy_panic_threshold": {}},
        "cleanup_interval": "9223372035s", "lb_policy": "RING_HASH",
        "ring_hash_lb_config": {"minimum_ring_size": "1024"},
        "metadata": {"filter_metadata": {"istio": {"a": [1.0, "x", null, {"b": true}]}}}});
    let message: Cluster = message_from_json(&cluster).unwrap();
    assert!(message.common_lb_config.as_ref().unwrap().healthy_panic_threshold.is_some());
    assert_eq!(generated_to_json(&message), cluster);
}

#[test]
fn an_unknown_any_breaks_nothing_around_it() {
    let inner = Any { type_url: "type.googleapis.com/no.such.Type".into(), value: vec![1, 2, 3, 4] };
    let filters = vec![Filter { name: "f".into(), config_type: Some(ConfigType::TypedConfig(inner)) }];
    let listener = Listener {
        name: "l".into(),
        filter_chains: vec![FilterChain { filters, ..Default::default() }],
        ..Default::default()
    };
    let json = any_to_json(&proto::pack(&listener));
    assert_eq!(
        json,
        json!({"@type": LISTENER, "name": "l", "filter_chains": [{"filters": [{"name": "f", "typed_config":
            {"@type": "type.googleapis.com/no.such.Type", "value": "AQIDBA=="}}]}]})
    );
}

#[test]
fn an_any_whose_bytes_do_not_decode_is_printed_raw() {
    let any = Any { type_url: LISTENER.into(), value: vec![0xff] };
    assert_eq!(any_to_json(&any), json!({"@type": LISTENER, "value": "/w=="}));
}

#[test]
fn a_well_known_type_inside_any_has_a_value_key() {
    let any = Any { type_url: "type.googleapis.com/google.protobuf.Duration".into(), value: vec![8, 5] };
    assert_eq!(any_to_json(&any), json!({"@type": any.type_url, "value": "5s"}));
}

#[test]
fn unknown_keys_are_an_error_or_set_aside() {
    let json = json!({"name": "l", "futureField": 1, "filter_chains": [{"filters": [
        {"name": "f", "typed_config": {"@type": "type.googleapis.com/no.such.Type", "x": {"y": 1}}}], "z": []}]});
    assert!(decode_json(LISTENER, &json).is_err());
    let (bytes, ignored) = decode_json_lenient(LISTENER, &json).unwrap();
    let paths: Vec<_> = ignored.iter().map(|i| i.path.as_str()).collect();
    assert_eq!(paths, ["filter_chains[0].filters[0].typed_config", "filter_chains[0].z", "futureField"]);
    assert_eq!(ignored[0].type_url.as_deref(), Some("type.googleapis.com/no.such.Type"));
    assert_eq!(
        to_json(LISTENER, &bytes)["filter_chains"][0]["filters"][0]["typed_config"]["@type"],
        "type.googleapis.com/no.such.Type"
    );
}

#[test]
fn a_wrong_value_of_a_known_key_is_an_error_in_both_readers() {
    let json = json!({"name": 7});
    assert!(decode_json(LISTENER, &json).is_err());
    assert!(decode_json_lenient(LISTENER, &json).is_err());
    assert!(matches!(decode_json("x/no.Such", &json), Err(Error::UnknownType(_))));
}

#[test]
fn base64_pads() {
    for (plain, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
        assert_eq!(base64(plain.as_bytes()), text);
    }
}

/// What the direct reader gives is what the other gives; `false` when it leaves the JSON to the other.
fn read_directly(type_url: &str, json: &Json) -> bool {
    let Some((bytes, ignored)) = direct::decode(type_url, json) else { return false };
    let (wanted, set_aside) = lenient::by_reflection(type_url, json).unwrap();
    assert_eq!(ignored, set_aside, "{json}");
    assert_eq!(decode_dynamic(type_url, &bytes), decode_dynamic(type_url, &wanted), "{json}");
    // Not only what it means: presence on the wire is looked at elsewhere.
    assert_eq!(bytes.len(), wanted.len(), "{json}");
    true
}

#[test]
fn ordinary_files_are_read_without_a_pool() {
    const BOOTSTRAP: &str = "type.googleapis.com/envoy.config.bootstrap.v3.Bootstrap";
    for file in ["client_bootstrap.json", "server_bootstrap.json"] {
        let text = std::fs::read_to_string(format!("configs/ads/{file}")).unwrap();
        assert!(read_directly(BOOTSTRAP, &serde_json::from_str(&text).unwrap()), "{file}");
    }
    let metadata =
        json!({"a": {"n": 1.5, "t": "x", "b": [true, null, {}], "l": []}, "INTERCEPTION_MODE": "REDIRECT"});
    let cluster = json!({"name": "c", "type": "STRICT_DNS", "connectTimeout": "0.25s", "lb_policy": "ROUND_ROBIN",
        "circuit_breakers": {"thresholds": [{"max_connections": 4294967295u32, "max_retries": "3"}]},
        "metadata": {"filter_metadata": {"istio": metadata}}, "future": {"x": 1},
        "ring_hash_lb_config": {"minimum_ring_size": 0, "hash_function": "XX_HASH"},
        "load_assignment": {"cluster_name": "", "endpoints": [{"lb_endpoints": [{"endpoint": {"address":
            {"socket_address": {"address": "h", "port_value": 0}}}, "load_balancing_weight": 0}]}]},
        "typed_extension_protocol_options": {"x": {"@type": "type.googleapis.com/no.such.Options", "y": 1},
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}}, "z": 0}}});
    assert!(read_directly("type.googleapis.com/envoy.config.cluster.v3.Cluster", &cluster));
    let node = json!({"id": "n", "metadata": metadata, "locality": {"zone": "z"}, "user_agent_name": ""});
    assert!(read_directly("type.googleapis.com/envoy.config.core.v3.Node", &node));
    let listener = json!({"name": "l", "enableMptcp": false, "traffic_direction": "INBOUND",
        "use_original_dst": true, "listener_filters_timeout": "0s", "filter_chains": [{"name": "a"}, {}]});
    assert!(read_directly(LISTENER, &listener));
}

#[test]
fn what_is_out_of_the_ordinary_is_left_to_the_other_reader() {
    let odd = [
        json!({"name": 7}),
        json!({"name": null}),
        json!({"filter_chains": [], "filterChains": []}),
        json!({"traffic_direction": "SIDEWAYS"}),
        json!({"traffic_direction": 1}),
        json!({"listener_filters_timeout": "-1s"}),
        json!({"listener_filters_timeout": "1.0000000001s"}),
        json!({"listener_filters_timeout": 5}),
        json!({"filter_chains": {}}),
        json!({"@type": "x"}),
        json!([]),
    ];
    for json in odd {
        assert!(!read_directly(LISTENER, &json), "{json}");
    }
    let filter = "type.googleapis.com/envoy.config.listener.v3.Filter";
    for any in [json!({}), json!({"@type": "type.googleapis.com/google.protobuf.Duration", "value": "1s"})] {
        assert!(!read_directly(filter, &json!({"typed_config": any})));
    }
    // Two members of one oneof.
    let both = json!({"prefix": "/", "path": "/"});
    assert!(!read_directly("type.googleapis.com/envoy.config.route.v3.RouteMatch", &both));
}
