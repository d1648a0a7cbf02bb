//! JSON log lines, prepared: keys and fixed values are encoded when they are configured.

use crate::message::{Fact, Facts};
use crate::model::{Block, Format};
use serde::{Serialize, Serializer};

/// An object of a JSON log line.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonTemplate {
    /// `"key":` as it is written, and the value.
    fields: Box<[(Box<[u8]>, JsonNode)]>,
    /// Fields whose value is not known are left out, else they are null.
    omit_empty: bool,
}

/// A value of a JSON log line.
#[derive(Clone, Debug, PartialEq)]
pub enum JsonNode {
    /// As it is written.
    Fixed(Box<[u8]>),
    /// A format string: alone, an operator keeps the type of its value.
    Format(Format),
    /// An object inside.
    Object(JsonTemplate),
    /// A list.
    List(Box<[JsonNode]>),
}

impl JsonTemplate {
    /// The object with these fields, in this order.
    pub fn new(fields: impl IntoIterator<Item = (String, JsonNode)>, omit_empty: bool) -> Self {
        let encoded = fields.into_iter().map(|(key, value)| {
            let mut name = Vec::with_capacity(key.len() + 3);
            push_string(key.as_bytes(), &mut name);
            name.push(b':');
            (name.into(), value)
        });
        JsonTemplate { fields: encoded.collect(), omit_empty }
    }

    /// Appends the object.
    pub fn write(&self, facts: &dyn Facts, out: &mut Vec<u8>) {
        out.push(b'{');
        let mut first = true;
        for (name, value) in &self.fields {
            let start = out.len();
            if !first {
                out.push(b',');
            }
            out.extend_from_slice(name);
            if value.write(facts, self.omit_empty, out) {
                first = false;
            } else if self.omit_empty {
                out.truncate(start);
            } else {
                out.extend_from_slice(b"null");
                first = false;
            }
        }
        out.push(b'}');
    }

    pub(super) fn each_fact(&self, ask: &mut dyn FnMut(Fact)) {
        self.fields.iter().for_each(|(_, value)| value.each_fact(ask));
    }

    pub(super) fn each_header(&self, want: &mut dyn FnMut(Block, &str)) {
        self.fields.iter().for_each(|(_, value)| value.each_header(want));
    }
}

impl JsonNode {
    /// A text without operators.
    pub fn text(text: &str) -> Self {
        let mut out = Vec::with_capacity(text.len() + 2);
        push_string(text.as_bytes(), &mut out);
        JsonNode::Fixed(out.into())
    }

    /// `false`: the value is not known, and nothing was written.
    fn write(&self, facts: &dyn Facts, omit_empty: bool, out: &mut Vec<u8>) -> bool {
        match self {
            JsonNode::Fixed(text) => out.extend_from_slice(text),
            JsonNode::Format(format) => return format.write_json(facts, omit_empty, out),
            JsonNode::Object(object) => object.write(facts, out),
            JsonNode::List(items) => {
                out.push(b'[');
                for (at, item) in items.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    if !item.write(facts, omit_empty, out) {
                        out.extend_from_slice(b"null");
                    }
                }
                out.push(b']');
            }
        }
        true
    }

    fn each_fact(&self, ask: &mut dyn FnMut(Fact)) {
        match self {
            JsonNode::Fixed(_) => {}
            JsonNode::Format(format) => format.facts().for_each(ask),
            JsonNode::Object(object) => object.each_fact(ask),
            JsonNode::List(items) => items.iter().for_each(|item| item.each_fact(ask)),
        }
    }

    fn each_header(&self, want: &mut dyn FnMut(Block, &str)) {
        match self {
            JsonNode::Fixed(_) => {}
            JsonNode::Format(format) => format.each_header(want),
            JsonNode::Object(object) => object.each_header(want),
            JsonNode::List(items) => items.iter().for_each(|item| item.each_header(want)),
        }
    }
}

/// Appends `text` as a JSON string.
fn push_string(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let start = out.len();
    out.extend_from_slice(text);
    end_string(start, out);
}

/// Makes what stands in `out` from `start` on the inside of a JSON string, and ends the string. Bytes that are
/// no UTF-8 become U+FFFD.
pub(in crate::model) fn end_string(start: usize, out: &mut Vec<u8>) {
    // Every byte is looked at whatever the one before was: so many at once.
    let plain = |byte: u8| (byte.wrapping_sub(b' ') < 0x5f) & (byte != b'"') & (byte != b'\\');
    if !out.get(start..).unwrap_or_default().iter().fold(true, |all, byte| all & plain(*byte)) {
        let raw = out.split_off(start);
        for c in String::from_utf8_lossy(&raw).chars() {
            match c {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                '\n' => out.extend_from_slice(b"\\n"),
                '\r' => out.extend_from_slice(b"\\r"),
                '\t' => out.extend_from_slice(b"\\t"),
                c if c.is_control() => out.extend_from_slice(format!("\\u{:04x}", c as u32).as_bytes()),
                c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
    }
    out.push(b'"');
}

impl Serialize for JsonTemplate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.fields.iter().map(|(name, value)| (String::from_utf8_lossy(name), value)))
    }
}

impl Serialize for JsonNode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            JsonNode::Fixed(text) => serializer.serialize_str(&String::from_utf8_lossy(text)),
            JsonNode::Format(format) => format.serialize(serializer),
            JsonNode::Object(object) => object.serialize(serializer),
            JsonNode::List(items) => serializer.collect_seq(items.iter()),
        }
    }
}
