//! Messages to canonical proto3 JSON and back, by type URL.
//!
//! Takes in JSON with snake_case or camelCase keys and inline `@type`; gives out wire bytes. Takes in wire bytes
//! or an `Any`; gives out JSON with the proto's snake_case names, as Envoy's admin prints them. An `Any` whose
//! type is not in `proto/`, or whose bytes do not decode, becomes `{"@type", "value": base64}` by itself: the
//! rest of the message is printed as usual.

use prost::Message;
use prost_reflect::{
    DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage,
    SerializeOptions, Value,
};
use serde_json::{Map, Value as Json};

mod direct;
mod lenient;
#[cfg(test)]
mod tests;

pub use lenient::{Ignored, decode_json_lenient};

/// Why JSON did not become a message.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The type URL names no message of `proto/`.
    #[error("unknown message type {0}")]
    UnknownType(String),
    /// The JSON does not fit the message; the text names the offending key or value.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
}

/// Reads a message from canonical JSON and gives its wire bytes. Unknown keys are an error.
///
/// # Errors
/// The type is unknown, or the JSON does not fit it.
pub fn decode_json(type_url: &str, json: &Json) -> Result<Vec<u8>, Error> {
    match direct::decode(type_url, json) {
        Some((bytes, ignored)) if ignored.is_empty() => Ok(bytes),
        _ => Ok(dynamic_from_json(type_url, json)?.encode_to_vec()),
    }
}

/// Like [`decode_json`], into the generated type.
///
/// # Errors
/// As [`decode_json`].
pub fn message_from_json<M: Message + prost::Name + Default>(json: &Json) -> Result<M, Error> {
    let message = dynamic_from_json(&M::type_url(), json)?;
    message.transcode_to().map_err(|e| Error::Json(serde::de::Error::custom(e)))
}

fn dynamic_from_json(type_url: &str, json: &Json) -> Result<DynamicMessage, Error> {
    let desc = super::descriptor(type_url).ok_or_else(|| Error::UnknownType(type_url.to_owned()))?;
    Ok(DynamicMessage::deserialize_with_options(desc, json, &DeserializeOptions::new())?)
}

/// Prints wire bytes of the named type; bytes that do not decode give `{"@type", "value": base64}`.
pub fn to_json(type_url: &str, bytes: &[u8]) -> Json {
    match decode_dynamic(type_url, bytes) {
        Some(message) => message_to_json(&message),
        None => opaque(type_url, bytes),
    }
}

/// Prints a generated message.
pub fn generated_to_json<M: Message + prost::Name>(message: &M) -> Json {
    to_json(&M::type_url(), &message.encode_to_vec())
}

/// Prints an `Any` with its `@type` inline.
pub fn any_to_json(any: &prost_types::Any) -> Json {
    packed_to_json(&any.type_url, &any.value)
}

fn packed_to_json(type_url: &str, bytes: &[u8]) -> Json {
    let Some(message) = decode_dynamic(type_url, bytes) else { return opaque(type_url, bytes) };
    let mut out = Map::new();
    out.insert("@type".to_owned(), type_url.into());
    match message_to_json(&message) {
        Json::Object(fields) if !is_special(&message.descriptor()) => out.extend(fields),
        value => {
            out.insert("value".to_owned(), value);
        }
    }
    Json::Object(out)
}

fn decode_dynamic(type_url: &str, bytes: &[u8]) -> Option<DynamicMessage> {
    DynamicMessage::decode(super::descriptor(type_url)?, bytes).ok()
}

fn opaque(type_url: &str, bytes: &[u8]) -> Json {
    serde_json::json!({ "@type": type_url, "value": base64(bytes) })
}

/// Well-known types whose JSON is not an object of their fields.
fn is_special(desc: &MessageDescriptor) -> bool {
    let name = desc.full_name();
    name.starts_with("google.protobuf.") && name != "google.protobuf.Empty"
}

fn message_to_json(message: &DynamicMessage) -> Json {
    let desc = message.descriptor();
    if desc.full_name() == "google.protobuf.Any" {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let type_url = message.get_field_by_name("type_url").map(|v| text(&v)).unwrap_or_default();
        let bytes =
            message.get_field_by_name("value").and_then(|v| v.as_bytes().cloned()).unwrap_or_default();
        return packed_to_json(&type_url, &bytes);
    }
    if is_special(&desc) {
        return plain(message);
    }
    let mut out = Map::new();
    for (field, value) in message.fields() {
        out.insert(field.name().to_owned(), field_to_json(&field, value));
    }
    Json::Object(out)
}

/// A well-known type other than `Any`, by the library's own rules; one it refuses (a duration out of range)
/// prints as null rather than hide its neighbours.
fn plain(message: &DynamicMessage) -> Json {
    let options = SerializeOptions::new().use_proto_field_name(true);
    message.serialize_with_options(serde_json::value::Serializer, &options).unwrap_or(Json::Null)
}

fn field_to_json(field: &FieldDescriptor, value: &Value) -> Json {
    let kind = field.kind();
    match value {
        Value::List(items) => items.iter().map(|item| single_to_json(&kind, item)).collect(),
        Value::Map(entries) => {
            let value_kind = kind.as_message().map(|entry| entry.map_entry_value_field().kind());
            let mut sorted: Vec<_> = entries.iter().map(|(k, v)| (key_text(k), v)).collect();
            sorted.sort_by(|a, b| a.0.cmp(&b.0));
            let json = |v: &Value| value_kind.as_ref().map_or(Json::Null, |kind| single_to_json(kind, v));
            Json::Object(sorted.into_iter().map(|(k, v)| (k, json(v))).collect())
        }
        single => single_to_json(&kind, single),
    }
}

fn single_to_json(kind: &Kind, value: &Value) -> Json {
    match value {
        Value::Bool(b) => (*b).into(),
        Value::I32(n) => (*n).into(),
        Value::U32(n) => (*n).into(),
        // JSON numbers hold 53 bits: 64-bit integers are strings in canonical JSON.
        Value::I64(n) => n.to_string().into(),
        Value::U64(n) => n.to_string().into(),
        Value::F32(n) => float(f64::from(*n)),
        Value::F64(n) => float(*n),
        Value::String(s) => s.as_str().into(),
        Value::Bytes(b) => base64(b).into(),
        Value::EnumNumber(n) => match kind.as_enum().and_then(|e| e.get_value(*n)) {
            Some(known) => known.name().into(),
            None => (*n).into(),
        },
        Value::Message(message) => message_to_json(message),
        Value::List(_) | Value::Map(_) => Json::Null,
    }
}

fn float(n: f64) -> Json {
    match serde_json::Number::from_f64(n) {
        Some(finite) => Json::Number(finite),
        None if n.is_nan() => "NaN".into(),
        None if n > 0.0 => "Infinity".into(),
        None => "-Infinity".into(),
    }
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(b) => b.to_string(),
        MapKey::I32(n) => n.to_string(),
        MapKey::I64(n) => n.to_string(),
        MapKey::U32(n) => n.to_string(),
        MapKey::U64(n) => n.to_string(),
        MapKey::String(s) => s.clone(),
    }
}

/// Standard base64 with padding, as canonical JSON wants bytes.
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word = group.iter().fold(0u32, |w, b| (w << 8) | u32::from(*b)) << (8 * (3 - group.len()));
        for i in 0..4 {
            let sextet = usize::try_from((word >> (18 - 6 * i)) & 63).unwrap_or(0);
            let digit = ALPHABET.get(sextet).copied().unwrap_or(b'A');
            out.push(if i <= group.len() { char::from(digit) } else { '=' });
        }
    }
    out
}
