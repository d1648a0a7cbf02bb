//! Patterns are written for RE2; where the engine here reads the same text otherwise, it is put into words
//! that mean to it what RE2 means.

use std::borrow::Cow;

/// `pattern` for this engine: `\d \w \s \b` are ASCII, a brace that counts nothing is itself, and so is a
/// bracket inside a class.
pub(super) fn adapted(pattern: &str) -> Cow<'_, str> {
    if !pattern.contains(['\\', '{', '[', '&', '~']) {
        return pattern.into();
    }
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut rest = pattern;
    let mut in_class = false;
    while let Some(c) = rest.chars().next() {
        let after = rest.get(c.len_utf8()..).unwrap_or_default();
        let taken = match c {
            '\\' => escape(rest, in_class, &mut out),
            '[' if in_class => class_member(rest, &mut out),
            '[' => {
                in_class = true;
                class_start(rest, &mut out)
            }
            ']' if in_class => {
                in_class = false;
                out.push(c);
                1
            }
            // Set operators elsewhere, characters in RE2.
            '&' | '~' | '-' if in_class && after.starts_with(c) => {
                out.push('\\');
                out.push(c);
                1
            }
            '{' if !in_class && !is_count(after) => {
                out.push_str("\\{");
                1
            }
            _ => {
                out.push(c);
                c.len_utf8()
            }
        };
        rest = rest.get(taken..).unwrap_or_default();
    }
    out.into()
}

/// A backslash and what belongs to it; how many bytes that was.
fn escape(text: &str, in_class: bool, out: &mut String) -> usize {
    let Some(kind) = text.chars().nth(1) else {
        out.push('\\');
        return 1;
    };
    if kind == 'Q' && !in_class {
        let inside = text.get(2..).unwrap_or_default();
        let end = inside.find("\\E");
        let quoted = inside.get(..end.unwrap_or(inside.len())).unwrap_or_default();
        for c in quoted.chars() {
            if c.is_ascii_punctuation() {
                out.push('\\');
            }
            out.push(c);
        }
        return 2 + quoted.len() + if end.is_some() { 2 } else { 0 };
    }
    match kind {
        'd' => out.push_str("[0-9]"),
        'D' => out.push_str("[^0-9]"),
        'w' => out.push_str("[0-9A-Za-z_]"),
        'W' => out.push_str("[^0-9A-Za-z_]"),
        's' => out.push_str(r"[\t\n\f\r ]"),
        'S' => out.push_str(r"[^\t\n\f\r ]"),
        'b' if !in_class => out.push_str(r"(?-u:\b)"),
        'p' | 'P' | 'x' if text.get(2..).is_some_and(|t| t.starts_with('{')) => {
            let end = text.find('}').map_or(text.len(), |at| at + 1);
            out.push_str(text.get(..end).unwrap_or_default());
            return end;
        }
        _ => {
            out.push('\\');
            out.push(kind);
        }
    }
    1 + kind.len_utf8()
}

/// `[`, `[^`, and a bracket that comes first in the class and is a member.
fn class_start(text: &str, out: &mut String) -> usize {
    out.push('[');
    let mut taken = 1;
    if text.get(taken..).is_some_and(|t| t.starts_with('^')) {
        out.push('^');
        taken += 1;
    }
    if text.get(taken..).is_some_and(|t| t.starts_with(']')) {
        out.push_str("\\]");
        taken += 1;
    }
    taken
}

/// `[:alpha:]`, or a bracket as a member.
fn class_member(text: &str, out: &mut String) -> usize {
    let named = text.strip_prefix("[:").and_then(|t| t.find(":]")).map(|at| at + 4);
    match named {
        Some(end) => {
            out.push_str(text.get(..end).unwrap_or_default());
            end
        }
        None => {
            out.push_str("\\[");
            1
        }
    }
}

/// `3}`, `3,}` or `3,4}`.
fn is_count(text: &str) -> bool {
    let Some((inside, _)) = text.split_once('}') else { return false };
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    match inside.split_once(',') {
        None => digits(inside),
        Some((least, most)) => digits(least) && (most.is_empty() || digits(most)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Regex;

    #[test]
    fn patterns_mean_what_they_mean_to_re2() {
        for (pattern, hits, misses) in [
            (r"\d+\.\w\s", &["12._ "][..], &["٣.a ", "1.é "][..]),
            (r"[\d\-x]+", &["1-x"], &["y", "٣"]),
            (r"[^\w/]", &["é", "-"], &["a", "/"]),
            ("/users/{id}", &["/users/{id}"], &["/users/1"]),
            ("a{2,3}b{1}c{1,}", &["aabc", "aaabcc"], &["abc"]),
            ("[[a]+", &["[a"], &["b"]),
            ("[]a]+", &["]a"], &["b"]),
            ("[[:digit:]&&a~~]+", &["1&a~"], &["b"]),
            (r"\Qa.b\E+", &["a.bb"], &["aXb"]),
            (r"\x{41}\/", &["A/"], &["a/"]),
        ] {
            let regex = Regex::full(pattern).unwrap();
            for hit in hits {
                assert!(regex.is_match(hit.as_bytes()), "{pattern} {hit}");
            }
            for miss in misses {
                assert!(!regex.is_match(miss.as_bytes()), "{pattern} {miss}");
            }
        }
        assert!(Regex::search(r"a\b").unwrap().is_match("aé".as_bytes()));
    }
}
