//! Which of a limit's buckets a request belongs to.

use super::super::context::Context;
use crate::model::{LocalRateLimit, RateLimit, RateLimitAction, VirtualHostLimits};
use crate::router::{header_holds, query_holds};
use std::net::IpAddr;

/// Entries of one descriptor.
type Entries = Vec<(String, String)>;

/// Places, in the limit's list, of the descriptors that the request's rules give; each once.
pub(super) fn found(limit: &LocalRateLimit, ctx: &Context<'_>) -> Vec<usize> {
    if limit.descriptors.is_empty() {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut add = |rules: &[RateLimit]| {
        for rule in rules.iter().filter(|rule| rule.stage == limit.stage) {
            let Some(entries) = entries(rule, ctx) else { continue };
            let places = limit.descriptors.iter().enumerate();
            for (at, _) in places.filter(|(_, descriptor)| descriptor.entries == entries) {
                if !found.contains(&at) {
                    found.push(at);
                }
            }
        }
    };
    if !limit.rules.is_empty() {
        add(&limit.rules);
        return found;
    }
    let Some(route) = ctx.world.route else { return found };
    let own = &route.model().rate_limits;
    add(own);
    let also = match limit.virtual_host {
        VirtualHostLimits::Override => own.is_empty(),
        VirtualHostLimits::Include => true,
        VirtualHostLimits::Ignore => false,
    };
    if also {
        add(&route.host().rate_limits);
    }
    found
}

/// `None`: an action has nothing to say, so there is no descriptor.
fn entries(rule: &RateLimit, ctx: &Context<'_>) -> Option<Entries> {
    let mut entries = Entries::with_capacity(rule.actions.len());
    for action in &rule.actions {
        match entry(action, ctx) {
            Some(Some(entry)) => entries.push(entry),
            Some(None) => {}
            None => return None,
        }
    }
    (!entries.is_empty()).then_some(entries)
}

/// `Some(None)`: nothing to say, which is no harm.
fn entry(action: &RateLimitAction, ctx: &Context<'_>) -> Option<Option<(String, String)>> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let optional = |key: &str, value: Option<String>, skip: bool| match value {
        Some(value) => Some(Some((key.to_owned(), value))),
        None => skip.then_some(None),
    };
    let head = ctx.request.head();
    match action {
        RateLimitAction::DestinationCluster => {
            Some(Some(("destination_cluster".into(), ctx.world.cluster?.0.to_owned())))
        }
        RateLimitAction::RequestHeader { name, key, skip_if_absent } => {
            optional(key, head.header(name).map(|value| text(&value)), *skip_if_absent)
        }
        RateLimitAction::QueryParameter { name, key, skip_if_absent } => {
            let target = head.path_and_query().unwrap_or_default();
            let value = crate::model::query_parameter(target, name).filter(|value| !value.is_empty());
            optional(key, value.map(text), *skip_if_absent)
        }
        RateLimitAction::RemoteAddress => {
            Some(Some(("remote_address".into(), ctx.world.peer.remote?.to_string())))
        }
        RateLimitAction::MaskedRemoteAddress { v4, v6 } => {
            let remote = ctx.world.peer.remote?;
            let bits = if remote.is_ipv4() { *v4 } else { *v6 };
            Some(Some(("masked_remote_address".into(), masked(remote, bits))))
        }
        RateLimitAction::GenericKey { key, value } => Some(Some((key.clone(), value.clone()))),
        RateLimitAction::HeaderValueMatch { key, value, expect, headers } => {
            let holds = headers.iter().all(|header| header_holds(header, head));
            (holds == *expect).then(|| Some((key.clone(), value.clone())))
        }
        RateLimitAction::QueryValueMatch { key, value, expect, query } => {
            let holds = query.iter().all(|one| query_holds(one, head));
            (holds == *expect).then(|| Some((key.clone(), value.clone())))
        }
        RateLimitAction::Metadata { key, namespace, path, default, skip_if_absent } => {
            let mut value = Vec::new();
            let found = ctx.metadata.write(namespace, path, &mut value) && !value.is_empty();
            let value =
                if found { Some(text(&value)) } else { Some(default.clone()).filter(|d| !d.is_empty()) };
            optional(key, value, *skip_if_absent)
        }
    }
}

/// `10.1.0.0/16`
fn masked(address: IpAddr, bits: u8) -> String {
    let network: IpAddr = match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0);
            std::net::Ipv4Addr::from(u32::from(v4) & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0);
            std::net::Ipv6Addr::from(u128::from(v6) & mask).into()
        }
    };
    format!("{network}/{bits}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_masked() {
        assert_eq!(masked("10.1.2.3".parse().unwrap(), 16), "10.1.0.0/16");
        assert_eq!(masked("10.1.2.3".parse().unwrap(), 0), "0.0.0.0/0");
        assert_eq!(masked("2001:db8:1::1".parse().unwrap(), 32), "2001:db8::/32");
    }
}
