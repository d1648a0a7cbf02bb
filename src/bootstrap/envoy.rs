//! Envoy's sections of a document.

use super::ads::{self, Ads};
use super::{Finding, node, overload, runtime, stats};
use crate::model::{Address, Cluster, Layer, LayerSource, Listener};
use crate::proto::envoy::config::bootstrap::v3::Bootstrap as Message;
use crate::proto::envoy::config::bootstrap::v3::runtime_layer::LayerSpecifier;
use crate::proto::envoy::config::core::v3::{self as core, Node, address, socket_address};
use crate::proto::json::decode_json_lenient;
use crate::telemetry::StatsConfig;
use crate::translate::envoy as translate;
use crate::translate::locate::locate;
use crate::translate::{NoteKind, Rejection, Translated};
use prost::Message as _;
use serde_json::{Map, Value, json};
use std::net::{IpAddr, SocketAddr};

const OTHER_STREAM: &str = "no such stream: expected the cluster and api_type of cds_config and lds_config";
const BOOTSTRAP: &str = "type.googleapis.com/envoy.config.bootstrap.v3.Bootstrap";
const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";

/// What the sections give.
#[derive(Default)]
pub(super) struct Made {
    pub node: Node,
    pub admin: Option<Address>,
    pub ads: Option<Ads>,
    pub state_dir: Option<String>,
    pub runtime: Vec<Layer>,
    pub connection_limit: Option<u32>,
    /// Streams per type that static resources ask for, each with what to say if there is none.
    own_streams: Vec<(Finding, String, bool)>,
    pub stats: Option<StatsConfig>,
    pub listeners: Vec<Listener>,
    pub clusters: Vec<Cluster>,
    pub unknown_fields: usize,
}

/// Reads the sections of `layers`, the file and what is merged over it, and the static resources of `merged`,
/// both together. `mixed`: they stand in a MOSN file, whose own keys and old habits are left out.
pub(super) fn read<'a>(
    layers: impl Iterator<Item = &'a Value>,
    merged: &Value,
    mixed: bool,
    findings: &mut Vec<Finding>,
) -> Made {
    let mut made = Made::default();
    // Bytes after bytes are a merged message: only so does one member of a oneof replace another.
    let mut bytes = Vec::new();
    for map in layers.filter_map(Value::as_object) {
        bytes.extend(sections(map, mixed, &mut made, findings));
    }
    let message = Message::decode(bytes.as_slice()).unwrap_or_default();
    let Some(map) = merged.as_object() else { return made };
    static_resources(map, mixed, &mut made, findings);
    if let Some(admin) = message.admin.as_ref().and_then(|admin| admin.address.as_ref()) {
        made.admin = admin_address(admin, findings);
    }
    made.state_dir = state_dir(&message);
    made.runtime = runtime::read(&message, findings);
    made.connection_limit = overload::read(&message, findings);
    made.stats = message.stats_config.as_ref().map(|config| stats::read(config, findings));
    made.node = message.node.unwrap_or_default();
    if made.node.user_agent_name.is_empty() {
        "mizzen".clone_into(&mut made.node.user_agent_name);
        let version = env!("CARGO_PKG_VERSION").to_owned();
        made.node.user_agent_version_type = Some(core::node::UserAgentVersionType::UserAgentVersion(version));
    }
    if let Some(dynamic) = &message.dynamic_resources {
        let rtds = ads::runtime_sources(message.layered_runtime.as_ref());
        made.ads = ads::read(dynamic, &rtds, &made.clusters, findings);
    } else if made.runtime.iter().any(|layer| matches!(layer.source, LayerSource::Rtds(_))) {
        let why = "an rtds_layer needs dynamic_resources with ads_config";
        findings.push(Finding::error("layered_runtime.layers", "", why));
    }
    for (finding, cluster, delta) in std::mem::take(&mut made.own_streams) {
        let fits = |ads: &Ads| ads.split && ads.cluster.name == cluster && ads.delta == delta;
        if !made.ads.as_ref().is_some_and(fits) {
            findings.push(finding);
        }
    }
    made
}

