//! JSON to wire bytes straight from the encoded descriptor set, for what configuration files hold.
//!
//! Takes in JSON and a type URL; gives out what [`super::lenient`] gives, or nothing: at anything out of the
//! ordinary (a value that does not fit, a rare type) it gives up, and the reader that builds a descriptor pool
//! decides and finds the words. A process that starts with an ordinary file thus never builds the pool.

use serde_json::{Map, Value as Json};

use super::lenient::Ignored;
use crate::proto::described::{self, Described};
use crate::proto::message_name;

const ANY: &str = "google.protobuf.Any";

/// `FieldDescriptorProto.Type`.
mod kind {
    pub const DOUBLE: u64 = 1;
    pub const FLOAT: u64 = 2;
    pub const INT64: u64 = 3;
    pub const UINT64: u64 = 4;
    pub const INT32: u64 = 5;
    pub const BOOL: u64 = 8;
    pub const STRING: u64 = 9;
    pub const UINT32: u64 = 13;
    pub const ENUM: u64 = 14;
}

/// Wire types.
const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const BYTES: u32 = 2;
const FIXED32: u32 = 5;

/// Bytes and what was set aside; `None`: ask the other reader.
pub(super) fn decode(type_url: &str, json: &Json) -> Option<(Vec<u8>, Vec<Ignored>)> {
    let mut walk = Walk { ignored: Vec::new() };
    let bytes = walk.message(described::message(message_name(type_url))?, json.as_object()?, "")?;
    Some((bytes, walk.ignored))
}

struct Walk {
    ignored: Vec<Ignored>,
}

impl Walk {
    fn message(&mut self, message: Described, entries: &Map<String, Json>, path: &str) -> Option<Vec<u8>> {
        if entries.contains_key("@type") {
            return None;
        }
        self.entries(message, entries, path)
    }

    /// The entries of `message`, but for `@type`, in the order of their numbers.
    fn entries(&mut self, message: Described, entries: &Map<String, Json>, path: &str) -> Option<Vec<u8>> {
        let mut parts: Vec<(u32, Vec<u8>)> = Vec::with_capacity(entries.len());
        let mut oneofs = Vec::new();
        for (key, value) in entries.iter().filter(|(key, _)| *key != "@type") {
            let at = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            let Some(field) = message.fields().find(|f| f.json_name() == key || f.name() == key) else {
                self.ignored.push(Ignored { path: at, type_url: None });
                continue;
            };
            // Null stands for an absent field, and for a value in one place: not decided here.
            let number = field.number();
            if value.is_null() || parts.iter().any(|(other, _)| *other == number) {
                return None;
            }
            if let Some(oneof) = field.oneof() {
                if oneofs.contains(&oneof) {
                    return None;
                }
                oneofs.push(oneof);
            }
            let mut out = Vec::new();
            self.field(message, field, value, &at, &mut out)?;
            parts.push((number, out));
        }
        parts.sort_by_key(|(number, _)| *number);
        Some(parts.into_iter().flat_map(|(_, bytes)| bytes).collect())
    }

    fn field(
        &mut self,
        message: Described,
        field: Described,
        json: &Json,
        path: &str,
        out: &mut Vec<u8>,
    ) -> Option<()> {
        if let Some(entry) = message.map_entry(field) {
            let key = entry.fields().find(|key| key.number() == 1)?;
            let value = entry.value()?;
            for (name, json) in json.as_object()? {
                let mut inner = Vec::new();
                self.single(key, &Json::from(name.as_str()), path, &mut inner)?;
                self.single(value, json, &format!("{path}[\"{name}\"]"), &mut inner)?;
                put_bytes(field.number(), &inner, out);
            }
            return Some(());
        }
        if !field.is_repeated() {
            let before = out.len();
            self.single(field, json, path, out)?;
            // A field without presence that has its default value is not on the wire.
            if field.oneof().is_none() && is_default(field, json) {
                out.truncate(before);
            }
            return Some(());
        }
        // Numbers would be packed.
        let is_plain = field.holds().is_some() || field.kind() == kind::STRING;
        for (at, item) in json.as_array().filter(|_| is_plain)?.iter().enumerate() {
            self.single(field, item, &format!("{path}[{at}]"), out)?;
        }
        Some(())
    }

    /// One value with its key.
    fn single(&mut self, field: Described, json: &Json, path: &str, out: &mut Vec<u8>) -> Option<()> {
        let number = field.number();
        if let Some(name) = field.holds() {
            let inner = self.content(name, json, path)?;
            put_bytes(number, &inner, out);
            return Some(());
        }
        match field.kind() {
            kind::STRING => put_bytes(number, json.as_str()?.as_bytes(), out),
            kind::ENUM => {
                let value = described::enumeration(field.type_name())?.value_of(json.as_str()?)?;
                put_varint(number, value.cast_unsigned(), out);
            }
            scalar => put_scalar(scalar, number, json, out)?,
        }
        Some(())
    }

    /// The bytes of a message without key and length.
    fn content(&mut self, name: &str, json: &Json, path: &str) -> Option<Vec<u8>> {
        if name == ANY {
            return self.any(json.as_object()?, path);
        }
        if let Some(well_known) = name.strip_prefix("google.protobuf.") {
            return well_known_content(well_known, json);
        }
        self.message(described::message(name)?, json.as_object()?, path)
    }

