//! What a route makes of the path: rewrites towards the cluster, and redirect targets.

use super::matcher::split_path;
use super::{ActionSpec, RouteSpec};
use crate::message::Head;
use crate::model::{PathMatch, Redirect, RouteAction};
use regex_automata::meta::Regex;

/// A change of the path; the query stays.
pub(super) enum PathRewrite {
    /// Replaces what the route matched.
    Prefix(String),
    /// Replaces every hit of the pattern; `\0`–`\9` in the text name its groups.
    Regex(Regex, Vec<Part>),
}

/// A piece of a substitution.
pub(super) enum Part {
    Text(Vec<u8>),
    Group(usize),
}

impl PathRewrite {
    pub(super) fn of(action: &RouteAction) -> Option<Self> {
        if let Some(prefix) = &action.prefix_rewrite {
            return Some(PathRewrite::Prefix(prefix.clone()));
        }
        let (pattern, substitution) = action.regex_rewrite.as_ref()?;
        // The model's pattern may be anchored to the whole text; a rewrite works on parts of it. It has been
        // accepted already, so it compiles again.
        let regex = Regex::new(pattern.as_str()).ok()?;
        Some(PathRewrite::Regex(regex, parts(substitution.as_bytes())))
    }
}

impl RouteSpec {
    /// The path and query to send for `path_and_query`; `None` when it stays as it is.
    pub fn rewrite_path(&self, path_and_query: &[u8]) -> Option<Vec<u8>> {
        let ActionSpec::Route(forward) = &self.action else { return None };
        let rewrite = forward.path_rewrite.as_ref()?;
        let (path, _) = split_path(path_and_query);
        let tail = path_and_query.get(path.len()..).unwrap_or_default();
        let mut out = match rewrite {
            PathRewrite::Prefix(prefix) => self.replace_matched(path, prefix.as_bytes()),
            PathRewrite::Regex(regex, parts) => replace_all(regex, parts, path),
        };
        out.extend_from_slice(tail);
        Some(out)
    }

    /// `Location` for a redirect route; `None` when the route is none. `scheme` is the request's.
    pub fn location<H: Head + ?Sized>(&self, head: &H, scheme: &str) -> Option<Vec<u8>> {
        let ActionSpec::Redirect(redirect) = &self.action else { return None };
        let target = redirect.scheme.as_deref().unwrap_or(scheme);
        let mut out = Vec::with_capacity(64);
        out.extend_from_slice(target.as_bytes());
        out.extend_from_slice(b"://");
        let authority = head.authority().unwrap_or_default();
        let bare = super::domains::without_port(authority);
        match (&redirect.host, redirect.port) {
            (Some(host), _) => out.extend_from_slice(host.as_bytes()),
            (None, Some(_)) => out.extend_from_slice(bare),
            // A port that is the default of the old scheme says nothing about the new one.
            (None, None) if target != scheme && is_default_port(authority, bare, scheme) => {
                out.extend_from_slice(bare);
            }
            (None, None) => out.extend_from_slice(authority),
        }
        if let Some(port) = redirect.port {
            out.push(b':');
            out.extend_from_slice(port.to_string().as_bytes());
        }
        self.push_redirect_path(redirect, head.path_and_query().unwrap_or(b"/"), &mut out);
        Some(out)
    }

    fn push_redirect_path(&self, redirect: &Redirect, full: &[u8], out: &mut Vec<u8>) {
        let (path, query) = split_path(full);
        let own_query = redirect.path.as_ref().is_some_and(|path| path.contains('?'));
        match (&redirect.path, &redirect.prefix_rewrite) {
            (Some(fixed), _) => out.extend_from_slice(fixed.as_bytes()),
            (None, Some(prefix)) => out.extend(self.replace_matched(path, prefix.as_bytes())),
            (None, None) => out.extend_from_slice(path),
        }
        if !redirect.strip_query && !own_query && !query.is_empty() {
            out.push(b'?');
            out.extend_from_slice(query);
        }
    }

    /// `path` with the part this route matched replaced: the prefix, or for other matchers the whole path.
    fn replace_matched(&self, path: &[u8], with: &[u8]) -> Vec<u8> {
        let matched = match &self.matcher.path {
            PathMatch::Prefix { value, .. } | PathMatch::SeparatedPrefix { value, .. } => value.len(),
            PathMatch::Any => 0,
            PathMatch::Exact { .. } | PathMatch::Regex(_) => path.len(),
        };
        let rest = path.get(matched..).unwrap_or_default();
        let mut out = Vec::with_capacity(with.len() + rest.len());
        out.extend_from_slice(with);
        out.extend_from_slice(rest);
        out
    }
}

fn is_default_port(authority: &[u8], bare: &[u8], scheme: &str) -> bool {
    matches!((scheme, authority.get(bare.len()..)), ("http", Some(b":80")) | ("https", Some(b":443")))
}

fn parts(substitution: &[u8]) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut text = Vec::new();
    let mut bytes = substitution.iter();
    while let Some(byte) = bytes.next() {
        match (byte, (*byte == b'\\').then(|| bytes.as_slice().first()).flatten()) {
            (_, Some(digit @ b'0'..=b'9')) => {
                if !text.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut text)));
                }
                parts.push(Part::Group(usize::from(digit - b'0')));
                bytes.next();
            }
            (_, Some(b'\\')) => {
                text.push(b'\\');
                bytes.next();
            }
            _ => text.push(*byte),
        }
    }
    if !text.is_empty() {
        parts.push(Part::Text(text));
    }
    parts
}

fn replace_all(regex: &Regex, parts: &[Part], path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut done = 0;
    for captures in regex.captures_iter(path) {
        let Some(hit) = captures.get_match() else { continue };
        out.extend_from_slice(path.get(done..hit.start()).unwrap_or_default());
        for part in parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text),
                Part::Group(number) => {
                    let group = captures.get_group(*number).and_then(|span| path.get(span.range()));
                    out.extend_from_slice(group.unwrap_or_default());
                }
            }
        }
        done = hit.end();
    }
    out.extend_from_slice(path.get(done..).unwrap_or_default());
    out
}
