use prost::Message;
use prost_types::Any;

use super::*;
use crate::proto;
use crate::proto::envoy::config::cluster::v3::Cluster;
use crate::proto::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter::ConfigType};
use crate::proto::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
use crate::proto::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;

/// A varint field with a number no message here has.
const FUTURE: &[u8] = &[0xc8, 0x9c, 0x01, 0x01]; // number 2505, varint 1

fn with_future(message: &impl Message) -> Vec<u8> {
    let mut bytes = message.encode_to_vec();
    bytes.extend_from_slice(FUTURE);
    bytes
}

fn paths(remarks: &[Remark], kind: RemarkKind) -> Vec<&str> {
    remarks.iter().filter(|r| r.kind == kind).map(|r| r.path.as_str()).collect()
}

#[test]
fn an_unknown_field_of_a_cluster_is_only_counted() {
    let remarks = scan(
        "envoy.config.cluster.v3.Cluster",
        &with_future(&Cluster { name: "c".into(), ..Default::default() }),
    );
    assert_eq!(remarks, [Remark { path: "<2505>".into(), kind: RemarkKind::Unknown }]);
}

#[test]
fn an_unknown_field_inside_a_filter_is_strict_through_any() {
    let tcp = TcpProxy { stat_prefix: "t".into(), ..Default::default() };
    let any = Any { type_url: proto::pack(&tcp).type_url, value: with_future(&tcp) };
    let filter = Filter { name: "f".into(), config_type: Some(ConfigType::TypedConfig(any)) };
    let chain = FilterChain { filters: vec![filter], ..Default::default() };
    let listener = Listener {
        filter_chains: vec![FilterChain::default(), chain],
        enable_mptcp: true,
        ..Default::default()
    };
    let remarks = scan("envoy.config.listener.v3.Listener", &listener.encode_to_vec());
    assert_eq!(paths(&remarks, RemarkKind::Strict), ["filter_chains[1].filters[0].typed_config.<2505>"]);
    assert_eq!(paths(&remarks, RemarkKind::NoEffect), ["enable_mptcp"]);
}

#[test]
fn an_unknown_field_beside_an_unset_oneof_may_be_its_member() {
    use crate::proto::envoy::config::route::v3::{DirectResponseAction, Route, route::Action};
    let table = |route: Vec<u8>| {
        let mut host = VirtualHost { name: "v".into(), ..Default::default() }.encode_to_vec();
        prost::encoding::bytes::encode(3, &route, &mut host);
        let mut table = RouteConfiguration::default().encode_to_vec();
        prost::encoding::bytes::encode(2, &host, &mut table);
        scan("envoy.config.route.v3.RouteConfiguration", &table)
    };
    let unset = table(with_future(&Route::default()));
    assert_eq!(paths(&unset, RemarkKind::Strict), ["virtual_hosts[0].routes[0].<2505>"]);
    let action = Some(Action::DirectResponse(DirectResponseAction { status: 404, ..Default::default() }));
    let set = table(with_future(&Route { action, ..Default::default() }));
    assert_eq!(paths(&set, RemarkKind::Unknown), ["virtual_hosts[0].routes[0].<2505>"]);
    assert_eq!(paths(&set, RemarkKind::Strict), Vec::<&str>::new());
}

#[test]
fn map_entries_are_named_by_key() {
    let options = proto::envoy::extensions::upstreams::http::v3::HttpProtocolOptions::default();
    let any = Any { type_url: proto::pack(&options).type_url, value: with_future(&options) };
    let cluster =
        Cluster { typed_extension_protocol_options: [("http".to_owned(), any)].into(), ..Default::default() };
    let remarks = scan("envoy.config.cluster.v3.Cluster", &cluster.encode_to_vec());
    assert_eq!(remarks.len(), 1);
    assert_eq!(remarks[0].path, "typed_extension_protocol_options[\"http\"].<2505>");
}

#[test]
fn malformed_bytes_end_the_walk_and_a_name_is_still_read() {
    assert!(scan("envoy.config.cluster.v3.Cluster", &[0xff, 0xff, 0xff]).is_empty());
    let mut bytes = Cluster { name: "c".into(), ..Default::default() }.encode_to_vec();
    bytes.extend_from_slice(&[0x12, 0x7f]);
    assert_eq!(top_string(&bytes, 1), Some("c"));
    assert_eq!(top_string(&bytes, 2), None);
    assert!(scan("no.such.Message", FUTURE).is_empty());
}

#[test]
fn plans_are_what_the_descriptor_pool_says() {
    let pool = proto::descriptor_pool();
    let own = pool.all_messages().filter(|m| !m.is_map_entry());
    let (known, own): (Vec<_>, Vec<_>) = own.partition(|m| m.full_name().starts_with("google.protobuf."));
    assert!(known.iter().all(|m| !is_known(m.full_name())));
    assert!(own.len() > 200);
    for message in own {
        let plan = plan_of(message.full_name()).unwrap_or_else(|| panic!("{}", message.full_name()));
        let mut fields: Vec<_> = message.fields().collect();
        fields.sort_by_key(prost_reflect::FieldDescriptor::number);
        assert_eq!(plan.fields.len(), fields.len(), "{}", message.full_name());
        for (read, field) in plan.fields.iter().zip(fields) {
            let at = field.full_name();
            assert_eq!((read.number, read.name), (field.number(), field.name()), "{at}");
            assert_eq!((read.is_list, read.is_map), (field.is_list(), field.is_map()), "{at}");
            let optional = |oneof: &str| tables::OPTIONAL_ONEOFS.contains(&oneof);
            let counts = field.containing_oneof().is_some_and(|oneof| !optional(oneof.name()));
            assert_eq!(read.oneof != 0, counts, "{at}");
            assert_eq!(read.oneof & plan.required_oneofs, read.oneof, "{at}");
            let mut kind = field.kind();
            if let (true, Some(entry)) = (field.is_map(), kind.as_message()) {
                kind = entry.map_entry_value_field().kind();
            }
            let holds = match &read.shape {
                Shape::Scalar => None,
                Shape::Message { name, .. } => Some(*name),
            };
            assert_eq!(holds, kind.as_message().map(prost_reflect::MessageDescriptor::full_name), "{at}");
        }
    }
}

#[test]
fn tables_name_only_what_exists() {
    let pool = proto::descriptor_pool();
    for (message, fields) in tables::NO_EFFECT {
        let message = pool.get_message_by_name(message).unwrap_or_else(|| panic!("{message}"));
        for field in *fields {
            assert!(message.get_field_by_name(field).is_some(), "{} {field}", message.full_name());
        }
    }
    for shell in tables::SHELLS {
        assert!(pool.get_message_by_name(shell).is_some(), "{shell}");
    }
    for prefix in tables::STRICT {
        assert!(pool.all_messages().any(|m| m.full_name().starts_with(prefix)), "{prefix}");
    }
    for oneof in tables::OPTIONAL_ONEOFS {
        assert!(pool.all_messages().any(|m| m.oneofs().any(|o| o.name() == *oneof)), "{oneof}");
    }
}
