//! Header matchers and header edits.

use super::format::Format;
use super::text::StringMatch;
use serde::{Serialize, Serializer};

/// One condition on one header. Of several occurrences one has to satisfy it; inverted, none may.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HeaderMatch {
    /// Header name as configured; HTTP compares it without case, bolt with case.
    pub name: String,
    /// The condition.
    pub kind: HeaderMatchKind,
    /// Negates the result (but an absent header still fails unless `treat_missing_as_empty`).
    pub invert: bool,
    /// An absent header counts as an empty value.
    pub treat_missing_as_empty: bool,
}

impl HeaderMatch {
    /// Whether a header with this one value (`None`: absent) satisfies it.
    pub fn holds(&self, value: Option<&[u8]>) -> bool {
        self.judge(value.is_some(), value.is_some_and(|value| self.hits(value)))
    }

    /// Whether one value is what is looked for.
    pub fn hits(&self, value: &[u8]) -> bool {
        match &self.kind {
            HeaderMatchKind::Present(_) => true,
            HeaderMatchKind::Text(text) => text.matches(value),
            HeaderMatchKind::Range { start, end } => {
                integer(value).is_some_and(|number| (*start..*end).contains(&number))
            }
        }
    }

    /// The verdict on a header that is `present` or not, and of whose values one `hit` or none did. Envoy's
    /// rules: an absent header fails every text or range condition, inverted or not, unless it counts as
    /// empty; presence alone is what `Present` asks about.
    pub fn judge(&self, present: bool, hit: bool) -> bool {
        let missing = !present && self.treat_missing_as_empty;
        if let HeaderMatchKind::Present(wanted) = self.kind {
            return ((present || missing) == wanted) != self.invert;
        }
        if !present && !missing {
            return false;
        }
        (hit || (missing && self.hits(b""))) != self.invert
    }
}

fn integer(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.trim_ascii().parse().ok()
}

/// What a header must satisfy.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum HeaderMatchKind {
    /// Present (`true`) or absent (`false`).
    Present(bool),
    /// Text condition on the value.
    Text(StringMatch),
    /// Whole value is an integer in `start..end`.
    Range { start: i64, end: i64 },
}

/// Changes to a header block, in order: removals first, as Envoy applies them, then edits.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct HeaderEdits {
    /// Names to remove.
    pub remove: Box<[String]>,
    /// Values to set or add.
    pub edits: Box<[HeaderEdit]>,
}

impl HeaderEdits {
    /// Whether nothing would change.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.edits.is_empty()
    }
}

/// One header to write.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum HeaderEdit {
    /// Adds a further occurrence.
    Append { name: String, value: EditValue },
    /// Adds only when the header is absent.
    AddIfAbsent { name: String, value: EditValue },
    /// Replaces every occurrence, or adds.
    Set { name: String, value: EditValue },
    /// Replaces only when present.
    ReplaceIfPresent { name: String, value: EditValue },
}

impl HeaderEdit {
    /// The header's name.
    pub fn name(&self) -> &str {
        let (HeaderEdit::Append { name, .. }
        | HeaderEdit::AddIfAbsent { name, .. }
        | HeaderEdit::Set { name, .. }
        | HeaderEdit::ReplaceIfPresent { name, .. }) = self;
        name
    }

    /// Its value.
    pub fn value(&self) -> &EditValue {
        let (HeaderEdit::Append { value, .. }
        | HeaderEdit::AddIfAbsent { value, .. }
        | HeaderEdit::Set { value, .. }
        | HeaderEdit::ReplaceIfPresent { value, .. }) = self;
        value
    }
}

/// The value of a header to write.
#[derive(Clone, Debug, PartialEq)]
pub enum EditValue {
    /// Always the same.
    Text(Box<[u8]>),
    /// Depends on the stream. One that gives nothing is not written, unless `keep_empty`.
    Format { format: Format, keep_empty: bool },
}

impl EditValue {
    /// The bytes of a value that is always the same; empty for others, which a router resolves first.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            EditValue::Text(text) => text,
            EditValue::Format { .. } => &[],
        }
    }
}

impl From<&str> for EditValue {
    fn from(text: &str) -> Self {
        EditValue::Text(text.as_bytes().into())
    }
}

impl From<String> for EditValue {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl Serialize for EditValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            EditValue::Text(text) => serializer.serialize_str(&String::from_utf8_lossy(text)),
            EditValue::Format { format, .. } => format.serialize(serializer),
        }
    }
}
