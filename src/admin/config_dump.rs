//! `/config_dump`: every resource with its version, times and errors, in the shape of `envoy.admin.v3`.
//!
//! Each entry is printed and redacted by itself, so the memory of a dump does not grow with the mesh, and a
//! message of unknown type shows as base64 instead of spoiling the whole.

use super::body::Producer;
use super::clusters::{address_json, health_word, locality_json};
use super::json::{pretty, quoted};
use super::query::{Params, regex};
use super::redact::redact;
use super::source::{Body, DumpState, Failed, Kind, Resource, TypeState, Version};
use crate::cluster::{ClusterEntry, ClusterSlot};
use crate::model::Discovery;
use crate::proto::json as proto_json;
use crate::snapshot::Snapshot;
use crate::telemetry::clock::rfc3339;
use regex_automata::meta::Regex;
use serde_json::{Map, Value as Json, json};
use std::sync::Arc;
use std::time::SystemTime;

const PIECE: usize = 32 * 1024;
const ADMIN: &str = "type.googleapis.com/envoy.admin.v3.";

/// The parameters of a dump.
#[derive(Default)]
pub struct Wanted {
    include_eds: bool,
    /// Only this list, entry by entry.
    resource: Option<String>,
    /// Only these fields.
    mask: Vec<String>,
    /// Only resources whose name this matches.
    name: Option<Regex>,
}

impl Wanted {
    /// Reads the query.
    ///
    /// # Errors
    /// What to tell the client (400).
    pub fn parse(params: &Params) -> Result<Self, String> {
        let resource = params.get("resource").filter(|r| !r.is_empty()).map(str::to_owned);
        if resource.as_deref() == Some("bootstrap") {
            let hint = "Use ?mask=bootstrap to get only this field";
            return Err(format!("bootstrap is not a repeated field. {hint}"));
        }
        if let Some(resource) = &resource
            && !SECTIONS.iter().any(|s| s.lists.iter().any(|l| l.name == resource))
        {
            return Err(format!("{resource} not found in config dump"));
        }
        let mask = params.get("mask").unwrap_or("").split(',').map(str::trim).filter(|m| !m.is_empty());
        Ok(Wanted {
            include_eds: params.flag("include_eds"),
            resource,
            mask: mask.map(str::to_owned).collect(),
            name: params.get("name_regex").filter(|r| !r.is_empty()).map(regex).transpose()?,
        })
    }

    fn wants_name(&self, name: &str) -> bool {
        self.name.as_ref().is_none_or(|r| r.is_match(name))
    }

    /// Whether a field of a section is printed.
    fn wants_field(&self, field: &str) -> bool {
        self.mask.is_empty() || self.mask.iter().any(|m| m.split('.').next() == Some(field))
    }
}

/// A message of `envoy.admin.v3` with lists of resources.
struct Section {
    name: &'static str,
    kind: Option<Kind>,
    lists: &'static [List],
}

struct List {
    name: &'static str,
    /// The entry's message, within the section's.
    entry: &'static str,
    form: Form,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `StaticX`.
    Static,
    /// `DynamicX` of what serves.
    Active,
    /// `DynamicX` of what waits or was refused.
    Warming,
    /// `DynamicListener`: all states in one entry.
    States,
}

const SECTIONS: &[Section] = &[
    Section {
        name: "ClustersConfigDump",
        kind: Some(Kind::Cluster),
        lists: &[
            List { name: "static_clusters", entry: "StaticCluster", form: Form::Static },
            List { name: "dynamic_active_clusters", entry: "DynamicCluster", form: Form::Active },
            List { name: "dynamic_warming_clusters", entry: "DynamicCluster", form: Form::Warming },
        ],
    },
    Section {
        name: "EndpointsConfigDump",
        kind: Some(Kind::Endpoint),
        lists: &[
            List { name: "static_endpoint_configs", entry: "StaticEndpointConfig", form: Form::Static },
            List { name: "dynamic_endpoint_configs", entry: "DynamicEndpointConfig", form: Form::States },
        ],
    },
    Section {
        name: "ListenersConfigDump",
        kind: Some(Kind::Listener),
        lists: &[
            List { name: "static_listeners", entry: "StaticListener", form: Form::Static },
            List { name: "dynamic_listeners", entry: "DynamicListener", form: Form::States },
        ],
    },
    Section { name: "ScopedRoutesConfigDump", kind: None, lists: &[] },
    Section {
        name: "RoutesConfigDump",
        kind: Some(Kind::Route),
        lists: &[
            List { name: "static_route_configs", entry: "StaticRouteConfig", form: Form::Static },
            List { name: "dynamic_route_configs", entry: "DynamicRouteConfig", form: Form::States },
        ],
    },
    Section {
        name: "SecretsConfigDump",
        kind: Some(Kind::Secret),
        lists: &[
            List { name: "static_secrets", entry: "StaticSecret", form: Form::Static },
            List { name: "dynamic_active_secrets", entry: "DynamicSecret", form: Form::Active },
            List { name: "dynamic_warming_secrets", entry: "DynamicSecret", form: Form::Warming },
        ],
    },
];

