//! The node identity and what may override it.

use super::Bootstrap;
use crate::model::{self, Workload};
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use std::collections::BTreeMap;

/// Parts given on the command line; they win over the file.
#[derive(Clone, Debug, Default)]
pub struct NodeOverride<'a> {
    pub id: Option<&'a str>,
    pub cluster: Option<&'a str>,
    pub metadata: &'a [(String, String)],
    /// Entries of the metadata's `LABELS`.
    pub labels: &'a [(String, String)],
}

impl Bootstrap {
    /// Puts the command line's parts in place.
    pub fn override_node(&mut self, over: &NodeOverride<'_>) {
        if let Some(id) = over.id {
            id.clone_into(&mut self.node.id);
        }
        if let Some(cluster) = over.cluster {
            cluster.clone_into(&mut self.node.cluster);
        }
        if over.metadata.is_empty() && over.labels.is_empty() {
            return;
        }
        let metadata = self.node.metadata.get_or_insert_default();
        for (key, value) in over.metadata {
            metadata.fields.insert(key.clone(), string(value));
        }
        if over.labels.is_empty() {
            return;
        }
        let held = metadata.fields.entry("LABELS".to_owned()).or_default();
        if !matches!(held.kind, Some(Kind::StructValue(_))) {
            held.kind = Some(Kind::StructValue(Struct::default()));
        }
        if let Some(Kind::StructValue(labels)) = &mut held.kind {
            labels.fields.extend(over.labels.iter().map(|(key, value)| (key.clone(), string(value))));
        }
    }
}

impl Bootstrap {
    /// Who this process is, as peers and metrics of a mesh are told.
    pub fn mesh_node(&self) -> model::Node {
        let mut workload = Workload::default();
        let place = self.node.locality.clone().unwrap_or_default();
        (workload.region, workload.zone) = (place.region, place.zone);
        let mut node = model::Node {
            id: self.node.id.clone(),
            cluster: self.node.cluster.clone(),
            ..model::Node::default()
        };
        if let Some(metadata) = &self.node.metadata {
            flatten("", metadata, &mut node.metadata);
            for (key, value) in &node.metadata {
                match key.strip_prefix("LABELS\0") {
                    Some(label) => workload.label(label, value),
                    None => workload.set(key, value),
                }
            }
            workload.owned_by(text(metadata, "OWNER").unwrap_or_default());
            text(metadata, "ISTIO_VERSION").unwrap_or_default().clone_into(&mut node.version);
        }
        node.workload = workload;
        node
    }
}

/// Texts of a struct and of those in it; keys within each other are joined by a NUL.
fn flatten(before: &str, of: &Struct, out: &mut BTreeMap<String, String>) {
    for (key, value) in &of.fields {
        let key = format!("{before}{key}");
        match &value.kind {
            Some(Kind::StringValue(text)) => drop(out.insert(key, text.clone())),
            Some(Kind::StructValue(inner)) => flatten(&format!("{key}\0"), inner, out),
            _ => {}
        }
    }
}

fn string(text: &str) -> Value {
    Value { kind: Some(Kind::StringValue(text.to_owned())) }
}

/// A string entry of a struct.
pub(super) fn text<'a>(of: &'a Struct, key: &str) -> Option<&'a str> {
    match of.fields.get(key)?.kind.as_ref()? {
        Kind::StringValue(text) => Some(text),
        _ => None,
    }
}
