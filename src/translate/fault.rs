//! One thing that is wrong with a piece of configuration, and where: in a file or in a resource of the control
//! plane, of either dialect.

use serde::Serialize;
use std::fmt;

/// Longest value printed in a finding, in characters.
const MAX_VALUE: usize = 120;

/// Weight of a [`Finding`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Cannot be applied: the resource is rejected, a start fails.
    Error,
    /// Applied, but something in it has no effect or another one than its author may think.
    Warning,
}

/// One finding, at one field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub severity: Severity,
    /// File it stands in; empty for resources that came by xDS, and until the loader fills it in.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub file: String,
    /// Field with indices: `servers[0].listeners[1].address`. Empty for the whole.
    pub path: String,
    /// The offending value as text, shortened; empty when the field is missing. Never a secret.
    pub value: String,
    /// What was expected, or what happens instead.
    pub message: String,
}

impl Finding {
    /// An error at `path`.
    pub fn error(path: impl Into<String>, value: impl fmt::Display, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, path.into(), value, message.into())
    }

    /// A warning at `path`.
    pub fn warning(path: impl Into<String>, value: impl fmt::Display, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, path.into(), value, message.into())
    }

    fn new(severity: Severity, path: String, value: impl fmt::Display, message: String) -> Self {
        // Keys and names of the file end up in all three: none may break the line.
        let value = escaped(&value.to_string());
        Finding { severity, file: String::new(), path: one_line(path), value, message: one_line(message) }
    }

    /// The same finding inside `outer`: `outer.path`, or `outer[3].path` as `outer` is given.
    #[must_use]
    pub fn within(mut self, outer: &str) -> Self {
        self.path = join(outer, &self.path);
        self
    }

    /// Whether it stops what it belongs to.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

/// Joins two field paths.
pub fn join(outer: &str, inner: &str) -> String {
    match (outer.is_empty(), inner.is_empty()) {
        (true, _) => inner.to_owned(),
        (_, true) => outer.to_owned(),
        _ if inner.starts_with('[') => format!("{outer}{inner}"),
        _ => format!("{outer}.{inner}"),
    }
}

/// One line: file, path, value, message, those that there are.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [&self.file, &self.path, &self.value] {
            if !part.is_empty() {
                write!(f, "{part}: ")?;
            }
        }
        f.write_str(&self.message)
    }
}

fn one_line(text: String) -> String {
    match text.contains(char::is_control) {
        true => text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect(),
        false => text,
    }
}

/// Control characters escaped, cut to [`MAX_VALUE`].
fn escaped(value: &str) -> String {
    let mut out = String::new();
    for (i, c) in value.chars().enumerate() {
        if i == MAX_VALUE {
            out.push('…');
            break;
        }
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_short_line() {
        let finding = Finding::error("b", format!("x\n{}", "é".repeat(200)), "why").within("a[0]");
        let text = finding.to_string();
        assert!(text.starts_with("a[0].b: x\\né") && text.ends_with("…: why"), "{text}");
        assert!(text.lines().count() == 1 && text.chars().count() < 160);
        assert_eq!(Finding::error("k\ney", "", "no\nline").to_string(), "k ey: no line");
        assert_eq!(join("a", "[1]"), "a[1]");
        assert_eq!(Finding::warning("", "", "alone").to_string(), "alone");
    }
}
