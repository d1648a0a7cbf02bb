//! Role-based access control, of requests and of connections.

use super::chain::Verdict;
use super::context::{Context, Reply};
use super::stats::{ChainStats, Counters};
use crate::message::{Datum, Head, Metadata, Reason};
use crate::model::{
    Cidr, HeaderMatch, MetadataMatch, NetworkRbac, Permission, Policy, Principal, Rbac, RbacAction, RbacSet,
    StringMatch, ValueMatch,
};
use crate::router::{header_holds, path_of};
use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

/// The ends of a connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peer<'a> {
    /// Who is connected; `None` for a Unix socket.
    pub direct: Option<SocketAddr>,
    /// On whose behalf, as far as trusted headers tell.
    pub remote: Option<IpAddr>,
    /// What was connected to.
    pub local: Option<SocketAddr>,
    /// The name asked for in TLS; empty without.
    pub server_name: &'a str,
    /// The names in the peer's certificate; `None` where there is no verified one.
    pub principals: Option<&'a [String]>,
}

const NAMES: &[&str] = &["allowed", "denied"];
const SHADOW_NAMES: &[&str] = &["shadow_allowed", "shadow_denied"];
/// Where filters leave what they found.
const NAMESPACE: &str = "envoy.filters.http.rbac";
const NETWORK_NAMESPACE: &str = "envoy.filters.network.rbac";

/// What is judged.
struct Subject<'a> {
    peer: &'a Peer<'a>,
    head: Option<&'a dyn Head>,
    metadata: &'a Metadata,
}

/// What a set of policies says.
struct Judged<'a> {
    allowed: bool,
    /// The policy that matched.
    policy: Option<&'a str>,
}

pub(super) fn on_request(rbac: &Rbac, ctx: &mut Context<'_>) -> Verdict {
    let stats = ctx.world.stats;
    let counts = |prefix: &str, names: &'static [&'static str], judged: &Judged<'_>| {
        let at = usize::from(!judged.allowed);
        count(stats, prefix, names, at);
        if let (true, Some(policy)) = (rbac.per_rule, judged.policy) {
            count(stats, &format!("{prefix}policy.{policy}."), names, at);
        }
    };
    if let Some(shadow) = &rbac.shadow {
        let judged = judge(shadow, &subject(ctx));
        counts(&rbac.shadow_stat_prefix, SHADOW_NAMES, &judged);
        leave(NAMESPACE, &rbac.shadow_stat_prefix, &judged, ctx.metadata);
    }
    let Some(rules) = &rbac.rules else { return Verdict::Continue };
    let judged = judge(rules, &subject(ctx));
    if rules.action == RbacAction::Log {
        ctx.metadata.set("envoy.common", "access_log_hint", Datum::Bool(judged.policy.is_some()));
    }
    counts(&rbac.stat_prefix, NAMES, &judged);
    if judged.allowed {
        return Verdict::Continue;
    }
    let reply = Reply {
        details: Cow::Owned(details(judged.policy)),
        ..Reply::text(Reason::Denied, 403, "RBAC: access denied", "")
    };
    Verdict::Reply(Box::new(reply))
}

/// Tells those behind what the rules in the shadow say.
fn leave(namespace: &str, prefix: &str, judged: &Judged<'_>, metadata: &mut Metadata) {
    let result = if judged.allowed { "allowed" } else { "denied" };
    metadata.set(namespace, &format!("{prefix}shadow_engine_result"), Datum::Text(result.into()));
    if let Some(policy) = judged.policy {
        let key = format!("{prefix}shadow_effective_policy_id");
        metadata.set(namespace, &key, Datum::Text(policy.to_owned()));
    }
}

fn count(stats: &ChainStats, prefix: &str, names: &'static [&'static str], at: usize) {
    let key = format!("rbac.{prefix}{}", names.first().copied().unwrap_or_default());
    stats.named(&key, false, |_| (None, Counters::new(format!("rbac.{prefix}"), names))).inc(at);
}

fn details(policy: Option<&str>) -> String {
    let name: String =
        policy.unwrap_or("none").chars().map(|c| if c.is_whitespace() { '_' } else { c }).collect();
    format!("rbac_access_denied_matched_policy[{name}]")
}

fn subject<'a>(ctx: &'a Context<'_>) -> Subject<'a> {
    Subject { peer: ctx.world.peer, head: Some(ctx.request.head()), metadata: ctx.metadata }
}

