//! The descriptor set as tables for the wire walk: per message its fields by number, its oneofs, its manners.
//!
//! Read from the encoded set itself, a message when it is first met: a descriptor pool of everything takes
//! megabytes, and a process meets a tenth of the messages there are.

use std::collections::HashMap;
use std::sync::{LazyLock, OnceLock};

use foldhash::fast::FixedState;

use super::{Reader, Value, tables};
use crate::proto::DESCRIPTORS;

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

/// A message of the set: where it is described, and its plan once it was met.
struct Place {
    described: &'static [u8],
    plan: OnceLock<Plan>,
}

/// The plan of a message, if it is in `proto/`. Well-known types have none: they carry no surprises.
pub(super) fn plan_of(name: &str) -> Option<&'static Plan> {
    static PLACES: LazyLock<HashMap<Box<str>, Place, FixedState>> = LazyLock::new(places);
    let (name, place) = PLACES.get_key_value(name)?;
    Some(place.plan.get_or_init(|| plan(name, place.described)))
}

/// Field numbers of `google/protobuf/descriptor.proto`.
mod number {
    pub const SET_FILE: u32 = 1;
    pub const FILE_PACKAGE: u32 = 2;
    pub const FILE_MESSAGE: u32 = 4;
    /// Of messages, fields and oneofs alike.
    pub const NAME: u32 = 1;
    pub const MESSAGE_FIELD: u32 = 2;
    pub const MESSAGE_NESTED: u32 = 3;
    pub const MESSAGE_OPTIONS: u32 = 7;
    pub const MESSAGE_ONEOF: u32 = 8;
    pub const OPTIONS_MAP_ENTRY: u32 = 7;
    pub const FIELD_NUMBER: u32 = 3;
    pub const FIELD_LABEL: u32 = 4;
    pub const FIELD_TYPE: u32 = 5;
    pub const FIELD_TYPE_NAME: u32 = 6;
    pub const FIELD_ONEOF: u32 = 9;
}

/// `LABEL_REPEATED`.
const REPEATED: u64 = 3;
/// `TYPE_MESSAGE`.
const MESSAGE: u64 = 11;

/// One described thing of the set.
#[derive(Clone, Copy)]
struct Described(&'static [u8]);

impl Described {
    fn fields(self) -> impl Iterator<Item = (u32, Value<'static>)> {
        let mut reader = Reader { rest: self.0 };
        std::iter::from_fn(move || reader.field())
    }

    /// The parts of it with this number.
    fn parts(self, wanted: u32) -> impl Iterator<Item = Described> {
        self.fields().filter_map(move |(number, value)| match value {
            Value::Bytes(bytes) if number == wanted => Some(Described(bytes)),
            _ => None,
        })
    }

    fn text(self, wanted: u32) -> &'static str {
        let text = self.parts(wanted).last().and_then(|part| std::str::from_utf8(part.0).ok());
        text.unwrap_or_default()
    }

    fn value(self, wanted: u32) -> Option<u64> {
        let values = self.fields().filter_map(|(number, value)| match value {
            Value::Varint(value) if number == wanted => Some(value),
            _ => None,
        });
        values.last()
    }

    fn is_map_entry(self) -> bool {
        self.parts(number::MESSAGE_OPTIONS).any(|options| options.value(number::OPTIONS_MAP_ENTRY) == Some(1))
    }

    /// Full name of the message that a field holds; `None` for a scalar.
    fn message_name(self) -> Option<&'static str> {
        let name = self.text(number::FIELD_TYPE_NAME);
        (self.value(number::FIELD_TYPE) == Some(MESSAGE)).then(|| name.strip_prefix('.').unwrap_or(name))
    }
}

fn places() -> HashMap<Box<str>, Place, FixedState> {
    let mut out = HashMap::default();
    for file in Described(DESCRIPTORS).parts(number::SET_FILE) {
        let package = file.text(number::FILE_PACKAGE);
        if package != "google.protobuf" {
            file.parts(number::FILE_MESSAGE).for_each(|message| place(&mut out, package, message));
        }
    }
    out
}

fn place(out: &mut HashMap<Box<str>, Place, FixedState>, scope: &str, message: Described) {
    if message.is_map_entry() {
        return;
    }
    let name = format!("{scope}.{}", message.text(number::NAME));
    message.parts(number::MESSAGE_NESTED).for_each(|nested| place(out, &name, nested));
    out.insert(name.into(), Place { described: message.0, plan: OnceLock::new() });
}

fn plan(name: &str, described: &'static [u8]) -> Plan {
    let message = Described(described);
    let mut required_oneofs = 0;
    let mut bits = Vec::new();
    for (i, oneof) in message.parts(number::MESSAGE_ONEOF).enumerate() {
        let optional = tables::OPTIONAL_ONEOFS.contains(&oneof.text(number::NAME));
        let bit = if optional { 0 } else { 1u32 << i.min(31) };
        required_oneofs |= bit;
        bits.push(bit);
    }
    let entries: Vec<_> =
        message.parts(number::MESSAGE_NESTED).filter(|nested| nested.is_map_entry()).collect();
    let oneof = |field: Described| {
        let index = field.value(number::FIELD_ONEOF).and_then(|index| usize::try_from(index).ok());
        index.and_then(|index| bits.get(index).copied()).unwrap_or_default()
    };
    let fields = message.parts(number::MESSAGE_FIELD);
    let mut fields: Vec<FieldPlan> = fields.map(|f| field(name, f, oneof(f), &entries)).collect();
    fields.sort_by_key(|f| f.number);
    Plan {
        fields,
        required_oneofs,
        is_strict: tables::STRICT.iter().any(|prefix| name.starts_with(prefix)),
        is_shell: tables::SHELLS.contains(&name),
    }
}

/// `entries` are the map entries nested in `message`.
fn field(message: &str, field: Described, oneof: u32, entries: &[Described]) -> FieldPlan {
    let name = field.text(number::NAME);
    let is_repeated = field.value(number::FIELD_LABEL) == Some(REPEATED);
    let holds = field.message_name();
    let entry = holds.filter(|_| is_repeated).and_then(|full| {
        let own = full.strip_prefix(message)?.strip_prefix('.')?;
        entries.iter().find(|entry| entry.text(number::NAME) == own)
    });
    let holds = match entry {
        None => holds,
        Some(entry) => entry
            .parts(number::MESSAGE_FIELD)
            .find(|part| part.value(number::FIELD_NUMBER) == Some(2))
            .and_then(Described::message_name),
    };
    let no_effect = |(m, names): &(&str, &[&str])| *m == message && names.contains(&name);
    FieldPlan {
        number: field.value(number::FIELD_NUMBER).and_then(|n| u32::try_from(n).ok()).unwrap_or_default(),
        name,
        shape: match holds {
            Some(name) => Shape::Message { name, target: OnceLock::new() },
            None => Shape::Scalar,
        },
        is_list: is_repeated && entry.is_none(),
        is_map: entry.is_some(),
        oneof,
        has_no_effect: tables::NO_EFFECT.iter().any(no_effect),
    }
}
