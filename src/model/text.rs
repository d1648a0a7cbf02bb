//! Text matchers shared by routes and headers.

use serde::{Serialize, Serializer};
use std::sync::Arc;

mod re2;

/// Largest compiled automaton a pattern may need, in bytes.
pub const REGEX_SIZE_LIMIT: usize = 1 << 20;

/// A pattern that was refused: bad syntax, or larger than [`REGEX_SIZE_LIMIT`] when compiled.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct RegexError(String);

/// A compiled regular expression; equal when the pattern text is equal. Cloning shares the automaton.
#[derive(Clone, Debug)]
pub struct Regex {
    pattern: Arc<str>,
    compiled: Arc<regex_automata::meta::Regex>,
}

impl Regex {
    /// Compiles for whole-string matches, as Envoy's `safe_regex` is used on paths and headers.
    ///
    /// # Errors
    /// The syntax error, or that the automaton exceeds [`REGEX_SIZE_LIMIT`].
    pub fn full(pattern: &str) -> Result<Self, RegexError> {
        Self::build(pattern, &format!("^(?-m:(?:{}))$", re2::adapted(pattern)))
    }

    /// Compiles for a search anywhere in the text, as MOSN uses its patterns.
    ///
    /// # Errors
    /// As [`Regex::full`].
    pub fn search(pattern: &str) -> Result<Self, RegexError> {
        Self::build(pattern, &re2::adapted(pattern))
    }

    fn build(pattern: &str, effective: &str) -> Result<Self, RegexError> {
        // Parsed alone first: `a)(b` must not become valid by the group put around it.
        let config = regex_automata::util::syntax::Config::new();
        if let Err(error) = regex_automata::util::syntax::parse_with(&re2::adapted(pattern), &config) {
            return Err(RegexError(error.to_string().lines().last().unwrap_or("bad syntax").to_owned()));
        }
        let config = regex_automata::meta::Config::new().nfa_size_limit(Some(REGEX_SIZE_LIMIT));
        let compiled = regex_automata::meta::Builder::new()
            .configure(config)
            .build(effective)
            .map_err(|e| RegexError(describe(&e)))?;
        Ok(Regex { pattern: pattern.into(), compiled: Arc::new(compiled) })
    }

    /// Whether `text` matches, by the way this was compiled (whole or search).
    pub fn is_match(&self, text: &[u8]) -> bool {
        self.compiled.is_match(text)
    }

    /// `text` with every hit replaced by `substitution`, in which `\0` to `\9` stand for the hit and its
    /// groups, and `\\` for a backslash. Only for patterns made by [`Regex::search`]. A substitution
    /// that names a group the pattern has not replaces nothing, as with RE2.
    pub fn replace_all(&self, text: &[u8], substitution: &str) -> Vec<u8> {
        if groups_used(substitution) > self.group_count() {
            return text.to_vec();
        }
        let mut out = Vec::with_capacity(text.len());
        let mut done = 0;
        for captures in self.compiled.captures_iter(text) {
            let Some(hit) = captures.get_match() else { continue };
            out.extend_from_slice(text.get(done..hit.start()).unwrap_or_default());
            let mut bytes = substitution.bytes();
            while let Some(byte) = bytes.next() {
                match if byte == b'\\' { bytes.next() } else { None } {
                    Some(digit @ b'0'..=b'9') => {
                        let group = captures.get_group(usize::from(digit - b'0'));
                        let group = group.and_then(|span| text.get(span.range()));
                        out.extend_from_slice(group.unwrap_or_default());
                    }
                    Some(other) => out.push(other),
                    None => out.push(byte),
                }
            }
            done = hit.end();
        }
        out.extend_from_slice(text.get(done..).unwrap_or_default());
        out
    }

    /// The groups of the first match, the whole match first; one that took no part is empty.
    pub fn groups<'t>(&self, text: &'t [u8]) -> Option<Vec<&'t [u8]>> {
        let mut captures = self.compiled.create_captures();
        self.compiled.captures(text, &mut captures);
        captures.get_match()?;
        let group = |span: Option<regex_automata::Span>| span.and_then(|span| text.get(span.range()));
        Some(captures.iter().map(|span| group(span).unwrap_or_default()).collect())
    }

    /// Groups in the pattern, the whole match not counted.
    pub fn group_count(&self) -> usize {
        self.compiled.captures_len().saturating_sub(1)
    }

    /// The pattern as configured.
    pub fn as_str(&self) -> &str {
        &self.pattern
    }
}

