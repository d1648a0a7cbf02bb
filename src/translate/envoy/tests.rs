use serde_json::{Value as Json, json};

use super::*;
use crate::model::*;
use crate::proto::json::decode_json;

mod clusters;
mod http_filters;
mod listeners;
mod routes;
mod tables;

/// Wire bytes of a resource written as JSON.
fn bytes(package: &str, message: &str, json: &Json) -> Vec<u8> {
    decode_json(&format!("type.googleapis.com/envoy.config.{package}.v3.{message}"), json).unwrap()
}

fn read_cluster(json: Json) -> Result<Cluster, String> {
    cluster(&bytes("cluster", "Cluster", &json)).map(|t| t.model).map_err(|r| r.to_string())
}

fn read_listener(json: Json) -> Result<Listener, String> {
    listener(&bytes("listener", "Listener", &json)).map(|t| t.model).map_err(|r| r.to_string())
}

fn read_route(json: Json) -> Result<RouteConfig, String> {
    route(&bytes("route", "RouteConfiguration", &json)).map(|t| t.model).map_err(|r| r.to_string())
}

fn read_endpoints(json: Json) -> Result<Endpoints, String> {
    endpoints(&bytes("endpoint", "ClusterLoadAssignment", &json)).map(|t| t.model).map_err(|r| r.to_string())
}

#[track_caller]
fn refused<T: std::fmt::Debug>(verdict: Result<T, String>, parts: &[&str]) {
    let text = verdict.unwrap_err();
    for part in parts {
        assert!(text.contains(part), "{part:?} not in {text:?}");
    }
}

#[test]
fn bytes_that_do_not_decode_are_refused_under_their_name() {
    let mut bytes = bytes("cluster", "Cluster", &json!({"name": "c"}));
    bytes.extend_from_slice(&[0x22, 0x05, 1]);
    let rejection = cluster(&bytes).unwrap_err();
    assert_eq!((rejection.resource_type, rejection.name.as_deref()), ("Cluster", Some("c")));
    assert_eq!(resource_name(&bytes), Some("c"));
    assert_eq!(resource_name(&[0xff]), None);
}

#[test]
fn a_resource_over_the_size_limit_is_refused_unread() {
    let mut large = bytes("cluster", "Cluster", &json!({"name": "c"}));
    large.resize(MAX_RESOURCE + 1, 0);
    assert!(cluster(&large).unwrap_err().to_string().contains("larger than 67108864"));
}

#[test]
fn unknown_fields_are_noted_in_a_cluster_and_refused_in_a_filter() {
    const FUTURE: &[u8] = &[0xc8, 0x9c, 0x01, 0x01];
    let mut plain = bytes("cluster", "Cluster", &json!({"name": "c"}));
    plain.extend_from_slice(FUTURE);
    let notes = cluster(&plain).unwrap().notes;
    assert_eq!(notes, [Note { path: "<2505>".into(), kind: NoteKind::UnknownField }]);

    let filter = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
    let mut tcp = decode_json(filter, &json!({"stat_prefix": "t", "cluster": "c"})).unwrap();
    tcp.extend_from_slice(FUTURE);
    let any = prost_types::Any { type_url: filter.into(), value: tcp };
    let message = config::listener::v3::Listener::decode(
        bytes("listener", "Listener", &listeners::with_filters(json!([{"name": "t"}]))).as_slice(),
    );
    let mut message = message.unwrap();
    let typed = config::listener::v3::filter::ConfigType::TypedConfig(any);
    message.filter_chains[0].filters[0].config_type = Some(typed);
    let text = listener(&message.encode_to_vec()).unwrap_err().to_string();
    assert_eq!(
        text,
        "Listener l: filter_chains[0].filters[0].typed_config.<2505>: unknown field, which cannot be ignored here"
    );
}
