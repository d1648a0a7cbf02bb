//! MOSN's address lists.

use super::chain::Verdict;
use super::context::{Context, Reply};
use crate::message::Reason;
use crate::model::IpAccess;
use std::net::IpAddr;

pub(super) fn on_request(access: &IpAccess, ctx: &mut Context<'_>) -> Verdict {
    if admits(access, address(access, ctx)) {
        return Verdict::Continue;
    }
    Verdict::Reply(Box::new(Reply::text(Reason::Denied, 403, "", "ip_access_denied")))
}

/// The address in question: the header's first, where one is named.
fn address(access: &IpAccess, ctx: &Context<'_>) -> Option<IpAddr> {
    if access.header.is_empty() {
        return ctx.world.peer.direct.map(|peer| peer.ip().to_canonical());
    }
    let value = ctx.request.header(&access.header)?;
    std::str::from_utf8(&value)
        .ok()?
        .split(',')
        .next()?
        .trim()
        .parse::<IpAddr>()
        .ok()
        .map(|ip| ip.to_canonical())
}

/// An address that cannot be read is in no list, and is refused: nobody may choose to be unknown.
fn admits(access: &IpAccess, address: Option<IpAddr>) -> bool {
    let Some(address) = address else { return false };
    let hit = access.lists.iter().find(|(_, ranges)| ranges.iter().any(|range| range.contains(address)));
    hit.map_or(access.allow_by_default, |(allow, _)| *allow)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Cidr;

    #[test]
    fn the_first_list_with_the_address_decides() {
        let range = |text: &str, bits| Cidr::new(text.parse().unwrap(), bits).unwrap();
        let mut access = IpAccess {
            allow_by_default: true,
            header: String::new(),
            lists: vec![(true, vec![range("10.0.0.1", 32)]), (false, vec![range("10.0.0.0", 8)])],
        };
        let admits = |access: &IpAccess, text: &str| super::admits(access, text.parse().ok());
        assert!(admits(&access, "10.0.0.1") && !admits(&access, "10.0.0.2") && admits(&access, "11.0.0.1"));
        access.allow_by_default = false;
        assert!(!admits(&access, "11.0.0.1"));
        access.allow_by_default = true;
        assert!(!admits(&access, "nobody"), "an address that is none is refused");
    }
}