fn field_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Cluster => "cluster",
        Kind::Endpoint => "endpoint_config",
        Kind::Listener => "listener",
        Kind::Route => "route_config",
        Kind::Secret => "secret",
    }
}

fn type_url(kind: Kind) -> &'static str {
    match kind {
        Kind::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        Kind::Endpoint => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        Kind::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
        Kind::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        Kind::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
    }
}

/// A resource's body as an `Any` in JSON, redacted.
pub fn any_json(kind: Kind, body: &Body) -> Json {
    let mut json = match body {
        Body::Proto(bytes) => proto_json::any_to_json(&prost_types::Any {
            type_url: type_url(kind).into(),
            value: bytes.to_vec(),
        }),
        Body::Json(value) => {
            json!({ "@type": "type.googleapis.com/google.protobuf.Struct", "value": &**value })
        }
    };
    redact(&mut json);
    json
}

/// A dump about to be written.
pub struct Dump {
    pub state: DumpState,
    pub snapshot: Arc<Snapshot>,
    pub wanted: Wanted,
}

impl Dump {
    /// Writes `{"configs": […]}`.
    pub fn write(&self, out: &mut Producer) {
        let mut writer = Writer { piece: "{\n \"configs\": [".to_owned(), comma: "", out };
        if self.wanted.resource.is_some() {
            self.write_list(&mut writer);
        } else {
            self.write_sections(&mut writer);
        }
        writer.piece.push_str("\n ]\n}\n");
        let piece = std::mem::take(&mut writer.piece);
        out.send(piece);
    }

    fn write_sections(&self, writer: &mut Writer<'_>) {
        self.write_bootstrap(writer);
        for section in SECTIONS {
            if section.kind == Some(Kind::Endpoint) && !self.wanted.include_eds {
                continue;
            }
            let has_field = |path: &String| {
                let field = path.split('.').next().unwrap_or("");
                field == "version_info" || section.lists.iter().any(|l| l.name == field)
            };
            if !self.wanted.mask.iter().all(has_field) {
                continue;
            }
            writer.item(2);
            writer.piece.push_str(&format!("{{\n   \"@type\": \"{ADMIN}{}\"", section.name));
            let state = self.type_state(section);
            let version = state.map_or("", |s| &*s.version);
            if has_version(section) && !version.is_empty() && self.wanted.wants_field("version_info") {
                writer.piece.push_str(&format!(",\n   \"version_info\": {}", quoted(version)));
            }
            for list in section.lists.iter().filter(|l| self.wanted.wants_field(l.name)) {
                if !self.write_field(writer, section, list) {
                    return;
                }
            }
            writer.piece.push_str("\n  }");
        }
    }

    fn write_bootstrap(&self, writer: &mut Writer<'_>) {
        let masked =
            |m: &String| m.split('.').next().is_some_and(|f| f == "bootstrap" || f == "last_updated");
        let (Some(bootstrap), true) = (&self.state.bootstrap, self.wanted.mask.iter().all(masked)) else {
            return;
        };
        let mut json = match bootstrap {
            Body::Proto(bytes) => {
                proto_json::to_json("type.googleapis.com/envoy.config.bootstrap.v3.Bootstrap", bytes)
            }
            Body::Json(value) => (**value).clone(),
        };
        redact(&mut json);
        let mut section = json!({ "@type": format!("{ADMIN}BootstrapConfigDump") });
        if let Some(fields) = section.as_object_mut() {
            if self.wanted.wants_field("bootstrap") {
                fields.insert("bootstrap".into(), json);
            }
            if let (Some(at), true) = (self.state.bootstrap_updated, self.wanted.wants_field("last_updated"))
            {
                fields.insert("last_updated".into(), rfc3339(at).into());
            }
        }
        writer.item(2);
        writer.piece.push_str(&pretty(&section, 2));
    }

