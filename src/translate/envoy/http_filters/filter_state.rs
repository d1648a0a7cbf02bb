//! `set_filter_state`, of streams and of connections.

use crate::message::state::key;
use crate::model::{FilterConfig, LogFormat, SetFilterState, StateValue};
use crate::proto::envoy::extensions::filters::common::set_filter_state::v3 as common;
use crate::proto::envoy::extensions::filters::http::set_filter_state::v3 as http;
use crate::proto::envoy::extensions::filters::network::set_filter_state::v3 as network;
use crate::translate::envoy::access_log::substitution;
use crate::translate::envoy::values::not_empty;
use crate::translate::finding::{Findings, Path};

/// A kind of object that is a text and nothing more: any key may have it.
const TEXT: &str = "envoy.string";
/// Kinds with an effect on streams, and on connections.
const OF_STREAMS: &[&str] = &[key::SERVER_NAME, key::SUBJECT_ALT_NAMES, key::APPLICATION_PROTOCOLS];
const OF_CONNECTIONS: &[&str] =
    &[key::SERVER_NAME, key::SUBJECT_ALT_NAMES, key::APPLICATION_PROTOCOLS, key::TCP_CLUSTER, key::TCP_IDLE];
/// Kinds that something acts upon which is not there.
const WITHOUT_EFFECT: &[&str] = &[
    "envoy.filters.listener.original_dst.local_ip",
    "envoy.filters.listener.original_dst.remote_ip",
    "envoy.filters.network.http_connection_manager.local_reply_owner",
    "envoy.hash_key",
    "envoy.network.network_namespace",
    "envoy.network.transport_socket.original_dst_address",
    "envoy.ratelimit.hits_addend",
    "envoy.tcp_proxy.disable_tunneling",
    "envoy.udp_proxy.cluster",
    "envoy.upstream.dynamic_host",
    "envoy.upstream.dynamic_port",
];

pub(super) fn of_streams(path: &Path<'_>, config: &http::Config, out: &mut Findings) -> Option<FilterConfig> {
    let values = values(&path.name("on_request_headers"), &config.on_request_headers, OF_STREAMS, out);
    Some(FilterConfig::SetFilterState(SetFilterState { values }))
}

/// The same for connections: all of it is set before their last filter has them, when TLS stands.
pub(in crate::translate::envoy) fn of_connections(
    path: &Path<'_>,
    config: &network::Config,
    out: &mut Findings,
) -> SetFilterState {
    let values = values(&path.name("on_new_connection"), &config.on_new_connection, OF_CONNECTIONS, out);
    SetFilterState { values }
}

fn values(
    path: &Path<'_>,
    list: &[common::FilterStateValue],
    effective: &[&str],
    out: &mut Findings,
) -> Vec<StateValue> {
    let read = list.iter().enumerate();
    read.filter_map(|(i, given)| value(&path.index(i), given, effective, out)).collect()
}

fn value(
    path: &Path<'_>,
    given: &common::FilterStateValue,
    effective: &[&str],
    out: &mut Findings,
) -> Option<StateValue> {
    use common::filter_state_value::{Key, Value};
    let at = path.name("object_key");
    let Some(Key::ObjectKey(object)) = &given.key else {
        out.bad(&at, "", "is required");
        return None;
    };
    let (at_kind, kind) = match given.factory_key.as_str() {
        "" => (&at, object.as_str()),
        kind => (&path.name("factory_key"), kind),
    };
    let known = effective.contains(&kind) && effective.contains(&object.as_str());
    if !known {
        match kind {
            TEXT => {}
            kind if WITHOUT_EFFECT.contains(&kind) || OF_CONNECTIONS.contains(&kind) => out.note(at_kind),
            kind => {
                let why = "there are no objects of this kind (nearest valid: factory_key envoy.string)";
                out.bad(at_kind, kind, why);
            }
        }
    }
    let at_value = path.name("format_string");
    let Some(Value::FormatString(format)) = &given.value else {
        out.bad(&at_value, "", "is required");
        return None;
    };
    let LogFormat::Text { format, omit_empty } = substitution(&at_value, Some(format), out)? else {
        out.bad(&at_value.name("json_format"), "", "not supported (nearest valid: text_format_source)");
        return None;
    };
    Some(StateValue {
        key: not_empty(&at, object, out),
        value: format,
        omit_empty,
        locked: given.read_only,
        skip_if_empty: given.skip_if_empty,
    })
}
