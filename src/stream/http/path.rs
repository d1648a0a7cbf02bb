//! Paths brought into one form, so that nothing is routed by one reading and served by another.
//!
//! The steps are Envoy's, in its order: escaped slashes, dot segments and escapes, runs of slashes. The query
//! is never touched.

use crate::model::{Edge, EscapedSlashes};

/// What became of a path.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Resolved {
    Same,
    Other(String),
    /// The client is to come back with this one.
    Redirect(String),
    Refused,
}

/// Resolves `target`, a path with its query, as `edge` says.
pub(super) fn resolve(target: &str, edge: &Edge) -> Resolved {
    let (path, query) = match target.find('?') {
        Some(at) => target.split_at(at),
        None => (target, ""),
    };
    // Only an OPTIONS target.
    if path == "*" {
        return Resolved::Same;
    }
    if is_plain(path) {
        return Resolved::Same;
    }
    let mut now = path.to_owned();
    let mut redirect = false;
    if edge.escaped_slashes != EscapedSlashes::Keep
        && let Some(unescaped) = unescape_slashes(&now)
    {
        match edge.escaped_slashes {
            EscapedSlashes::Reject => return Resolved::Refused,
            EscapedSlashes::Redirect => redirect = true,
            EscapedSlashes::Keep | EscapedSlashes::Unescape => {}
        }
        now = unescaped;
    }
    if edge.normalize_path {
        match normalize(&now) {
            Some(normal) => now = normal,
            None => return Resolved::Refused,
        }
    }
    if edge.merge_slashes {
        now = merge(&now);
    }
    if redirect {
        now.push_str(query);
        return Resolved::Redirect(now);
    }
    if now == path {
        return Resolved::Same;
    }
    now.push_str(query);
    Resolved::Other(now)
}

/// Whether no step can find anything: no escape, no backslash, and after each slash a segment that is no dots.
fn is_plain(path: &str) -> bool {
    let mut slash = false;
    let plain = path.bytes().all(|byte| {
        let odd = matches!(byte, b'%' | b'\\') || slash && matches!(byte, b'/' | b'.');
        slash = byte == b'/';
        !odd
    });
    plain && path.starts_with('/')
}

/// `None`: there are none.
fn unescape_slashes(path: &str) -> Option<String> {
    if !path.contains('%') {
        return None;
    }
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        let (before, escape) = rest.split_at(at);
        out.push_str(before);
        let (slash, len) = match escape.get(..3) {
            Some("%2f" | "%2F") => ('/', 3),
            Some("%5c" | "%5C") => ('\\', 3),
            _ => ('%', 1),
        };
        out.push(slash);
        rest = escape.get(len..).unwrap_or_default();
    }
    out.push_str(rest);
    (out.len() != path.len()).then_some(out)
}

/// Without needless escapes, backslashes and dot segments (RFC 3986, 5.2.4); `None`: an escaped NUL.
fn normalize(path: &str) -> Option<String> {
    let plain = decode(path)?;
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = plain.strip_prefix('/').unwrap_or(&plain).split('/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if last {
                    kept.push("");
                }
            }
            other => kept.push(other),
        }
    }
    let mut out = String::with_capacity(plain.len() + 1);
    for segment in kept {
        out.push('/');
        out.push_str(segment);
    }
    if out.is_empty() {
        out.push('/');
    }
    Some(out)
}

/// Escapes of characters that need none are undone, backslashes are slashes.
fn decode(path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len());
    let mut chars = path.chars();
    while let Some(next) = chars.next() {
        match next {
            '\\' => out.push('/'),
            '%' => {
                let code = chars.as_str().get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
                match code {
                    Some(0) => return None,
                    Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                        out.push(char::from(byte));
                        chars.nth(1);
                    }
                    _ => out.push('%'),
                }
            }
            other => out.push(other),
        }
    }
    Some(out)
}

fn merge(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for next in path.chars() {
        if next != '/' || !out.ends_with('/') {
            out.push(next);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_one_form() {
        let edge = Edge { normalize_path: true, merge_slashes: true, ..Edge::default() };
        for (from, to) in [
            ("/a/./b/../c?x=/../", "/a/c?x=/../"),
            ("/../..", "/"),
            ("/a/..", "/"),
            ("/a/b/.", "/a/b/"),
            ("/%61%2e%2E/%2fb", "/a../%2fb"),
            ("/%2e%2e/x", "/x"),
            ("/a\\b", "/a/b"),
            ("/a//b///c", "/a/b/c"),
            ("/%zz%", "/%zz%"),
        ] {
            let want = if from == to { Resolved::Same } else { Resolved::Other(to.into()) };
            assert_eq!(resolve(from, &edge), want, "{from}");
        }
        assert_eq!(resolve("/a%00", &edge), Resolved::Refused);
        assert_eq!(resolve("*", &edge), Resolved::Same);
        assert_eq!(resolve("/a//./b", &Edge::default()), Resolved::Same);
    }

    #[test]
    fn escaped_slashes_are_kept_refused_unescaped_or_sent_back() {
        let with = |escaped_slashes| Edge { escaped_slashes, ..Edge::default() };
        let path = "/a%2Fb%5cc%41?d=%2F";
        assert_eq!(resolve(path, &with(EscapedSlashes::Keep)), Resolved::Same);
        assert_eq!(resolve(path, &with(EscapedSlashes::Reject)), Resolved::Refused);
        let plain = "/a/b\\c%41?d=%2F";
        assert_eq!(resolve(path, &with(EscapedSlashes::Unescape)), Resolved::Other(plain.into()));
        assert_eq!(resolve(path, &with(EscapedSlashes::Redirect)), Resolved::Redirect(plain.into()));
        assert_eq!(resolve("/a?%2F", &with(EscapedSlashes::Reject)), Resolved::Same);
    }
}