    /// One list as a field of its section; false if the reader has gone.
    fn write_field(&self, writer: &mut Writer<'_>, section: &Section, list: &List) -> bool {
        let mut open = false;
        let going = self.entries(section, list, &mut |entry| {
            if !open {
                writer.piece.push_str(&format!(",\n   \"{}\": [", list.name));
                writer.comma = "";
                open = true;
            }
            writer.item(4);
            writer.piece.push_str(&pretty(&entry, 4));
            writer.handed_out()
        });
        if open {
            writer.piece.push_str("\n   ]");
            writer.comma = ",";
        }
        going
    }

    /// The entries of one list, each an element of `configs`.
    fn write_list(&self, writer: &mut Writer<'_>) {
        let wanted = self.wanted.resource.as_deref().unwrap_or("");
        for section in SECTIONS {
            for list in section.lists.iter().filter(|l| l.name == wanted) {
                let type_url = format!("{ADMIN}{}.{}", section.name, list.entry);
                self.entries(section, list, &mut |entry| {
                    let mut fields = Map::new();
                    fields.insert("@type".into(), type_url.as_str().into());
                    fields.extend(masked(entry, &self.wanted.mask));
                    writer.item(2);
                    writer.piece.push_str(&pretty(&Json::Object(fields), 2));
                    writer.handed_out()
                });
            }
        }
    }

    fn type_state(&self, section: &Section) -> Option<&TypeState> {
        self.state.types.iter().find(|t| Some(t.kind) == section.kind)
    }

    /// Calls `each` with every wanted entry of `list` until it returns false.
    fn entries(&self, section: &Section, list: &List, each: &mut dyn FnMut(Json) -> bool) -> bool {
        let Some(kind) = section.kind else { return true };
        let resources = self.type_state(section).into_iter().flat_map(|s| &s.resources);
        for resource in resources {
            let listed = match list.form {
                Form::Static => resource.is_static,
                Form::Active => !resource.is_static && resource.active.is_some(),
                Form::Warming => {
                    !resource.is_static && (resource.warming.is_some() || resource.active.is_none())
                }
                Form::States => !resource.is_static,
            };
            let wanted = listed && self.wanted.wants_name(&resource.name);
            if wanted && !each(entry(kind, list.form, resource)) {
                return false;
            }
        }
        if (kind, list.form) != (Kind::Endpoint, Form::Static) {
            return true;
        }
        let own = self.snapshot.clusters.iter().filter_map(|slot| match slot {
            ClusterSlot::Ready(e) if !matches!(e.spec.model.discovery, Discovery::Eds { .. }) => Some(e),
            _ => None,
        });
        own.filter(|e| self.wanted.wants_name(&e.spec.model.name)).all(|e| each(endpoint_entry(e)))
    }
}

fn has_version(section: &Section) -> bool {
    matches!(section.kind, Some(Kind::Cluster | Kind::Listener))
}

/// Only the masked paths of an entry.
fn masked(entry: Json, mask: &[String]) -> Map<String, Json> {
    let Json::Object(fields) = entry else { return Map::new() };
    if mask.is_empty() {
        return fields;
    }
    let mut kept = Map::new();
    for (key, value) in fields {
        let below: Vec<String> = mask
            .iter()
            .filter_map(|m| match m.split_once('.') {
                Some((first, rest)) if first == key => Some(rest.to_owned()),
                None if *m == key => Some(String::new()),
                _ => None,
            })
            .collect();
        if below.iter().any(String::is_empty) {
            kept.insert(key, value);
        } else if !below.is_empty() {
            // The type stays, or the value could not be read.
            let kind = value.get("@type").cloned().map(|kind| ("@type".to_owned(), kind));
            kept.insert(key, Json::Object(kind.into_iter().chain(masked(value, &below)).collect()));
        }
    }
    kept
}

