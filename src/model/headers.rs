//! Header matchers and header edits.

use super::text::StringMatch;
use serde::Serialize;

/// One condition on one header. Several occurrences of a header are joined with `,` before matching.
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
    pub remove: Vec<String>,
    /// Values to set or add.
    pub edits: Vec<HeaderEdit>,
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
    Append { name: String, value: String },
    /// Adds only when the header is absent.
    AddIfAbsent { name: String, value: String },
    /// Replaces every occurrence, or adds.
    Set { name: String, value: String },
    /// Replaces only when present.
    ReplaceIfPresent { name: String, value: String },
}