/// The highest group in a substitution.
fn groups_used(substitution: &str) -> usize {
    let mut bytes = substitution.bytes();
    let mut highest = 0;
    while let Some(byte) = bytes.next() {
        if byte == b'\\'
            && let Some(digit @ b'0'..=b'9') = bytes.next()
        {
            highest = highest.max(usize::from(digit - b'0'));
        }
    }
    highest
}

fn describe(error: &regex_automata::meta::BuildError) -> String {
    match (error.syntax_error(), error.size_limit()) {
        (_, Some(limit)) => format!("needs more than {limit} bytes when compiled"),
        (Some(syntax), _) => syntax.to_string().lines().last().unwrap_or("bad syntax").to_owned(),
        _ => error.to_string(),
    }
}

impl PartialEq for Regex {
    fn eq(&self, other: &Self) -> bool {
        self.pattern == other.pattern
    }
}

impl Serialize for Regex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.pattern)
    }
}

/// One way a text can match. `ignore_case` applies to all but [`StringMatch::Regex`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum StringMatch {
    /// Equal.
    Exact { value: String, ignore_case: bool },
    /// Begins with.
    Prefix { value: String, ignore_case: bool },
    /// Ends with.
    Suffix { value: String, ignore_case: bool },
    /// Holds somewhere.
    Contains { value: String, ignore_case: bool },
    /// By pattern.
    Regex(Regex),
}

impl StringMatch {
    /// Whether `text` matches.
    pub fn matches(&self, text: &[u8]) -> bool {
        match self {
            StringMatch::Exact { value, ignore_case } => same(text, value.as_bytes(), *ignore_case),
            StringMatch::Prefix { value, ignore_case } => {
                text.get(..value.len()).is_some_and(|head| same(head, value.as_bytes(), *ignore_case))
            }
            StringMatch::Suffix { value, ignore_case } => text
                .len()
                .checked_sub(value.len())
                .and_then(|at| text.get(at..))
                .is_some_and(|tail| same(tail, value.as_bytes(), *ignore_case)),
            StringMatch::Contains { value, ignore_case } => {
                value.is_empty()
                    || text.windows(value.len()).any(|part| same(part, value.as_bytes(), *ignore_case))
            }
            StringMatch::Regex(regex) => regex.is_match(text),
        }
    }
}

fn same(a: &[u8], b: &[u8], ignore_case: bool) -> bool {
    if ignore_case { a.eq_ignore_ascii_case(b) } else { a == b }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_matches_the_whole_text_and_search_a_part() {
        let full = Regex::full("a|ab").unwrap();
        assert!(full.is_match(b"ab") && !full.is_match(b"xab"));
        assert!(Regex::search("b+").unwrap().is_match(b"abbc"));
        assert!(Regex::full("a)(b").is_err());
        assert!(Regex::full("(a{1000}){1000}").is_err());
        assert!(
            Regex::full("a.c").unwrap().is_match(b"abc") && !Regex::full("a.c").unwrap().is_match(b"a\nc")
        );
    }

    #[test]
    fn every_hit_is_replaced() {
        let regex = Regex::search("/(v[0-9])").unwrap();
        assert_eq!(regex.replace_all(b"/v1/x/v2/", r"/\1-\\\0"), br"/v1-\/v1/x/v2-\/v2/");
        assert_eq!(Regex::search("x*").unwrap().replace_all(b"axb", "-"), b"-a-b-");
        assert_eq!(regex.replace_all(b"/v1", r"\2"), b"/v1", "no such group");
        let full = Regex::full("/(a)|/(b)").unwrap();
        assert_eq!(full.groups(b"/b").unwrap(), [&b"/b"[..], b"", b"b"]);
        assert_eq!((full.groups(b"/c"), full.group_count()), (None, 2));
    }

    #[test]
    fn string_matchers_honour_case() {
        let suffix = StringMatch::Suffix { value: "XY".into(), ignore_case: true };
        assert!(suffix.matches(b"axy") && !suffix.matches(b"y"));
        assert!(StringMatch::Contains { value: "b".into(), ignore_case: false }.matches(b"abc"));
        assert!(!StringMatch::Prefix { value: "A".into(), ignore_case: false }.matches(b"abc"));
    }
}
