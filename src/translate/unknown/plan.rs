//! The descriptor set as tables for the wire walk: per message its fields by number, its oneofs, its manners.
//!
//! Read from the encoded set itself, a message when it is first met: a descriptor pool of everything takes
//! megabytes, and a process meets a tenth of the messages there are.

use std::collections::HashMap;
use std::sync::{LazyLock, OnceLock};

use foldhash::fast::FixedState;

use super::tables;
use crate::proto::described::{self, Described};

/// One message type.
pub(super) struct Plan {
    /// Sorted by number.
    pub fields: Vec<FieldPlan>,
    /// One bit per oneof that has to be set for the message to mean anything.
    pub required_oneofs: u32,
    /// Unknown fields in it are strict.
    pub is_strict: bool,
    /// Only its presence matters: content is not looked at.
    pub is_shell: bool,
}

/// One field.
pub(super) struct FieldPlan {
    pub number: u32,
    pub name: &'static str,
    pub shape: Shape,
    pub is_list: bool,
    pub is_map: bool,
    /// The bit of its oneof, if that is a required one.
    pub oneof: u32,
    pub has_no_effect: bool,
}

/// What a field holds.
pub(super) enum Shape {
    Scalar,
    /// A message by its full name (for a map, the type of its values), looked up when first met.
    Message {
        name: &'static str,
        target: OnceLock<Target>,
    },
}

/// Where the walk goes on inside a field.
#[derive(Clone, Copy)]
pub(super) enum Target {
    Any,
    Plan(&'static Plan),
    /// Scalars and the other well-known types.
    Nothing,
}

impl Shape {
    /// What is inside the field.
    pub(super) fn target(&self) -> Target {
        match self {
            Shape::Scalar => Target::Nothing,
            Shape::Message { name: "google.protobuf.Any", .. } => Target::Any,
            Shape::Message { name, target } => {
                *target.get_or_init(|| plan_of(name).map_or(Target::Nothing, Target::Plan))
            }
        }
    }
}

/// The plan of a message, if it is in `proto/`. Well-known types have none: they carry no surprises.
pub(super) fn plan_of(name: &str) -> Option<&'static Plan> {
    static PLACES: LazyLock<HashMap<&'static str, Place, FixedState>> = LazyLock::new(|| {
        let empty = |(name, described)| (name, Place { described, plan: OnceLock::new() });
        described::messages().map(empty).collect()
    });
    let (name, place) = PLACES.get_key_value(name)?;
    Some(place.plan.get_or_init(|| plan(name, place.described)))
}

/// A message of the set, and its plan once it was met.
struct Place {
    described: Described,
    plan: OnceLock<Plan>,
}

fn plan(name: &str, message: Described) -> Plan {
    let mut required_oneofs = 0;
    let mut bits = Vec::new();
    for (i, oneof) in message.oneofs().enumerate() {
        let bit = if tables::OPTIONAL_ONEOFS.contains(&oneof.name()) { 0 } else { 1u32 << i.min(31) };
        required_oneofs |= bit;
        bits.push(bit);
    }
    let bit = |field: Described| field.oneof().and_then(|at| bits.get(at).copied()).unwrap_or_default();
    let mut fields: Vec<FieldPlan> =
        message.fields().map(|field| field_plan(name, message, field, bit(field))).collect();
    fields.sort_by_key(|f| f.number);
    Plan {
        fields,
        required_oneofs,
        is_strict: tables::STRICT.iter().any(|prefix| name.starts_with(prefix)),
        is_shell: tables::SHELLS.contains(&name),
    }
}

fn field_plan(message: &str, described: Described, field: Described, oneof: u32) -> FieldPlan {
    let name = field.name();
    let entry = described.map_entry(field);
    let holds = match entry {
        None => field.holds(),
        Some(entry) => entry.value().and_then(Described::holds),
    };
    let no_effect = |(m, names): &(&str, &[&str])| *m == message && names.contains(&name);
    FieldPlan {
        number: field.number(),
        name,
        shape: match holds {
            Some(name) => Shape::Message { name, target: OnceLock::new() },
            None => Shape::Scalar,
        },
        is_list: field.is_repeated() && entry.is_none(),
        is_map: entry.is_some(),
        oneof,
        has_no_effect: tables::NO_EFFECT.iter().any(no_effect),
    }
}
