//! `RBAC` of HTTP and of network chains. Whatever a policy says that is not understood refuses the resource.

use super::rule;
use crate::model::{
    FilterConfig, MetadataMatch, NetworkRbac, Permission, Policy, Principal, Rbac, RbacAction, RbacSet,
    RouteFilter, StringMatch, ValueMatch,
};
use crate::proto::envoy::config::rbac::v3 as pb;
use crate::proto::envoy::extensions::filters::http::rbac::v3 as http;
use crate::proto::envoy::extensions::filters::network::rbac::v3 as network;
use crate::proto::envoy::r#type::matcher::v3 as matcher;
use crate::translate::envoy::matchers::{header, text};
use crate::translate::envoy::route::template;
use crate::translate::envoy::values::{cidr, enumeration, not_empty, within};
use crate::translate::finding::{Findings, Path};

pub(super) fn http_rbac(path: &Path<'_>, config: &http::Rbac, out: &mut Findings) -> Option<FilterConfig> {
    read_http(path, config, out).map(FilterConfig::Rbac)
}

pub(super) fn of_route(
    path: &Path<'_>,
    config: &http::RbacPerRoute,
    out: &mut Findings,
) -> Option<RouteFilter> {
    match &config.rbac {
        // Envoy's way to switch it off here.
        None => Some(RouteFilter::Disabled),
        Some(config) => http_rbac(&path.name("rbac"), config, out).map(rule),
    }
}

fn read_http(path: &Path<'_>, config: &http::Rbac, out: &mut Findings) -> Option<Rbac> {
    for (field, set) in
        [("matcher", config.matcher.is_some()), ("shadow_matcher", config.shadow_matcher.is_some())]
    {
        if set {
            out.bad(&path.name(field), "", "matching trees are not supported (use rules)");
        }
    }
    Some(Rbac {
        rules: optional(&path.name("rules"), config.rules.as_ref(), out)?,
        shadow: optional(&path.name("shadow_rules"), config.shadow_rules.as_ref(), out)?,
        stat_prefix: config.rules_stat_prefix.clone(),
        shadow_stat_prefix: config.shadow_rules_stat_prefix.clone(),
        per_rule: config.track_per_rule_stats,
    })
}

/// `RBAC` of a network chain. It is asked once, before anything is passed on.
pub(in crate::translate::envoy) fn network_rbac(
    path: &Path<'_>,
    config: &network::Rbac,
    out: &mut Findings,
) -> Option<NetworkRbac> {
    use network::rbac::EnforcementType as Kind;
    for (field, set) in [
        ("matcher", config.matcher.is_some()),
        ("shadow_matcher", config.shadow_matcher.is_some()),
        ("delay_deny", config.delay_deny.is_some()),
    ] {
        if set {
            out.bad(&path.name(field), "", "not supported (leave it out)");
        }
    }
    let at = path.name("enforcement_type");
    if enumeration::<Kind>(&at, config.enforcement_type, out)? == Kind::Continuous {
        out.bad(&at, "CONTINUOUS", "not supported (nearest valid ONE_TIME_ON_FIRST_BYTE)");
    }
    Some(NetworkRbac {
        stat_prefix: not_empty(&path.name("stat_prefix"), &config.stat_prefix, out),
        rbac: Rbac {
            rules: optional(&path.name("rules"), config.rules.as_ref(), out)?,
            shadow: optional(&path.name("shadow_rules"), config.shadow_rules.as_ref(), out)?,
            shadow_stat_prefix: config.shadow_rules_stat_prefix.clone(),
            ..Rbac::default()
        },
    })
}

fn optional(path: &Path<'_>, rules: Option<&pb::Rbac>, out: &mut Findings) -> Option<Option<RbacSet>> {
    match rules {
        None => Some(None),
        Some(rules) => set(path, rules, out).map(Some),
    }
}

fn set(path: &Path<'_>, rules: &pb::Rbac, out: &mut Findings) -> Option<RbacSet> {
    let action = match enumeration(&path.name("action"), rules.action, out)? {
        pb::rbac::Action::Allow => RbacAction::Allow,
        pb::rbac::Action::Deny => RbacAction::Deny,
        pb::rbac::Action::Log => RbacAction::Log,
    };
    let at = path.name("policies");
    let mut policies = Vec::with_capacity(rules.policies.len());
    for (name, given) in &rules.policies {
        policies.push((name.clone(), policy(&at.key(name), given, out)?));
    }
    Some(RbacSet { action, policies })
}

fn policy(path: &Path<'_>, given: &pb::Policy, out: &mut Findings) -> Option<Policy> {
    let (at_what, at_who) = (path.name("permissions"), path.name("principals"));
    for (at, count) in [(&at_what, given.permissions.len()), (&at_who, given.principals.len())] {
        if count == 0 {
            out.bad(at, "", "at least one (nearest valid: any)");
        }
    }
    Some(Policy {
        permissions: list(&at_what, &given.permissions, permission, out)?,
        principals: list(&at_who, &given.principals, principal, out)?,
    })
}

