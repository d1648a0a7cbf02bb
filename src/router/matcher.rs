//! Whether one request satisfies one route.

use crate::message::Head;
use crate::model::{HeaderMatch, PathMatch, QueryMatch, RouteMatch};

/// The parts of a head that every route of a table asks for, taken once per look-up.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    /// Path without query and fragment; `None` when the protocol has no path.
    pub path: Option<&'a [u8]>,
    /// What follows `?`, without fragment.
    pub query: &'a [u8],
    /// Uniform over `u64`, the same for all routes of one request.
    pub random: u64,
}

impl<'a> Target<'a> {
    pub(super) fn new<H: Head + ?Sized>(head: &'a H, random: u64, ignore_parameters: bool) -> Self {
        let Some(full) = head.path_and_query() else {
            return Target { path: None, query: &[], random };
        };
        let (whole, query) = split_path(full);
        let path = if ignore_parameters { whole.split(|b| *b == b';').next() } else { Some(whole) };
        Target { path, query, random }
    }
}

/// Path and query of a request target; the fragment belongs to neither.
pub(super) fn split_path(full: &[u8]) -> (&[u8], &[u8]) {
    let end = full.iter().position(|b| *b == b'#').unwrap_or(full.len());
    let full = full.get(..end).unwrap_or(full);
    match full.iter().position(|b| *b == b'?') {
        Some(at) => (full.get(..at).unwrap_or(full), full.get(at + 1..).unwrap_or(&[])),
        None => (full, &[]),
    }
}

/// All parts of `matcher` hold.
pub(super) fn matches<H: Head + ?Sized>(matcher: &RouteMatch, head: &H, target: &Target<'_>) -> bool {
    path_matches(&matcher.path, target, head)
        && matcher.headers.iter().all(|header| header_matches(header, head))
        && matcher.query.iter().all(|query| query_matches(query, target.query))
        && (!matcher.grpc || head.is_grpc())
        // The high half: the low bits draw among weighted clusters and must not depend on this test.
        && matcher.fraction.as_ref().is_none_or(|share| share.holds(target.random >> 32))
}

pub(super) fn path_matches<H: Head + ?Sized>(matcher: &PathMatch, target: &Target<'_>, head: &H) -> bool {
    let is_connect = || head.method() == Some(b"CONNECT");
    let Some(path) = target.path else {
        return match matcher {
            PathMatch::Connect => is_connect(),
            PathMatch::Any => true,
            PathMatch::Prefix { value, .. } => (value.is_empty() || value == "/") && !is_connect(),
            _ => false,
        };
    };
    match matcher {
        PathMatch::Any => true,
        PathMatch::Prefix { value, ignore_case } => starts_with(path, value.as_bytes(), *ignore_case),
        PathMatch::Exact { value, ignore_case } => same(path, value.as_bytes(), *ignore_case),
        PathMatch::SeparatedPrefix { value, ignore_case } => {
            starts_with(path, value.as_bytes(), *ignore_case)
                && matches!(path.get(value.len()), None | Some(b'/'))
        }
        PathMatch::Regex(regex) => regex.is_match(path),
        PathMatch::Template(template) => template.is_match(path),
        PathMatch::Connect => is_connect(),
    }
}

/// Whether `head` satisfies one header condition, by the rules of routes.
pub fn header_holds(matcher: &HeaderMatch, head: &dyn Head) -> bool {
    header_matches(matcher, head)
}

/// Whether `head` satisfies one condition on its query.
pub fn query_holds(matcher: &QueryMatch, head: &dyn Head) -> bool {
    let (_, query) = split_path(head.path_and_query().unwrap_or_default());
    query_matches(matcher, query)
}

/// The query of `head`, without fragment; empty where there is none.
pub fn query_of(head: &dyn Head) -> &[u8] {
    head.path_and_query().map(|target| split_path(target).1).unwrap_or_default()
}

/// Whether `head` satisfies all of `matcher`. `random`: uniform over `u64`, for one that wants a share.
pub fn route_holds(matcher: &RouteMatch, head: &dyn Head, random: u64) -> bool {
    matches(matcher, head, &Target::new(head, random, false))
}

/// The path of `head` without query and fragment; `None` where the protocol has no paths.
pub fn path_of(head: &dyn Head) -> Option<&[u8]> {
    head.path_and_query().map(|target| split_path(target).0)
}

pub(super) fn header_matches<H: Head + ?Sized>(matcher: &HeaderMatch, head: &H) -> bool {
    let (mut present, mut hit) = (false, false);
    head.each_value(&matcher.name, &mut |value| {
        present = true;
        hit = hit || matcher.hits(value);
    });
    matcher.judge(present, hit)
}

/// The first occurrence of the parameter counts; names and values are compared undecoded, as Envoy does.
pub(super) fn query_matches(matcher: &QueryMatch, query: &[u8]) -> bool {
    let value = query.split(|b| *b == b'&').filter(|part| !part.is_empty()).find_map(|part| {
        let mut halves = part.splitn(2, |b| *b == b'=');
        let name = halves.next().unwrap_or_default();
        (name == matcher.name.as_bytes()).then(|| halves.next().unwrap_or_default())
    });
    match &matcher.value {
        Some(text) => value.is_some_and(|value| text.matches(value)),
        None => value.is_some() == matcher.present,
    }
}

fn starts_with(text: &[u8], prefix: &[u8], ignore_case: bool) -> bool {
    if ignore_case {
        text.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix))
    } else {
        text.starts_with(prefix)
    }
}

fn same(a: &[u8], b: &[u8], ignore_case: bool) -> bool {
    if ignore_case { a.eq_ignore_ascii_case(b) } else { a == b }
}
