//! Path templates: `/users/{id}/*`, and the rewrites that use their variables.

use super::{Regex, TemplatePart};
use serde::{Serialize, Serializer};

/// A template that was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TemplateError(&'static str);

/// Characters of a path segment, as the inside of a character class.
const SEGMENT: &str = r"a-zA-Z0-9\-._~%!$&'()*+,;=:@";
/// Variables in one template.
const MOST_VARIABLES: usize = 5;
/// Characters in a variable's name.
const LONGEST_NAME: usize = 16;

/// A parsed template; equal when the text is. `*` is one segment, `**` any rest, `{name}` one segment and
/// `{name=pattern}` what the pattern matches.
#[derive(Clone, Debug)]
pub struct UriTemplate {
    text: String,
    regex: Regex,
    names: Vec<String>,
}

impl UriTemplate {
    /// Parses `text`.
    ///
    /// # Errors
    /// It does not follow the syntax, or has too many variables.
    pub fn parse(text: &str) -> Result<UriTemplate, TemplateError> {
        let mut parser = Parser { names: Vec::new(), seen_rest: false, pattern: String::new() };
        parser.run(text)?;
        let regex = Regex::full(&parser.pattern).map_err(|_| TemplateError("too large"))?;
        Ok(UriTemplate { text: text.to_owned(), regex, names: parser.names })
    }

    /// Whether the path, given without query, matches.
    pub fn is_match(&self, path: &[u8]) -> bool {
        self.regex.is_match(path)
    }

    /// The text as configured.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Parses a rewrite that uses this template's variables.
    ///
    /// # Errors
    /// It does not follow the syntax, or names a variable that is not there.
    pub fn rewrite(&self, text: &str) -> Result<Vec<TemplatePart>, TemplateError> {
        if !text.starts_with('/') {
            return Err(TemplateError("must begin with a slash"));
        }
        if text.contains("//") {
            return Err(TemplateError("must not hold two slashes in a row"));
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            if let Some(inner) = rest.strip_prefix('{') {
                let (name, after) = inner.split_once('}').ok_or(TemplateError("a brace is not closed"))?;
                let at = self.names.iter().position(|known| known == name);
                parts
                    .push(TemplatePart::Variable(at.ok_or(TemplateError("names no variable of the match"))?));
                rest = after;
            } else {
                let (plain, after) = rest.split_at(rest.find('{').unwrap_or(rest.len()));
                if !plain.bytes().all(|b| b == b'/' || is_segment(b)) {
                    return Err(TemplateError("holds a character that no path has"));
                }
                parts.push(TemplatePart::Text(plain.to_owned()));
                rest = after;
            }
        }
        Ok(parts)
    }

    /// The path that `parts` make of `path`, which must match.
    pub fn expand(&self, parts: &[TemplatePart], path: &[u8]) -> Option<Vec<u8>> {
        let groups = self.regex.groups(path)?;
        let mut out = Vec::with_capacity(path.len());
        for part in parts {
            match part {
                TemplatePart::Text(text) => out.extend_from_slice(text.as_bytes()),
                TemplatePart::Variable(at) => out.extend_from_slice(groups.get(at + 1)?),
            }
        }
        Some(out)
    }
}

impl PartialEq for UriTemplate {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Serialize for UriTemplate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

fn is_segment(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:@".contains(&byte)
}

struct Parser {
    names: Vec<String>,
    /// A `**` has been met: nothing that varies may follow.
    seen_rest: bool,
    pattern: String,
}

impl Parser {
    fn run(&mut self, text: &str) -> Result<(), TemplateError> {
        let mut rest = text.strip_prefix('/').ok_or(TemplateError("must begin with a slash"))?;
        self.pattern.push('/');
        while !rest.is_empty() {
            rest = match rest.strip_prefix('{') {
                Some(inner) => self.variable(inner)?,
                None => self.glob_or_literal(rest)?,
            };
            if let Some(after) = rest.strip_prefix('/') {
                self.pattern.push('/');
                rest = after;
            } else if !rest.is_empty() {
                // What stands right behind an operator ends the template.
                rest = self.literal(rest)?;
                return if rest.is_empty() { Ok(()) } else { Err(TemplateError("goes on after a suffix")) };
            }
        }
        Ok(())
    }