/// Everything but the static resources: top-level keys are read one by one, so that a bad one is known by name.
fn sections(map: &Map<String, Value>, mixed: bool, made: &mut Made, findings: &mut Vec<Finding>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (key, value) in map {
        let wanted = ["node", "dynamic_resources", "dynamicResources"].contains(&key.as_str());
        if is_static(key) || key == "mizzen" || (mixed && !wanted) {
            continue;
        }
        let mut section = json!({ key: value });
        if mixed {
            mosn_habits(&mut section);
        }
        bytes.extend(decode(BOOTSTRAP, &section, "", made, findings).unwrap_or_default());
    }
    bytes
}

fn is_static(key: &str) -> bool {
    key == "static_resources" || key == "staticResources"
}

/// MOSN wants `refresh_delay` as an object and its own form of circuit breakers: neither is used here.
fn mosn_habits(section: &mut Value) {
    let source = section.pointer_mut("/dynamic_resources/ads_config").and_then(Value::as_object_mut);
    if let Some(source) = source.filter(|source| source.get("refresh_delay").is_some_and(Value::is_object)) {
        source.remove("refresh_delay");
    }
    if section.get("circuit_breakers").is_some_and(Value::is_array) {
        section.as_object_mut().map(|section| section.remove("circuit_breakers"));
    }
}

fn static_resources(map: &Map<String, Value>, mixed: bool, made: &mut Made, findings: &mut Vec<Finding>) {
    for (key, section) in map.iter().filter(|(key, _)| is_static(key)) {
        let Some(section) = section.as_object() else {
            findings.push(Finding::error(key, section, "expected an object"));
            continue;
        };
        for (name, list) in section {
            let at = format!("{key}.{name}");
            let Some(items) = list.as_array() else {
                if !list.is_null() {
                    findings.push(Finding::error(at, "", "expected a list"));
                }
                continue;
            };
            match name.as_str() {
                "clusters" => {
                    for (path, cluster) in items.iter().enumerate().map(|(i, c)| (format!("{at}[{i}]"), c)) {
                        let mut cluster = cluster.clone();
                        if mixed {
                            mosn_habits(&mut cluster);
                        }
                        let model = resource(CLUSTER, &cluster, &path, translate::cluster, made, findings);
                        made.clusters.extend(model);
                    }
                }
                "listeners" => {
                    for (path, listener) in items.iter().enumerate().map(|(i, l)| (format!("{at}[{i}]"), l)) {
                        let listener = named(listener);
                        let model = resource(LISTENER, &listener, &path, translate::listener, made, findings);
                        made.listeners.extend(model);
                    }
                }
                "secrets" => findings.push(Finding::error(at, "", "static secrets come later")),
                _ => {
                    made.unknown_fields += 1;
                    findings.push(Finding::warning(at, "", "unknown field, ignored"));
                }
            }
        }
    }
    unique(made.clusters.iter().map(|c| c.name.as_str()), "static_resources.clusters", findings);
    unique(made.listeners.iter().map(|l| l.name.as_str()), "static_resources.listeners", findings);
}

/// A static listener may go without a name, a resource may not: it is called by its address.
fn named(listener: &Value) -> Value {
    let mut listener = listener.clone();
    let socket = listener.pointer("/address/socket_address").or(listener.pointer("/address/socketAddress"));
    let port = socket.and_then(|socket| socket.get("port_value").or(socket.get("portValue")));
    let host = socket.and_then(|socket| socket.get("address")).and_then(Value::as_str);
    if let (Some(host), Some(port), true) = (host, port, listener.get("name").is_none()) {
        let name = format!("{host}:{port}");
        listener.as_object_mut().map(|map| map.insert("name".to_owned(), name.into()));
    }
    listener
}