/// All of a list, or nothing: a rule less could admit more.
fn list<M, T>(
    path: &Path<'_>,
    items: &[M],
    read: fn(&Path<'_>, &M, &mut Findings) -> Option<T>,
    out: &mut Findings,
) -> Option<Vec<T>> {
    let read: Vec<_> = items.iter().enumerate().map(|(i, item)| read(&path.index(i), item, out)).collect();
    read.into_iter().collect()
}

fn permission(path: &Path<'_>, given: &pb::Permission, out: &mut Findings) -> Option<Permission> {
    use pb::permission::Rule;
    let rules = |field: &str, set: &pb::permission::Set, out: &mut Findings| {
        let at = path.name(field);
        list(&at.name("rules"), &set.rules, permission, out)
    };
    Some(match given.rule.as_ref() {
        Some(Rule::AndRules(set)) => Permission::All(rules("and_rules", set, out)?),
        Some(Rule::OrRules(set)) => Permission::Any(rules("or_rules", set, out)?),
        Some(Rule::Any(true)) => Permission::Always,
        Some(Rule::Any(false)) => return bad_any(path, out),
        Some(Rule::Header(m)) => Permission::Header(header(&path.name("header"), m, out)?),
        Some(Rule::UrlPath(m)) => Permission::Path(url_path(&path.name("url_path"), m, out)?),
        Some(Rule::DestinationIp(range)) => {
            Permission::DestinationIp(cidr(&path.name("destination_ip"), range, out)?)
        }
        Some(Rule::DestinationPort(port)) => {
            let port = within(&path.name("destination_port"), *port, 0, 65_535, out);
            Permission::DestinationPorts(port, port + 1)
        }
        Some(Rule::DestinationPortRange(range)) => {
            let at = path.name("destination_port_range");
            let (Ok(start), Ok(end)) = (u32::try_from(range.start), u32::try_from(range.end)) else {
                out.bad(&at, format_args!("{}..{}", range.start, range.end), "ports are not negative");
                return None;
            };
            if start >= end || end > 65_536 {
                out.bad(&at, format_args!("{start}..{end}"), "must be start below end, at most 65536");
            }
            Permission::DestinationPorts(start, end)
        }
        Some(Rule::Metadata(m)) => Permission::Metadata(metadata(&path.name("metadata"), m, out)?),
        Some(Rule::SourcedMetadata(m)) => {
            Permission::Metadata(sourced(&path.name("sourced_metadata"), m, out)?)
        }
        Some(Rule::NotRule(rule)) => {
            Permission::Not(Box::new(permission(&path.name("not_rule"), rule, out)?))
        }
        Some(Rule::RequestedServerName(m)) => {
            Permission::ServerName(text(&path.name("requested_server_name"), m, out)?)
        }
        Some(Rule::UriTemplate(policy)) => {
            Permission::Template(template(&path.name("uri_template"), policy, out)?)
        }
        Some(Rule::Matcher(extension)) => {
            out.bad(&path.name("matcher"), &extension.name, "this matcher is not supported");
            return None;
        }
        None => return bad_empty(path, "rule", out),
    })
}

/// The one key there is: Istio's name for who the client's certificate says it is.
fn filter_state(
    path: &Path<'_>,
    given: &matcher::FilterStateMatcher,
    out: &mut Findings,
) -> Option<Principal> {
    use matcher::filter_state_matcher::Matcher;
    const PEER: &str = "io.istio.peer_principal";
    if given.key != PEER {
        let why = format!("there is no such filter state to match (nearest valid: {PEER})");
        out.bad(&path.name("key"), &given.key, why);
        return None;
    }
    match &given.matcher {
        Some(Matcher::StringMatch(m)) => {
            Some(Principal::Authenticated(Some(text(&path.name("string_match"), m, out)?)))
        }
        None => bad_empty(path, "matcher", out),
    }
}

fn principal(path: &Path<'_>, given: &pb::Principal, out: &mut Findings) -> Option<Principal> {
    use pb::principal::Identifier as Id;
    let ids = |field: &str, set: &pb::principal::Set, out: &mut Findings| {
        let at = path.name(field);
        list(&at.name("ids"), &set.ids, principal, out)
    };
    Some(match given.identifier.as_ref() {
        Some(Id::AndIds(set)) => Principal::All(ids("and_ids", set, out)?),
        Some(Id::OrIds(set)) => Principal::Any(ids("or_ids", set, out)?),
        Some(Id::Any(true)) => Principal::Always,
        Some(Id::Any(false)) => return bad_any(path, out),
        Some(Id::Authenticated(who)) => {
            let at = path.name("authenticated");
            Principal::Authenticated(match &who.principal_name {
                Some(name) => Some(text(&at.name("principal_name"), name, out)?),
                None => None,
            })
        }
        Some(Id::SourceIp(range)) => Principal::DirectIp(cidr(&path.name("source_ip"), range, out)?),
        Some(Id::DirectRemoteIp(range)) => {
            Principal::DirectIp(cidr(&path.name("direct_remote_ip"), range, out)?)
        }
        Some(Id::RemoteIp(range)) => Principal::RemoteIp(cidr(&path.name("remote_ip"), range, out)?),
        Some(Id::Header(m)) => Principal::Header(header(&path.name("header"), m, out)?),
        Some(Id::UrlPath(m)) => Principal::Path(url_path(&path.name("url_path"), m, out)?),
        Some(Id::Metadata(m)) => Principal::Metadata(metadata(&path.name("metadata"), m, out)?),
        Some(Id::SourcedMetadata(m)) => Principal::Metadata(sourced(&path.name("sourced_metadata"), m, out)?),
        Some(Id::NotId(id)) => Principal::Not(Box::new(principal(&path.name("not_id"), id, out)?)),
        Some(Id::FilterState(m)) => filter_state(&path.name("filter_state"), m, out)?,
        Some(Id::Custom(extension)) => {
            out.bad(&path.name("custom"), &extension.name, "this principal is not supported");
            return None;
        }
        None => return bad_empty(path, "identifier", out),
    })
}

fn bad_any<T>(path: &Path<'_>, out: &mut Findings) -> Option<T> {
    out.bad(&path.name("any"), false, "must be true");
    None
}

fn bad_empty<T>(path: &Path<'_>, what: &str, out: &mut Findings) -> Option<T> {
    out.bad(path, "", format_args!("no {what} that is known"));
    None
}

fn url_path(path: &Path<'_>, given: &matcher::PathMatcher, out: &mut Findings) -> Option<StringMatch> {
    match &given.rule {
        Some(matcher::path_matcher::Rule::Path(m)) => text(&path.name("path"), m, out),
        None => bad_empty(path, "path", out),
    }
}

fn sourced(path: &Path<'_>, given: &pb::SourcedMetadata, out: &mut Findings) -> Option<MetadataMatch> {
    let at = path.name("metadata_source");
    if enumeration::<pb::MetadataSource>(&at, given.metadata_source, out)? != pb::MetadataSource::Dynamic {
        out.bad(&at, "ROUTE", "only dynamic metadata is matched (nearest valid DYNAMIC)");
    }
    match &given.metadata_matcher {
        Some(m) => metadata(&path.name("metadata_matcher"), m, out),
        None => bad_empty(path, "metadata_matcher", out),
    }
}

pub(in crate::translate::envoy) fn metadata(
    path: &Path<'_>,
    given: &matcher::MetadataMatcher,
    out: &mut Findings,
) -> Option<MetadataMatch> {
    use matcher::metadata_matcher::path_segment::Segment;
    let at = path.name("path");
    let mut keys = Vec::with_capacity(given.path.len());
    for (i, segment) in given.path.iter().enumerate() {
        match &segment.segment {
            Some(Segment::Key(key)) => keys.push(not_empty(&at.index(i).name("key"), key, out)),
            None => return bad_empty(&at.index(i), "segment", out),
        }
    }
    if keys.is_empty() {
        out.bad(&at, "", "at least one segment");
    }
    let at = path.name("value");
    let Some(wanted) = &given.value else { return bad_empty(&at, "value", out) };
    Some(MetadataMatch {
        namespace: not_empty(&path.name("filter"), &given.filter, out),
        path: keys,
        value: value(&at, wanted, out)?,
        invert: given.invert,
    })
}

fn value(path: &Path<'_>, given: &matcher::ValueMatcher, out: &mut Findings) -> Option<ValueMatch> {
    use matcher::value_matcher::MatchPattern as Kind;
    Some(match given.match_pattern.as_ref() {
        Some(Kind::NullMatch(_)) => ValueMatch::Null,
        Some(Kind::DoubleMatch(number)) => {
            use matcher::double_matcher::MatchPattern;
            match &number.match_pattern {
                Some(MatchPattern::Range(range)) => ValueMatch::Range(range.start, range.end),
                Some(MatchPattern::Exact(exact)) => ValueMatch::Number(*exact),
                None => return bad_empty(&path.name("double_match"), "pattern", out),
            }
        }
        Some(Kind::StringMatch(m)) => ValueMatch::Text(text(&path.name("string_match"), m, out)?),
        Some(Kind::BoolMatch(wanted)) => ValueMatch::Bool(*wanted),
        Some(Kind::PresentMatch(wanted)) => ValueMatch::Present(*wanted),
        Some(Kind::ListMatch(of)) => {
            use matcher::list_matcher::MatchPattern;
            let at = path.name("list_match");
            match &of.match_pattern {
                Some(MatchPattern::OneOf(one)) => {
                    ValueMatch::OneOf(Box::new(value(&at.name("one_of"), one, out)?))
                }
                None => return bad_empty(&at, "pattern", out),
            }
        }
        Some(Kind::OrMatch(any)) => {
            let at = path.name("or_match");
            ValueMatch::Or(list(&at.name("value_matchers"), &any.value_matchers, value, out)?)
        }
        None => return bad_empty(path, "pattern", out),
    })
}
