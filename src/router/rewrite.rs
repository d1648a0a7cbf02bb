//! What a route makes of a request's target: rewrites towards the cluster, and redirects.

use super::domains::without_port;
use super::matcher::split_path;
use super::{ActionSpec, Choice, RouteSpec};
use crate::message::{Facts, Head};
use crate::model::{Action, HostRewrite, PathMatch, PathRewrite, Redirect};

impl RouteSpec {
    /// The path and query to send for `path_and_query`; `None` when it stays as it is. `facts` are asked for
    /// the values of format strings.
    pub fn rewrite_path(&self, path_and_query: &[u8], facts: &dyn Facts) -> Option<Vec<u8>> {
        let Action::Route(action) = &self.model.action else { return None };
        let (path, _) = split_path(path_and_query);
        let mut out = match action.path_rewrite.as_deref()? {
            PathRewrite::Prefix(prefix) => self.replace_matched(path, prefix.as_bytes()),
            PathRewrite::Regex(regex, substitution) => regex.replace_all(path, substitution),
            PathRewrite::Template(parts) => {
                let PathMatch::Template(template) = &self.model.matcher.path else { return None };
                template.expand(parts, path)?
            }
            PathRewrite::Format(format) => {
                let mut out = Vec::new();
                format.write(facts, b"", &mut out);
                if out.is_empty() {
                    return None;
                }
                out
            }
        };
        out.extend_from_slice(path_and_query.get(path.len()..).unwrap_or_default());
        Some(out)
    }

    /// The authority to send; `None` when it stays. Asked after the header edits and before the path is
    /// rewritten: `head` is what they left. `share` is what was drawn.
    pub fn rewrite_host<H: Head + ?Sized>(
        &self,
        head: &H,
        share: Option<&Choice>,
        facts: &dyn Facts,
    ) -> Option<Vec<u8>> {
        let Action::Route(action) = &self.model.action else { return None };
        let own = match action.host_rewrite.as_deref() {
            None | Some(HostRewrite::Auto) => None,
            Some(HostRewrite::Literal(host)) => Some(host.as_bytes().to_vec()),
            Some(HostRewrite::Header(name)) => first_value(head, name),
            Some(HostRewrite::PathRegex(regex, substitution)) => {
                let (path, _) = split_path(head.path_and_query().unwrap_or_default());
                Some(regex.replace_all(path, substitution))
            }
            Some(HostRewrite::Format(format)) => {
                let mut out = Vec::new();
                format.write(facts, b"", &mut out);
                Some(out)
            }
        };
        let shares = || share?.host_rewrite.as_deref().map(|host| host.as_bytes().to_vec());
        own.filter(|host| !host.is_empty()).or_else(shares)
    }

    /// `Location` for a redirect route; `None` when the route is none. `scheme` is the request's.
    pub fn location<H: Head + ?Sized>(&self, head: &H, scheme: &str) -> Option<Vec<u8>> {
        let ActionSpec::Redirect(redirect) = &self.action else { return None };
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
        let (path, query) = split_path(full);
        let mut own_query = false;
        match (&redirect.path, &redirect.prefix_rewrite, &redirect.regex_rewrite) {
            (Some(fixed), _, _) => {
                own_query = fixed.contains('?');
                out.extend_from_slice(fixed.as_bytes());
            }
            (None, Some(prefix), _) => {
                let made = self.replace_matched(path, prefix.as_bytes());
                // A query inside the rewrite goes with the request's.
                if redirect.strip_query {
                    out.extend_from_slice(split_path(&made).0);
                } else {
                    out.extend(made);
                }
            }
            (None, None, Some((regex, substitution))) => match regex.replace_all(path, substitution) {
                made if made.is_empty() => out.extend_from_slice(path),
                made => out.extend(made),
            },
            (None, None, None) => out.extend_from_slice(path),
        }
        let has_query = path.len() < full.len();
        if !redirect.strip_query && !own_query && has_query {
            out.push(b'?');
            out.extend_from_slice(query);
        }
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