fn entry(kind: Kind, form: Form, resource: &Resource) -> Json {
    let mut fields = Map::new();
    let named = kind == Kind::Secret || (kind == Kind::Listener && form == Form::States);
    if named {
        fields.insert("name".into(), (&*resource.name).into());
    }
    match form {
        Form::States if kind == Kind::Listener => {
            for (key, version) in [("active_state", &resource.active), ("warming_state", &resource.warming)] {
                if let Some(version) = version {
                    fields.insert(key.into(), Json::Object(version_fields(kind, version)));
                }
            }
        }
        Form::Static => {
            if let Some(version) = &resource.active {
                fields.extend(version_fields(kind, version).into_iter().filter(|(k, _)| k != "version_info"));
            }
        }
        Form::Active => fields.extend(resource.active.iter().flat_map(|v| version_fields(kind, v))),
        Form::Warming => fields.extend(resource.warming.iter().flat_map(|v| version_fields(kind, v))),
        Form::States => {
            let version = resource.active.as_ref().or(resource.warming.as_ref());
            fields.extend(version.into_iter().flat_map(|v| version_fields(kind, v)));
        }
    }
    if form != Form::Static {
        if let Some(failed) = &resource.failed {
            fields.insert("error_state".into(), error_state(kind, failed));
        }
        let status = resource.client_status();
        if status != "ACKED" {
            fields.insert("client_status".into(), status.into());
        }
    }
    Json::Object(fields)
}

fn version_fields(kind: Kind, version: &Version) -> Map<String, Json> {
    let mut fields = Map::new();
    if !version.version.is_empty() {
        fields.insert("version_info".into(), (&*version.version).into());
    }
    fields.insert(field_of(kind).into(), any_json(kind, &version.body));
    fields.insert("last_updated".into(), time(version.updated));
    fields
}

fn error_state(kind: Kind, failed: &Failed) -> Json {
    let mut fields = Map::new();
    if let Some(body) = &failed.body {
        fields.insert("failed_configuration".into(), any_json(kind, &Body::Proto(body.clone())));
    }
    fields.insert("last_update_attempt".into(), time(failed.at));
    fields.insert("details".into(), failed.details.as_str().into());
    if !failed.version.is_empty() {
        fields.insert("version_info".into(), (&*failed.version).into());
    }
    Json::Object(fields)
}

fn time(at: SystemTime) -> Json {
    rfc3339(at).into()
}

/// A cluster's own hosts, as Envoy shows them among the static ones.
fn endpoint_entry(entry: &ClusterEntry) -> Json {
    let localities: Vec<Json> = entry
        .endpoints
        .localities
        .iter()
        .map(|locality| {
            let hosts: Vec<Json> = locality
                .endpoints
                .iter()
                .map(|host| {
                    let mut endpoint = json!({ "address": address_json(&host.address) });
                    if let (false, Some(fields)) = (host.hostname.is_empty(), endpoint.as_object_mut()) {
                        fields.insert("hostname".into(), host.hostname.as_str().into());
                    }
                    json!({
                        "endpoint": endpoint,
                        "health_status": health_word(host.health),
                        "load_balancing_weight": host.weight,
                    })
                })
                .collect();
            json!({
                "locality": locality_json(locality),
                "lb_endpoints": hosts,
                "load_balancing_weight": locality.weight,
                "priority": locality.priority,
            })
        })
        .collect();
    json!({ "endpoint_config": {
        "@type": type_url(Kind::Endpoint),
        "cluster_name": entry.spec.model.name,
        "endpoints": localities,
        "policy": { "overprovisioning_factor": entry.endpoints.overprovisioning },
    }})
}

/// Text under construction.
struct Writer<'a> {
    piece: String,
    /// Before the next item of the list being written.
    comma: &'static str,
    out: &'a mut Producer,
}

impl Writer<'_> {
    fn item(&mut self, depth: usize) {
        self.piece.push_str(self.comma);
        self.comma = ",";
        self.piece.push('\n');
        self.piece.push_str(&" ".repeat(depth));
    }

    fn handed_out(&mut self) -> bool {
        self.piece.len() < PIECE || self.out.send(std::mem::take(&mut self.piece))
    }
}
