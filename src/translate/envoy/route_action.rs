//! What a route does: forward, answer, redirect.

use std::time::Duration;

use super::headers::edits;
use super::matchers::search_regex;
use super::retry;
use super::route::refuse_filter_configs;
use super::values::{FOREVER, duration, enumeration, not_empty, port, timeout, within};
use crate::model::{Action, ClusterChoice, DirectResponse, Redirect, Regex, RouteAction, WeightedCluster};
use crate::proto::envoy::config::core::v3::data_source::Specifier;
use crate::proto::envoy::config::route::v3 as pb;
use crate::proto::envoy::r#type::matcher::v3::RegexMatchAndSubstitute;
use crate::translate::finding::{Findings, Path};

/// Whole-request timeout if absent.
const ROUTE_TIMEOUT: Duration = Duration::from_secs(15);

pub(super) fn action(
    path: &Path<'_>,
    action: Option<&pb::route::Action>,
    max_body: usize,
    out: &mut Findings,
) -> Option<Action> {
    match action {
        Some(pb::route::Action::Route(route)) => forward(&path.name("route"), route, out).map(Action::Route),
        Some(pb::route::Action::DirectResponse(direct)) => {
            direct_response(&path.name("direct_response"), direct, max_body, out).map(Action::Direct)
        }
        Some(pb::route::Action::Redirect(redirected)) => {
            redirect(&path.name("redirect"), redirected, out).map(Action::Redirect)
        }
        Some(pb::route::Action::FilterAction(_)) => {
            out.bad(&path.name("filter_action"), "", "not supported");
            None
        }
        Some(pb::route::Action::NonForwardingAction(_)) => {
            out.bad(&path.name("non_forwarding_action"), "", "not supported by a proxy");
            None
        }
        None => {
            out.bad(path, "", "no action (one of route, redirect, direct_response)");
            None
        }
    }
}

fn forward(path: &Path<'_>, route: &pb::RouteAction, out: &mut Findings) -> Option<RouteAction> {
    refuse_unbuilt(path, route, out);
    let cluster = cluster_choice(path, route, out);
    let (host_rewrite, auto_host_rewrite) = host_rewrite(path, route, out);
    let regex_rewrite = route.regex_rewrite.as_ref();
    let regex_rewrite = regex_rewrite.map(|r| substitution(&path.name("regex_rewrite"), r, out));
    let rewrites = [!route.prefix_rewrite.is_empty(), route.regex_rewrite.is_some()];
    if rewrites.iter().all(|set| *set) {
        out.bad(&path.name("regex_rewrite"), "", "excludes prefix_rewrite");
    }
    let limit = Some(ROUTE_TIMEOUT);
    // Zero switches the filter's idle limit off for this route, while absent keeps it.
    let idle = route.idle_timeout.as_ref().map(|d| duration(&path.name("idle_timeout"), d, out));
    Some(RouteAction {
        timeout: timeout(&path.name("timeout"), route.timeout.as_ref(), limit, out),
        idle_timeout: idle.map(|d| if d.is_zero() { FOREVER } else { d }),
        retry: route.retry_policy.as_ref().map(|p| retry::policy(&path.name("retry_policy"), p, out)),
        prefix_rewrite: some_text(&route.prefix_rewrite),
        regex_rewrite: match regex_rewrite {
            Some(read) => Some(read?),
            None => None,
        },
        host_rewrite,
        auto_host_rewrite,
        cluster: cluster?,
    })
}