fn resource<T>(
    type_url: &str,
    json: &Value,
    path: &str,
    translate: fn(&[u8]) -> Result<Translated<T>, Rejection>,
    made: &mut Made,
    findings: &mut Vec<Finding>,
) -> Option<T> {
    let bytes = decode(type_url, json, path, made, findings)?;
    match translate(&bytes) {
        Ok(Translated { model, notes }) => {
            for note in notes {
                let why = match note.kind {
                    NoteKind::UnknownField => "unknown field, ignored",
                    NoteKind::NoEffect => "accepted, has no effect",
                    NoteKind::NotSpoken => "not spoken here, left out",
                    NoteKind::OwnStream { cluster, delta } => {
                        let at = Finding::error(note.path, &cluster, OTHER_STREAM).within(path);
                        made.own_streams.push((at, cluster, delta));
                        continue;
                    }
                };
                findings.push(Finding::warning(note.path, "", why).within(path));
            }
            Some(model)
        }
        Err(rejection) => {
            let found = rejection.findings.into_iter();
            findings.extend(found.map(|bad| bad.within(path)));
            None
        }
    }
}

/// JSON → bytes; what is not known is counted and warned of.
fn decode(
    type_url: &str,
    json: &Value,
    path: &str,
    made: &mut Made,
    findings: &mut Vec<Finding>,
) -> Option<Vec<u8>> {
    match decode_json_lenient(type_url, json) {
        Ok((bytes, ignored)) => {
            made.unknown_fields += ignored.len();
            findings.extend(ignored.into_iter().map(|ignored| {
                let (value, why) = match ignored.type_url {
                    Some(url) => (url, "unknown extension"),
                    None => (String::new(), "unknown field, ignored"),
                };
                Finding::warning(ignored.path, value, why).within(path)
            }));
            Some(bytes)
        }
        Err(error) => {
            findings.push(locate(type_url, json, &error.to_string()).within(path));
            None
        }
    }
}

fn admin_address(of: &core::Address, findings: &mut Vec<Finding>) -> Option<Address> {
    const AT: &str = "admin.address";
    match of.address.as_ref()? {
        address::Address::SocketAddress(socket) => {
            let port = match socket.port_specifier {
                Some(socket_address::PortSpecifier::PortValue(port)) => u16::try_from(port).ok(),
                _ => None,
            };
            let ip: Option<IpAddr> = match socket.address.as_str() {
                "localhost" => Some([127, 0, 0, 1].into()),
                text => text.parse().ok(),
            };
            if let (Some(ip), Some(port)) = (ip, port) {
                return Some(Address::Ip(SocketAddr::new(ip, port)));
            }
            let at = format!("{AT}.socket_address");
            findings.push(Finding::error(
                at,
                &socket.address,
                "expected an IP address and a port_value up to 65535",
            ));
            None
        }
        address::Address::Pipe(pipe) => Some(Address::Unix(pipe.path.clone().into())),
        _ => {
            findings.push(Finding::error(AT, "", "expected socket_address or pipe"));
            None
        }
    }
}

/// `mizzen.state_dir` of the last static runtime layer that has it.
fn state_dir(message: &Message) -> Option<String> {
    let layers = message.layered_runtime.as_ref()?.layers.iter().rev();
    layers
        .filter_map(|layer| match layer.layer_specifier.as_ref()? {
            LayerSpecifier::StaticLayer(values) => node::text(values, "mizzen.state_dir").map(str::to_owned),
            _ => None,
        })
        .next()
}

fn unique<'a>(names: impl Iterator<Item = &'a str>, path: &str, findings: &mut Vec<Finding>) {
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            findings.push(Finding::error(path, name, "given twice"));
        }
    }
}

/// Adds what a MOSN file brings of its own; a name that is there already is an error.
pub(super) fn join(
    made: &mut Made,
    listeners: Vec<Listener>,
    clusters: Vec<Cluster>,
    findings: &mut Vec<Finding>,
) {
    made.listeners.extend(listeners);
    made.clusters.extend(clusters);
    unique(made.clusters.iter().map(|c| c.name.as_str()), "cluster_manager.clusters", findings);
    unique(made.listeners.iter().map(|l| l.name.as_str()), "servers[0].listeners", findings);
}
