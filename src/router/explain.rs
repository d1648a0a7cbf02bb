//! What a look-up would find, and why it would pass over what comes before: for people who ask.

use super::matcher::{Target, header_matches, matches, path_matches, query_matches};
use super::{CompiledHost, RouteSpec, RouteTable};
use crate::message::Head;
use std::sync::Arc;

/// Rejected routes told of.
const TOLD: usize = 64;

/// A look-up, step by step.
pub struct Explanation<'t> {
    /// The virtual host; `None`: no domain covers the authority.
    pub host: Option<&'t Arc<CompiledHost>>,
    /// Place, route and failed condition of those before the match; the first 64.
    pub rejected: Vec<(usize, &'t RouteSpec, String)>,
    /// Place and route that matched. One without a place is the redirect to TLS.
    pub matched: Option<(Option<usize>, &'t Arc<RouteSpec>)>,
}

impl RouteTable {
    /// Explains the look-up of `head` with `random`, as [`RouteTable::find`] would do it; or up to `until`, which
    /// is known to have matched when more was known of the head.
    pub fn explain<H: Head>(
        &self,
        head: &H,
        random: u64,
        until: Option<*const RouteSpec>,
    ) -> Explanation<'_> {
        let Some(host) = self.host(head.authority()) else {
            return Explanation { host: None, rejected: Vec::new(), matched: None };
        };
        let known = until.and_then(|until| host.routes().iter().find(|route| std::ptr::eq(&***route, until)));
        let matched = known.or_else(|| self.find(head, random));
        let place = |found: &Arc<RouteSpec>| host.routes().iter().position(|route| Arc::ptr_eq(route, found));
        let matched = matched.map(|route| (place(route), route));
        let before = match matched {
            Some((at, _)) => at.unwrap_or(0),
            None => host.routes().len(),
        };
        let target = self.target(head, random);
        let rejected = host.routes().iter().take(before.min(TOLD)).enumerate();
        let rejected = rejected.map(|(at, route)| (at, &**route, why_not(route, head, &target))).collect();
        Explanation { host: Some(host), rejected, matched }
    }
}

/// The first condition of `route` that does not hold.
fn why_not<H: Head>(route: &RouteSpec, head: &H, target: &Target<'_>) -> String {
    let matcher = route.matcher();
    if !path_matches(&matcher.path, target, head) {
        return "path".to_owned();
    }
    if let Some(header) = matcher.headers.iter().find(|header| !header_matches(header, head)) {
        return format!("header {}", header.name);
    }
    if let Some(query) = matcher.query.iter().find(|query| !query_matches(query, target.query)) {
        return format!("query parameter {}", query.name);
    }
    if matcher.grpc && !head.is_grpc() {
        return "not gRPC".to_owned();
    }
    match &matcher.fraction {
        Some(share) if !matches(matcher, head, target) => {
            format!("not in the share of {}/{}", share.numerator, share.denominator)
        }
        _ => "another condition".to_owned(),
    }
}
