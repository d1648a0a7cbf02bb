//! RouteConfiguration: tables, virtual hosts, routes and what they match.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::MAX_ROUTES;
use super::extension::Extension;
use super::headers::edits;
use super::http_filters::{per_filter, rate_limits};
use super::matchers::{headers, query, regex};
use super::retry::Policies;
use super::route_action::{Shared, action};
use super::route_options::mirrors;
use super::values::{enumeration, not_empty};
use crate::model::{
    Fraction, PathMatch, RequireTls, Route, RouteConfig, RouteMatch, Sampling, UriTemplate, VirtualHost,
};
use crate::proto::envoy::config::core::v3::{RuntimeFractionalPercent, TypedExtensionConfig};
use crate::proto::envoy::config::route::v3 as pb;
use crate::proto::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
use crate::proto::envoy::r#type::v3::FractionalPercent;
use crate::proto::envoy::r#type::v3::fractional_percent::DenominatorType;
use crate::translate::finding::{Findings, Path};

/// `max_direct_response_body_size_bytes` if absent.
const MAX_DIRECT_BODY: u32 = 4096;

/// A table written in a filter. Those of RDS are `tables::route_after`'s.
pub(super) fn table(
    path: &Path<'_>,
    table: &pb::RouteConfiguration,
    out: &mut Findings,
) -> Option<RouteConfig> {
    let at = path.name("virtual_hosts");
    let count: usize = table.virtual_hosts.iter().map(|v| v.routes.len()).sum();
    if !few_enough(&at, count, out) {
        return None;
    }
    let mut shared = shared(table);
    let mut hosts = Vec::with_capacity(table.virtual_hosts.len());
    for (i, host) in table.virtual_hosts.iter().enumerate() {
        hosts.push(Arc::new(virtual_host(&at.index(i), host, &mut shared, out)));
    }
    check_unique(&at, &hosts, out);
    Some(frame(path, table, hosts, out))
}

/// Whether a table may have so many routes.
pub(super) fn few_enough(path: &Path<'_>, routes: usize, out: &mut Findings) -> bool {
    if routes > MAX_ROUTES {
        let why = format!("a table holds {MAX_ROUTES} at most (nearest valid {MAX_ROUTES})");
        out.bad(path, format_args!("{routes} routes"), why);
    }
    routes <= MAX_ROUTES
}

/// What the virtual hosts of a table take in from it.
pub(super) fn shared(table: &pb::RouteConfiguration) -> Shared {
    let max_body = table.max_direct_response_body_size_bytes.unwrap_or(MAX_DIRECT_BODY);
    Shared { max_body: usize::try_from(max_body).unwrap_or(usize::MAX), policies: Policies::default() }
}

/// Everything of `table` but its virtual hosts, which are `virtual_hosts`.
pub(super) fn frame(
    path: &Path<'_>,
    table: &pb::RouteConfiguration,
    virtual_hosts: Vec<Arc<VirtualHost>>,
    out: &mut Findings,
) -> RouteConfig {
    refuse_unbuilt_table(path, table, out);
    let request = (&table.request_headers_to_add, &table.request_headers_to_remove);
    let response = (&table.response_headers_to_add, &table.response_headers_to_remove);
    RouteConfig {
        name: table.name.clone(),
        virtual_hosts,
        request_headers: edits(path, "request", request.0, request.1, out),
        response_headers: edits(path, "response", response.0, response.1, out),
        ignore_port: table.ignore_port_in_host_matching,
        most_specific_header_mutations_wins: table.most_specific_header_mutations_wins,
        ignore_path_parameters: table.ignore_path_parameters_in_path_matching,
        internal_only_headers: table.internal_only_headers.iter().map(|h| h.to_ascii_lowercase()).collect(),
        mirrors: mirrors(path, &table.request_mirror_policies, out),
        filters: per_filter(path, &table.typed_per_filter_config, out),
    }
}

fn refuse_unbuilt_table(path: &Path<'_>, table: &pb::RouteConfiguration, out: &mut Findings) {
    for (field, set) in [("vhds", table.vhds.is_some()), ("vhost_header", !table.vhost_header.is_empty())] {
        if set {
            out.bad(&path.name(field), "", "not supported (leave it out)");
        }
    }
}