fn refuse_unbuilt(path: &Path<'_>, route: &pb::RouteAction, out: &mut Findings) {
    let why = "not supported (leave it out)";
    for (field, set) in [
        ("cors", route.cors.is_some()),
        ("internal_redirect_policy", route.internal_redirect_policy.is_some()),
        ("path_rewrite", !route.path_rewrite.is_empty()),
        ("path_rewrite_policy", route.path_rewrite_policy.is_some()),
        ("rate_limits", !route.rate_limits.is_empty()),
        ("request_mirror_policies", !route.request_mirror_policies.is_empty()),
        ("retry_policy_typed_config", route.retry_policy_typed_config.is_some()),
    ] {
        if set {
            out.bad(&path.name(field), "", why);
        }
    }
    let limit = route.max_stream_duration.as_ref().and_then(|m| m.max_stream_duration.as_ref());
    if let Some(limit) = limit {
        let at = path.name("max_stream_duration");
        let at = at.name("max_stream_duration");
        if !duration(&at, limit, out).is_zero() {
            let why = "a limit per route is not supported (nearest valid 0s, with the limit on the filter)";
            out.bad(&at, limit, why);
        }
    }
}

fn cluster_choice(path: &Path<'_>, route: &pb::RouteAction, out: &mut Findings) -> Option<ClusterChoice> {
    use pb::route_action::ClusterSpecifier as Kind;
    match &route.cluster_specifier {
        Some(Kind::Cluster(name)) => Some(ClusterChoice::Single(not_empty(&path.name("cluster"), name, out))),
        Some(Kind::ClusterHeader(name)) => {
            Some(ClusterChoice::Header(not_empty(&path.name("cluster_header"), name, out)))
        }
        Some(Kind::WeightedClusters(list)) => weighted(&path.name("weighted_clusters"), list, out),
        Some(Kind::ClusterSpecifierPlugin(name)) => {
            out.bad(&path.name("cluster_specifier_plugin"), name, "not supported");
            None
        }
        Some(Kind::InlineClusterSpecifierPlugin(plugin)) => {
            let config = plugin.extension.as_ref().and_then(|e| e.typed_config.as_ref());
            let url = config.map_or("", |any| any.type_url.as_str());
            out.bad(&path.name("inline_cluster_specifier_plugin"), url, "not supported");
            None
        }
        None => {
            out.bad(path, "", "no cluster (one of cluster, weighted_clusters, cluster_header)");
            None
        }
    }
}

fn weighted(path: &Path<'_>, list: &pb::WeightedCluster, out: &mut Findings) -> Option<ClusterChoice> {
    let at = path.name("clusters");
    let mut sum = 0u64;
    let mut clusters = Vec::with_capacity(list.clusters.len());
    for (i, item) in list.clusters.iter().enumerate() {
        let at = at.index(i);
        let unsupported = [
            ("cluster_header", !item.cluster_header.is_empty()),
            ("host_rewrite_literal", item.host_rewrite_specifier.is_some()),
        ];
        for (field, _) in unsupported.iter().filter(|(_, set)| *set) {
            out.bad(&at.name(field), "", "not supported in a weighted cluster");
        }
        refuse_filter_configs(&at, &item.typed_per_filter_config, out);
        if item.weight.is_none() {
            out.bad(&at.name("weight"), "", "is required");
        }
        let weight = item.weight.unwrap_or_default();
        sum += u64::from(weight);
        let add = (&item.request_headers_to_add, &item.request_headers_to_remove);
        let response = (&item.response_headers_to_add, &item.response_headers_to_remove);
        clusters.push(WeightedCluster {
            name: not_empty(&at.name("name"), &item.name, out),
            weight,
            request_headers: edits(&at, "request", add.0, add.1, out),
            response_headers: edits(&at, "response", response.0, response.1, out),
        });
    }
    check_sum(&at, sum, out);
    Some(ClusterChoice::Weighted(clusters))
}

/// Weights must add up to something, and fit 32 bits.
pub(super) fn check_sum(path: &Path<'_>, sum: u64, out: &mut Findings) {
    if sum == 0 {
        out.bad(path, 0, "the weights must add up to at least 1");
    } else if sum > u64::from(u32::MAX) {
        out.bad(path, sum, format_args!("the weights add up to more than {} (the limit)", u32::MAX));
    }
}

