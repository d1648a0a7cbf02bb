//! Every field that a real istiod sent either changes what is served or is told of in the README.
//!
//! A field is used if leaving it out of a captured resource makes another model of it, or no model. What is left
//! stands in `IDLE`, and the README says of each that it is accepted without effect.

use mizzen::proto;
use mizzen::proto::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use mizzen::translate::{NoteKind, Rejection, Translated, envoy};
use prost::Message;
use prost_reflect::{DynamicMessage, MapKey, ReflectMessage, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Sent by istiod, accepted, and without effect.
const IDLE: &[&str] = &[
    "envoy.config.accesslog.v3.AccessLog.name",
    "envoy.config.cluster.v3.Cluster.typed_dns_resolver_config",
    "envoy.config.cluster.v3.Filter.name",
    "envoy.config.core.v3.ApiConfigSource.set_node_on_first_message_only",
    "envoy.config.core.v3.ApiConfigSource.transport_api_version",
    "envoy.config.core.v3.ConfigSource.resource_api_version",
    "envoy.config.core.v3.TransportSocket.name",
    "envoy.config.core.v3.TypedExtensionConfig.name",
    "envoy.config.core.v3.TypedExtensionConfig.typed_config",
    "envoy.config.endpoint.v3.LocalityLbEndpoints.locality",
    "envoy.config.listener.v3.Filter.name",
    "envoy.config.listener.v3.FilterChain.transport_socket_connect_timeout",
    "envoy.config.listener.v3.Listener.max_connections_to_accept_per_socket_event",
    "envoy.config.listener.v3.ListenerFilter.name",
    "envoy.config.route.v3.Decorator.operation",
    "envoy.config.route.v3.RetryPolicy.RetryHostPredicate.name",
    "envoy.config.route.v3.Route.decorator",
    "envoy.config.route.v3.Route.metadata",
    "envoy.config.route.v3.RouteConfiguration.max_direct_response_body_size_bytes",
    "envoy.config.route.v3.RouteConfiguration.validate_clusters",
    "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector.initial_read_buffer_size",
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.http2_protocol_options",
    "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig.udp_max_queries",
    "envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig.use_request_id_for_trace_sampling",
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions.UseDownstreamHttpConfig.http2_protocol_options",
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions.UseDownstreamHttpConfig.http_protocol_options",
];

/// Tries per field: most are used where they stand first.
const TRIES: usize = 40;

/// The way to a field.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(u32),
    Item(usize),
    Key(MapKey),
    /// What an `Any` holds.
    Inside,
}

type Way = Vec<Step>;