/// No name and no domain may be there twice.
pub(super) fn check_unique(path: &Path<'_>, hosts: &[Arc<VirtualHost>], out: &mut Findings) {
    let mut names: HashMap<&str, usize, RandomState> = HashMap::default();
    let mut domains: HashMap<&str, usize, RandomState> = HashMap::default();
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

/// One virtual host.
pub(super) fn virtual_host(
    path: &Path<'_>,
    host: &pb::VirtualHost,
    shared: &mut Shared,
    out: &mut Findings,
) -> VirtualHost {
    refuse_unbuilt_host(path, host, out);
    let at = path.name("domains");
    if host.domains.is_empty() {
        out.bad(&at, "", "at least one domain (nearest valid [\"*\"])");
    }
    let domain = |(i, d): (usize, &String)| not_empty(&at.index(i), d, out).to_ascii_lowercase();
    let domains = host.domains.iter().enumerate().map(domain).collect();
    let at = path.name("routes");
    let mut routes = Vec::with_capacity(host.routes.len());
    for (i, r) in host.routes.iter().enumerate() {
        routes.extend(route(&at.index(i), r, shared, out).map(Arc::new));
    }
    let request = (&host.request_headers_to_add, &host.request_headers_to_remove);
    let response = (&host.response_headers_to_add, &host.response_headers_to_remove);
    VirtualHost {
        name: not_empty(&path.name("name"), &host.name, out),
        domains,
        routes,
        request_headers: edits(path, "request", request.0, request.1, out),
        response_headers: edits(path, "response", response.0, response.1, out),
        retry: host.retry_policy.as_ref().map(|given| shared.policies.read(path, given, out)),
        require_tls: require_tls(&path.name("require_tls"), host.require_tls, out),
        attempt_count_in_request: host.include_request_attempt_count,
        attempt_count_in_response: host.include_attempt_count_in_response,
        buffer_limit: host.request_body_buffer_limit,
        mirrors: mirrors(path, &host.request_mirror_policies, out),
        filters: per_filter(path, &host.typed_per_filter_config, out),
        rate_limits: rate_limits(path, &host.rate_limits, out),
    }
}

fn require_tls(path: &Path<'_>, number: i32, out: &mut Findings) -> RequireTls {
    use pb::virtual_host::TlsRequirementType as Tls;
    match enumeration(path, number, out) {
        Some(Tls::ExternalOnly) => RequireTls::External,
        Some(Tls::All) => RequireTls::All,
        Some(Tls::None) | None => RequireTls::No,
    }
}

fn refuse_unbuilt_host(path: &Path<'_>, host: &pb::VirtualHost, out: &mut Findings) {
    for (field, set) in [
        ("matcher", host.matcher.is_some()),
        ("cors", host.cors.is_some()),
        ("retry_policy_typed_config", host.retry_policy_typed_config.is_some()),
    ] {
        if set {
            out.bad(&path.name(field), "", "not supported (leave it out)");
        }
    }
}

fn route(path: &Path<'_>, route: &pb::Route, shared: &mut Shared, out: &mut Findings) -> Option<Route> {
    let filters = per_filter(path, &route.typed_per_filter_config, out);
    let rate_limits = match &route.action {
        Some(pb::route::Action::Route(action)) => rate_limits(&path.name("route"), &action.rate_limits, out),
        _ => Arc::default(),
    };
    let at = path.name("match");
    let matcher = match &route.r#match {
        Some(matcher) => route_match(&at, matcher, out),
        None => {
            out.bad(&at, "", "no match");
            None
        }
    };
    let matched = matcher.as_ref().map(|matcher| &matcher.path);
    let action = action(path, route.action.as_ref(), matched, shared, out);
    let request = (&route.request_headers_to_add, &route.request_headers_to_remove);
    let response = (&route.response_headers_to_add, &route.response_headers_to_remove);
    let request_headers = edits(path, "request", request.0, request.1, out);
    let response_headers = edits(path, "response", response.0, response.1, out);
    let tracing = route.tracing.as_ref().map(|of| sampling(&path.name("tracing"), of, out));
    Some(Route {
        name: route.name.clone(),
        matcher: matcher?,
        action: action?,
        request_headers,
        response_headers,
        buffer_limit: route.request_body_buffer_limit,
        filters,
        rate_limits,
        tracing: tracing.map(Box::new),
    })
}