    fn any(&mut self, entries: &Map<String, Json>, path: &str) -> Option<Vec<u8>> {
        let type_url = entries.get("@type")?.as_str()?;
        let name = message_name(type_url);
        let mut out = Vec::new();
        put_bytes(1, type_url.as_bytes(), &mut out);
        match described::message(name) {
            Some(message) => {
                let inner = self.entries(message, entries, path)?;
                if !inner.is_empty() {
                    put_bytes(2, &inner, &mut out);
                }
            }
            None if name.starts_with("google.protobuf.") || !is_type_name(name) => return None,
            None => {
                self.ignored.push(Ignored { path: path.to_owned(), type_url: Some(type_url.to_owned()) });
            }
        }
        Some(out)
    }
}

/// A name that a message of some other proto may have.
fn is_type_name(name: &str) -> bool {
    let part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    name.split('.').count() > 1 && name.split('.').all(part)
}

fn put_key(number: u32, wire: u32, out: &mut Vec<u8>) {
    put_raw_varint(u64::from(number << 3 | wire), out);
}

fn put_raw_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_varint(number: u32, value: u64, out: &mut Vec<u8>) {
    put_key(number, VARINT, out);
    put_raw_varint(value, out);
}

fn put_bytes(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    put_key(number, BYTES, out);
    put_raw_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// A number or a truth value; a number may be written as text.
fn put_scalar(kind: u64, number: u32, json: &Json, out: &mut Vec<u8>) -> Option<()> {
    let signed = || json.as_i64().or_else(|| json.as_str()?.parse().ok());
    let unsigned = || json.as_u64().or_else(|| json.as_str()?.parse().ok());
    match kind {
        kind::BOOL => put_varint(number, json.as_bool()?.into(), out),
        kind::INT64 => put_varint(number, signed()?.cast_unsigned(), out),
        kind::INT32 => put_varint(number, i64::from(i32::try_from(signed()?).ok()?).cast_unsigned(), out),
        kind::UINT64 => put_varint(number, unsigned()?, out),
        kind::UINT32 => put_varint(number, u32::try_from(unsigned()?).ok()?.into(), out),
        kind::DOUBLE => {
            put_key(number, FIXED64, out);
            out.extend_from_slice(&json.as_f64()?.to_le_bytes());
        }
        kind::FLOAT => {
            let value = json.as_f64().filter(|value| value.abs() < f64::from(f32::MAX))?;
            put_key(number, FIXED32, out);
            out.extend_from_slice(&(value as f32).to_le_bytes());
        }
        _ => return None,
    }
    Some(())
}

/// Whether `json`, which fits `field`, is the value an absent field has.
fn is_default(field: Described, json: &Json) -> bool {
    match field.kind() {
        described::MESSAGE => false,
        kind::ENUM => {
            let of = described::enumeration(field.type_name());
            json.as_str().and_then(|name| of?.value_of(name)) == Some(0)
        }
        kind::STRING => json.as_str() == Some(""),
        kind::BOOL => json.as_bool() == Some(false),
        _ => json.as_f64() == Some(0.0) || json.as_str().is_some_and(|text| text.parse() == Ok(0)),
    }
}

fn well_known_content(name: &str, json: &Json) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let wrapped = match name {
        "Duration" => {
            let (seconds, nanos) = duration(json.as_str()?)?;
            for (number, value) in [(1, seconds), (2, nanos)] {
                if value != 0 {
                    put_varint(number, value, &mut out);
                }
            }
            return Some(out);
        }
        "Empty" => return json.as_object()?.is_empty().then_some(out),
        "Struct" => return struct_content(json),
        "Value" => return value_content(json),
        "StringValue" => {
            let text = json.as_str()?;
            if !text.is_empty() {
                put_bytes(1, text.as_bytes(), &mut out);
            }
            return Some(out);
        }
        "BoolValue" => kind::BOOL,
        "UInt32Value" => kind::UINT32,
        "UInt64Value" => kind::UINT64,
        "Int32Value" => kind::INT32,
        "Int64Value" => kind::INT64,
        "DoubleValue" => kind::DOUBLE,
        _ => return None,
    };
    put_scalar(wrapped, 1, json, &mut out)?;
    let is_zero = json.as_f64() == Some(0.0) || json.as_str().is_some_and(|text| text.parse() == Ok(0));
    if json.as_bool() == Some(false) || is_zero {
        out.clear();
    }
    Some(out)
}

fn struct_content(json: &Json) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    for (name, value) in json.as_object()? {
        let mut entry = Vec::new();
        put_bytes(1, name.as_bytes(), &mut entry);
        put_bytes(2, &value_content(value)?, &mut entry);
        put_bytes(1, &entry, &mut out);
    }
    Some(out)
}

fn value_content(json: &Json) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    match json {
        Json::Null => put_varint(1, 0, &mut out),
        Json::Number(_) => put_scalar(kind::DOUBLE, 2, json, &mut out)?,
        Json::String(text) => put_bytes(3, text.as_bytes(), &mut out),
        Json::Bool(value) => put_varint(4, (*value).into(), &mut out),
        Json::Object(_) => put_bytes(5, &struct_content(json)?, &mut out),
        Json::Array(items) => {
            let mut list = Vec::new();
            for item in items {
                put_bytes(1, &value_content(item)?, &mut list);
            }
            put_bytes(6, &list, &mut out);
        }
    }
    Some(out)
}

/// Seconds and nanoseconds of `1.5s`; none of a negative one.
fn duration(text: &str) -> Option<(u64, u64)> {
    /// About 10,000 years, as protobuf has it.
    const MOST: u64 = 315_576_000_000;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let text = text.strip_suffix('s')?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if !digits(whole) || !digits(fraction) || fraction.len() > 9 {
        return None;
    }
    let scale = 10u64.pow(9 - u32::try_from(fraction.len()).ok()?);
    Some((whole.parse().ok().filter(|seconds| *seconds < MOST)?, fraction.parse::<u64>().ok()? * scale))
}
