//! JSON text with one space of indentation, as both families print it.

use serde::Serialize;
use serde_json::Value as Json;
use serde_json::ser::{PrettyFormatter, Serializer};

/// `json` as text; lines after the first are moved in by `depth` spaces.
pub fn pretty(json: &Json, depth: usize) -> String {
    let mut out = Vec::with_capacity(256);
    let mut serializer = Serializer::with_formatter(&mut out, PrettyFormatter::with_indent(b" "));
    // A tree of plain values serialises into memory without fail.
    let _ = json.serialize(&mut serializer);
    let text = String::from_utf8(out).unwrap_or_default();
    // Strings hold no raw newline, so every newline is one of the layout.
    if depth == 0 { text } else { text.replace('\n', &format!("\n{}", " ".repeat(depth))) }
}

/// A text as a JSON string.
pub fn quoted(text: &str) -> String {
    Json::from(text).to_string()
}
