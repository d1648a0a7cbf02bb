//! The descriptor set as tables for the wire walk: per message its fields by number, its oneofs, its manners.

use std::collections::HashMap;
use std::sync::{LazyLock, OnceLock};

use foldhash::fast::FixedState;
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

use super::tables;
use crate::proto::descriptor_pool;

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
    pub name: String,
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
        name: String,
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
            Shape::Message { name, .. } if name == "google.protobuf.Any" => Target::Any,
            Shape::Message { name, target } => {
                *target.get_or_init(|| plan_of(name).map_or(Target::Nothing, Target::Plan))
            }
        }
    }
}

/// The plan of a message, if it is in `proto/`. Well-known types have none: they carry no surprises.
pub(super) fn plan_of(name: &str) -> Option<&'static Plan> {
    static PLANS: LazyLock<HashMap<String, Plan, FixedState>> = LazyLock::new(|| {
        let messages = descriptor_pool().all_messages();
        let own = messages.filter(|m| !m.full_name().starts_with("google.protobuf.") && !m.is_map_entry());
        own.map(|m| (m.full_name().to_owned(), plan(&m))).collect()
    });
    PLANS.get(name)
}

fn plan(message: &MessageDescriptor) -> Plan {
    let name = message.full_name();
    let mut required_oneofs = 0;
    let mut bits = HashMap::new();
    for (i, oneof) in message.oneofs().enumerate() {
        if !tables::OPTIONAL_ONEOFS.contains(&oneof.name()) {
            bits.insert(oneof.name().to_owned(), 1u32 << i.min(31));
            required_oneofs |= 1 << i.min(31);
        }
    }
    let bit = |f: &FieldDescriptor| {
        f.containing_oneof().and_then(|o| bits.get(o.name()).copied()).unwrap_or_default()
    };
    let mut fields: Vec<FieldPlan> = message.fields().map(|f| field(name, &f, bit(&f))).collect();
    fields.sort_by_key(|f| f.number);
    Plan {
        fields,
        required_oneofs,
        is_strict: tables::STRICT.iter().any(|prefix| name.starts_with(prefix)),
        is_shell: tables::SHELLS.contains(&name),
    }
}

fn field(message: &str, field: &FieldDescriptor, oneof: u32) -> FieldPlan {
    let is_map = field.is_map();
    let kind = match field.kind() {
        Kind::Message(entry) if is_map => entry.map_entry_value_field().kind(),
        kind => kind,
    };
    let no_effect = |(m, names): &(&str, &[&str])| *m == message && names.contains(&field.name());
    FieldPlan {
        number: field.number(),
        name: field.name().to_owned(),
        shape: match kind {
            Kind::Message(m) => Shape::Message { name: m.full_name().to_owned(), target: OnceLock::new() },
            _ => Shape::Scalar,
        },
        is_list: field.is_list(),
        is_map,
        oneof,
        has_no_effect: tables::NO_EFFECT.iter().any(no_effect),
    }
}