    fn glob_or_literal<'t>(&mut self, text: &'t str) -> Result<&'t str, TemplateError> {
        if let Some(after) = text.strip_prefix("**") {
            self.glob(true)?;
            Ok(after)
        } else if let Some(after) = text.strip_prefix('*') {
            self.glob(false)?;
            Ok(after)
        } else {
            self.literal(text)
        }
    }

    fn glob(&mut self, rest: bool) -> Result<(), TemplateError> {
        if self.seen_rest {
            return Err(TemplateError("nothing that varies may follow **"));
        }
        self.seen_rest = rest;
        self.pattern.push('[');
        self.pattern.push_str(SEGMENT);
        self.pattern.push_str(if rest { "/]*" } else { "]+" });
        Ok(())
    }

    fn literal<'t>(&mut self, text: &'t str) -> Result<&'t str, TemplateError> {
        let (plain, after) = text.split_at(text.find('/').unwrap_or(text.len()));
        if plain.is_empty() || !plain.bytes().all(is_segment) {
            return Err(TemplateError("a segment is empty or holds a character that no path has"));
        }
        for c in plain.chars() {
            if matches!(c, '$' | '(' | ')' | '*' | '+' | '.') {
                self.pattern.push('\\');
            }
            self.pattern.push(c);
        }
        Ok(after)
    }

    /// `name}` or `name=pattern}`.
    fn variable<'t>(&mut self, text: &'t str) -> Result<&'t str, TemplateError> {
        let (inside, after) = text.split_once('}').ok_or(TemplateError("a brace is not closed"))?;
        let (name, pattern) = match inside.split_once('=') {
            Some((name, pattern)) => (name, Some(pattern)),
            None => (inside, None),
        };
        let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if !name.starts_with(|c: char| c.is_ascii_alphabetic()) || !name.chars().all(good) {
            return Err(TemplateError(
                "a variable's name begins with a letter and has letters, digits and _",
            ));
        }
        if name.len() > LONGEST_NAME || self.names.iter().any(|known| known == name) {
            return Err(TemplateError("a variable's name is longer than 16 characters, or used twice"));
        }
        if self.names.len() == MOST_VARIABLES {
            return Err(TemplateError("more than 5 variables"));
        }
        self.names.push(name.to_owned());
        self.pattern.push('(');
        match pattern {
            None => self.glob(false)?,
            Some(pattern) => self.inner(pattern)?,
        }
        self.pattern.push(')');
        Ok(after)
    }

    fn inner(&mut self, mut rest: &str) -> Result<(), TemplateError> {
        loop {
            rest = self.glob_or_literal(rest)?;
            if rest.is_empty() {
                return Ok(());
            }
            rest = rest.strip_prefix('/').ok_or(TemplateError("a variable's pattern has whole segments"))?;
            self.pattern.push('/');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_match_whole_segments() {
        for (template, path, wanted) in [
            ("/a/*/c", "/a/b/c", true),
            ("/a/*/c", "/a/b/x/c", false),
            ("/a/**", "/a/b/c", true),
            ("/a/**", "/a/", true),
            ("/a/**", "/a", false),
            ("/a/{x}", "/a/", false),
            ("/a/{x=b/*}/d", "/a/b/c/d", true),
            ("/v/**.m3u8", "/v/1/2.m3u8", true),
            ("/v/**.m3u8", "/v/1/2Xm3u8", false),
            ("/a/", "/a/", true),
            ("/a/", "/a", false),
            ("/a*b", "/a*b", true),
            ("/a*b", "/aab", false),
            ("/*", "/a=*", true),
            ("/", "/", true),
        ] {
            assert_eq!(UriTemplate::parse(template).unwrap().is_match(path.as_bytes()), wanted, "{template}");
        }
    }

    #[test]
    fn bad_templates_are_refused() {
        for template in [
            "", "a", "/a//b", "/{a", "/{a}/{a}", "/{1}", "/**/*", "/**a/b", "/a{b}", "/{x=}", "/{x=/a}", "/ü",
        ] {
            assert!(UriTemplate::parse(template).is_err(), "{template}");
        }
        assert!(UriTemplate::parse("/{a}/{b}/{c}/{d}/{e}").is_ok());
        assert!(UriTemplate::parse("/{a}/{b}/{c}/{d}/{e}/{f}").is_err());
    }

    #[test]
    fn rewrites_use_the_variables() {
        let template = UriTemplate::parse("/users/{id}/{rest=**}").unwrap();
        let parts = template.rewrite("/u/{rest}/of-{id}").unwrap();
        assert_eq!(template.expand(&parts, b"/users/7/a/b").unwrap(), b"/u/a/b/of-7");
        for bad in ["x", "/{no}", "/{id", "/a//b", "/a b"] {
            assert!(template.rewrite(bad).is_err(), "{bad}");
        }
    }
}
