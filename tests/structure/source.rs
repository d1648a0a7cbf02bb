//! Reads Rust source well enough for the rules: files, code without comments, text or tests, paths used.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// One source file of the crate.
pub struct Source {
    /// Relative to the repository, with `/`.
    pub path: String,
    /// As it is.
    pub text: String,
    /// Comments blank, text and characters masked, items under `#[cfg(test)]` gone. Empty in a test file.
    pub code: String,
    /// The module's own path: `["xds", "disk", "format"]`; empty for the crate root.
    pub module: Vec<String>,
    /// A test module's file.
    pub is_test: bool,
}

impl Source {
    fn read(root: &Path, file: &Path) -> Self {
        let path = file.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(file).unwrap();
        let mut module: Vec<String> = path
            .trim_start_matches("src/")
            .trim_end_matches(".rs")
            .split('/')
            .map(str::to_owned)
            .filter(|part| part != "lib")
            .collect();
        let is_test = module.iter().any(|part| part == "tests");
        if module.last().is_some_and(|last| last == "mod") {
            module.pop();
        }
        let code = if is_test { String::new() } else { without_tests(&mask(&text)) };
        Self { path, text, code, module, is_test }
    }

    /// The module directly under the crate root: what the layering table is about.
    pub fn top(&self) -> &str {
        self.module.first().map_or("lib", String::as_str)
    }

    /// Lines with code on them.
    pub fn code_lines(&self) -> usize {
        self.code.lines().filter(|line| !line.trim().is_empty()).count()
    }

    /// Lines of the test modules that stand in this file.
    pub fn inline_test_lines(&self) -> usize {
        if self.is_test { 0 } else { mask(&self.text).lines().count() - self.code.lines().count() }
    }

    /// Every path used, from the crate root: `crate::a::b` and `super::super::a::b` alike are `["a", "b"]`.
    pub fn own_paths(&self) -> Vec<Vec<String>> {
        let tokens = tokens(&self.code);
        let mut found = Vec::new();
        let mut at = 0;
        while at < tokens.len() {
            let base = match tokens[at] {
                "crate" => Some(Vec::new()),
                "super" => self.climb(&tokens, &mut at),
                _ => None,
            };
            match base {
                Some(base) if tokens.get(at + 1) == Some(&"::") => {
                    at = tree(&tokens, at + 2, &base, &mut found);
                }
                _ => at += 1,
            }
        }
        found
    }

    /// The module that a run of `super`s ends in; `at` is left on the last of them. Inside an inline module this
    /// climbs one too far, which only the crate root would notice.
    fn climb(&self, tokens: &[&str], at: &mut usize) -> Option<Vec<String>> {
        let mut base = self.module.clone();
        base.pop()?;
        while tokens.get(*at + 1) == Some(&"::") && tokens.get(*at + 2) == Some(&"super") {
            base.pop();
            *at += 2;
        }
        Some(base)
    }

    /// Whether `name` stands in the code as a word of its own.
    pub fn names(&self, name: &str) -> bool {
        tokens(&self.code).contains(&name)
    }

    /// Whether the code uses the crate `name`: as the root of a path, not as a module of ours.
    pub fn uses_crate(&self, name: &str) -> bool {
        let tokens = tokens(&self.code);
        let rooted = |at: usize| match at.checked_sub(1).map(|before| tokens[before]) {
            // `::name` is a crate only where nothing stands before the colons.
            Some("::") => at < 2 || !is_word(tokens[at - 2]),
            _ => true,
        };
        let ours = self.own_paths().iter().any(|path| path.last().is_some_and(|last| last == name));
        !ours
            && (0..tokens.len())
                .any(|at| tokens[at] == name && tokens.get(at + 1) == Some(&"::") && rooted(at))
    }
}

/// Every file under `root/folder` with this ending, sorted.
pub fn files(root: &Path, folder: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root.join(folder)];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                if !["target", "corpus", "artifacts", "__pycache__"].contains(&name) {
                    open.push(path);
                }
            } else if name.ends_with(ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The crate's own sources, read once for all tests.
pub fn sources(root: &Path) -> &'static [Source] {
    static ALL: OnceLock<Vec<Source>> = OnceLock::new();
    ALL.get_or_init(|| files(root, "src", ".rs").iter().map(|file| Source::read(root, file)).collect())
}