/// Whether a connection is admitted: by its rules, and by its rules in the shadow, which leave what they say in
/// `metadata`.
pub fn admits(guard: &NetworkRbac, peer: &Peer<'_>, metadata: &mut Metadata) -> (bool, Option<bool>) {
    let shadow = guard.rbac.shadow.as_ref().map(|set| {
        let judged = judge(set, &Subject { peer, head: None, metadata });
        leave(NETWORK_NAMESPACE, &guard.rbac.shadow_stat_prefix, &judged, metadata);
        judged.allowed
    });
    let subject = Subject { peer, head: None, metadata };
    (guard.rbac.rules.as_ref().is_none_or(|set| judge(set, &subject).allowed), shadow)
}

fn judge<'a>(set: &'a RbacSet, subject: &Subject<'_>) -> Judged<'a> {
    let hit = set.policies.iter().find(|(_, policy)| subject.meets(policy));
    let allowed = match set.action {
        RbacAction::Allow => hit.is_some(),
        RbacAction::Deny => hit.is_none(),
        RbacAction::Log => true,
    };
    Judged { allowed, policy: hit.map(|(name, _)| name.as_str()) }
}

impl Subject<'_> {
    fn meets(&self, policy: &Policy) -> bool {
        policy.permissions.iter().any(|one| self.does(one))
            && policy.principals.iter().any(|one| self.is(one))
    }

    fn does(&self, what: &Permission) -> bool {
        match what {
            Permission::All(all) => all.iter().all(|one| self.does(one)),
            Permission::Any(any) => any.iter().any(|one| self.does(one)),
            Permission::Always => true,
            Permission::Not(one) => !self.does(one),
            Permission::Header(header) => self.header(header),
            Permission::Path(text) => self.path(text),
            Permission::Template(template) => {
                self.head.and_then(path_of).is_some_and(|path| template.is_match(path))
            }
            Permission::DestinationIp(range) => within(range, self.peer.local.map(|local| local.ip())),
            Permission::DestinationPorts(from, to) => {
                self.peer.local.is_some_and(|local| (*from..*to).contains(&u32::from(local.port())))
            }
            Permission::ServerName(text) => text.matches(self.peer.server_name.as_bytes()),
            Permission::Metadata(matcher) => metadata_holds(matcher, self.metadata),
        }
    }

    fn is(&self, who: &Principal) -> bool {
        match who {
            Principal::All(all) => all.iter().all(|one| self.is(one)),
            Principal::Any(any) => any.iter().any(|one| self.is(one)),
            Principal::Always => true,
            Principal::Not(one) => !self.is(one),
            Principal::Header(header) => self.header(header),
            Principal::Path(text) => self.path(text),
            Principal::Authenticated(None) => self.peer.principals.is_some(),
            Principal::Authenticated(Some(text)) => {
                let names = self.peer.principals.unwrap_or_default();
                names.iter().any(|name| text.matches(name.as_bytes()))
            }
            Principal::DirectIp(range) => within(range, self.peer.direct.map(|peer| peer.ip())),
            Principal::RemoteIp(range) => within(range, self.peer.remote),
            Principal::Metadata(matcher) => metadata_holds(matcher, self.metadata),
        }
    }

    /// A connection without a request has no headers.
    fn header(&self, matcher: &HeaderMatch) -> bool {
        match self.head {
            Some(head) => header_holds(matcher, head),
            None => matcher.holds(None),
        }
    }

    fn path(&self, text: &StringMatch) -> bool {
        self.head.and_then(path_of).is_some_and(|path| text.matches(path))
    }
}

fn within(range: &Cidr, address: Option<IpAddr>) -> bool {
    address.is_some_and(|address| range.contains(address.to_canonical()))
}

/// A condition on metadata; what is absent is compared as nothing.
pub fn metadata_holds(matcher: &MetadataMatch, metadata: &Metadata) -> bool {
    let found = metadata.find(&matcher.namespace, &matcher.path);
    value_holds(&matcher.value, found) != matcher.invert
}

fn value_holds(matcher: &ValueMatch, found: Option<&Datum>) -> bool {
    match (matcher, found) {
        (ValueMatch::Present(wanted), found) => found.is_some_and(|value| *value != Datum::Null) && *wanted,
        (ValueMatch::Or(any), found) => any.iter().any(|one| value_holds(one, found)),
        (ValueMatch::Null, Some(Datum::Null)) => true,
        (ValueMatch::Range(start, end), Some(Datum::Number(number))) => number >= start && number < end,
        (ValueMatch::Number(wanted), Some(Datum::Number(number))) => number == wanted,
        (ValueMatch::Text(text), Some(Datum::Text(value))) => text.matches(value.as_bytes()),
        (ValueMatch::Bool(wanted), Some(Datum::Bool(value))) => value == wanted,
        (ValueMatch::OneOf(one), Some(Datum::List(list))) => {
            list.iter().any(|item| value_holds(one, Some(item)))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
