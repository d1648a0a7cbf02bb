//! RouteConfiguration: tables, virtual hosts, routes and what they match.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use prost_types::Any;

use super::extension::Extension;
use super::headers::edits;
use super::matchers::{header, query, regex};
use super::route_action::action;
use super::values::{enumeration, fraction, not_empty};
use super::{MAX_ROUTES, retry};
use crate::model::{PathMatch, Route, RouteConfig, RouteMatch, VirtualHost};
use crate::proto::envoy::config::route::v3 as pb;
use crate::translate::finding::{Findings, Path};

/// `max_direct_response_body_size_bytes` if absent.
const MAX_DIRECT_BODY: u32 = 4096;

/// A table, of RDS or inline.
pub(super) fn table(
    path: &Path<'_>,
    table: &pb::RouteConfiguration,
    out: &mut Findings,
) -> Option<RouteConfig> {
    refuse_unbuilt_table(path, table, out);
    let count: usize = table.virtual_hosts.iter().map(|v| v.routes.len()).sum();
    if count > MAX_ROUTES {
        let at = path.name("virtual_hosts");
        out.bad(&at, format_args!("{count} routes"), format_args!("a table holds {MAX_ROUTES} at most"));
        return None;
    }
    let max_body = table.max_direct_response_body_size_bytes.unwrap_or(MAX_DIRECT_BODY);
    let max_body = usize::try_from(max_body).unwrap_or(usize::MAX);
    let at = path.name("virtual_hosts");
    let mut hosts = Vec::with_capacity(table.virtual_hosts.len());
    for (i, host) in table.virtual_hosts.iter().enumerate() {
        hosts.push(Arc::new(virtual_host(&at.index(i), host, max_body, out)));
    }
    check_unique(&at, &hosts, out);
    let request = (&table.request_headers_to_add, &table.request_headers_to_remove);
    let response = (&table.response_headers_to_add, &table.response_headers_to_remove);
    Some(RouteConfig {
        name: table.name.clone(),
        virtual_hosts: hosts,
        request_headers: edits(path, "request", request.0, request.1, out),
        response_headers: edits(path, "response", response.0, response.1, out),
        ignore_port: table.ignore_port_in_host_matching,
        most_specific_header_mutations_wins: table.most_specific_header_mutations_wins,
    })
}

fn refuse_unbuilt_table(path: &Path<'_>, table: &pb::RouteConfiguration, out: &mut Findings) {
    for (field, set) in [
        ("vhds", table.vhds.is_some()),
        ("request_mirror_policies", !table.request_mirror_policies.is_empty()),
        ("ignore_path_parameters_in_path_matching", table.ignore_path_parameters_in_path_matching),
        ("vhost_header", !table.vhost_header.is_empty()),
    ] {
        if set {
            out.bad(&path.name(field), "", "not supported (leave it out)");
        }
    }
    refuse_filter_configs(path, &table.typed_per_filter_config, out);
}

/// Per-route configuration of filters: none of these filters is built. An optional or disabled one is skipped.
pub(super) fn refuse_filter_configs(path: &Path<'_>, configs: &BTreeMap<String, Any>, out: &mut Findings) {
    let at = path.name("typed_per_filter_config");
    for (name, any) in configs {
        let at = at.key(name);
        let Some(extension) = Extension::open(&at, any, out) else { continue };
        if !extension.is::<pb::FilterConfig>() {
            out.bad(&at, &extension.type_url, "this filter is not supported");
            continue;
        }
        let Some(config) = extension.decode::<pb::FilterConfig>(&at, out) else { continue };
        let inner = config.config.unwrap_or_default();
        let Some(inner) = Extension::open(&at.name("config"), &inner, out) else { continue };
        if config.disabled || (config.is_optional && !inner.restricts()) {
            out.note(&at);
        } else {
            out.bad(&at.name("config"), &inner.type_url, "this filter is not supported");
        }
    }
}

fn check_unique(path: &Path<'_>, hosts: &[Arc<VirtualHost>], out: &mut Findings) {
    let mut names = HashMap::new();
    let mut domains = HashMap::new();
    for (i, host) in hosts.iter().enumerate() {
        if let Some(first) = names.insert(host.name.as_str(), i) {
            let why = format!("virtual_hosts[{first}] has this name too");
            out.bad(&path.index(i).name("name"), &host.name, why);
        }
        for (j, domain) in host.domains.iter().enumerate() {
            if let Some(first) = domains.insert(domain.as_str(), i) {
                let why = format!("virtual_hosts[{first}] has this domain too");
                let at = path.index(i);
                let at = at.name("domains");
                out.bad(&at.index(j), domain, why);
            }
        }
    }
}

fn virtual_host(path: &Path<'_>, host: &pb::VirtualHost, max_body: usize, out: &mut Findings) -> VirtualHost {
    refuse_unbuilt_host(path, host, out);
    let at = path.name("domains");
    if host.domains.is_empty() {
        out.bad(&at, "", "at least one domain (nearest valid [\"*\"])");
    }
    let domain = |(i, d): (usize, &String)| not_empty(&at.index(i), d, out).to_ascii_lowercase();
    let domains = host.domains.iter().enumerate().map(domain).collect();
    let at = path.name("routes");
    let read = |(i, r)| route(&at.index(i), r, max_body, out);
    let routes = host.routes.iter().enumerate().filter_map(read).collect();
    let request = (&host.request_headers_to_add, &host.request_headers_to_remove);
    let response = (&host.response_headers_to_add, &host.response_headers_to_remove);
    VirtualHost {
        name: not_empty(&path.name("name"), &host.name, out),
        domains,
        routes,
        request_headers: edits(path, "request", request.0, request.1, out),
        response_headers: edits(path, "response", response.0, response.1, out),
        retry: host.retry_policy.as_ref().map(|p| retry::policy(&path.name("retry_policy"), p, out)),
    }
}

