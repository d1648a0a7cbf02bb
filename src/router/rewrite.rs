//! What a route makes of a request's target: rewrites towards the cluster, and redirects.

use super::domains::without_port;
use super::matcher::split_path;
use super::{ActionSpec, RouteSpec};
use crate::message::{Facts, Head};
use crate::model::{Action, HostRewrite, PathMatch, PathRewrite, Redirect};

impl RouteSpec {
    /// The path and query to send for `path_and_query`; `None` when it stays as it is. `facts` are asked for
    /// the values of format strings.
    pub fn rewrite_path(&self, path_and_query: &[u8], facts: &dyn Facts) -> Option<Vec<u8>> {
        let Action::Route(action) = &self.model.action else { return None };
        let (path, _) = split_path(path_and_query);
        let out = match action.path_rewrite.as_deref()? {
            PathRewrite::Prefix(prefix) => self.replace_matched(path, prefix.as_bytes()),
            PathRewrite::Regex(regex, substitution) => regex.replace_all(path, substitution),
            PathRewrite::Template(parts) => {
                let PathMatch::Template(template) = &self.model.matcher.path else { return None };
                template.expand(parts, path)?
            }
            PathRewrite::Format(format) => {
                let mut out = Vec::new();
                format.write(facts, b"", &mut out);
                out
            }
        };
        whole_path(out, path_and_query.get(path.len()..))
    }

    /// The authority to send; `None` when it stays. Asked after the header edits and before the path is
    /// rewritten: `head` is what they left. A drawn share's own rewrite ([`Choice::host_rewrite`]) has been
    /// applied before the edits.
    ///
    /// [`Choice::host_rewrite`]: super::Choice::host_rewrite
    pub fn rewrite_host<H: Head + ?Sized>(&self, head: &H, facts: &dyn Facts) -> Option<Vec<u8>> {
        let Action::Route(action) = &self.model.action else { return None };
        let host = match action.host_rewrite.as_deref()? {
            HostRewrite::Auto => return None,
            HostRewrite::Literal(host) => host.as_bytes().to_vec(),
            HostRewrite::Header(name) => first_value(head, name)?,
            HostRewrite::PathRegex(regex, substitution) => {
                let (path, _) = split_path(head.path_and_query().unwrap_or_default());
                regex.replace_all(path, substitution)
            }
            HostRewrite::Format(format) => {
                let mut out = Vec::new();
                format.write(facts, b"-", &mut out);
                out
            }
        };
        (!host.is_empty()).then_some(host)
    }

    /// `Location` for an answer of the route's own; `None` when that has none. `scheme` is the request's. A
    /// fixed answer with a status that speaks of a place names the request's own, as Envoy's do.
    pub fn location<H: Head + ?Sized>(&self, head: &H, scheme: &str) -> Option<Vec<u8>> {
        let here = Redirect::default();
        let redirect = match &self.action {
            ActionSpec::Redirect(redirect) => redirect,
            ActionSpec::Direct(direct) if matches!(direct.status, 201 | 300..400) => &here,
            _ => return None,
        };
        let target = redirect.scheme.as_deref().unwrap_or(scheme);
        let mut out = Vec::with_capacity(64);
        out.extend_from_slice(target.as_bytes());
        out.extend_from_slice(b"://");
        let authority = head.authority().unwrap_or_default();
        match &redirect.host {
            Some(host) => out.extend_from_slice(host.as_bytes()),
            // A route that no virtual host lists is the one to TLS, which keeps everything.
            None if self.host.routes.is_empty() => out.extend_from_slice(authority),
            None => {
                let came_by = head.header("x-forwarded-proto");
                let came_by = came_by.as_deref().unwrap_or(scheme.as_bytes());
                let bare = without_port(authority);
                // A port that is the default of the old scheme says nothing about the new one.
                let old = came_by != target.as_bytes()
                    && is_default_port(authority.get(bare.len()..).unwrap_or_default(), came_by);
                let keep = redirect.port.is_none() && !old;
                out.extend_from_slice(if keep { authority } else { bare });
            }
        }
        if let Some(port) = redirect.port {
            out.push(b':');
            out.extend_from_slice(port.to_string().as_bytes());
        }
        self.push_redirect_path(redirect, head.path_and_query().unwrap_or(b"/"), &mut out);
        Some(out)
    }

    fn push_redirect_path(&self, redirect: &Redirect, full: &[u8], out: &mut Vec<u8>) {
        let made = self.redirected_path(full);
        let full = made.as_deref().unwrap_or(full);
        let end = full.iter().position(|b| *b == b'?').unwrap_or(full.len());
        let (path, query) = full.split_at_checked(end).unwrap_or((full, b""));
        let mut own_query = false;
        match &redirect.path {
            Some(fixed) => {
                own_query = fixed.contains('?');
                out.extend(if fixed.starts_with('/') { None } else { Some(b'/') });
                out.extend_from_slice(fixed.as_bytes());
            }
            None => out.extend_from_slice(path),
        }
        if !redirect.strip_query && !own_query {
            out.extend_from_slice(query);
        }
    }

    /// Path and query as a redirect rewrites them; `None` where it has no rewrite, or that gives nothing.
    pub fn redirected_path(&self, full: &[u8]) -> Option<Vec<u8>> {
        let ActionSpec::Redirect(redirect) = &self.action else { return None };
        let (path, _) = split_path(full);
        let made = match (&redirect.prefix_rewrite, &redirect.regex_rewrite) {
            (Some(prefix), _) => self.replace_matched(path, prefix.as_bytes()),
            (None, Some((regex, substitution))) => regex.replace_all(path, substitution),
            (None, None) => return None,
        };
        whole_path(made, full.get(path.len()..))
    }

    /// `path` with the part this route matched replaced: the prefix, or for other matchers the whole path.
    fn replace_matched(&self, path: &[u8], with: &[u8]) -> Vec<u8> {
        let matched = match &self.model.matcher.path {
            PathMatch::Prefix { value, .. }
            | PathMatch::SeparatedPrefix { value, .. }
            | PathMatch::Exact { value, .. } => value.len(),
            PathMatch::Any => 0,
            PathMatch::Regex(_) | PathMatch::Template(_) | PathMatch::Connect => path.len(),
        };
        let rest = path.get(matched..).unwrap_or_default();
        let mut out = Vec::with_capacity(with.len() + rest.len());
        out.extend_from_slice(with);
        out.extend_from_slice(rest);
        out
    }
}

/// A rewritten path with what follows it. One that became empty is no rewrite; no path is without its slash.
fn whole_path(mut path: Vec<u8>, tail: Option<&[u8]>) -> Option<Vec<u8>> {
    match path.first()? {
        b'/' => {}
        _ => path.insert(0, b'/'),
    }
    path.extend_from_slice(tail.unwrap_or_default());
    Some(path)
}

/// The first occurrence of a header.
pub(super) fn first_value<H: Head + ?Sized>(head: &H, name: &str) -> Option<Vec<u8>> {
    let mut first = None;
    head.each_value(name, &mut |value| {
        first.get_or_insert_with(|| value.to_vec());
    });
    first
}

fn is_default_port(port: &[u8], scheme: &[u8]) -> bool {
    matches!((scheme, port), (b"http", b":80") | (b"https", b":443"))
}