struct Found {
    /// By message and field: in which resource, and where.
    fields: BTreeMap<String, Vec<(usize, Way)>>,
    /// Extensions of types that `proto/` does not have.
    closed: BTreeSet<String>,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn resources(kind: &str) -> Vec<(String, Vec<u8>)> {
    let bytes = std::fs::read(root().join(format!("tests/golden/xds/{kind}.pb"))).unwrap();
    let response = DeltaDiscoveryResponse::decode(bytes.as_slice()).unwrap();
    response.resources.into_iter().map(|r| (r.name, r.resource.unwrap().value)).collect()
}

fn inside(any: &DynamicMessage) -> (String, Option<DynamicMessage>) {
    let url = any.get_field_by_name("type_url").unwrap().as_str().unwrap().to_owned();
    let bytes = any.get_field_by_name("value").unwrap().as_bytes().unwrap().clone();
    let inner = proto::descriptor(&url).map(|kind| DynamicMessage::decode(kind, bytes).unwrap());
    (url, inner)
}

fn walk(message: &DynamicMessage, at: usize, way: &mut Way, found: &mut Found) {
    let kind = message.descriptor();
    if kind.full_name() == "google.protobuf.Any" {
        match inside(message) {
            (_, Some(inner)) => {
                way.push(Step::Inside);
                walk(&inner, at, way, found);
                way.pop();
            }
            (url, None) => drop(found.closed.insert(url)),
        }
        return;
    }
    // Texts, numbers, durations and structs are read as a whole.
    if kind.full_name().starts_with("google.protobuf.") {
        return;
    }
    for (field, value) in message.fields() {
        way.push(Step::Field(field.number()));
        let name = format!("{}.{}", kind.full_name(), field.name());
        found.fields.entry(name).or_default().push((at, way.clone()));
        let mut inner = |step: Option<Step>, value: &Value| {
            let Value::Message(message) = value else { return };
            let deep = way.len();
            way.extend(step);
            walk(message, at, way, found);
            way.truncate(deep);
        };
        match value {
            Value::List(list) => {
                list.iter().enumerate().for_each(|(i, item)| inner(Some(Step::Item(i)), item))
            }
            Value::Map(map) => map.iter().for_each(|(key, item)| inner(Some(Step::Key(key.clone())), item)),
            value => inner(None, value),
        }
        way.pop();
    }
}

/// What is done to a field.
#[derive(Clone, Copy)]
enum Change {
    /// It is left out.
    Clear,
    /// It says something else: what says the default is read as well.
    Other,
}

/// Changes a field; `false`: it cannot be changed so.
fn change(message: &mut DynamicMessage, way: &[Step], how: Change) -> bool {
    match (way, how) {
        ([Step::Inside, rest @ ..], _) => {
            let mut inner = inside(message).1.unwrap();
            let changed = change(&mut inner, rest, how);
            message.set_field_by_name("value", Value::Bytes(inner.encode_to_vec().into()));
            changed
        }
        ([Step::Field(number)], Change::Clear) => {
            message.clear_field_by_number(*number);
            true
        }
        ([Step::Field(number)], Change::Other) => other(message.get_field_by_number_mut(*number).unwrap()),
        ([Step::Field(number), rest @ ..], _) => {
            change_in(message.get_field_by_number_mut(*number).unwrap(), rest, how)
        }
        (way, _) => panic!("{way:?}"),
    }
}

fn change_in(value: &mut Value, way: &[Step], how: Change) -> bool {
    match (value, way) {
        (Value::List(list), [Step::Item(at), rest @ ..]) => change_in(&mut list[*at], rest, how),
        (Value::Map(map), [Step::Key(key), rest @ ..]) => change_in(map.get_mut(key).unwrap(), rest, how),
        (Value::Message(message), rest) => change(message, rest, how),
        (value, rest) => panic!("{value:?} {rest:?}"),
    }
}

fn other(value: &mut Value) -> bool {
    match value {
        Value::Bool(flag) => *flag = !*flag,
        Value::U32(number) => *number = number.wrapping_add(7),
        Value::U64(number) => *number = number.wrapping_add(7),
        Value::I32(number) | Value::EnumNumber(number) => *number = number.wrapping_add(1),
        Value::I64(number) => *number = number.wrapping_add(7),
        Value::String(text) => text.push('x'),
        // Wrapped numbers and durations: their first field.
        Value::Message(inner) if inner.descriptor().full_name().starts_with("google.protobuf.") => {
            return inner.get_field_by_number_mut(1).is_some_and(other);
        }
        _ => return false,
    }
    true
}

/// Whether two verdicts serve the same.
fn same<T: PartialEq>(a: &Result<Translated<T>, Rejection>, b: &Result<Translated<T>, Rejection>) -> bool {
    matches!((a, b), (Ok(a), Ok(b)) if a.model == b.model)
}

/// The fields of one kind of resource that change nothing.
fn idle<T: PartialEq>(
    kind: &str,
    message: &str,
    translate: fn(&[u8]) -> Result<Translated<T>, Rejection>,
    all: &mut BTreeMap<String, bool>,
) {
    let descriptor = proto::descriptor(message).unwrap();
    let mut found = Found { fields: BTreeMap::new(), closed: BTreeSet::new() };
    let mut served = Vec::new();
    for (name, bytes) in resources(kind) {
        let verdict = translate(&bytes);
        if let Ok(translated) = &verdict {
            let unknown = |kind: &NoteKind| matches!(kind, NoteKind::UnknownField);
            let unknown: Vec<_> = translated.notes.iter().filter(|note| unknown(&note.kind)).collect();
            assert!(unknown.is_empty(), "{name}: {unknown:?}");
        }
        let dynamic = DynamicMessage::decode(descriptor.clone(), bytes.as_slice()).unwrap();
        let at = served.len();
        walk(&dynamic, at, &mut Vec::new(), &mut found);
        served.push((dynamic, verdict));
    }
    assert!(found.closed.is_empty(), "extensions of types that are not known: {:?}", found.closed);
    let matters = |(at, way): &(usize, Way)| {
        let (message, verdict) = &served[*at];
        [Change::Clear, Change::Other].into_iter().any(|how| {
            let mut changed = message.clone();
            change(&mut changed, way, how) && !same(&translate(&changed.encode_to_vec()), verdict)
        })
    };
    for (name, places) in &found.fields {
        // What is refused says nothing of its fields.
        let judged: Vec<_> = places.iter().filter(|(at, _)| served[*at].1.is_ok()).take(TRIES).collect();
        if judged.is_empty() {
            continue;
        }
        // A message that says nothing but defaults is read all the same if something in it is.
        let within = |(at, way): &(usize, Way)| {
            let inner =
                found.fields.values().flatten().filter(|(other, deeper)| {
                    other == at && deeper.len() > way.len() && deeper.starts_with(way)
                });
            inner.take(TRIES).any(matters)
        };
        let used =
            judged.iter().any(|place| matters(place)) || judged.iter().take(3).any(|place| within(place));
        *all.entry(name.clone()).or_default() |= used;
    }
}

#[test]
fn every_captured_field_is_used_or_in_the_readme() {
    let mut all = BTreeMap::new();
    idle("cds", "envoy.config.cluster.v3.Cluster", envoy::cluster, &mut all);
    idle("eds", "envoy.config.endpoint.v3.ClusterLoadAssignment", envoy::endpoints, &mut all);
    idle("lds", "envoy.config.listener.v3.Listener", envoy::listener, &mut all);
    idle("rds", "envoy.config.route.v3.RouteConfiguration", envoy::route, &mut all);
    assert!(all.len() > 150, "{}", all.len());
    let found: Vec<&str> = all.iter().filter(|(_, used)| !**used).map(|(name, _)| name.as_str()).collect();
    assert_eq!(found, IDLE, "the fields without effect");
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    for name in IDLE {
        let mut parts = name.rsplit('.');
        let (field, message) = (parts.next().unwrap(), parts.next().unwrap());
        let told = |line: &str| line.contains(&format!("`{field}`")) && line.contains(message);
        assert!(readme.lines().any(told), "the README does not tell of {message} {field}");
    }
}
