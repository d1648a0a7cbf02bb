//! Builds the requests of both variants and keeps each below the peer's message limit.
//!
//! Servers and agents commonly refuse a message over 4 MiB. Delta subscriptions are split over several
//! requests; `initial_resource_versions` can only ride on the first and is cut, and what did not fit is
//! reported back, so that the first answer is read accordingly.

use std::sync::Arc;

use super::message::{Request, RequestBody};
use super::types::ResourceType;

/// Bytes one request may have: 4 MiB less room for gRPC framing and the fixed fields.
pub(super) const MAX_REQUEST_BYTES: usize = 4 * 1024 * 1024 - 16 * 1024;

/// A list of names, shared between the subscription and the requests that repeat it.
pub(super) type Names = Arc<[Arc<str>]>;

/// A request that answers or asks nothing yet.
pub(super) fn request(kind: ResourceType, nonce: Arc<str>, body: RequestBody) -> Request {
    Request { kind, with_node: false, nonce, error: None, body }
}

/// Encoded size of a repeated string field: tag, length of up to five bytes, text.
const fn name_cost(name: &str) -> usize {
    name.len() + 6
}

/// Encoded size of one map entry: its own tag and length, two strings.
const fn entry_cost(name: &str, version: &str) -> usize {
    name_cost(name) + name_cost(version) + 6
}

/// The first requests of a type on a delta stream: the subscription, split if it must be, and on the first
/// of them as many `versions` as fit. `budget` is what the node leaves of a message. The second value is
/// how many of the versions were written.
pub(super) fn delta_subscription(
    kind: ResourceType,
    names: &[Arc<str>],
    versions: &[(Arc<str>, Arc<str>)],
    budget: usize,
) -> (Vec<Request>, usize) {
    let mut requests = delta_changes(kind, names, &[], budget);
    if requests.is_empty() {
        requests.push(delta(kind, Vec::new(), Vec::new()));
    }
    let mut written = 0;
    if let Some(RequestBody::Delta { subscribe, initial_versions, .. }) =
        requests.first_mut().map(|r| &mut r.body)
    {
        let mut used: usize = subscribe.iter().map(|name| name_cost(name)).sum();
        for (name, version) in versions {
            used += entry_cost(name, version);
            if used > budget {
                break;
            }
            initial_versions.push((name.clone(), version.clone()));
            written += 1;
        }
    }
    (requests, written)
}

/// Requests that add and drop names; none when there is nothing to say.
pub(super) fn delta_changes(
    kind: ResourceType,
    add: &[Arc<str>],
    drop: &[Arc<str>],
    budget: usize,
) -> Vec<Request> {
    let mut out = Vec::new();
    let (mut adding, mut dropping, mut used) = (Vec::new(), Vec::new(), 0);
    let all = add.iter().map(|name| (name, true)).chain(drop.iter().map(|name| (name, false)));
    for (name, adds) in all {
        used += name_cost(name);
        if used > budget && !(adding.is_empty() && dropping.is_empty()) {
            out.push(delta(kind, std::mem::take(&mut adding), std::mem::take(&mut dropping)));
            used = name_cost(name);
        }
        if adds { adding.push(name.clone()) } else { dropping.push(name.clone()) }
    }
    if !(adding.is_empty() && dropping.is_empty()) {
        out.push(delta(kind, adding, dropping));
    }
    out
}

/// The answer to a delta response: nothing but the nonce.
pub(super) fn delta_answer(kind: ResourceType, nonce: Arc<str>) -> Request {
    request(
        kind,
        nonce,
        RequestBody::Delta { subscribe: Vec::new(), unsubscribe: Vec::new(), initial_versions: Vec::new() },
    )
}

fn delta(kind: ResourceType, subscribe: Vec<Arc<str>>, unsubscribe: Vec<Arc<str>>) -> Request {
    request(kind, Arc::from(""), RequestBody::Delta { subscribe, unsubscribe, initial_versions: Vec::new() })
}