fn refuse_unbuilt_host(path: &Path<'_>, host: &pb::VirtualHost, out: &mut Findings) {
    use pb::virtual_host::TlsRequirementType as Tls;
    let at = path.name("require_tls");
    if let Some(kind @ (Tls::ExternalOnly | Tls::All)) = enumeration(&at, host.require_tls, out) {
        out.bad(&at, kind.as_str_name(), "TLS is not supported (nearest valid NONE)");
    }
    for (field, set) in [
        ("matcher", host.matcher.is_some()),
        ("cors", host.cors.is_some()),
        ("rate_limits", !host.rate_limits.is_empty()),
        ("request_mirror_policies", !host.request_mirror_policies.is_empty()),
        ("retry_policy_typed_config", host.retry_policy_typed_config.is_some()),
    ] {
        if set {
            out.bad(&path.name(field), "", "not supported (leave it out)");
        }
    }
    refuse_filter_configs(path, &host.typed_per_filter_config, out);
}

fn route(path: &Path<'_>, route: &pb::Route, max_body: usize, out: &mut Findings) -> Option<Route> {
    refuse_filter_configs(path, &route.typed_per_filter_config, out);
    let at = path.name("match");
    let matcher = match &route.r#match {
        Some(matcher) => route_match(&at, matcher, out),
        None => {
            out.bad(&at, "", "no match");
            None
        }
    };
    let action = action(path, route.action.as_ref(), max_body, out);
    let request = (&route.request_headers_to_add, &route.request_headers_to_remove);
    let response = (&route.response_headers_to_add, &route.response_headers_to_remove);
    let request_headers = edits(path, "request", request.0, request.1, out);
    let response_headers = edits(path, "response", response.0, response.1, out);
    Some(Route {
        name: route.name.clone(),
        matcher: matcher?,
        action: action?,
        request_headers,
        response_headers,
    })
}

fn route_match(path: &Path<'_>, matcher: &pb::RouteMatch, out: &mut Findings) -> Option<RouteMatch> {
    for (field, set) in [
        ("tls_context", matcher.tls_context.is_some()),
        ("dynamic_metadata", !matcher.dynamic_metadata.is_empty()),
        ("filter_state", !matcher.filter_state.is_empty()),
    ] {
        if set {
            out.bad(&path.name(field), "", "matching on this is not supported");
        }
    }
    let at = path.name("headers");
    let headers =
        matcher.headers.iter().enumerate().filter_map(|(i, m)| header(&at.index(i), m, out)).collect();
    let at = path.name("query_parameters");
    let parameters = matcher.query_parameters.iter().enumerate();
    let query = parameters.filter_map(|(i, m)| query(&at.index(i), m, out)).collect();
    let share = matcher.runtime_fraction.as_ref().and_then(|f| f.default_value.as_ref());
    let at = path.name("runtime_fraction");
    let fraction = share.map(|f| fraction(&at.name("default_value"), f, out));
    Some(RouteMatch {
        path: path_match(path, matcher, out)?,
        headers,
        query,
        grpc: matcher.grpc.is_some(),
        fraction,
    })
}

fn path_match(path: &Path<'_>, matcher: &pb::RouteMatch, out: &mut Findings) -> Option<PathMatch> {
    use pb::route_match::PathSpecifier as Kind;
    let ignore_case = matcher.case_sensitive == Some(false);
    match &matcher.path_specifier {
        Some(Kind::Prefix(value)) => Some(PathMatch::Prefix { value: value.clone(), ignore_case }),
        Some(Kind::Path(value)) => Some(PathMatch::Exact { value: value.clone(), ignore_case }),
        Some(Kind::PathSeparatedPrefix(value)) => {
            let nearest = value.trim_end_matches('/');
            if nearest.len() != value.len() || value.is_empty() || value.contains(['?', '#']) {
                let why = format!("has no ?, # or final slash (nearest valid {nearest:?})");
                out.bad(&path.name("path_separated_prefix"), value, why);
            }
            Some(PathMatch::SeparatedPrefix { value: value.clone(), ignore_case })
        }
        Some(Kind::SafeRegex(m)) => regex(&path.name("safe_regex"), m, out).map(PathMatch::Regex),
        Some(Kind::ConnectMatcher(_)) => {
            out.bad(&path.name("connect_matcher"), "", "CONNECT is not supported");
            None
        }
        Some(Kind::PathMatchPolicy(policy)) => {
            let url = policy.typed_config.as_ref().map_or("", |any| &any.type_url);
            out.bad(&path.name("path_match_policy").name("typed_config"), url, "not supported");
            None
        }
        None => {
            out.bad(path, "", "no path condition (nearest valid: prefix \"/\")");
            None
        }
    }
}
