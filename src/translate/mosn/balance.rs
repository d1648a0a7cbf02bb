//! What a route says about the hosts of its cluster: `hash_policy` and `metadata_match`.

use super::read::{Context, Object};
use crate::model::{Criteria, HashPolicy, HashSource, RouteOptions};
use std::time::Duration;

/// Both, of a route. MOSN looks at the first hash policy only, and hashes the client's address without one.
pub(super) fn options(ctx: &mut Context<'_>, of: &mut Object<'_>) -> Box<RouteOptions> {
    let mut sources = Vec::new();
    for (at, item) in of.objects(ctx, "hash_policy").into_iter().enumerate() {
        if at > 0 {
            ctx.warn(&item.path, "", "ignored: only the first entry counts, in MOSN as well");
        } else {
            sources.extend(source(ctx, item));
        }
    }
    let source = sources.pop().unwrap_or(HashSource::SourceIp);
    Box::new(RouteOptions {
        hash: vec![HashPolicy { source, terminal: false }],
        criteria: criteria(ctx, of),
        ..RouteOptions::default()
    })
}

fn source(ctx: &mut Context<'_>, mut of: Object<'_>) -> Option<HashSource> {
    let header = of.object(ctx, "header");
    let cookie = of.object(ctx, "cookie");
    let source_ip = of.value(ctx, "source_ip").is_some();
    let path = of.path.clone();
    of.finish(ctx);
    if let Some(mut header) = header {
        let name = header.text(ctx, "key").unwrap_or_default().to_owned();
        header.finish(ctx);
        return Some(HashSource::Header { name, rewrite: None });
    }
    if let Some(mut cookie) = cookie {
        let name = cookie.text(ctx, "name").unwrap_or_default().to_owned();
        let path = cookie.text(ctx, "path").unwrap_or_default().to_owned();
        let ttl = Some(cookie.duration(ctx, "ttl").unwrap_or(Duration::ZERO));
        cookie.finish(ctx);
        return Some(HashSource::Cookie { name, ttl, path, attributes: Vec::new() });
    }
    if !source_ip {
        ctx.warn(&path, "", "expected header, cookie or source_ip: the client's address is hashed");
    }
    None
}

/// `metadata_match.filter_metadata."mosn.lb"`: what hosts must say, in clusters with `lb_subset_config`.
pub(super) fn criteria(ctx: &mut Context<'_>, of: &mut Object<'_>) -> Criteria {
    let mut found = Criteria::new();
    let Some(mut wanted) = of.object(ctx, "metadata_match") else { return found };
    let filters = wanted.object(ctx, "filter_metadata");
    wanted.finish(ctx);
    let Some(mut labels) = filters.and_then(|mut of| of.object(ctx, "mosn.lb")) else { return found };
    let path = labels.path.clone();
    for (key, value) in labels.entries() {
        match value.as_str() {
            Some(text) => {
                found.insert(key.to_owned(), text.to_owned());
            }
            None => ctx.warn(&format!("{path}.{key}"), "", "dropped: not a string"),
        }
    }
    found
}
