//! The descriptor set of `proto/` as it is encoded, read in place.
//!
//! Owns the index of its messages and enums; gives out `Described` things. A reflection pool of all of it
//! takes megabytes and milliseconds; whoever needs a few messages reads those. Nothing here fails: the set
//! was made by this crate's build script.

use std::collections::HashMap;
use std::sync::LazyLock;

use foldhash::fast::FixedState;

use super::DESCRIPTORS;

/// Field numbers of `google/protobuf/descriptor.proto`.
mod number {
    pub const SET_FILE: u32 = 1;
    pub const FILE_PACKAGE: u32 = 2;
    pub const FILE_MESSAGE: u32 = 4;
    pub const FILE_ENUM: u32 = 5;
    /// Of messages, fields, oneofs, enums and their values alike.
    pub const NAME: u32 = 1;
    pub const MESSAGE_FIELD: u32 = 2;
    pub const MESSAGE_NESTED: u32 = 3;
    pub const MESSAGE_ENUM: u32 = 4;
    pub const MESSAGE_OPTIONS: u32 = 7;
    pub const MESSAGE_ONEOF: u32 = 8;
    pub const OPTIONS_MAP_ENTRY: u32 = 7;
    pub const FIELD_NUMBER: u32 = 3;
    pub const FIELD_LABEL: u32 = 4;
    pub const FIELD_TYPE: u32 = 5;
    pub const FIELD_TYPE_NAME: u32 = 6;
    pub const FIELD_ONEOF: u32 = 9;
    pub const FIELD_JSON_NAME: u32 = 10;
    pub const ENUM_VALUE: u32 = 2;
    pub const VALUE_NUMBER: u32 = 2;
}

/// `LABEL_REPEATED`.
const REPEATED: u64 = 3;
/// `TYPE_MESSAGE` of [`Described::kind`].
pub const MESSAGE: u64 = 11;

/// One thing of the set: a file, a message, a field, a oneof or an enum, as its kind has it.
#[derive(Clone, Copy, Debug)]
pub struct Described(&'static [u8]);

impl Described {
    fn raw(self) -> impl Iterator<Item = (u32, Value<'static>)> {
        let mut reader = Reader::new(self.0);
        std::iter::from_fn(move || reader.field())
    }

    fn parts(self, wanted: u32) -> impl Iterator<Item = Described> {
        self.raw().filter_map(move |(number, value)| match value {
            Value::Bytes(bytes) if number == wanted => Some(Described(bytes)),
            _ => None,
        })
    }

    fn text(self, wanted: u32) -> &'static str {
        let text = self.parts(wanted).last().and_then(|part| std::str::from_utf8(part.0).ok());
        text.unwrap_or_default()
    }

    fn integer(self, wanted: u32) -> Option<u64> {
        let values = self.raw().filter_map(|(number, value)| match value {
            Value::Varint(value) if number == wanted => Some(value),
            _ => None,
        });
        values.last()
    }

    /// Its own name, without the names it is in.
    pub fn name(self) -> &'static str {
        self.text(number::NAME)
    }

    /// A message's fields, in the order of the file.
    pub fn fields(self) -> impl Iterator<Item = Described> {
        self.parts(number::MESSAGE_FIELD)
    }

    /// A message's oneofs; fields refer to them by index.
    pub fn oneofs(self) -> impl Iterator<Item = Described> {
        self.parts(number::MESSAGE_ONEOF)
    }

    fn is_map_entry(self) -> bool {
        self.parts(number::MESSAGE_OPTIONS)
            .any(|options| options.integer(number::OPTIONS_MAP_ENTRY) == Some(1))
    }

    /// The entry type of a message's map field; `None` for any other field.
    pub fn map_entry(self, field: Described) -> Option<Described> {
        let (_, name) = field.holds().filter(|_| field.is_repeated())?.rsplit_once('.')?;
        self.parts(number::MESSAGE_NESTED).find(|nested| nested.name() == name && nested.is_map_entry())
    }

    /// The value field of a map entry.
    pub fn value(self) -> Option<Described> {
        self.fields().find(|field| field.number() == 2)
    }

    /// A field's number.
    pub fn number(self) -> u32 {
        self.integer(number::FIELD_NUMBER).and_then(|number| u32::try_from(number).ok()).unwrap_or_default()
    }

    /// A field's lowerCamelCase name in JSON.
    pub fn json_name(self) -> &'static str {
        self.text(number::FIELD_JSON_NAME)
    }

    /// Whether a field is a list or a map.
    pub fn is_repeated(self) -> bool {
        self.integer(number::FIELD_LABEL) == Some(REPEATED)
    }

    /// A field's `FieldDescriptorProto.Type`.
    pub fn kind(self) -> u64 {
        self.integer(number::FIELD_TYPE).unwrap_or_default()
    }

    /// The index of a field's oneof.
    pub fn oneof(self) -> Option<usize> {
        self.integer(number::FIELD_ONEOF).and_then(|index| usize::try_from(index).ok())
    }

    /// Full name of the message or enum that a field is of.
    pub fn type_name(self) -> &'static str {
        let name = self.text(number::FIELD_TYPE_NAME);
        name.strip_prefix('.').unwrap_or(name)
    }

    /// Full name of the message that a field holds; `None` for a scalar.
    pub fn holds(self) -> Option<&'static str> {
        (self.kind() == MESSAGE).then(|| self.type_name())
    }

    /// The number of an enum's value.
    pub fn value_of(self, name: &str) -> Option<i64> {
        let value = self.parts(number::ENUM_VALUE).find(|value| value.name() == name)?;
        Some(value.integer(number::VALUE_NUMBER).unwrap_or_default().cast_signed())
    }
}

