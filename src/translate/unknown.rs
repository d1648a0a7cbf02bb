//! What in a resource's bytes the protos do not know, or know and Mizzen does not act upon.
//!
//! Takes in a message name and wire bytes; gives out paths. Works on the wire, against a table compiled once
//! from the descriptor set, because a decoded message has already dropped what it does not know. Follows
//! every `Any` whose type is known. An unknown field is *strict*, and makes the resource a rejection, where
//! leaving it out could open something: in filters, transport sockets and matchers, and in a message that has
//! a oneof of which no known member is set (the unknown field may be that member).

use std::fmt::Write;

use smallvec::{SmallVec, smallvec};

use crate::proto::described::{Reader, Value};
use crate::proto::message_name;

mod plan;
mod tables;

use plan::{FieldPlan, Plan, Shape, Target, plan_of};

/// Nesting at which the walk stops; prost refuses deeper messages anyway.
const MAX_DEPTH: usize = 100;
/// Remarks kept per resource.
const MAX_REMARKS: usize = 200;

/// One remark about a field on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// Field path; an unknown field ends in its number, `<17>`.
    pub path: String,
    /// What kind.
    pub kind: RemarkKind,
}

/// Kinds of remarks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemarkKind {
    /// Unknown, and harmless to leave out.
    Unknown,
    /// Unknown where leaving it out is not safe.
    Strict,
    /// Known, set, without effect here.
    NoEffect,
}

/// Walks the bytes of a message of the named type. Malformed bytes end the walk quietly: decoding reports them.
pub fn scan(message: &str, bytes: &[u8]) -> Vec<Remark> {
    let mut walk = Walk { path: String::new(), remarks: Vec::new() };
    if let Some(plan) = plan_of(message) {
        walk.message(plan, bytes, 0);
    }
    walk.remarks
}

/// Whether the named message is one of `proto/`.
pub fn is_known(message: &str) -> bool {
    plan_of(message).is_some()
}

/// The string field `number` at the top of a message, readable even if the rest does not decode.
pub fn top_string(bytes: &[u8], number: u32) -> Option<&str> {
    let mut reader = Reader::new(bytes);
    let mut found = None;
    while let Some((field, value)) = reader.field() {
        if let (true, Value::Bytes(text)) = (field == number, value) {
            found = std::str::from_utf8(text).ok();
        }
    }
    found
}

struct Walk {
    path: String,
    remarks: Vec<Remark>,
}

impl Walk {
    fn message(&mut self, plan: &'static Plan, bytes: &[u8], depth: usize) {
        if depth > MAX_DEPTH || plan.is_shell {
            return;
        }
        let mut reader = Reader::new(bytes);
        let mut counts: SmallVec<[u32; 64]> = smallvec![0; plan.fields.len()];
        let mut unknown = Vec::new();
        let mut oneofs_set = 0u32;
        while let Some((number, value)) = reader.field() {
            let Ok(at) = plan.fields.binary_search_by_key(&number, |f| f.number) else {
                unknown.push(number);
                continue;
            };
            let (Some(field), Some(count)) = (plan.fields.get(at), counts.get_mut(at)) else { continue };
            let index = *count;
            *count += 1;
            oneofs_set |= field.oneof;
            self.field(field, index, &value, depth);
        }
        // Each number once, however often it is repeated.
        unknown.sort_unstable();
        unknown.dedup();
        let strict = plan.is_strict || oneofs_set & plan.required_oneofs != plan.required_oneofs;
        let kind = if strict { RemarkKind::Strict } else { RemarkKind::Unknown };
        for number in unknown {
            let length = self.path.len();
            self.push_name("");
            let _ = write!(self.path, "<{number}>");
            self.remark(kind);
            self.path.truncate(length);
        }
    }

    fn field(&mut self, field: &'static FieldPlan, index: u32, value: &Value<'_>, depth: usize) {
        if field.has_no_effect && index == 0 {
            let length = self.path.len();
            self.push_name(field.name);
            self.remark(RemarkKind::NoEffect);
            self.path.truncate(length);
        }
        let Value::Bytes(bytes) = value else { return };
        if matches!(field.shape, Shape::Scalar) {
            return;
        }
        let length = self.path.len();
        self.push_name(field.name);
        if field.is_map {
            self.map_entry(field, bytes, depth);
        } else {
            if field.is_list {
                let _ = write!(self.path, "[{index}]");
            }
            self.nested(field, bytes, depth);
        }
        self.path.truncate(length);
    }

    fn nested(&mut self, field: &'static FieldPlan, bytes: &[u8], depth: usize) {
        match field.shape.target() {
            Target::Any => {
                let value = bytes_field(bytes, 2).unwrap_or_default();
                if let Some(plan) = top_string(bytes, 1).and_then(|url| plan_of(message_name(url))) {
                    self.message(plan, value, depth + 1);
                }
            }
            Target::Plan(plan) => self.message(plan, bytes, depth + 1),
            Target::Nothing => {}
        }
    }

    fn map_entry(&mut self, field: &'static FieldPlan, bytes: &[u8], depth: usize) {
        if let Some(key) = top_string(bytes, 1) {
            let _ = write!(self.path, "[{key:?}]");
        }
        if let Some(value) = bytes_field(bytes, 2) {
            self.nested(field, value, depth);
        }
    }

    fn push_name(&mut self, name: &str) {
        if !self.path.is_empty() {
            self.path.push('.');
        }
        self.path.push_str(name);
    }

    fn remark(&mut self, kind: RemarkKind) {
        // Strict ones always fit: they decide the verdict.
        if self.remarks.len() < MAX_REMARKS || kind == RemarkKind::Strict {
            self.remarks.push(Remark { path: self.path.clone(), kind });
        }
    }
}

fn bytes_field(bytes: &[u8], number: u32) -> Option<&[u8]> {
    let mut reader = Reader::new(bytes);
    let mut found = None;
    while let Some((field, value)) = reader.field() {
        if let (true, Value::Bytes(content)) = (field == number, value) {
            found = Some(content);
        }
    }
    found
}

#[cfg(test)]
mod tests;