fn host_rewrite(path: &Path<'_>, route: &pb::RouteAction, out: &mut Findings) -> (Option<String>, bool) {
    use pb::route_action::HostRewriteSpecifier as Kind;
    let other = match &route.host_rewrite_specifier {
        None => return (None, false),
        Some(Kind::AutoHostRewrite(on)) => return (None, *on),
        Some(Kind::HostRewriteLiteral(host)) => return (some_text(host), false),
        Some(Kind::HostRewriteHeader(_)) => "host_rewrite_header",
        Some(Kind::HostRewritePathRegex(_)) => "host_rewrite_path_regex",
        Some(Kind::HostRewrite(_)) => "host_rewrite",
    };
    out.bad(&path.name(other), "", "not supported (nearest valid: host_rewrite_literal)");
    (None, false)
}

fn substitution(
    path: &Path<'_>,
    rewrite: &RegexMatchAndSubstitute,
    out: &mut Findings,
) -> Option<(Regex, String)> {
    let at = path.name("pattern");
    let text = &rewrite.substitution;
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c == '\\' && !rest.next().is_some_and(|next| next == '\\' || next.is_ascii_digit()) {
            out.bad(&path.name("substitution"), text, "after a backslash comes a digit or a backslash");
        }
    }
    let Some(pattern) = &rewrite.pattern else {
        out.bad(&at, "", "no pattern");
        return None;
    };
    Some((search_regex(&at, pattern, out)?, text.clone()))
}

fn direct_response(
    path: &Path<'_>,
    direct: &pb::DirectResponseAction,
    max_body: usize,
    out: &mut Findings,
) -> Option<DirectResponse> {
    let status = within(&path.name("status"), direct.status, 200, 599, out);
    if direct.body_format.is_some() {
        out.bad(&path.name("body_format"), "", "not supported (nearest valid: body)");
    }
    let at = path.name("body");
    let body = match direct.body.as_ref().map(|b| b.specifier.as_ref()) {
        None => Vec::new(),
        Some(Some(Specifier::InlineString(text))) => text.clone().into_bytes(),
        Some(Some(Specifier::InlineBytes(bytes))) => bytes.clone(),
        Some(Some(Specifier::Filename(_) | Specifier::EnvironmentVariable(_)) | None) => {
            out.bad(&at, "", "only inline_string and inline_bytes are supported");
            return None;
        }
    };
    if body.len() > max_body {
        let why = format!("larger than max_direct_response_body_size_bytes ({max_body})");
        out.bad(&at, format_args!("{} bytes", body.len()), why);
    }
    Some(DirectResponse { status: u16::try_from(status).ok()?, body })
}

fn redirect(path: &Path<'_>, redirected: &pb::RedirectAction, out: &mut Findings) -> Option<Redirect> {
    use pb::redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier};
    let status = match enumeration(&path.name("response_code"), redirected.response_code, out)? {
        RedirectResponseCode::MovedPermanently => 301,
        RedirectResponseCode::Found => 302,
        RedirectResponseCode::SeeOther => 303,
        RedirectResponseCode::TemporaryRedirect => 307,
        RedirectResponseCode::PermanentRedirect => 308,
    };
    let mut model = Redirect {
        status,
        host: some_text(&redirected.host_redirect),
        strip_query: redirected.strip_query,
        ..Redirect::default()
    };
    if redirected.port_redirect != 0 {
        model.port = Some(port(&path.name("port_redirect"), redirected.port_redirect, out));
    }
    model.scheme = match &redirected.scheme_rewrite_specifier {
        Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".to_owned()),
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => some_text(scheme),
        _ => None,
    };
    match &redirected.path_rewrite_specifier {
        Some(PathRewriteSpecifier::PathRedirect(text)) => model.path = some_text(text),
        Some(PathRewriteSpecifier::PrefixRewrite(text)) => model.prefix_rewrite = some_text(text),
        Some(PathRewriteSpecifier::RegexRewrite(_)) => {
            out.bad(&path.name("regex_rewrite"), "", "not supported (nearest valid: prefix_rewrite)");
        }
        None => {}
    }
    Some(model)
}

fn some_text(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}