/// Messages and enums by full name, without those of `google.protobuf` and without map entries.
struct Index {
    messages: HashMap<Box<str>, Described, FixedState>,
    enums: HashMap<Box<str>, Described, FixedState>,
}

static INDEX: LazyLock<Index> = LazyLock::new(|| {
    let mut index = Index { messages: HashMap::default(), enums: HashMap::default() };
    for file in Described(DESCRIPTORS).parts(number::SET_FILE) {
        let package = file.text(number::FILE_PACKAGE);
        if package == "google.protobuf" {
            continue;
        }
        file.parts(number::FILE_ENUM).for_each(|of| index.add_enum(package, of));
        file.parts(number::FILE_MESSAGE).for_each(|message| index.add_message(package, message));
    }
    index
});

impl Index {
    fn add_enum(&mut self, scope: &str, of: Described) {
        self.enums.insert(format!("{scope}.{}", of.name()).into(), of);
    }

    fn add_message(&mut self, scope: &str, message: Described) {
        if message.is_map_entry() {
            return;
        }
        let name = format!("{scope}.{}", message.name());
        message.parts(number::MESSAGE_ENUM).for_each(|of| self.add_enum(&name, of));
        message.parts(number::MESSAGE_NESTED).for_each(|nested| self.add_message(&name, nested));
        self.messages.insert(name.into(), message);
    }
}

/// The message of that full name, if it is in `proto/`.
pub fn message(name: &str) -> Option<Described> {
    INDEX.messages.get(name).copied()
}

/// The enum of that full name, if it is in `proto/`.
pub fn enumeration(name: &str) -> Option<Described> {
    INDEX.enums.get(name).copied()
}

/// All messages with their full names.
pub fn messages() -> impl Iterator<Item = (&'static str, Described)> {
    INDEX.messages.iter().map(|(name, message)| (&**name, *message))
}

/// A field's content on the wire.
pub enum Value<'a> {
    /// Length-delimited.
    Bytes(&'a [u8]),
    /// A varint.
    Varint(u64),
    /// Four or eight bytes.
    Other,
}

/// Reads wire fields one by one; ends at the first malformed byte.
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// From the start of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    /// What was not read yet.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next field: its number and content.
    pub fn field(&mut self) -> Option<(u32, Value<'a>)> {
        let tag = self.varint()?;
        // Field 0 does not exist: bytes that claim one are no message.
        let number = u32::try_from(tag >> 3).ok().filter(|n| *n != 0)?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Other)?,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Other)?,
            _ => return None,
        };
        Some((number, value))
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.rest.split_at_checked(length)?;
        self.rest = tail;
        Some(head)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, tail) = self.rest.split_first()?;
            self.rest = tail;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}
