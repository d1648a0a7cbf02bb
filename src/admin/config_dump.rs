//! `/config_dump`: every resource with its version, times and errors, in the shape of `envoy.admin.v3`.
//!
//! Each entry is printed and redacted by itself, so the memory of a dump does not grow with the mesh, and a
//! message of unknown type shows as base64 instead of spoiling the whole.

mod entry;
mod inline_routes;
mod sections;

pub use entry::any_json;

use super::body::Producer;
use super::json::{pretty, quoted};
use super::query::{Params, regex};
use super::redact::redact;
use super::source::{Body, DumpState, Kind, TypeState};
use crate::cluster::ClusterSlot;
use crate::model::Discovery;
use crate::proto::json as proto_json;
use crate::snapshot::Snapshot;
use crate::telemetry::clock::rfc3339;
use entry::{endpoint_entry, entry};
use regex_automata::meta::Regex;
use sections::{Form, List, SECTIONS, Section};
use serde_json::{Map, Value as Json, json};
use std::sync::Arc;

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
        crate::proto::release_descriptor_pool();
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
        if (kind, list.form) == (Kind::Route, Form::Static) {
            return self.inline_routes(each);
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

impl Dump {
    /// Route tables that listeners hold themselves.
    fn inline_routes(&self, each: &mut dyn FnMut(Json) -> bool) -> bool {
        let listeners = self.state.types.iter().filter(|state| state.kind == Kind::Listener);
        let mut tables = listeners.flat_map(|state| &state.resources).flat_map(inline_routes::entries);
        let name = |entry: &Json| {
            entry.pointer("/route_config/name").and_then(Json::as_str).unwrap_or("").to_owned()
        };
        tables.all(|entry| !self.wanted.wants_name(&name(&entry)) || each(entry))
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
