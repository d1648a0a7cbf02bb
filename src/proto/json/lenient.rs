//! JSON in which unknown keys and unknown extension types are set aside instead of refused.
//!
//! Takes in JSON and a type URL; gives out wire bytes and the list of what was set aside, each with its path.
//! An `Any` of unknown type keeps its type URL and loses its content, so that whoever reads the message can
//! still name it.

use prost::Message;
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor,
};
use prost_types::{DescriptorProto, FileDescriptorProto};
use serde_json::{Map, Value as Json};

use super::{Error, is_special};
use crate::proto::{descriptor, descriptor_pool, message_name};

/// Something in the JSON that Mizzen does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ignored {
    /// Where, with indices: `static_resources.listeners[0].foo`.
    pub path: String,
    /// The type URL, if it is an extension of unknown type rather than an unknown key.
    pub type_url: Option<String>,
}

/// Reads a message from JSON, setting aside what is unknown.
///
/// # Errors
/// The type is unknown, or a known key has a value that does not fit it.
pub fn decode_json_lenient(type_url: &str, json: &Json) -> Result<(Vec<u8>, Vec<Ignored>), Error> {
    if let Some(done) = super::direct::decode(type_url, json) {
        return Ok(done);
    }
    by_reflection(type_url, json)
}

/// The same for any JSON, with a word for what is wrong.
pub(super) fn by_reflection(type_url: &str, json: &Json) -> Result<(Vec<u8>, Vec<Ignored>), Error> {
    let unknown = || Error::UnknownType(type_url.to_owned());
    let mut walk = Walk { pool: descriptor_pool(), ignored: Vec::new() };
    let desc = descriptor(type_url).ok_or_else(unknown)?;
    let known = walk.message(&desc, json, String::new());
    // Looked up in the private pool: a descriptor sees only its own, and stand-ins may have been added.
    let desc = walk.pool.get_message_by_name(desc.full_name()).ok_or_else(unknown)?;
    let message = DynamicMessage::deserialize_with_options(desc, &known, &DeserializeOptions::new())?;
    Ok((message.encode_to_vec(), walk.ignored))
}

struct Walk {
    /// A copy of the shared pool to which stand-ins for unknown types are added.
    pool: DescriptorPool,
    ignored: Vec<Ignored>,
}

impl Walk {
    /// The same JSON without what `desc` does not know. Values of the wrong shape are left for the reader.
    fn message(&mut self, desc: &MessageDescriptor, json: &Json, path: String) -> Json {
        let Json::Object(entries) = json else { return json.clone() };
        if desc.full_name() == "google.protobuf.Any" {
            return self.any(entries, path);
        }
        if is_special(desc) {
            return json.clone();
        }
        self.entries(desc, entries, &path)
    }

    fn entries(&mut self, desc: &MessageDescriptor, entries: &Map<String, Json>, path: &str) -> Json {
        let mut out = Map::new();
        for (key, value) in entries {
            if key == "@type" {
                out.insert(key.clone(), value.clone());
                continue;
            }
            let at = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            match desc.get_field_by_json_name(key).or_else(|| desc.get_field_by_name(key)) {
                Some(field) => {
                    let known = self.field(&field, value, at);
                    out.insert(key.clone(), known);
                }
                None => self.ignored.push(Ignored { path: at, type_url: None }),
            }
        }
        Json::Object(out)
    }

    fn any(&mut self, entries: &Map<String, Json>, path: String) -> Json {
        let Some(type_url) = entries.get("@type").and_then(Json::as_str) else {
            return Json::Object(entries.clone());
        };
        match descriptor(type_url) {
            Some(desc) if is_special(&desc) => Json::Object(entries.clone()),
            Some(desc) => self.entries(&desc, entries, &path),
            None => {
                self.stand_in(message_name(type_url));
                self.ignored.push(Ignored { path, type_url: Some(type_url.to_owned()) });
                serde_json::json!({ "@type": type_url })
            }
        }
    }

    fn field(&mut self, field: &FieldDescriptor, value: &Json, path: String) -> Json {
        let Kind::Message(desc) = field.kind() else { return value.clone() };
        match value {
            Json::Array(items) if field.is_list() => {
                let each = |(i, item)| self.message(&desc, item, format!("{path}[{i}]"));
                items.iter().enumerate().map(each).collect()
            }
            Json::Object(entries) if field.is_map() => {
                let Kind::Message(inner) = desc.map_entry_value_field().kind() else { return value.clone() };
                let each = |(k, v): (&String, &Json)| {
                    (k.clone(), self.message(&inner, v, format!("{path}[\"{k}\"]")))
                };
                Json::Object(entries.iter().map(each).collect())
            }
            _ => self.message(&desc, value, path),
        }
    }

    /// Adds an empty message of this full name to the private pool, so that an `Any` can name it.
    fn stand_in(&mut self, full_name: &str) {
        if self.pool.get_message_by_name(full_name).is_some() {
            return;
        }
        let (package, name) = full_name.rsplit_once('.').unwrap_or(("", full_name));
        let file = FileDescriptorProto {
            name: Some(format!("stand-in/{full_name}.proto")),
            package: (!package.is_empty()).then(|| package.to_owned()),
            message_type: vec![DescriptorProto { name: Some(name.to_owned()), ..Default::default() }],
            syntax: Some("proto3".to_owned()),
            ..Default::default()
        };
        // A name that clashes (with a package, say) leaves the Any to fail in the reader, which names it.
        let _ = self.pool.add_file_descriptor_proto(file);
    }
}