/// Blanks comments and replaces what is inside quotes; lines keep their numbers.
pub fn mask(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text[at..];
        let (len, filler) = match bytes[at] {
            b'/' if rest.starts_with("//") => (rest.find('\n').unwrap_or(rest.len()), ' '),
            b'/' if rest.starts_with("/*") => (block_comment(rest), ' '),
            b'r' if !out.ends_with(|c: char| c.is_alphanumeric() || c == '_') => match raw_text(rest) {
                Some(len) => (len, 'x'),
                None => (1, '\0'),
            },
            b'"' => (quoted(rest), 'x'),
            b'\'' => (character(rest).unwrap_or(1), if character(rest).is_some() { 'x' } else { '\0' }),
            _ => (rest.chars().next().unwrap().len_utf8(), '\0'),
        };
        for c in rest[..len].chars() {
            out.push(if filler == '\0' || c == '\n' { c } else { filler });
        }
        at += len;
    }
    out
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        let here = &rest.as_bytes()[at..];
        if here.starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if here.starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn raw_text(rest: &str) -> Option<usize> {
    let hashes = rest[1..].bytes().take_while(|b| *b == b'#').count();
    let open = 1 + hashes;
    if rest.as_bytes().get(open) != Some(&b'"') {
        return None;
    }
    let close = format!("\"{}", "#".repeat(hashes));
    let end = rest[open + 1..].find(&close)?;
    Some(open + 1 + end + close.len())
}

fn quoted(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Length of a character literal; `None` for a lifetime.
fn character(rest: &str) -> Option<usize> {
    let mut chars = rest.char_indices().skip(1);
    let (_, first) = chars.next()?;
    if first == '\\' {
        let (_, escaped) = chars.next()?;
        let stop = if escaped == 'u' { '}' } else { '\'' };
        let end = chars.find(|(_, c)| *c == stop)?.0;
        return Some(end + if stop == '}' { 2 } else { 1 });
    }
    let (at, second) = chars.next()?;
    (second == '\'').then_some(at + 1)
}

/// Cuts the items that only exist under test.
fn without_tests(code: &str) -> String {
    let mut out = String::new();
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        out.push_str(&rest[..at]);
        let item = &rest[at..];
        rest = &item[item_len(item)..];
    }
    out.push_str(rest);
    out
}

/// An item ends at its first `;` or at the brace that closes its first one.
fn item_len(item: &str) -> usize {
    let (mut braces, mut others) = (0i32, 0i32);
    for (at, c) in item.char_indices() {
        match c {
            '(' | '[' => others += 1,
            ')' | ']' => others -= 1,
            '{' => braces += 1,
            '}' => {
                braces -= 1;
                if braces == 0 {
                    return at + 1;
                }
            }
            ';' if braces == 0 && others == 0 => return at + 1,
            _ => {}
        }
    }
    item.len()
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphanumeric() || c == '_')
}

/// Words, `::`, and every other character by itself.
pub fn tokens(code: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let len = if is_word(rest) {
            rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        found.push(&rest[..len]);
        rest = rest[len..].trim_start();
    }
    found
}

/// Reads a path or a `{…}` of paths that stands behind `base::`; gives the position behind it.
fn tree(tokens: &[&str], mut at: usize, base: &[String], found: &mut Vec<Vec<String>>) -> usize {
    if tokens.get(at) == Some(&"{") {
        at += 1;
        while at < tokens.len() && tokens[at] != "}" {
            at = if tokens[at] == "," { at + 1 } else { tree(tokens, at, base, found) };
        }
        return at + 1;
    }
    let mut path = base.to_vec();
    while let Some(token) = tokens.get(at) {
        match *token {
            "{" if tokens[at - 1] == "::" => return tree(tokens, at, &path, found),
            "::" => {}
            "as" => {
                at += 2;
                break;
            }
            "*" if tokens[at - 1] == "::" => {
                at += 1;
                break;
            }
            word if is_word(word) && (path.len() == base.len() || tokens[at - 1] == "::") => {
                path.push(word.to_owned());
            }
            // Generic arguments may name modules too, so they are left to the caller.
            _ => break,
        }
        at += 1;
    }
    found.push(path);
    at.max(1)
}

#[test]
fn masks_what_is_not_code() {
    let masked =
        mask("let a = \"// unsafe \\\" {\"; // unsafe\n/* /* } */ */ r#\"un\"safe\"# '{' '\\'' 'a: b'{'");
    assert!(!masked.contains("unsafe") && !masked.contains('{') && !masked.contains('}'), "{masked}");
    assert!(masked.contains("'a: b") && masked.lines().count() == 2, "{masked}");
}

#[test]
fn finds_paths_however_they_are_written() {
    let source = Source {
        path: "src/xds/disk/format.rs".into(),
        text: String::new(),
        code: without_tests(
            "use crate::{util::hash, model::{Cluster as C, text::*}}; fn f(x: &crate::net::Conn<crate::app::X>) \
             { super::super::types::y(); super::super::super::router::z() } pub(crate) fn g() {} \
             #[cfg(test)] mod tests { use crate::worker::W; } use crate::stream::S;",
        ),
        module: ["xds", "disk", "format"].map(str::to_owned).to_vec(),
        is_test: false,
    };
    let found: Vec<String> = source.own_paths().iter().map(|path| path.join("::")).collect();
    let expected = [
        "util::hash",
        "model::Cluster",
        "model::text",
        "net::Conn",
        "app::X",
        "xds::types::y",
        "router::z",
        "stream::S",
    ];
    assert_eq!(found, expected);
}