/// Shares of requests that are traced; absent: all.
fn sampling(path: &Path<'_>, tracing: &pb::Tracing, out: &mut Findings) -> Sampling {
    let mut share = |field: &str, given: Option<&FractionalPercent>| {
        let given = given.copied().unwrap_or(FractionalPercent { numerator: 100, denominator: 0 });
        (given.numerator, denominator(&path.name(field), given, out).unwrap_or(100))
    };
    Sampling {
        client: share("client_sampling", tracing.client_sampling.as_ref()),
        random: share("random_sampling", tracing.random_sampling.as_ref()),
        overall: share("overall_sampling", tracing.overall_sampling.as_ref()),
    }
}

fn denominator(path: &Path<'_>, of: FractionalPercent, out: &mut Findings) -> Option<u32> {
    Some(match enumeration(&path.name("denominator"), of.denominator, out)? {
        DenominatorType::Hundred => 100,
        DenominatorType::TenThousand => 10_000,
        DenominatorType::Million => 1_000_000,
    })
}

pub(super) fn route_match(
    path: &Path<'_>,
    matcher: &pb::RouteMatch,
    out: &mut Findings,
) -> Option<RouteMatch> {
    for (field, set) in [
        ("tls_context", matcher.tls_context.is_some()),
        ("dynamic_metadata", !matcher.dynamic_metadata.is_empty()),
        ("filter_state", !matcher.filter_state.is_empty()),
    ] {
        if set {
            out.bad(&path.name(field), "", "matching on this is not supported");
        }
    }
    let headers = headers(&path.name("headers"), &matcher.headers, out);
    let at = path.name("query_parameters");
    let parameters = matcher.query_parameters.iter().enumerate();
    let query = parameters.filter_map(|(i, m)| query(&at.index(i), m, out)).collect();
    let share = matcher.runtime_fraction.as_ref();
    let fraction = share.map(|share| runtime_fraction(&path.name("runtime_fraction"), share, out));
    Some(RouteMatch {
        path: path_match(path, matcher, out)?,
        headers,
        query,
        grpc: matcher.grpc.is_some(),
        fraction: match fraction {
            Some(read) => Some(Box::new(read?)),
            None => None,
        },
    })
}

/// A share of requests. Its value is what holds while runtime does not say otherwise.
pub(super) fn runtime_fraction(
    path: &Path<'_>,
    share: &RuntimeFractionalPercent,
    out: &mut Findings,
) -> Option<Fraction> {
    let at = path.name("default_value");
    let Some(value) = &share.default_value else {
        out.bad(&at, "", "is required");
        return None;
    };
    let denominator = denominator(&at, *value, out)?;
    Some(Fraction { numerator: value.numerator, denominator, runtime_key: share.runtime_key.clone() })
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
        Some(Kind::ConnectMatcher(_)) => Some(PathMatch::Connect),
        Some(Kind::PathMatchPolicy(policy)) => {
            template(&path.name("path_match_policy"), policy, out).map(PathMatch::Template)
        }
        None => {
            out.bad(path, "", "no path condition (nearest valid: prefix \"/\")");
            None
        }
    }
}

pub(super) fn template(
    path: &Path<'_>,
    policy: &TypedExtensionConfig,
    out: &mut Findings,
) -> Option<UriTemplate> {
    let at = path.name("typed_config");
    let any = policy.typed_config.clone().unwrap_or_default();
    let extension = Extension::open(&at, &any, out)?;
    if !extension.is::<UriTemplateMatchConfig>() {
        let why = "this matcher is not supported (nearest valid: UriTemplateMatchConfig)";
        out.bad(&at, &extension.type_url, why);
        return None;
    }
    let config = extension.decode::<UriTemplateMatchConfig>(&at, out)?;
    match UriTemplate::parse(&config.path_template) {
        Ok(template) => Some(template),
        Err(error) => {
            out.bad(&at.name("path_template"), &config.path_template, error);
            None
        }
    }
}
